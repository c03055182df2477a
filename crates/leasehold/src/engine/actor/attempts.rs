//! Attempts: what callers who ask for a lock are told, and what is owed when they get none.

use std::time::Duration;

use super::acquisition::{Stage, Verb};
use super::cleanups::{CleaningUp, Task};
use super::effects::{Effect, Input};
use super::leases::Terms;
use super::{Actor, SLOW};
use crate::clock::Moment;
use crate::engine::attempt::{self, Action, Attempt, Debt, Refusal};
use crate::engine::call::Key;
use crate::engine::cleanup::Cleanup;
use crate::engine::handle::{Delivery, Reply, Undo};
use crate::engine::planted::{self, Bug};
use crate::engine::timing::patience;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::options::{Options, shared_label};
use crate::storage::{AcquireReply, Claim, Holder, Name, Token};

/// A caller who waits for a lock.
pub(super) struct Attempting {
    pub(super) attempt: Attempt,
    terms: Terms,
    reply: Reply<Option<Delivery>>,
    /// Whether an event has said that it waits.
    announced: bool,
    /// When the log is to say that it still waits.
    log_at: Moment,
}

impl Attempting {
    /// When it wants to be woken. While a claim is in flight, only for its limit: the answer comes first, and most
    /// acquisitions end with it, without a timer.
    pub(super) fn wake(&self) -> Moment {
        let wake = self.attempt.wake();
        if self.attempt.is_asking() { wake } else { std::cmp::min(wake, self.log_at) }
    }
}

impl Actor {
    pub(super) fn acquire(
        &mut self,
        now: Moment,
        key: Key,
        name: Name,
        options: &Options,
        once: bool,
        reply: Reply<Option<Delivery>>,
    ) {
        let mut claim = Claim::new(name.clone(), key.owner, options.ttl).patience(patience(options.ttl));
        claim.label = shared_label(&options.label);
        if planted::is(Bug::GhostAcquire) {
            claim.patience = Duration::MAX;
        }
        let terms = Terms::new(options);
        let attempt = Attempt::new(key.owner, options.ttl, options.wait, once, now);
        let lines_up = attempt.lines_up();
        let attempting = Attempting { attempt, terms, reply, announced: false, log_at: now.after(SLOW) };
        self.insert(key, claim, Stage::Attempt(Box::new(attempting)));
        if !lines_up {
            return self.tell(key, Input::Turn(None));
        }
        let (place, first) = self.queues.join(&name, key);
        if let Some(acquisition) = self.get_mut(key) {
            acquisition.place = Some(place);
        }
        if first {
            self.tell(key, Input::Turn(None));
        } else {
            let holder = self.holder_here(&name);
            self.announce(key, holder);
        }
    }

    pub(super) fn step_attempt(&mut self, key: Key, now: Moment, input: Input) {
        let subscribed = self.hints.is_some();
        let Some(attempting) = self.attempting(key) else { return };
        let action = attempting.attempt.step(
            now,
            match input {
                Input::Turn(known) => attempt::Input::Turn { subscribed, known: known.map(|known| *known) },
                Input::Wake => attempt::Input::Wake,
                Input::Hint => attempt::Input::Hint,
                Input::Leave | Input::Close => attempt::Input::Leave,
                Input::Silence(cause) => attempt::Input::Silence(cause),
                Input::Held(holder) => attempt::Input::Held(holder),
                Input::Acquired { call, answer } => attempt::Input::Answer { call, answer },
                Input::RenewNow
                | Input::Verify
                | Input::Extend(_)
                | Input::Seen { .. }
                | Input::Renewed { .. }
                | Input::Released { .. } => return,
            },
        );
        match action {
            Action::Rest => {
                self.announce_seen(key);
                self.log_long_wait(key, now);
            }
            Action::Ask { wait } => {
                if wait {
                    self.subscribe();
                    self.announce_seen(key);
                }
                if let Some(acquisition) = self.get_mut(key) {
                    acquisition.claim.wait = wait;
                }
                self.send(key, Verb::Acquire);
                self.log_long_wait(key, now);
            }
            Action::Granted { sent, token, ttl, unknown_until } => {
                self.granted(key, now, sent, token, ttl, unknown_until);
            }
            Action::End { refusal, debt } => self.refused(key, now, refusal, &debt),
        }
    }

    fn granted(
        &mut self,
        key: Key,
        now: Moment,
        sent: Moment,
        token: Token,
        ttl: Duration,
        unknown_until: Moment,
    ) {
        let Some((claim, attempting)) = self.remove_attempt(key) else { return };
        let waited = attempting.attempt.waited(now);
        let sent = if planted::is(Bug::DeadlineFromReply) { now } else { sent };
        let name = claim.name.clone();
        let hold = self.hold(key, claim, attempting.terms, sent, token, ttl, unknown_until);
        self.emit(Event::Acquired { name, token, waited });
        match self.commands() {
            // A caller who left drops it along with the channel, which releases it.
            Some(commands) => {
                drop(attempting.reply.send(Ok(Some(Delivery::new(hold, commands, Undo::Release)))));
            }
            None => self.release(now, key, None),
        }
    }

