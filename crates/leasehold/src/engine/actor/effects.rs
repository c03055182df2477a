//! The queue of effects, and the one loop that executes them.
//!
//! A step passes an input to the state machine of one acquisition, and executes its action. It never steps another
//! acquisition: what it causes there is an [`Effect`] in the queue. So the stack does not grow with the number of
//! acquisitions that an event concerns. And no step sees an acquisition that another step has half changed.

use super::Actor;
use super::acquisition::Stage;
use crate::clock::Moment;
use crate::engine::attempt::Knowledge;
use crate::engine::call::{Call, Key};
use crate::engine::work;
use crate::error::{Error, Result};
use crate::storage::{AcquireReply, Holder, Name, ReleaseReply, RenewReply};

/// What follows from a step, or from what came in.
pub(super) enum Effect {
    /// An acquisition has an input.
    Step(Key, Input),
    /// The head of the local queue of a name may claim again.
    HintHead(Name),
    /// The head of the local queue of a name has found that the storage does not answer. All attempts in that queue
    /// that wait without a limit end now, instead of finding that out one by one.
    EndQueue(Name, Option<Error>),
}

/// What happens to an acquisition, whatever its stage.
pub(super) enum Input {
    /// It is the head of its local queue now. What the previous head knew.
    Turn(Option<Box<Knowledge>>),
    Wake,
    Hint,
    /// Its caller has left.
    Cancel,
    /// The storage was silent for too long. The cause.
    Silence(Option<Error>),
    /// The reply to another claim of the same name.
    SharedAnswer(Option<Holder>),
    Close,
    RenewNow,
    /// The storage may have forgotten the lease.
    Verify,
    Extend(std::time::Duration),
    /// The reply to an inspection.
    Inspected {
        call: Call,
        found: Result<Option<Holder>>,
    },
    Acquired {
        call: Call,
        answer: Result<AcquireReply>,
    },
    Renewed {
        call: Call,
        answer: Result<RenewReply>,
    },
    Released {
        call: Call,
        answer: Result<ReleaseReply>,
    },
}

impl Actor {
    /// Queues an effect.
    pub(super) fn queue_effect(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    /// Queues a step of an acquisition.
    pub(super) fn queue_step(&mut self, key: Key, input: Input) {
        self.queue_effect(Effect::Step(key, input));
    }

    /// Executes effects until none is left.
    pub(super) fn run_effects(&mut self, now: Moment) {
        while let Some(effect) = self.effects.pop_front() {
            work::did(1);
            match effect {
                Effect::Step(key, input) => self.step(key, now, input),
                Effect::HintHead(name) => {
                    if let Some(head) = self.queues.head(&name) {
                        self.queue_step(head, Input::Hint);
                    }
                }
                Effect::EndQueue(name, cause) => {
                    let queue = self.queues.all(&name);
                    work::changed(queue.len());
                    for key in queue {
                        self.queue_step(key, Input::Silence(cause.clone()));
                    }
                }
            }
        }
    }

    fn step(&mut self, key: Key, now: Moment, input: Input) {
        // An acquisition that is over needs no input.
        let Some(acquisition) = self.get_mut(key) else { return };
        match &acquisition.stage {
            Stage::Attempt(_) => self.step_attempt(key, now, input),
            Stage::Resume(_) => self.step_resume(key, now, input),
            Stage::Lease(_) => self.step_lease(key, now, input),
            Stage::Cleanup(_) => self.step_cleanup(key, now, input),
        }
        self.rearm(key);
    }

    /// Removes an acquisition from its local queue. If it was the head, the next head has its turn.
    pub(super) fn leave_queue(&mut self, key: Key) {
        let Some(acquisition) = self.get_mut(key) else { return };
        let Some(place) = acquisition.place.take() else { return };
        let knowledge = match &acquisition.stage {
            Stage::Attempt(stage) => Some(Box::new(stage.attempt.knowledge())),
            _ => None,
        };
        let name = acquisition.claim.name.clone();
        if let Some(next) = self.queues.leave(&name, place) {
            self.queue_step(next, Input::Turn(knowledge));
        }
    }
}
