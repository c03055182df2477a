//! The one timer structure: renewals, deadlines, waits and repeats of ten thousand locks are entries here.

use std::collections::BTreeSet;

use super::call::Key;
use super::work;
use crate::clock::Moment;

/// When each acquisition wants to be woken. Each has at most one entry.
#[derive(Debug, Default)]
pub(crate) struct Keeper(BTreeSet<(Moment, Key)>);

impl Keeper {
    /// Moves an entry; [`Moment::FAR`] stands for none.
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

    /// Returns the earliest moment at which an acquisition wants to be woken.
    pub(crate) fn next(&self) -> Moment {
        self.0.first().map_or(Moment::FAR, |(at, _)| *at)
    }

    /// Returns an acquisition that wants to be woken by now.
    pub(crate) fn due(&self, now: Moment) -> Option<Key> {
        self.0.first().filter(|(at, _)| *at <= now).map(|(_, key)| *key)
    }
}
