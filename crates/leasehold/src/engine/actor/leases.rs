//! Leases: starts them, executes their actions and the commands of their holders, and ends them.

use std::sync::Arc;
use std::time::Duration;

use super::Actor;
use super::acquisition::{Stage, Verb};
use super::cleanups::{CleanupStage, PendingRelease, Task};
use super::effects::Input;
use crate::clock::Moment;
use crate::engine::LeaseStatus;
use crate::engine::call::Key;
use crate::engine::cleanup::{Cleanup, Leftovers};
use crate::engine::handle::Reply;
use crate::engine::lease::{self, Lease};
use crate::engine::planted::{self, Bug};
use crate::engine::timing::{RELEASE_LIMIT, by_a_slow_clock};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::lost::Lost;
use crate::options::{Options, Renewal};
use crate::storage::{Claim, RenewReply, Token, WAITER_TTL};

/// A lease that a guard holds.
pub(super) struct LeaseStage {
    pub(super) status: Arc<LeaseStatus>,
    pub(super) lease: Lease,
    /// The moment until which a claim without an answer may still be executed.
    unknown_until: Moment,
    /// Until when the storage keeps the lease at least, even if its holder ends it.
    keep_until: Moment,
    waiters: Vec<RenewWaiter>,
    /// How often the holder has set another TTL.
    pub(super) extends: u32,
    /// How many inspections a hint or a sweep has caused: at most one in flight, and one that follows.
    pub(super) inspections: u8,
}

/// How a lease is kept after its grant.
#[derive(Clone, Copy)]
pub(super) struct LeaseOptions {
    pub(super) renewal: Renewal,
    pub(super) max_hold: Option<Duration>,
    pub(super) at_least: Option<Duration>,
    /// Whether no request of a previous holder can still be executed.
    pub(super) settled: bool,
}

impl LeaseOptions {
    pub(super) fn new(options: &Options) -> Self {
        let Options { renewal, max_hold, at_least, .. } = *options;
        Self { renewal, max_hold, at_least, settled: true }
    }
}

/// A caller that waits for a renewal that is sent after its call.
struct RenewWaiter {
    /// How many renewals had been sent by then.
    after: u32,
    /// When it called.
    asked: Moment,
    reply: Reply<()>,
}

/// What a lease was before a step.
struct Snapshot {
    renewals: u32,
    failures: u32,
    deadline: Moment,
}

impl Snapshot {
    fn of(lease: &Lease) -> Self {
        Self { renewals: lease.renewals(), failures: lease.failures(), deadline: lease.deadline() }
    }
}

/// How long a lease is held before the engine subscribes to hints, so that the holder learns at once if another client
/// ends it. Most leases are shorter and need no subscription.
const HOLD_SHORT: Duration = Duration::from_millis(100);
/// How many leases are inspected when the engine subscribes to hints late.
const INSPECTIONS_MAX: usize = 64;

impl Actor {
    /// Starts a lease that was just granted or resumed.
    #[expect(clippy::too_many_arguments, reason = "what is known of a grant, and nothing else")]
    pub(super) fn begin_lease(
        &mut self,
        key: Key,
        claim: Claim,
        options: LeaseOptions,
        sent: Moment,
        token: Token,
        ttl: Duration,
        unknown_until: Moment,
    ) -> Arc<LeaseStatus> {
        let ttl = std::cmp::min(ttl, self.shared.limits.ttl_max);
        let mut lease = Lease::granted(key.owner, sent, ttl, options.renewal, options.max_hold);
        if !options.settled {
            lease = lease.resumed_for(sent, claim.ttl);
        }
        let keep_until = options.at_least.map_or(Moment::ZERO, |least| self.clock.now().after(least));
        let lease = lease.claimed_for(sent, claim.ttl).kept_until(keep_until);
        let (name, label, clock) = (claim.name.clone(), claim.label.clone(), self.clock.clone());
        let status = Arc::new(LeaseStatus::new(name, key, token, label, clock, unknown_until, &lease));
        self.shared.held().insert(key.owner, Arc::clone(&status));
        if self.hints.is_none() && self.subscribe_at == Moment::FAR {
            self.subscribe_at = self.clock.now().after(HOLD_SHORT);
        }
        let stage = LeaseStage {
            status: Arc::clone(&status),
            lease,
            unknown_until,
            keep_until,
            waiters: Vec::new(),
            extends: 0,
            inspections: 0,
        };
        self.insert(key, claim, Stage::Lease(Box::new(stage)));
        self.verify_if_older(key, sent);
        status
    }

    /// Subscribes to hints if a lease has been held for a while. Then it inspects the leases, because another client
    /// may have ended one before.
    pub(super) fn subscribe_if_held(&mut self, now: Moment) {
        if now < self.subscribe_at {
            return;
        }
        self.subscribe_at = Moment::FAR;
        let held = self.shared.held();
        let mut keys: Vec<_> = held.values().map(|status| status.key).take(INSPECTIONS_MAX).collect();
        drop(held);
        // Sorted, so that a run can be repeated.
        keys.sort_unstable();
        if keys.is_empty() {
            return;
        }
        self.subscribe();
        for key in keys {
            self.inspect_unasked(key);
        }
    }

