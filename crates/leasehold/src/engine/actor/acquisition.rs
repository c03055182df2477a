//! What the engine knows of each acquisition: its claim, its stage, and its place in lanes, queues and timers.

use super::Actor;
use super::attempts::Attempting;
use super::cleanups::{CleaningUp, Task};
use super::leases::Holding;
use super::resumes::Resuming;
use crate::clock::Moment;
use crate::engine::call::{CallId, Key};
use crate::engine::lane::{Class, Waiting};
use crate::engine::queue::Place;
use crate::storage::{Claim, Owner};

/// One acquisition.
pub(super) struct Acquisition {
    pub(super) key: Key,
    pub(super) claim: Claim,
    pub(super) stage: Stage,
    /// When the keeper wakes it.
    pub(super) wake: Moment,
    /// Its claim that waits in a lane. There is one at most.
    pub(super) queued: Option<Queued>,
    /// Its place in the local queue of its name.
    pub(super) place: Option<Place>,
}

pub(super) enum Stage {
    Attempt(Box<Attempting>),
    Resume(Box<Resuming>),
    Lease(Box<Holding>),
    Cleanup(Box<CleaningUp>),
}

/// Where a claim waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Queued {
    pub(super) id: CallId,
    verb: Verb,
    class: Class,
}

/// What a claim asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Acquire,
    Renew,
    Release,
}

impl Acquisition {
    /// How long what it holds lasts, or would last: what its calls have time for.
    pub(super) fn lasts(&self) -> std::time::Duration {
        match &self.stage {
            Stage::Lease(holding) => holding.lease.lasts(),
            Stage::Cleanup(cleaning) => match cleaning.task {
                Task::Detach { lasts } => lasts,
                Task::Release { .. } => self.claim.ttl,
            },
            Stage::Resume(resuming) => {
                resuming.detaching.as_ref().map_or(self.claim.ttl, |(_, lasts)| *lasts)
            }
            Stage::Attempt(_) => self.claim.ttl,
        }
    }

    fn wakes(&self) -> Moment {
        match &self.stage {
            Stage::Attempt(attempting) => attempting.wake(),
            Stage::Resume(resuming) => resuming.resume.wake(),
            Stage::Lease(holding) => holding.lease.wake(),
            Stage::Cleanup(cleaning) => cleaning.wake(),
        }
    }
}

impl Actor {
    /// Takes up an acquisition, along with its timer. There must be none of that owner.
    pub(super) fn insert(&mut self, key: Key, claim: Claim, stage: Stage) {
        let acquisition = Acquisition { key, claim, stage, wake: Moment::FAR, queued: None, place: None };
        self.acquisitions.insert(key.owner, acquisition);
        self.rearm(key);
    }

    /// Takes an acquisition out, along with its timer, its claim that waits, and its place in line.
    pub(super) fn remove(&mut self, key: Key) -> Option<Acquisition> {
        self.get(key)?;
        self.withdraw(key);
        self.leave_line(key);
        let acquisition = self.acquisitions.remove(&key.owner)?;
        self.keeper.set(key, acquisition.wake, Moment::FAR);
        Some(acquisition)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Acquisition> {
        self.acquisitions.get(&key.owner).filter(|acquisition| acquisition.key == key)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Acquisition> {
        self.acquisitions.get_mut(&key.owner).filter(|acquisition| acquisition.key == key)
    }

    /// The acquisition of that owner.
    pub(super) fn key_of(&self, owner: Owner) -> Option<Key> {
        self.acquisitions.get(&owner).map(|acquisition| acquisition.key)
    }

    /// Sets the timer anew, after whatever has happened to an acquisition.
    pub(super) fn rearm(&mut self, key: Key) {
        let Some(acquisition) = self.get_mut(key) else { return };
        let wake = acquisition.wakes();
        let before = std::mem::replace(&mut acquisition.wake, wake);
        self.keeper.set(key, before, wake);
    }

    /// Puts a claim in its lane. `lasts` is how long what it is about lasts.
    pub(super) fn send(&mut self, key: Key, verb: Verb) {
        let id = self.next_call();
        let Some(acquisition) = self.get_mut(key) else { return };
        let class = Class::of(acquisition.lasts());
        let alike = matches!(&acquisition.stage, Stage::Attempt(attempting) if attempting.attempt.is_alike());
        let before = acquisition.queued.replace(Queued { id, verb, class });
        let name = acquisition.claim.name.clone();
        if let Some(before) = before {
            self.lane(before.verb).withdraw(before.class, &name, before.id);
        }
        self.lane(verb).push(class, Waiting { id, key, name, alike });
    }

    /// Takes back the claim that waits.
    pub(super) fn withdraw(&mut self, key: Key) {
        let Some(acquisition) = self.get_mut(key) else { return };
        if let Some(queued) = acquisition.queued.take() {
            let name = acquisition.claim.name.clone();
            self.lane(queued.verb).withdraw(queued.class, &name, queued.id);
        }
    }

    pub(super) fn next_call(&mut self) -> CallId {
        self.last_call += 1;
        CallId(self.last_call)
    }
}
