//! Leases: what is held, what its holders ask of it, and how it ends.

use std::sync::Arc;
use std::time::Duration;

use super::Actor;
use super::acquisition::{Stage, Verb};
use super::cleanups::{CleaningUp, Releasing, Task};
use super::effects::Input;
use crate::clock::Moment;
use crate::engine::Hold;
use crate::engine::call::Key;
use crate::engine::cleanup::Cleanup;
use crate::engine::handle::Reply;
use crate::engine::lease::{self, Lease};
use crate::engine::planted::{self, Bug};
use crate::engine::timing::{RELEASE_LIMIT, by_a_slow_clock, renew_limit};
use crate::error::Error;
use crate::event::Event;
use crate::lost::Lost;
use crate::options::{Options, Renewal};
use crate::storage::{Claim, RenewReply, Token, WAITER_TTL};

/// A lease that a guard holds.
pub(super) struct Holding {
    pub(super) hold: Arc<Hold>,
    pub(super) lease: Lease,
    /// Until then a claim whose answer was lost may still be executed.
    unknown_until: Moment,
    asked: Vec<Asked>,
    /// How often another TTL was asked for.
    pub(super) extends: u32,
    /// How many looks at the storage a hint has caused: one in flight, and one that follows.
    pub(super) looks: u8,
}

/// How a lease is kept once it is there.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) renewal: Renewal,
    pub(super) max_hold: Option<Duration>,
    /// Whether no request of an earlier holder can still be executed.
    pub(super) settled: bool,
}

impl Terms {
    pub(super) fn new(options: &Options) -> Self {
        Self { renewal: options.renewal, max_hold: options.max_hold, settled: true }
    }
}

/// A caller who waits for a renewal that is sent after the call.
struct Asked {
    /// How many had been sent by then.
    after: u32,
    reply: Reply<()>,
}

/// What a lease was before a step.
struct Before {
    renewals: u32,
    failures: u32,
    deadline: Moment,
}

impl Before {
    fn of(lease: &Lease) -> Self {
        Self { renewals: lease.renewals(), failures: lease.failures(), deadline: lease.deadline() }
    }
}

/// A lock held for longer than this is worth a subscription, so that its holder learns at once if another client ends
/// it. Most are not, and cost none.
const HOLD_SHORT: Duration = Duration::from_millis(100);
/// How many holds are looked at when hints are subscribed to late.
const LOOKS_MAX: usize = 64;

impl Actor {
    /// Takes up a lease that was just granted or resumed.
    #[expect(clippy::too_many_arguments, reason = "what is known of a grant, and nothing else")]
    pub(super) fn hold(
        &mut self,
        key: Key,
        claim: Claim,
        terms: Terms,
        sent: Moment,
        token: Token,
        ttl: Duration,
        unknown_until: Moment,
    ) -> Arc<Hold> {
        let ttl = std::cmp::min(ttl, self.shared.limits.ttl_max);
        let mut lease = Lease::granted(key.owner, sent, ttl, terms.renewal, terms.max_hold);
        if !terms.settled {
            lease = lease.resumed(sent, claim.ttl);
        }
        let lease = lease.claimed(sent, claim.ttl);
        let (name, label, clock) = (claim.name.clone(), claim.label.clone(), self.clock.clone());
        let hold = Arc::new(Hold::new(name, key, token, label, clock, unknown_until, &lease));
        self.shared.holds().insert(key.owner, Arc::clone(&hold));
        if self.hints.is_none() && self.subscribe_at == Moment::FAR {
            self.subscribe_at = self.clock.now().after(HOLD_SHORT);
        }
        let holding = Holding {
            hold: Arc::clone(&hold),
            lease,
            unknown_until,
            asked: Vec::new(),
            extends: 0,
            looks: 0,
        };
        self.insert(key, claim, Stage::Lease(Box::new(holding)));
        self.verify_if_older(key, sent);
        hold
    }

