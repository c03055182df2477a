//! Cleanups: what is left to do at the storage for an acquisition that is over for its caller.

use std::time::Duration;

use super::Actor;
use super::acquisition::{Stage, Verb};
use super::effects::{Effect, Input};
use crate::clock::Moment;
use crate::engine::call::Key;
use crate::engine::cleanup::{self, Action, ClaimOutcome, Cleanup};
use crate::engine::handle::Reply;
use crate::engine::timing::{RELEASE_LIMIT, executable_until};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::lost::Lost;
use crate::storage::{AcquireReply, Claim, Name, ReleaseReply, Token};

/// A cleanup, and what it does.
pub(super) struct CleanupStage {
    pub(super) cleanup: Cleanup,
    pub(super) task: Task,
}

/// What is left to do at the storage.
pub(super) enum Task {
    /// End the lease, and remove the waiter's entry.
    Release { pending: Option<PendingRelease> },
    /// Make the lease independent of this process. `lasts` is how long it lasts until that is done.
    Detach { lasts: Duration },
}

/// A release whose result is reported: to a caller, and as an event.
pub(super) struct PendingRelease {
    pub(super) reply: Option<Reply<()>>,
    pub(super) token: Token,
    pub(super) held: Duration,
    /// When the client would have considered the lease expired.
    pub(super) deadline: Moment,
    /// When the caller gets an answer even if the storage has not replied.
    pub(super) answer_by: Moment,
    /// Whether an earlier release was not answered. This one may then find that the earlier one has ended the lease.
    pub(super) repeated: bool,
}

impl CleanupStage {
    pub(super) fn new(cleanup: Cleanup, task: Task) -> Self {
        Self { cleanup, task }
    }

    /// Returns when it next needs [`Input::Wake`].
    pub(super) fn wake(&self) -> Moment {
        match &self.task {
            Task::Release { pending: Some(PendingRelease { reply: Some(_), answer_by, .. }) } => {
                std::cmp::min(self.cleanup.wake(), *answer_by)
            }
            Task::Release { .. } | Task::Detach { .. } => self.cleanup.wake(),
        }
    }

    fn verb(&self) -> Verb {
        match self.task {
            Task::Release { .. } => Verb::Release,
            Task::Detach { .. } => Verb::Renew,
        }
    }
}

impl Actor {
    /// Starts a cleanup.
    pub(super) fn clean_up(&mut self, key: Key, claim: Claim, stage: CleanupStage) {
        let (begin, verb) = (stage.cleanup.begin(), stage.verb());
        self.insert(key, claim, Stage::Cleanup(Box::new(stage)));
        if begin == Action::Send {
            self.send(key, verb);
        }
    }

    /// Passes an input to a cleanup, and executes its action.
    pub(super) fn step_cleanup(&mut self, key: Key, now: Moment, input: Input) {
        let Some(acquisition) = self.get_mut(key) else { return };
        let Stage::Cleanup(stage) = &mut acquisition.stage else { return };
        let (name, verb) = (&acquisition.claim.name, stage.verb());
        let (mut event, mut freed) = (None, false);
        let input = match input {
            Input::Wake => {
                stage.answer_if_late(name, now);
                cleanup::Input::Wake
            }
            Input::Acquired { call, answer } => {
                let outcome = match answer {
                    Ok(AcquireReply::Held { .. }) if !acquisition.claim.wait => ClaimOutcome::NothingLeft,
                    Ok(_) => ClaimOutcome::SomethingLeft,
                    Err(error) if error.is_definite() && !acquisition.claim.wait => ClaimOutcome::NothingLeft,
                    Err(error) if error.is_definite() => ClaimOutcome::SomethingLeft,
                    Err(_) => ClaimOutcome::Unknown(executable_until(call.sent, acquisition.claim.ttl)),
                };
                cleanup::Input::Claim { call, outcome }
            }
            Input::Renewed { call, answer } if verb == Verb::Renew => {
                cleanup::Input::Answer { call, definite: answer.is_ok() }
            }
            Input::Released { call, answer } if verb == Verb::Release => {
                event = stage.released(name, now, &answer);
                freed = matches!(answer, Ok(ReleaseReply::Released));
                cleanup::Input::Answer { call, definite: answer.is_ok() }
            }
            _ => return,
        };
        let action = stage.cleanup.step(now, input);
        if freed {
            // Attempts in the local queue need not wait for the storage's hint.
            let name = name.clone();
            self.queue_effect(Effect::HintHead(name));
        }
        match action {
            Action::None => {}
            Action::Send => self.send(key, verb),
            Action::Done => drop(self.remove(key)),
        }
        if let Some(event) = event {
            self.emit(event);
        }
    }
}

impl CleanupStage {
    /// Answers the caller of a release that the storage has not answered in time.
    fn answer_if_late(&mut self, name: &Name, now: Moment) {
        if let Task::Release { pending: Some(pending) } = &mut self.task
            && now >= pending.answer_by
        {
            pending.answer(Err(Error::unavailable(name, RELEASE_LIMIT, None)));
        }
    }

    /// Processes the reply to a release. Returns the event to emit.
    fn released(&mut self, name: &Name, now: Moment, answer: &Result<ReleaseReply>) -> Option<Event> {
        let Task::Release { pending } = &mut self.task else { return None };
        let event = pending.as_mut()?.answered(name, now, answer);
        if answer.is_ok() {
            *pending = None;
        }
        event
    }
}

impl PendingRelease {
    fn answer(&mut self, answer: Result<()>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(answer);
        }
    }

    fn answered(&mut self, name: &Name, now: Moment, answer: &Result<ReleaseReply>) -> Option<Event> {
        let (name, token, held) = (name.clone(), self.token, self.held);
        match answer {
            Ok(ReleaseReply::NotHeld) if !(self.repeated && now < self.deadline) => {
                self.answer(Err(Error::lost_for(&name, Lost::Taken)));
                Some(Event::Lost { name, token, lost: Lost::Taken })
            }
            // If an earlier release was not answered and the lease cannot have expired, that release has ended it.
            Ok(ReleaseReply::NotHeld | ReleaseReply::Released) => {
                self.answer(Ok(()));
                Some(Event::Released { name, token, held })
            }
            Err(_) => {
                self.repeated = true;
                None
            }
        }
    }
}
