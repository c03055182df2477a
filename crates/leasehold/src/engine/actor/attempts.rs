//! Attempts: starts them, executes their actions, and answers their callers.

use std::time::Duration;

use super::acquisition::{Stage, Verb};
use super::cleanups::{CleanupStage, Task};
use super::effects::{Effect, Input};
use super::leases::LeaseOptions;
use super::{Actor, SLOW};
use crate::clock::Moment;
use crate::engine::attempt::{self, Action, Attempt, Refusal};
use crate::engine::call::Key;
use crate::engine::cleanup::{Cleanup, Leftovers};
use crate::engine::handle::{Delivery, Mode, Reply, Undo, Wanted};
use crate::engine::planted::{self, Bug};
use crate::engine::timing::patience;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::options::shared_label;
use crate::storage::{AcquireReply, Claim, Holder, Name, Token};

/// An attempt, and the caller that waits for it.
pub(super) struct AttemptStage {
    pub(super) attempt: Attempt,
    mode: Mode,
    options: LeaseOptions,
    reply: Reply<Option<Delivery>>,
    /// Whether an event was sent that it waits.
    announced: bool,
    /// When to log that it still waits.
    log_at: Moment,
}

impl AttemptStage {
    /// Returns when it next needs [`Input::Wake`]. While a claim is in flight, that is its limit only. The reply mostly
    /// comes earlier and ends the acquisition, so that most acquisitions need no timer.
    pub(super) fn wake(&self) -> Moment {
        let wake = self.attempt.wake();
        if self.attempt.is_in_flight() { wake } else { std::cmp::min(wake, self.log_at) }
    }
}

impl Actor {
    /// Starts an attempt.
    pub(super) fn acquire(&mut self, now: Moment, key: Key, wanted: Wanted, reply: Reply<Option<Delivery>>) {
        let Wanted { name, options, mode } = wanted;
        let mut claim = Claim::new(name.clone(), key.owner, options.ttl).patience(patience(options.ttl));
        claim.label = shared_label(&options.label);
        // Else the end of this process would end the lease before `at_least` is over.
        claim.detached = options.at_least.is_some();
        if planted::is(Bug::GhostAcquire) {
            claim.patience = Duration::MAX;
        }
        let attempt = Attempt::new(key.owner, options.ttl, options.wait, mode.is_try(), now);
        let attempt = if mode == Mode::AfterTry { attempt.after_try(now) } else { attempt };
        let joins_queue = attempt.joins_queue();
        let options = LeaseOptions::new(&options);
        let stage = AttemptStage { attempt, mode, options, reply, announced: false, log_at: now.after(SLOW) };
        self.insert(key, claim, Stage::Attempt(Box::new(stage)));
        if !joins_queue {
            return self.queue_step(key, Input::Turn(None));
        }
        let (place, is_head) = self.queues.join(&name, key);
        if let Some(acquisition) = self.get_mut(key) {
            acquisition.place = Some(place);
        }
        if is_head {
            self.queue_step(key, Input::Turn(None));
        } else {
            let holder = self.holder_known_to_head(&name);
            self.announce(key, holder);
        }
    }