    /// Subscribes to hints if anything has been held for a while, and then looks at what is held: it may have been
    /// ended before.
    pub(super) fn subscribe_if_held(&mut self, now: Moment) {
        if now < self.subscribe_at {
            return;
        }
        self.subscribe_at = Moment::FAR;
        let mut held: Vec<_> = self.shared.holds().values().map(|hold| hold.key).take(LOOKS_MAX).collect();
        held.sort_unstable(); // one order, so that a run can be repeated
        if held.is_empty() {
            return;
        }
        self.subscribe();
        for key in held {
            self.look_unasked(key);
        }
    }

    pub(super) fn renew_for(&mut self, key: Key, ttl: Option<Duration>, reply: Reply<()>) {
        // Lost meanwhile: the guard knows why.
        let Some(holding) = self.holding(key) else { return };
        holding.asked.push(Asked { after: holding.lease.calls(), reply });
        self.tell(key, ttl.map_or(Input::RenewNow, Input::Extend));
    }

    /// Renews with a detached claim, so that the lease is not tied to this process from then on.
    pub(super) fn outlive(&mut self, key: Key, reply: Reply<()>) {
        if self.holding(key).is_none() {
            return;
        }
        if let Some(acquisition) = self.get_mut(key) {
            // Before the renewal is asked for: only one that leaves from now on answers.
            acquisition.claim.detached = true;
        }
        self.renew_for(key, None, reply);
    }

    pub(super) fn step_lease(&mut self, key: Key, now: Moment, input: Input) {
        let longest = self.shared.limits.ttl_max;
        let Some(holding) = self.holding(key) else { return };
        let mut cause = None;
        let input = match input {
            Input::Wake => lease::Input::Wake,
            // It may have been ended or shortened. To look is enough: a hint alone renews nothing.
            Input::Hint => return self.look_unasked(key),
            Input::RenewNow => lease::Input::RenewNow,
            Input::Verify => lease::Input::Verify,
            Input::Extend(ttl) => {
                holding.extends = holding.extends.wrapping_add(1);
                lease::Input::Extend(ttl)
            }
            Input::Seen { seen: Ok(Some(holder)), look } if holder.owner == key.owner => {
                lease::Input::Seen { sent: look.sent, remaining: holder.remaining }
            }
            Input::Seen { seen: Ok(_), .. } => lease::Input::Gone,
            Input::Close => return self.lose(key, now, Lost::Closed),
            Input::Renewed { call, answer } => {
                cause = answer.as_ref().err().cloned();
                let answer = answer.ok().map(|answer| match answer {
                    RenewReply::Renewed { ttl } => RenewReply::Renewed { ttl: std::cmp::min(ttl, longest) },
                    other => other,
                });
                lease::Input::Answer { call, answer }
            }
            Input::Seen { seen: Err(_), .. }
            | Input::Turn(_)
            | Input::Leave
            | Input::Silence(_)
            | Input::Held(_)
            | Input::Acquired { .. }
            | Input::Released { .. } => return,
        };
        let before = Before::of(&holding.lease);
        match holding.lease.step(now, input) {
            lease::Action::Lost(lost) => return self.lose(key, now, lost),
            lease::Action::Renew => self.send(key, Verb::Renew),
            lease::Action::Rest => {}
        }
        self.stepped(key, now, &before, cause.as_ref());
    }

    /// Publishes what a step has changed, and answers those who asked for it.
    fn stepped(&mut self, key: Key, now: Moment, before: &Before, cause: Option<&Error>) {
        let Some(holding) = self.holding(key) else { return };
        let lease = &holding.lease;
        let (renewed, failed) = (lease.renewals() != before.renewals, lease.failures() > before.failures);
        let (deadline, lasts, calls) = (lease.deadline(), lease.lasts(), lease.calls());
        let (name, token) = (holding.hold.name.clone(), holding.hold.token);
        let moved = renewed || deadline != before.deadline;
        if moved && !holding.hold.publish(now, lease, holding.extends) {
            // The deadline was seen to pass before this answer came.
            return self.lose(key, now, Lost::Expired);
        }
        if renewed || failed {
            for asked in holding.asked.extract_if(.., |asked| asked.after < calls) {
                let failed = || Error::unavailable(&name, renew_limit(lasts), cause);
                let _ = asked.reply.send(if renewed { Ok(()) } else { Err(failed()) });
            }
        }
        if renewed {
            self.emit(Event::Renewed { name, token });
        } else if failed && before.failures == 0 {
            // Once for each outage, or the news would drown in itself.
            self.emit(Event::RenewFailed { name, token, remaining: deadline.since(now) });
        }
    }

