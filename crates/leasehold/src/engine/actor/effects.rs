//! The one queue of what follows from a step, and the one loop that drains it.
//!
//! A step tells the machine of one acquisition what has happened, and does what it says. It never steps another one:
//! what it causes elsewhere is an [`Effect`] in the queue. So however many acquisitions one event concerns, the stack
//! does not grow, and no step sees an acquisition that another step has half changed.

use super::Actor;
use super::acquisition::Stage;
use crate::clock::Moment;
use crate::engine::attempt::Known;
use crate::engine::call::{Call, Key};
use crate::engine::work;
use crate::error::{Error, Result};
use crate::storage::{AcquireReply, Holder, Name, ReleaseReply, RenewReply};

/// What follows from a step, or from what came in.
pub(super) enum Effect {
    /// Something has happened to an acquisition.
    Step(Key, Input),
    /// The first in the local queue of a name may ask again.
    HintFirst(Name),
    /// The first in the local queue of a name has found that the storage does not answer. So have all who wait there
    /// without a limit: they need not find that out one by one.
    EndLine(Name, Option<Error>),
}

/// What happens to an acquisition, whatever its stage.
pub(super) enum Input {
    /// It is its turn in the local queue; what the one ahead of it knew.
    Turn(Option<Box<Known>>),
    Wake,
    Hint,
    Leave,
    /// The storage was silent for too long; the cause.
    Silence(Option<Error>),
    /// The answer to another claim of the same name.
    Held(Option<Holder>),
    Close,
    RenewNow,
    /// The storage may have forgotten it.
    Verify,
    Extend(std::time::Duration),
    /// A look was answered.
    Seen {
        look: Call,
        seen: Result<Option<Holder>>,
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
    /// Queues what follows.
    pub(super) fn follow(&mut self, effect: Effect) {
        self.effects.push_back(effect);
    }

    /// Queues a step of an acquisition.
    pub(super) fn tell(&mut self, key: Key, input: Input) {
        self.follow(Effect::Step(key, input));
    }

    /// Does all that follows.
    pub(super) fn settle(&mut self, now: Moment) {
        while let Some(effect) = self.effects.pop_front() {
            work::did(1);
            match effect {
                Effect::Step(key, input) => self.step(key, now, input),
                Effect::HintFirst(name) => {
                    if let Some(first) = self.queues.first(&name) {
                        self.tell(first, Input::Hint);
                    }
                }
                Effect::EndLine(name, cause) => {
                    let line = self.queues.all(&name);
                    work::changed(line.len());
                    for key in line {
                        self.tell(key, Input::Silence(cause.clone()));
                    }
                }
            }
        }
    }

    fn step(&mut self, key: Key, now: Moment, input: Input) {
        let Some(acquisition) = self.get_mut(key) else {
            return; // it is over, and so is what this was about
        };
        match &acquisition.stage {
            Stage::Attempt(_) => self.step_attempt(key, now, input),
            Stage::Resume(_) => self.step_resume(key, now, input),
            Stage::Lease(_) => self.step_lease(key, now, input),
            Stage::Cleanup(_) => self.step_cleanup(key, now, input),
        }
        self.rearm(key);
    }

    /// Leaves the local queue of a name: the next one asks.
    pub(super) fn leave_line(&mut self, key: Key) {
        let Some(acquisition) = self.get_mut(key) else { return };
        let Some(place) = acquisition.place.take() else { return };
        let known = match &acquisition.stage {
            Stage::Attempt(attempting) => Some(Box::new(attempting.attempt.known())),
            _ => None,
        };
        let name = acquisition.claim.name.clone();
        if let Some(next) = self.queues.leave(&name, place) {
            self.tell(next, Input::Turn(known));
        }
    }
}
