//! The engine's record of each acquisition: its claim, its stage, and its places in lanes, queues and timers.

use super::Actor;
use super::attempts::AttemptStage;
use super::cleanups::{CleanupStage, Task};
use super::leases::LeaseStage;
use super::resumes::ResumeStage;
use crate::clock::Moment;
use crate::engine::call::{CallId, Key};
use crate::engine::lane::{Class, LaneClaim};
use crate::engine::queue::Place;
use crate::storage::{Claim, Owner};

/// One acquisition.
pub(super) struct Acquisition {
    pub(super) key: Key,
    pub(super) claim: Claim,
    pub(super) stage: Stage,
    /// When its timer is due.
    pub(super) wake: Moment,
    /// Its claim that waits in a lane. There is at most one.
    pub(super) in_lane: Option<InLane>,
    /// Its place in the local queue of its name.
    pub(super) place: Option<Place>,
}

/// The stage of an acquisition: its state machine, along with what its caller needs.
pub(super) enum Stage {
    Attempt(Box<AttemptStage>),
    Resume(Box<ResumeStage>),
    Lease(Box<LeaseStage>),
    Cleanup(Box<CleanupStage>),
}

/// Where a claim waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InLane {
    pub(super) id: CallId,
    verb: Verb,
    class: Class,
}

/// The operation that a claim is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Acquire,
    Renew,
    Release,
}

impl Acquisition {
    /// Returns how long its lease lasts, or would last. Its calls have a part of that time.
    pub(super) fn lasts(&self) -> std::time::Duration {
        match &self.stage {
            Stage::Lease(stage) => stage.lease.lasts(),
            Stage::Cleanup(stage) => match stage.task {
                Task::Detach { lasts } | Task::Keep { lasts, .. } => lasts,
                Task::Release { .. } => self.claim.ttl,
            },
            Stage::Resume(stage) => stage.detaching.as_ref().map_or(self.claim.ttl, |(_, lasts)| *lasts),
            Stage::Attempt(_) => self.claim.ttl,
        }
    }

    fn next_wake(&self) -> Moment {
        match &self.stage {
            Stage::Attempt(stage) => stage.wake(),
            Stage::Resume(stage) => stage.resume.wake(),
            Stage::Lease(stage) => stage.lease.wake(),
            Stage::Cleanup(stage) => stage.wake(),
        }
    }
}

impl Actor {
    /// Inserts an acquisition, and sets its timer. There must be none of that owner.
    pub(super) fn insert(&mut self, key: Key, claim: Claim, stage: Stage) {
        let acquisition = Acquisition { key, claim, stage, wake: Moment::FAR, in_lane: None, place: None };
        self.acquisitions.insert(key.owner, acquisition);
        self.rearm(key);
    }

    /// Removes an acquisition, along with its timer, its claim in a lane, and its place in the local queue.
    pub(super) fn remove(&mut self, key: Key) -> Option<Acquisition> {
        self.get(key)?;
        self.withdraw(key);
        self.leave_queue(key);
        let acquisition = self.acquisitions.remove(&key.owner)?;
        self.timers.set(key, acquisition.wake, Moment::FAR);
        Some(acquisition)
    }

    /// Returns an acquisition.
    pub(super) fn get(&self, key: Key) -> Option<&Acquisition> {
        self.acquisitions.get(&key.owner).filter(|acquisition| acquisition.key == key)
    }

    /// Returns an acquisition.
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Acquisition> {
        self.acquisitions.get_mut(&key.owner).filter(|acquisition| acquisition.key == key)
    }

    /// Returns the present acquisition of an owner.
    pub(super) fn key_of(&self, owner: Owner) -> Option<Key> {
        self.acquisitions.get(&owner).map(|acquisition| acquisition.key)
    }

    /// Sets the timer anew, after the state of an acquisition has changed.
    pub(super) fn rearm(&mut self, key: Key) {
        let Some(acquisition) = self.get_mut(key) else { return };
        let wake = acquisition.next_wake();
        let former = std::mem::replace(&mut acquisition.wake, wake);
        self.timers.set(key, former, wake);
    }

    /// Puts the claim of an acquisition in its lane.
    pub(super) fn send(&mut self, key: Key, verb: Verb) {
        let id = self.next_call();
        let Some(acquisition) = self.get_mut(key) else { return };
        let class = Class::of(acquisition.lasts());
        let shareable = matches!(&acquisition.stage, Stage::Attempt(stage) if stage.attempt.is_shareable());
        let former = acquisition.in_lane.replace(InLane { id, verb, class });
        let name = acquisition.claim.name.clone();
        if let Some(former) = former {
            self.lane(former.verb).withdraw(former.class, &name, former.id);
        }
        self.lane(verb).push(class, LaneClaim { id, key, name, shareable });
    }

    /// Removes the claim of an acquisition from its lane.
    pub(super) fn withdraw(&mut self, key: Key) {
        let Some(acquisition) = self.get_mut(key) else { return };
        if let Some(in_lane) = acquisition.in_lane.take() {
            let name = acquisition.claim.name.clone();
            self.lane(in_lane.verb).withdraw(in_lane.class, &name, in_lane.id);
        }
    }

    /// Returns the number of the next claim or inspection.
    pub(super) fn next_call(&mut self) -> CallId {
        self.last_call += 1;
        CallId(self.last_call)
    }
}