    /// Renews a lease for a caller, possibly for another TTL.
    pub(super) fn renew_for(&mut self, key: Key, ttl: Option<Duration>, reply: Reply<()>) {
        // If it was lost meanwhile, the guard knows why.
        let asked = self.clock.now();
        let Some(stage) = self.lease_stage(key) else { return };
        stage.waiters.push(RenewWaiter { after: stage.lease.calls(), asked, reply });
        self.queue_step(key, ttl.map_or(Input::RenewNow, Input::Extend));
    }

    /// Renews with a detached claim, so that the lease is not tied to this process from then on.
    pub(super) fn outlive(&mut self, key: Key, reply: Reply<()>) {
        if self.lease_stage(key).is_none() {
            return;
        }
        if let Some(acquisition) = self.get_mut(key) {
            // Before the renewal is demanded: only one that is sent from now on answers the caller.
            acquisition.claim.detached = true;
        }
        self.renew_for(key, None, reply);
    }

    /// Passes an input to a lease, and executes its action.
    pub(super) fn step_lease(&mut self, key: Key, now: Moment, input: Input) {
        let ttl_max = self.shared.limits.ttl_max;
        let Some(stage) = self.lease_stage(key) else { return };
        let mut cause = None;
        let input = match input {
            Input::Wake => lease::Input::Wake,
            // Another client may have ended or shortened the lease. An inspection is enough: a hint alone renews
            // nothing.
            Input::Hint => return self.inspect_unasked(key),
            Input::RenewNow => lease::Input::RenewNow,
            Input::Verify => lease::Input::Verify,
            Input::Extend(ttl) => {
                stage.extends = stage.extends.wrapping_add(1);
                lease::Input::Extend(ttl)
            }
            Input::Inspected { found: Ok(Some(holder)), call } if holder.owner == key.owner => {
                lease::Input::Inspected { sent: call.sent, remaining: holder.remaining }
            }
            Input::Inspected { found: Ok(_), .. } => lease::Input::Gone,
            Input::Close => return self.lose(key, now, Lost::Closed),
            Input::Renewed { call, answer } => {
                cause = answer.as_ref().err().cloned();
                let answer = answer.ok().map(|answer| match answer {
                    RenewReply::Renewed { ttl } => RenewReply::Renewed { ttl: std::cmp::min(ttl, ttl_max) },
                    other => other,
                });
                lease::Input::Answer { call, answer }
            }
            Input::Inspected { found: Err(_), .. }
            | Input::Turn(_)
            | Input::Cancel
            | Input::Silence(_)
            | Input::SharedAnswer(_)
            | Input::Acquired { .. }
            | Input::Released { .. } => return,
        };
        let before = Snapshot::of(&stage.lease);
        match stage.lease.step(now, input) {
            lease::Action::Lost(lost) => return self.lose(key, now, lost),
            lease::Action::Renew => self.send(key, Verb::Renew),
            lease::Action::None => {}
        }
        self.stepped(key, now, &before, cause.as_ref());
    }

    /// Publishes what a step has changed, and answers the callers that waited for it.
    fn stepped(&mut self, key: Key, now: Moment, before: &Snapshot, cause: Option<&Error>) {
        let Some(stage) = self.lease_stage(key) else { return };
        let lease = &stage.lease;
        let (renewed, failed) = (lease.renewals() != before.renewals, lease.failures() > before.failures);
        let (deadline, calls) = (lease.deadline(), lease.calls());
        let (name, token) = (stage.status.name.clone(), stage.status.token);
        let moved = renewed || deadline != before.deadline;
        if moved && !stage.status.publish(now, lease, stage.extends) {
            // A thread has seen the deadline pass before this answer came.
            return self.lose(key, now, Lost::Expired);
        }
        if renewed || failed {
            for waiter in stage.waiters.extract_if(.., |waiter| waiter.after < calls) {
                let failed = || match cause {
                    // A retry does not mend this.
                    Some(cause) if matches!(cause.kind(), ErrorKind::Invalid | ErrorKind::Unsupported) => {
                        cause.clone()
                    }
                    _ => Error::unavailable(&name, now.since(waiter.asked), cause),
                };
                let _ = waiter.reply.send(if renewed { Ok(()) } else { Err(failed()) });
            }
        }
        if renewed {
            self.emit(Event::Renewed { name, token });
        } else if failed && before.failures == 0 {
            // Once for each outage: more of these events would hide all others.
            self.emit(Event::RenewFailed { name, token, remaining: deadline.since(now) });
        }
    }

