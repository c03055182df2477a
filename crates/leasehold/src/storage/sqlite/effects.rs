//! What happens after a transaction is committed: owners are hinted, and deaths are watched.

use std::path::Path;

use super::hints::Hinter;
use super::live;
use crate::clock::Moment;
use crate::storage::{Hint, Owner};

/// The effects of a transaction. They wait for the commit, so that a hinted owner finds the lock free.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Owners to hint, each with the storage that sent its claim.
    pub(super) hints: Vec<(String, Owner)>,
    /// Owners to hint with a lease that is bound to no storage. Any storage may have sent the claim.
    pub(super) hints_to_all: Vec<Owner>,
    /// Owners that wait, each with the storages to watch. The death of one may make it the owner's turn.
    pub(super) deaths: Vec<(Owner, Vec<String>)>,
    /// Owners that no longer wait.
    pub(super) settled: Vec<Owner>,
}

impl Effects {
    /// Applies the effects of a committed transaction by the storage `me`.
    pub(super) fn apply(self, me: &str, live_dir: &Path, hinter: &Hinter, now: Moment) {
        for owner in self.settled {
            hinter.forget_waiter(owner);
        }
        for (owner, ids) in self.deaths {
            hinter.watch_deaths(owner, ids.into_iter().filter(|id| id != me).collect(), now);
        }
        for (id, owner) in self.hints {
            if id == me {
                hinter.hint(Hint::Owner(owner));
            } else {
                hinter.hint_other(live_dir, &id, owner);
            }
        }
        if self.hints_to_all.is_empty() {
            return;
        }
        // A storage that cannot be hinted learns of the change at its owner's next renewal.
        let all = live::storages(live_dir).unwrap_or_default();
        for owner in self.hints_to_all {
            hinter.hint(Hint::Owner(owner));
            all.iter().filter(|id| *id != me).for_each(|id| hinter.hint_other(live_dir, id, owner));
        }
    }
}
