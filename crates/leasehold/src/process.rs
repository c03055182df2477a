//! Detects forks of a process, which inherit its memory and none of its threads.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// The process in which a value was made.
///
/// A fork has a copy of every client and guard, but not the thread of the engine. Its copies of mutexes may be locked
/// for ever. So every value that outlives a call checks its process before it uses anything shared. The check is one
/// system call of about 50 ns: without `unsafe`, no flag in memory differs between a fork and its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// Returns the current process.
    pub(crate) fn current() -> Self {
        Self(std::process::id())
    }

    /// Returns `true` if the current process is this one, and not a fork of it.
    pub(crate) fn is_current(self) -> bool {
        self == Self::current()
    }

    /// Waits for a future that only this process can complete. Returns `None` as soon as it is polled in a fork.
    pub(crate) async fn limits<F: Future>(self, awaited: F) -> Option<F::Output> {
        let mut awaited = pin!(awaited);
        poll_fn(|cx| if self.is_current() { awaited.as_mut().poll(cx).map(Some) } else { Poll::Ready(None) })
            .await
    }
}

/// A value that other threads of its process use, too. A fork neither uses nor drops its copy, which may be locked for
/// ever by a thread that the fork does not have.
pub(crate) struct Shared<T> {
    process: Process,
    value: Option<T>,
}

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { process: Process::current(), value: Some(value) }
    }

    /// Returns the value, or `None` in a fork.
    pub(crate) fn get(&mut self) -> Option<&mut T> {
        self.value.as_mut().filter(|_| self.process.is_current())
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        if !self.process.is_current() {
            std::mem::forget(self.value.take());
        }
    }
}
