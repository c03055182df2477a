//! What the simulator sees of an engine from outside.

use std::collections::BTreeMap;

use super::Actor;
use super::seats::{Resuming, Stage};
use crate::storage::{Name, Owner};

impl Actor {
    /// Whether it still owns that acquisition.
    pub(in crate::engine) fn knows(&self, owner: Owner) -> bool {
        self.seats.contains_key(&owner)
    }

    /// Whether somebody here waits in line for that lock.
    pub(in crate::engine) fn waits_for(&self, name: &Name) -> bool {
        self.queues.first(name).is_some()
    }

    /// Whether nothing is left of anybody: no place in line, no timer.
    pub(in crate::engine) fn is_clean(&self) -> bool {
        self.seats.is_empty() && self.queues.is_empty() && self.next_wake() == crate::clock::Moment::FAR
    }

    /// How each acquisition stands, in one order.
    pub(in crate::engine) fn stages(&self) -> BTreeMap<Owner, &'static str> {
        self.seats.iter().map(|(owner, seat)| (*owner, seat.stage.word())).collect()
    }

    /// Every acquisition with the state of its machine.
    pub(in crate::engine) fn machines(&self) -> Vec<String> {
        let mut machines: Vec<_> = self.seats.values().map(|seat| seat.stage.machine()).collect();
        machines.sort_unstable();
        machines
    }
}

impl Stage {
    fn word(&self) -> &'static str {
        match self {
            Self::Seeking { .. } => "seeking",
            Self::Resuming { .. } => "resuming",
            Self::Held { .. } => "held",
            Self::Clearing { .. } => "clearing",
        }
    }

    fn machine(&self) -> String {
        match self {
            Self::Seeking { attempt, .. } => format!("{attempt:?}"),
            Self::Resuming(resuming) => {
                let Resuming { token, until, ask_at, found, .. } = resuming;
                format!("Resuming {token:?} {until:?} {ask_at:?} found {found}")
            }
            Self::Held { lease, .. } => format!("{lease:?}"),
            Self::Clearing { resolver, .. } => format!("{resolver:?}"),
        }
    }
}
