//! The one timer structure: renewals, deadlines, waits and repeats of ten thousand locks are entries here.

use std::collections::BTreeSet;

use crate::clock::Moment;
use crate::storage::Owner;

/// When each acquisition wants to be woken. Each has at most one entry.
#[derive(Debug, Default)]
pub(crate) struct Keeper(BTreeSet<(Moment, Owner)>);

impl Keeper {
    /// Moves an entry; [`Moment::FAR`] stands for none.
    pub(crate) fn set(&mut self, owner: Owner, from: Moment, to: Moment) {
        if from == to {
            return;
        }
        if from != Moment::FAR {
            self.0.remove(&(from, owner));
        }
        if to != Moment::FAR {
            self.0.insert((to, owner));
        }
    }

    /// The earliest moment anybody wants to be woken.
    pub(crate) fn next(&self) -> Moment {
        self.0.first().map_or(Moment::FAR, |(at, _)| *at)
    }

    /// Somebody who wants to be woken by now.
    pub(crate) fn due(&self, now: Moment) -> Option<Owner> {
        self.0.first().filter(|(at, _)| *at <= now).map(|(_, owner)| *owner)
    }
}
