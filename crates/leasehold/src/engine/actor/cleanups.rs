//! Cleanups: what is left to do at the storage for an acquisition that is over for its caller.

use std::time::Duration;

use super::Actor;
use super::acquisition::{Stage, Verb};
use super::effects::{Effect, Input};
use crate::clock::Moment;
use crate::engine::call::Key;
use crate::engine::cleanup::{self, Action, Cleanup, Left};
use crate::engine::handle::Reply;
use crate::engine::timing::executable_until;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::lost::Lost;
use crate::storage::{AcquireReply, Claim, Name, ReleaseReply, Token};

/// An acquisition that is over for its caller.
pub(super) struct CleaningUp {
    pub(super) cleanup: Cleanup,
    pub(super) task: Task,
}

/// What is still to be done at the storage.
pub(super) enum Task {
    /// End the lease and the waiter's entry.
    Release { releasing: Option<Releasing> },
    /// Let the lease outlive this process. `lasts` is how long it lasts until that is done.
    Detach { lasts: Duration },
}

/// A guard's release, as its holder is told about it.
pub(super) struct Releasing {
    pub(super) reply: Option<Reply<()>>,
    pub(super) token: Token,
    pub(super) held: Duration,
    /// Until then the lease was ours as far as we knew.
    pub(super) deadline: Moment,
    pub(super) answer_by: Moment,
    /// When the holder asked for the release.
    pub(super) asked: Moment,
    /// Why the last request failed, as far as the storage or the network has said.
    pub(super) cause: Option<Error>,
    /// An earlier release was not answered, so that this one may find its own work done.
    pub(super) repeated: bool,
}

impl CleaningUp {
    pub(super) fn new(cleanup: Cleanup, task: Task) -> Self {
        Self { cleanup, task }
    }

    pub(super) fn wake(&self) -> Moment {
        match &self.task {
            Task::Release { releasing: Some(Releasing { reply: Some(_), answer_by, .. }) } => {
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
    /// Takes up a cleanup.
    pub(super) fn clean_up(&mut self, key: Key, claim: Claim, cleaning: CleaningUp) {
        let (begin, verb) = (cleaning.cleanup.begin(), cleaning.verb());
        self.insert(key, claim, Stage::Cleanup(Box::new(cleaning)));
        if begin == Action::Send {
            self.send(key, verb);
        }
    }

    pub(super) fn step_cleanup(&mut self, key: Key, now: Moment, input: Input) {
        let Some(acquisition) = self.get_mut(key) else { return };
        let Stage::Cleanup(cleaning) = &mut acquisition.stage else { return };
        let (name, verb) = (&acquisition.claim.name, cleaning.verb());
        let (mut event, mut freed) = (None, false);
        let input = match input {
            Input::Wake => {
                cleaning.answer_if_late(name, now);
                cleanup::Input::Wake
            }
            Input::Acquired { call, answer } => {
                let left = match answer {
                    Ok(AcquireReply::Held { .. }) if !acquisition.claim.wait => Left::Nothing,
                    Ok(_) => Left::Something,
                    Err(error) if error.is_definite() && !acquisition.claim.wait => Left::Nothing,
                    Err(error) if error.is_definite() => Left::Something,
                    Err(_) => Left::Unknown(executable_until(call.sent, acquisition.claim.ttl)),
                };
                cleanup::Input::Claim { call, left }
            }
            Input::Renewed { call, answer } if verb == Verb::Renew => {
                cleanup::Input::Answer { call, definite: answer.is_ok() }
            }
            Input::Released { call, answer } if verb == Verb::Release => {
                event = cleaning.released(name, now, &answer);
                freed = matches!(answer, Ok(ReleaseReply::Released));
                cleanup::Input::Answer { call, definite: answer.is_ok() }
            }
            _ => return,
        };
        let action = cleaning.cleanup.step(now, input);
        if freed {
            // Those who wait here need not wait for the storage's hint.
            let name = name.clone();
            self.follow(Effect::HintFirst(name));
        }
        match action {
            Action::Rest => {}
            Action::Send => self.send(key, verb),
            Action::Done => drop(self.remove(key)),
        }
        if let Some(event) = event {
            self.emit(event);
        }
    }
}

impl CleaningUp {
    /// Answers a release that was not answered in time.
    fn answer_if_late(&mut self, name: &Name, now: Moment) {
        if let Task::Release { releasing: Some(releasing) } = &mut self.task
            && now >= releasing.answer_by
        {
            let (waited, cause) = (now.since(releasing.asked), releasing.cause.take());
            releasing.answer(Err(Error::unavailable(name, waited, cause.as_ref())));
        }
    }

    /// The storage has answered a release. Returns what there is to report.
    fn released(&mut self, name: &Name, now: Moment, answer: &Result<ReleaseReply>) -> Option<Event> {
        let Task::Release { releasing } = &mut self.task else { return None };
        let event = releasing.as_mut()?.answered(name, now, answer);
        if answer.is_ok() {
            *releasing = None;
        }
        event
    }
}

impl Releasing {
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
            // An earlier release was not answered and the lease had not ended: it was that one.
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
