//! Cleanups: what is left to do at the storage for an acquisition that is over for its caller.

use std::time::Duration;

use super::Actor;
use super::acquisition::{Stage, Verb};
use super::effects::{Effect, Input};
use crate::clock::Moment;
use crate::engine::call::{Call, Key};
use crate::engine::cleanup::{self, Action, ClaimOutcome, Cleanup};
use crate::engine::handle::Reply;
use crate::engine::timing::executable_until;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::lost::Lost;
use crate::storage::{AcquireReply, Claim, Limits, Name, ReleaseReply, RenewReply, Token};

/// A cleanup, and what it does.
pub(super) struct CleanupStage {
    pub(super) cleanup: Cleanup,
    pub(super) task: Task,
}

/// What is left to do at the storage.
pub(super) enum Task {
    /// End the lease, and remove the waiter's entry.
    Release { pending: Option<PendingRelease> },
    /// Let the lease last until `at_least` is over, bound to no process. `lasts` is how long it lasts until that is
    /// done.
    Keep { pending: Option<PendingRelease>, until: Moment, lasts: Duration },
    /// Make the lease independent of this process. `lasts` is how long it lasts until that is done.
    Detach { lasts: Duration },
}

/// A release with a result to report: to a caller, and as an event.
pub(super) struct PendingRelease {
    pub(super) reply: Option<Reply<()>>,
    pub(super) token: Token,
    pub(super) held: Duration,
    /// When the client would have considered the lease expired.
    pub(super) deadline: Moment,
    /// When the caller gets an answer even if the storage has not replied.
    pub(super) answer_by: Moment,
    /// When the holder asked for the release.
    pub(super) asked: Moment,
    /// Why the last request failed, as far as the storage or the network has said.
    pub(super) cause: Option<Error>,
    /// Whether an earlier release was not answered. This one may then find that the earlier one has ended the lease.
    pub(super) repeated: bool,
}

impl CleanupStage {
    pub(super) fn new(cleanup: Cleanup, task: Task) -> Self {
        Self { cleanup, task }
    }

    /// Returns when it next needs [`Input::Wake`].
    pub(super) fn wake(&self) -> Moment {
        match self.task.pending() {
            Some(PendingRelease { reply: Some(_), answer_by, .. }) => {
                std::cmp::min(self.cleanup.wake(), *answer_by)
            }
            _ => self.cleanup.wake(),
        }
    }

    /// Notes that the task leaves now, with this claim. The cleanup waits for its reply for `limit`.
    pub(super) fn sent(&mut self, call: Call, claim: &mut Claim, limit: Duration, limits: &Limits) {
        if let Task::Keep { until, .. } = self.task {
            let rest = until.since(call.sent).clamp(limits.ttl_min, limits.ttl_max);
            (claim.shorten, claim.ttl) = (claim.shorten || rest < claim.ttl, rest);
        }
        self.cleanup.sent(call, call.sent.after(limit));
    }

    fn verb(&self) -> Verb {
        match self.task {
            Task::Release { .. } => Verb::Release,
            Task::Detach { .. } | Task::Keep { .. } => Verb::Renew,
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
                let definite = answer.is_ok();
                // The reply to a renewal that the lease had sent says nothing of this task.
                if stage.cleanup.is_for(call) {
                    event = stage.ended(name, now, &answer.map(kept));
                }
                cleanup::Input::Answer { call, definite }
            }
            Input::Released { call, answer } if verb == Verb::Release => {
                event = stage.ended(name, now, &answer);
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
        if let Some(pending) = self.task.pending_mut()
            && now >= pending.answer_by
        {
            let (waited, cause) = (now.since(pending.asked), pending.cause.take());
            pending.answer(Err(Error::unavailable(name, waited, cause.as_ref())));
        }
    }

    /// Processes the reply to the task. Returns the event to emit.
    fn ended(&mut self, name: &Name, now: Moment, answer: &Result<ReleaseReply>) -> Option<Event> {
        let (Task::Release { pending } | Task::Keep { pending, .. }) = &mut self.task else { return None };
        let event = pending.as_mut()?.answered(name, now, answer);
        if answer.is_ok() {
            *pending = None;
        }
        event
    }
}

impl Task {
    fn pending(&self) -> Option<&PendingRelease> {
        match self {
            Self::Release { pending } | Self::Keep { pending, .. } => pending.as_ref(),
            Self::Detach { .. } => None,
        }
    }

    fn pending_mut(&mut self) -> Option<&mut PendingRelease> {
        match self {
            Self::Release { pending } | Self::Keep { pending, .. } => pending.as_mut(),
            Self::Detach { .. } => None,
        }
    }
}

/// Returns what a renewal that keeps a lease means for the release that it stands for.
fn kept(reply: RenewReply) -> ReleaseReply {
    match reply {
        RenewReply::Renewed { .. } => ReleaseReply::Released,
        RenewReply::NotHeld => ReleaseReply::NotHeld,
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
            Err(error) => {
                self.repeated = true;
                match error.kind() {
                    // The holder learns at once what a retry does not mend. The cleanup retries all the same, until
                    // the lease has ended: the permissions may change.
                    ErrorKind::Invalid | ErrorKind::Unsupported => self.answer(Err(error.clone())),
                    _ => self.cause = Some(error.clone()),
                }
                None
            }
        }
    }
}