    /// Releases a lease.
    pub(super) fn release(&mut self, now: Moment, key: Key, reply: Option<Reply<()>>) {
        // Checked first, so that a deadline that has passed is a loss and not a release.
        if self.is_lost(key, now) {
            return;
        }
        let Some(stage) = self.lease_stage(key) else { return };
        let deadline = stage.lease.deadline();
        let pending = PendingRelease {
            reply,
            token: stage.status.token,
            held: stage.status.age(),
            deadline,
            answer_by: std::cmp::min(deadline, now.after(RELEASE_LIMIT)),
            asked: now,
            cause: None,
            repeated: false,
        };
        self.release_or_keep(now, key, Some(pending));
    }

    /// Releases a lease that its caller never got. `at_least` does not count.
    pub(super) fn undo(&mut self, now: Moment, key: Key) {
        if let Some(stage) = self.lease_stage(key) {
            stage.keep_until = Moment::ZERO;
        }
        self.release(now, key, None);
    }

    /// Ends a lease for its holder: releases it, or lets the storage keep it until `at_least` is over.
    fn release_or_keep(&mut self, now: Moment, key: Key, pending: Option<PendingRelease>) {
        let Some(acquisition) = self.get_mut(key) else { return };
        let Stage::Lease(stage) = &acquisition.stage else { return };
        let (unknown_until, expires) = (stage.unknown_until, stage.lease.ended_by(now));
        let (until, lasts) = (stage.keep_until, stage.lease.lasts());
        if until <= now {
            return self.end(now, key, Task::Release { pending }, unknown_until, expires);
        }
        // No request that may still be executed ends the lease before that.
        (acquisition.claim.detached, acquisition.claim.ttl) = (true, stage.lease.ttl());
        self.end(now, key, Task::Keep { pending, until, lasts }, Moment::ZERO, expires);
    }

    /// Detaches a lease: it ends with its TTL, or when `at_least` is over, unless a ticket of it is resumed.
    pub(super) fn detach(&mut self, now: Moment, key: Key) {
        if self.is_lost(key, now) {
            return;
        }
        let ttl_max = self.shared.limits.ttl_max;
        let Some(acquisition) = self.get_mut(key) else { return };
        let Stage::Lease(stage) = &acquisition.stage else { return };
        let claim = &mut acquisition.claim;
        let ttl = std::cmp::max(stage.lease.ttl(), std::cmp::min(stage.keep_until.since(now), ttl_max));
        (claim.detached, claim.shorten, claim.ttl) = (true, false, ttl);
        let expires = std::cmp::max(stage.lease.ended_by(now), now.after(by_a_slow_clock(ttl)));
        let task = Task::Detach { lasts: stage.lease.lasts() };
        self.end(now, key, task, Moment::ZERO, expires);
    }

    /// Loses a lease if its deadline has passed. Returns `true` if it is lost.
    fn is_lost(&mut self, key: Key, now: Moment) -> bool {
        let Some(stage) = self.lease_stage(key) else { return true };
        if now < stage.lease.deadline() {
            return false;
        }
        match stage.lease.step(now, lease::Input::Wake) {
            lease::Action::Lost(lost) => {
                self.lose(key, now, lost);
                true
            }
            lease::Action::Renew | lease::Action::None => false,
        }
    }

    /// Ends a lease that is lost.
    pub(super) fn lose(&mut self, key: Key, now: Moment, lost: Lost) {
        let Some(stage) = self.lease_stage(key) else { return };
        let lost = stage.status.lose(lost);
        let (name, token) = (stage.status.name.clone(), stage.status.token);
        let unknown_until = stage.unknown_until;
        self.emit(Event::Lost { name, token, lost });
        if lost == Lost::Taken && unknown_until <= now {
            self.shared.unlist(key);
            drop(self.remove(key));
        } else {
            // The storage may still have the lease. A release lets the next owner in.
            self.release_or_keep(now, key, None);
        }
    }

    /// Ends a lease, and starts its cleanup.
    fn end(&mut self, now: Moment, key: Key, task: Task, unknown_until: Moment, expires: Moment) {
        if !planted::is(Bug::ExpiredStillListed) {
            self.shared.unlist(key);
        }
        let Some(acquisition) = self.remove(key) else { return };
        // A claim that is executed after the release may leave a waiter's entry, which outlives a short lease.
        let entry_ends = unknown_until.after(by_a_slow_clock(WAITER_TTL));
        let expires = if unknown_until > now { std::cmp::max(expires, entry_ends) } else { expires };
        let cleanup = Cleanup::new(key.owner, now, Leftovers { claim: None, unknown_until, expires });
        self.clean_up(key, acquisition.claim, CleanupStage::new(cleanup, task));
    }

    /// Returns the lease of an acquisition, if it is at that stage.
    pub(super) fn lease_stage(&mut self, key: Key) -> Option<&mut LeaseStage> {
        match &mut self.get_mut(key)?.stage {
            Stage::Lease(stage) => Some(stage),
            _ => None,
        }
    }
}
