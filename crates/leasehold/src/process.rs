//! Tells a process from its forks, which inherit its memory and none of its threads.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

/// The process that something was made in.
///
/// A fork has a copy of every client and guard, but not the thread that keeps them, and its copies of mutexes may be
/// locked for ever. So whatever outlives a call checks this before it touches anything that is shared. The check is
/// one system call of about 50 ns: no flag in memory can tell a fork from its parent without `unsafe`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Process(u32);

impl Process {
    /// Returns the process that calls this.
    pub(crate) fn current() -> Self {
        Self(std::process::id())
    }

    /// Returns `true` in the same process, and `false` in a fork of it.
    pub(crate) fn is_current(self) -> bool {
        self == Self::current()
    }

    /// Waits for something that only this process can bring about. Returns `None` in a fork of it, as soon as the future
    /// is polled there.
    pub(crate) async fn limits<F: Future>(self, awaited: F) -> Option<F::Output> {
        let mut awaited = pin!(awaited);
        poll_fn(|cx| if self.is_current() { awaited.as_mut().poll(cx).map(Some) } else { Poll::Ready(None) })
            .await
    }
}

/// Something that other threads of a process use, too. A fork of it neither uses nor drops its copy: another thread may
/// have locked that for ever.
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