    pub(super) fn release(&mut self, now: Moment, key: Key, reply: Option<Reply<()>>) {
        // Seen first, so that a deadline which has passed is a loss and not a release.
        if self.is_lost(key, now) {
            return;
        }
        let Some(holding) = self.holding(key) else { return };
        let deadline = holding.lease.deadline();
        let releasing = Releasing {
            reply,
            token: holding.hold.token,
            held: holding.hold.age(),
            deadline,
            answer_by: std::cmp::min(deadline, now.after(RELEASE_LIMIT)),
            asked: now,
            cause: None,
            repeated: false,
        };
        let (unknown_until, expires) = (holding.unknown_until, holding.lease.ended_by(now));
        self.end(now, key, Task::Release { releasing: Some(releasing) }, unknown_until, expires);
    }

    pub(super) fn detach(&mut self, now: Moment, key: Key) {
        if self.is_lost(key, now) {
            return;
        }
        let Some(acquisition) = self.get_mut(key) else { return };
        let Stage::Lease(holding) = &acquisition.stage else { return };
        let claim = &mut acquisition.claim;
        (claim.detached, claim.shorten, claim.ttl) = (true, false, holding.lease.ttl());
        let (expires, task) = (holding.lease.ended_by(now), Task::Detach { lasts: holding.lease.lasts() });
        self.end(now, key, task, Moment::ZERO, expires);
    }

    /// Loses a lease whose deadline has passed.
    fn is_lost(&mut self, key: Key, now: Moment) -> bool {
        let Some(holding) = self.holding(key) else { return true };
        if now < holding.lease.deadline() {
            return false;
        }
        match holding.lease.step(now, lease::Input::Wake) {
            lease::Action::Lost(lost) => {
                self.lose(key, now, lost);
                true
            }
            lease::Action::Renew | lease::Action::Rest => false,
        }
    }

    pub(super) fn lose(&mut self, key: Key, now: Moment, lost: Lost) {
        let Some(holding) = self.holding(key) else { return };
        let lost = holding.hold.lose(lost);
        let (name, token) = (holding.hold.name.clone(), holding.hold.token);
        let (unknown_until, expires) = (holding.unknown_until, holding.lease.ended_by(now));
        self.emit(Event::Lost { name, token, lost });
        if lost == Lost::Taken && unknown_until <= now {
            self.shared.unlist(key);
            drop(self.remove(key));
        } else {
            // The storage may still have it: let the next one in at once.
            self.end(now, key, Task::Release { releasing: None }, unknown_until, expires);
        }
    }

    /// Ends a hold, and begins what is left to do at the storage.
    fn end(&mut self, now: Moment, key: Key, task: Task, unknown_until: Moment, expires: Moment) {
        if !planted::is(Bug::ExpiredStillListed) {
            self.shared.unlist(key);
        }
        let Some(acquisition) = self.remove(key) else { return };
        // A claim that is executed after the release may leave a waiter's entry, which outlives a short lease.
        let entry_ends = unknown_until.after(by_a_slow_clock(WAITER_TTL));
        let expires = if unknown_until > now { std::cmp::max(expires, entry_ends) } else { expires };
        let cleanup = Cleanup::new(key.owner, now, None, unknown_until, expires);
        self.clean_up(key, acquisition.claim, CleaningUp::new(cleanup, task));
    }

    pub(super) fn holding(&mut self, key: Key) -> Option<&mut Holding> {
        match &mut self.get_mut(key)?.stage {
            Stage::Lease(holding) => Some(holding),
            _ => None,
        }
    }
}
