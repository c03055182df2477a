//! Whether a connection is alive, as far as what is asked on it tells.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::clock::{Clock, Moment};

/// Knows whether anything may still be begun on a connection.
pub(in crate::storage) struct Pulse {
    clock: Clock,
    broken: AtomicBool,
    /// When the last answer came, in nanoseconds.
    heard: AtomicU64,
    /// Whether nothing may be asked while an answer is owed.
    single: bool,
}

impl Pulse {
    /// Of a connection on which something was just heard. `single` if an answer that nobody awaits any more would be
    /// in the way of the next.
    pub(in crate::storage) fn new(clock: &Clock, heard: Moment, single: bool) -> Self {
        let (clock, heard) = (clock.clone(), AtomicU64::new(heard.as_nanos()));
        Self { clock, broken: AtomicBool::new(false), heard, single }
    }

    /// Takes the connection out of use: the next call opens another.
    pub(in crate::storage) fn give_up(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    pub(in crate::storage) fn is_fit(&self) -> bool {
        !self.broken.load(Ordering::Relaxed)
    }

    /// Begins to ask something.
    pub(in crate::storage) fn ask(&self) -> Asking<'_> {
        Asking { pulse: self, since: self.clock.now(), is_answered: false }
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
        let silent = || self.pulse.heard.load(Ordering::Relaxed) < self.since.as_nanos();
        if !self.is_answered && (self.pulse.single || silent()) {
            self.pulse.give_up();
        }
    }
}