    fn refused(&mut self, key: Key, now: Moment, refusal: Refusal, debt: &Debt) {
        let Some((claim, attempting)) = self.remove_attempt(key) else { return };
        let Attempting { attempt, reply, .. } = *attempting;
        let (name, waited) = (claim.name.clone(), attempt.waited(now));
        let refusal = match refusal {
            Refusal::Behind => self.refusal_behind(&name, now),
            refusal => refusal,
        };
        let answer: Result<Option<Delivery>> = match refusal {
            Refusal::Contended(_) if attempt.is_once() => Ok(None),
            Refusal::Contended(seen) => {
                let seen = seen.or_else(|| self.holder_here(&name));
                Err(Error::contended(&name, seen, waited))
            }
            Refusal::Behind => Err(Error::contended(&name, None, waited)), // resolved above
            Refusal::Left => Err(Error::closed()),
            Refusal::Refused(error) => Err(error),
            Refusal::Silence(cause) => Err(Error::unavailable(&name, waited, cause.as_ref())),
            Refusal::Unavailable(cause) => {
                let error = Error::unavailable(&name, waited, cause.as_ref());
                // One with a limit, too, may be the first to find that out.
                if attempt.is_endless() || attempt.is_silent(now) {
                    self.follow(Effect::EndLine(name, cause));
                }
                Err(error)
            }
        };
        drop(reply.send(answer));
        if let Debt::Owed { awaiting, unknown_until, expires } = *debt
            && expires > now
            && !planted::is(Bug::DropWithoutResolver)
        {
            let cleanup = Cleanup::new(key.owner, now, awaiting, unknown_until, expires);
            self.clean_up(key, claim, CleaningUp::new(cleanup, Task::Release { releasing: None }));
        }
    }

    fn attempting(&mut self, key: Key) -> Option<&mut Attempting> {
        match &mut self.get_mut(key)?.stage {
            Stage::Attempt(attempting) => Some(attempting),
            _ => None,
        }
    }

    fn remove_attempt(&mut self, key: Key) -> Option<(Claim, Box<Attempting>)> {
        self.attempting(key)?;
        let acquisition = self.remove(key)?;
        match acquisition.stage {
            Stage::Attempt(attempting) => Some((acquisition.claim, attempting)),
            _ => None,
        }
    }

    /// Why a wait has ended that others were ahead of to the end, as the first of them knows.
    fn refusal_behind(&self, name: &Name, now: Moment) -> Refusal {
        match self.first_here(name) {
            Some(first) if first.error().is_some() => Refusal::Unavailable(first.error().cloned()),
            Some(first) if first.is_unanswered(now) => Refusal::Unavailable(None),
            first => Refusal::Contended(first.and_then(|first| first.seen().cloned())),
        }
    }

    /// Why the storage does not answer, as the first in the local queue has found.
    fn error_here(&self, name: &Name) -> Option<Error> {
        self.first_here(name)?.error().cloned()
    }

    /// The holder of a lock, as the first in the local queue has seen.
    fn holder_here(&self, name: &Name) -> Option<Holder> {
        self.first_here(name)?.seen().cloned()
    }

    fn first_here(&self, name: &Name) -> Option<&Attempt> {
        match &self.get(self.queues.first(name)?)?.stage {
            Stage::Attempt(attempting) => Some(&attempting.attempt),
            _ => None,
        }
    }

    fn announce_seen(&mut self, key: Key) {
        if let Some(attempting) = self.attempting(key)
            && !attempting.announced
            && attempting.attempt.was_refused()
        {
            let holder = attempting.attempt.seen().cloned();
            self.announce(key, holder);
        }
    }

    /// Logs once that a caller has waited for long, while it still waits.
    fn log_long_wait(&mut self, key: Key, now: Moment) {
        let Some(acquisition) = self.get_mut(key) else { return };
        let Stage::Attempt(attempting) = &mut acquisition.stage else { return };
        if now < attempting.log_at {
            return;
        }
        attempting.log_at = Moment::FAR;
        let (name, waited) = (acquisition.claim.name.clone(), attempting.attempt.waited(now));
        let (seen, error) = (attempting.attempt.seen().cloned(), attempting.attempt.error().cloned());
        if let Some(error) = error.or_else(|| self.error_here(&name)) {
            tracing::info!(target: "leasehold", %name, ?waited, %error, "still waiting, and the storage does not answer");
            return;
        }
        let holder = seen.or_else(|| self.holder_here(&name));
        let token = holder.as_ref().map(|holder| holder.token.get());
        let holder = holder.as_ref().and_then(|holder| holder.label.as_deref());
        tracing::info!(target: "leasehold", %name, ?waited, holder, token, "still waiting for the lock");
    }

    /// Says once that a caller waits.
    fn announce(&mut self, key: Key, holder: Option<Holder>) {
        let Some(acquisition) = self.get_mut(key) else { return };
        let Stage::Attempt(attempting) = &mut acquisition.stage else { return };
        attempting.announced = true;
        let name = acquisition.claim.name.clone();
        self.emit(Event::Waiting { name, holder });
    }

    /// What a follower of this claim is told, if its answer is the follower's, too.
    pub(super) fn held_by(claim: &Claim, answer: &Result<AcquireReply>) -> Option<Option<Holder>> {
        match answer {
            Ok(AcquireReply::Granted { token, ttl }) => {
                let label = claim.label.clone();
                Some(Some(Holder { label, ..Holder::new(claim.name.clone(), claim.owner, *token, *ttl) }))
            }
            Ok(AcquireReply::Held { holder, .. }) => Some(holder.clone()),
            Err(_) => None,
        }
    }
}
