//! The health of a connection, as far as its requests and answers show it.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{Clock, Moment};

/// The health of a connection: whether a request may still be sent on it.
pub(in crate::storage) struct Pulse {
    clock: Clock,
    broken: AtomicBool,
    ended: Notify,
    /// The time of the last answer, in nanoseconds.
    heard: AtomicU64,
    /// The number of requests in flight.
    asking: AtomicUsize,
    /// The time since which at least one request has been in flight, in nanoseconds.
    since: AtomicU64,
    /// Whether an answer that is no longer awaited makes the connection unusable.
    single: bool,
}

impl Pulse {
    /// Returns the health of a connection on which an answer was just received.
    ///
    /// `single` says that an answer that is no longer awaited would delay the next one.
    pub(in crate::storage) fn new(clock: &Clock, heard: Moment, single: bool) -> Self {
        Self {
            clock: clock.clone(),
            broken: AtomicBool::new(false),
            ended: Notify::new(),
            heard: AtomicU64::new(heard.as_nanos()),
            asking: AtomicUsize::new(0),
            since: AtomicU64::new(0),
            single,
        }
    }

    /// Takes the connection out of use. The next call opens another.
    pub(in crate::storage) fn give_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
        self.ended.notify_waiters();
    }

    /// Waits until the connection is taken out of use.
    pub(in crate::storage) async fn given_up(&self) {
        let ended = self.ended.notified();
        if self.is_fit() {
            ended.await;
        }
    }

    /// Returns `true` if a request may be sent.
    pub(in crate::storage) fn is_fit(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// Begins a request.
    pub(in crate::storage) fn ask(&self) -> Asking<'_> {
        let since = self.clock.now();
        if self.asking.fetch_add(1, Ordering::Relaxed) == 0 {
            self.since.store(since.as_nanos(), Ordering::Relaxed);
        }
        Asking { pulse: self, since, is_answered: false }
    }

    /// Returns `true` if requests are in flight, and no answer has been received for so long.
    pub(in crate::storage) fn is_silent_for(&self, long: Duration) -> bool {
        let last = |at: &AtomicU64| at.load(Ordering::Relaxed);
        let last = Moment::from_nanos(std::cmp::max(last(&self.heard), last(&self.since)));
        self.asking.load(Ordering::Relaxed) > 0 && self.clock.now() >= last.after(long)
    }
}

/// A request in flight. If it is dropped before any answer was received, the connection is taken out of use.
pub(in crate::storage) struct Asking<'a> {
    pulse: &'a Pulse,
    since: Moment,
    is_answered: bool,
}

impl Asking<'_> {
    /// Ends the request, because its answer was received.
    pub(in crate::storage) fn answered(mut self) {
        self.is_answered = true;
        self.pulse.heard.store(self.pulse.clock.now().as_nanos(), Ordering::Relaxed);
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.pulse.asking.fetch_sub(1, Ordering::Relaxed);
        let silent = || self.pulse.heard.load(Ordering::Relaxed) < self.since.as_nanos();
        if !self.is_answered && (self.pulse.single || silent()) {
            self.pulse.give_up();
        }
    }
}