    /// Passes an input to an attempt, and executes its action.
    pub(super) fn step_attempt(&mut self, key: Key, now: Moment, input: Input) {
        let subscribed = self.hints.is_some();
        let Some(stage) = self.attempt_stage(key) else { return };
        let input = match input {
            Input::Turn(inherited) => {
                attempt::Input::Turn { subscribed, inherited: inherited.map(|inherited| *inherited) }
            }
            Input::Wake => attempt::Input::Wake,
            Input::Hint => attempt::Input::Hint,
            Input::Cancel | Input::Close => attempt::Input::Cancel,
            Input::Silence(cause) => attempt::Input::Silence(cause),
            Input::SharedAnswer(holder) => attempt::Input::SharedAnswer(holder),
            Input::Acquired { call, answer } => attempt::Input::Answer { call, answer },
            Input::RenewNow
            | Input::Verify
            | Input::Extend(_)
            | Input::Inspected { .. }
            | Input::Renewed { .. }
            | Input::Released { .. } => return,
        };
        let failures = stage.attempt.failures();
        match stage.attempt.step(now, input) {
            Action::None => {
                self.announce_failure(key, now, failures);
                self.announce_refusal(key);
                self.log_long_wait(key, now);
            }
            Action::SendClaim { wait } => {
                if wait {
                    self.subscribe();
                    self.announce_refusal(key);
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
            Action::End { refusal, leftovers } => self.refused(key, now, refusal, leftovers),
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
        let Some((claim, stage)) = self.remove_attempt(key) else { return };
        let waited = stage.attempt.waited(now);
        let sent = if planted::is(Bug::DeadlineFromReply) { now } else { sent };
        let name = claim.name.clone();
        let status = self.begin_lease(key, claim, stage.options, sent, token, ttl, unknown_until);
        self.emit(Event::Acquired { name, token, waited });
        match self.commands() {
            // If the caller has left, the delivery is dropped along with the channel, which releases the lease.
            Some(commands) => {
                drop(stage.reply.send(Ok(Some(Delivery::new(status, commands, Undo::Release)))));
            }
            None => self.undo(now, key),
        }
    }

    fn refused(&mut self, key: Key, now: Moment, refusal: Refusal, leftovers: Option<Leftovers>) {
        let Some((claim, stage)) = self.remove_attempt(key) else { return };
        let AttemptStage { attempt, mode, reply, .. } = *stage;
        drop(reply.send(self.answer_refused(&claim.name, now, mode, &attempt, refusal)));
        if let Some(leftovers) = leftovers
            && leftovers.expires > now
            && !planted::is(Bug::DropWithoutResolver)
        {
            let cleanup = Cleanup::new(key.owner, now, leftovers);
            self.clean_up(key, claim, CleanupStage::new(cleanup, Task::Release { pending: None }));
        }
    }

    /// Returns the answer for the caller of an attempt that ended without the lock.
    fn answer_refused(
        &mut self,
        name: &Name,
        now: Moment,
        mode: Mode,
        attempt: &Attempt,
        refusal: Refusal,
    ) -> Result<Option<Delivery>> {
        let waited = attempt.waited(now);
        let refusal = match refusal {
            Refusal::BehindOthers => self.refusal_known_to_head(name, now),
            refusal => refusal,
        };
        match refusal {
            Refusal::Contended(_) if mode == Mode::Once => Ok(None),
            Refusal::Contended(holder) => {
                let holder = holder.or_else(|| self.holder_known_to_head(name));
                Err(Error::contended(name, holder, waited))
            }
            // Replaced above.
            Refusal::BehindOthers => Err(Error::contended(name, None, waited)),
            Refusal::Canceled => Err(Error::closed()),
            Refusal::Rejected(error) => Err(error),
            Refusal::Silence(cause) => Err(Error::unavailable(name, waited, cause.as_ref())),
            Refusal::Unavailable(cause) => {
                let error = Error::unavailable(name, waited, cause.as_ref());
                // An attempt with a limit, too, may be the first to find that the storage is silent.
                if attempt.waits_forever() || attempt.is_silent(now) {
                    self.queue_effect(Effect::EndQueue(name.clone(), cause));
                }
                Err(error)
            }
        }
    }

    fn attempt_stage(&mut self, key: Key) -> Option<&mut AttemptStage> {
        match &mut self.get_mut(key)?.stage {
            Stage::Attempt(stage) => Some(stage),
            _ => None,
        }
    }

    fn remove_attempt(&mut self, key: Key) -> Option<(Claim, Box<AttemptStage>)> {
        self.attempt_stage(key)?;
        let acquisition = self.remove(key)?;
        match acquisition.stage {
            Stage::Attempt(stage) => Some((acquisition.claim, stage)),
            _ => None,
        }
    }

    /// Returns why an attempt has ended that never became the head of its local queue.
    fn refusal_known_to_head(&self, name: &Name, now: Moment) -> Refusal {
        match self.head_of(name) {
            Some(head) if head.error().is_some() => Refusal::Unavailable(head.error().cloned()),
            Some(head) if head.is_unanswered(now) => Refusal::Unavailable(None),
            head => Refusal::Contended(head.and_then(|head| head.holder().cloned())),
        }
    }

    /// Returns why the storage does not answer the head of the local queue.
    fn error_known_to_head(&self, name: &Name) -> Option<Error> {
        self.head_of(name)?.error().cloned()
    }

    /// Returns the holder that the storage named to the head of the local queue.
    fn holder_known_to_head(&self, name: &Name) -> Option<Holder> {
        self.head_of(name)?.holder().cloned()
    }

    fn head_of(&self, name: &Name) -> Option<&Attempt> {
        match &self.get(self.queues.head(name)?)?.stage {
            Stage::Attempt(stage) => Some(&stage.attempt),
            _ => None,
        }
    }

    /// Emits, once, the event that an attempt waits, if the storage has refused it.
    fn announce_refusal(&mut self, key: Key) {
        if let Some(stage) = self.attempt_stage(key)
            && !stage.announced
            && stage.attempt.was_refused()
        {
            let holder = stage.attempt.holder().cloned();
            self.announce(key, holder);
        }
    }

    /// Emits, once for each outage, the event that a claim was not answered. There were so many `failures` before.
    fn announce_failure(&mut self, key: Key, now: Moment, failures: u32) {
        let Some(stage) = self.attempt_stage(key) else { return };
        if failures == 0 && stage.attempt.failures() > 0 {
            let waited = stage.attempt.waited(now);
            let Some(acquisition) = self.get(key) else { return };
            self.emit(Event::ClaimFailed { name: acquisition.claim.name.clone(), waited });
        }
    }

    /// Logs, once, that an attempt has waited for long, while it still waits.
    fn log_long_wait(&mut self, key: Key, now: Moment) {
        let Some(acquisition) = self.get_mut(key) else { return };
        let Stage::Attempt(stage) = &mut acquisition.stage else { return };
        if now < stage.log_at {
            return;
        }
        stage.log_at = Moment::FAR;
        let (name, waited) = (acquisition.claim.name.clone(), stage.attempt.waited(now));
        let (holder, error) = (stage.attempt.holder().cloned(), stage.attempt.error().cloned());
        if let Some(error) = error.or_else(|| self.error_known_to_head(&name)) {
            tracing::info!(target: "leasehold", %name, ?waited, %error, "still waiting, and the storage does not answer");
            return;
        }
        let holder = holder.or_else(|| self.holder_known_to_head(&name));
        let token = holder.as_ref().map(|holder| holder.token.get());
        let holder = holder.as_ref().and_then(|holder| holder.label.as_deref());
        tracing::info!(target: "leasehold", %name, ?waited, holder, token, "still waiting for the lock");
    }

    /// Emits the event that an attempt waits.
    fn announce(&mut self, key: Key, holder: Option<Holder>) {
        let Some(acquisition) = self.get_mut(key) else { return };
        let Stage::Attempt(stage) = &mut acquisition.stage else { return };
        stage.announced = true;
        let name = acquisition.claim.name.clone();
        self.emit(Event::Waiting { name, holder });
    }

    /// Returns the holder that answers the shareable claims of the same name, or `None` if this reply does not answer
    /// them.
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
