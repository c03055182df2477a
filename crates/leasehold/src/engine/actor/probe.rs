//! What the simulator sees of an engine from outside.

use std::collections::BTreeMap;

use super::Actor;
use super::acquisition::Stage;
use crate::storage::{Name, Owner};

impl Actor {
    /// Returns `true` if it still owns an acquisition of that owner.
    pub(in crate::engine) fn knows(&self, owner: Owner) -> bool {
        self.acquisitions.contains_key(&owner)
    }

    /// Returns `true` if an acquisition here waits in line for that lock.
    pub(in crate::engine) fn waits_for(&self, name: &Name) -> bool {
        self.queues.first(name).is_some()
    }

    /// Returns `true` if nothing is left of any acquisition: no place in line, no timer.
    pub(in crate::engine) fn is_clean(&self) -> bool {
        self.acquisitions.is_empty()
            && self.queues.is_empty()
            && self.effects.is_empty()
            && self.next_wake() == crate::clock::Moment::FAR
    }

    /// How each acquisition stands, in one order.
    pub(in crate::engine) fn stages(&self) -> BTreeMap<Owner, &'static str> {
        self.acquisitions.iter().map(|(owner, acquisition)| (*owner, acquisition.stage.word())).collect()
    }

    /// Every acquisition with the state of its machine.
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
            Self::Attempt(attempting) => format!("{:?}", attempting.attempt),
            Self::Resume(resuming) => format!("{:?}", resuming.resume),
            Self::Lease(holding) => format!("{:?}", holding.lease),
            Self::Cleanup(cleaning) => format!("{:?}", cleaning.cleanup),
        }
    }
}
