//! Whether a connection is alive, as far as what is asked on it tells.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::clock::{Clock, Moment};

/// Knows whether anything may still be begun on a connection.
pub(in crate::storage) struct Pulse {
    clock: Clock,
    broken: AtomicBool,
    ended: Notify,
    /// When the last answer came, in nanoseconds.
    heard: AtomicU64,
    /// How many questions are under way, and since when any was, in nanoseconds.
    asking: AtomicUsize,
    since: AtomicU64,
    /// Whether nothing may be asked while an answer is owed.
    single: bool,
}

impl Pulse {
    /// Of a connection on which something was just heard. `single` if an answer that nobody awaits any more would be
    /// in the way of the next.
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

    /// Takes the connection out of use: the next call opens another.
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

    pub(in crate::storage) fn is_fit(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// Begins to ask something.
    pub(in crate::storage) fn ask(&self) -> Asking<'_> {
        let since = self.clock.now();
        if self.asking.fetch_add(1, Ordering::Relaxed) == 0 {
            self.since.store(since.as_nanos(), Ordering::Relaxed);
        }
        Asking { pulse: self, since, is_answered: false }
    }

    /// Whether answers are owed, and none has come for so long.
    pub(in crate::storage) fn is_silent_for(&self, long: Duration) -> bool {
        let last = |at: &AtomicU64| at.load(Ordering::Relaxed);
        let last = Moment::from_nanos(std::cmp::max(last(&self.heard), last(&self.since)));
        self.asking.load(Ordering::Relaxed) > 0 && self.clock.now() >= last.after(long)
    }
}

/// A question under way. One that is dropped, with nothing heard since it was asked, casts doubt on the connection.
pub(in crate::storage) struct Asking<'a> {
    pulse: &'a Pulse,
    since: Moment,
    is_answered: bool,
}

impl Asking<'_> {
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
