//! The one timer structure: when the engine has to wake up which acquisition.

use std::collections::BTreeSet;

use super::call::Key;
use super::work;
use crate::clock::Moment;

/// When each acquisition needs its next `Wake`. An acquisition has at most one entry.
#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Moment, Key)>);

impl Timers {
    /// Moves the entry of an acquisition; [`Moment::FAR`] stands for no entry.
    pub(crate) fn set(&mut self, key: Key, from: Moment, to: Moment) {
        if from == to {
            return;
        }
        work::did(1);
        if from != Moment::FAR {
            self.0.remove(&(from, key));
        }
        if to != Moment::FAR {
            self.0.insert((to, key));
        }
    }

    /// Returns the earliest entry.
    pub(crate) fn next(&self) -> Moment {
        self.0.first().map_or(Moment::FAR, |(at, _)| *at)
    }

    /// Returns an acquisition whose entry is due by now.
    pub(crate) fn due(&self, now: Moment) -> Option<Key> {
        self.0.first().filter(|(at, _)| *at <= now).map(|(_, key)| *key)
    }
}
