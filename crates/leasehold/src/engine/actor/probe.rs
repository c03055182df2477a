//! What the simulator can read of an engine.

use std::collections::BTreeMap;

use super::Actor;
use super::acquisition::Stage;
use crate::storage::{Name, Owner};

impl Actor {
    /// Returns `true` if it has an acquisition of that owner.
    pub(in crate::engine) fn knows(&self, owner: Owner) -> bool {
        self.acquisitions.contains_key(&owner)
    }

    /// Returns `true` if the local queue of that name is not empty.
    pub(in crate::engine) fn waits_for(&self, name: &Name) -> bool {
        self.queues.head(name).is_some()
    }

    /// Returns `true` if nothing is left of any acquisition: no place in a queue, and no timer.
    pub(in crate::engine) fn is_clean(&self) -> bool {
        self.acquisitions.is_empty()
            && self.queues.is_empty()
            && self.effects.is_empty()
            && self.next_wake() == crate::clock::Moment::FAR
    }

    /// Returns the name of the stage of each acquisition, sorted.
    pub(in crate::engine) fn stages(&self) -> BTreeMap<Owner, &'static str> {
        self.acquisitions.iter().map(|(owner, acquisition)| (*owner, acquisition.stage.word())).collect()
    }

    /// Returns the state machine of each acquisition as text, sorted.
    pub(in crate::engine) fn machines(&self) -> Vec<String> {
        let mut machines: Vec<_> = self.acquisitions.values().map(|a| a.stage.machine()).collect();
        machines.sort_unstable();
        machines
    }
}

impl Stage {
    fn word(&self) -> &'static str {
        match self {
            Self::Attempt(_) => "attempt",
            Self::Resume(_) => "resume",
            Self::Lease(_) => "lease",
            Self::Cleanup(_) => "cleanup",
        }
    }

    fn machine(&self) -> String {
        match self {
            Self::Attempt(stage) => format!("{:?}", stage.attempt),
            Self::Resume(stage) => format!("{:?}", stage.resume),
            Self::Lease(stage) => format!("{:?}", stage.lease),
            Self::Cleanup(stage) => format!("{:?}", stage.cleanup),
        }
    }
}
