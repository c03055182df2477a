//! What the engine knows of each acquisition.

use std::sync::Arc;
use std::time::Duration;

use super::Actor;
use super::steps::Step;
use crate::clock::Moment;
use crate::engine::attempt::{Attempt, by_a_slow_clock};
use crate::engine::lease::Lease;
use crate::engine::planted::{self, Bug};
use crate::engine::resolver::{self, Resolver};
use crate::engine::{Hold, Reply, Resumed};
use crate::error::{Error, Result};
use crate::event::Event;
use crate::guard::{Guard, Lost};
use crate::options::Renewal;
use crate::storage::{Claim, Holder, Name, Owner, Release, Token, WAITER_TTL};

/// One acquisition.
pub(super) struct Seat {
    pub(super) claim: Claim,
    pub(super) stage: Stage,
    /// When the keeper wakes it.
    pub(super) wake: Moment,
}

impl Seat {
    /// How long what it holds lasts, or would last: what its calls have time for.
    pub(super) fn lasts(&self) -> Duration {
        match &self.stage {
            Stage::Held { lease, .. } => lease.lasts(),
            Stage::Clearing { errand: Errand::Detach { lasts }, .. } => *lasts,
            Stage::Resuming(Resuming { detaching: Some((_, lasts)), .. }) => *lasts,
            _ => self.claim.ttl,
        }
    }
}

pub(super) enum Stage {
    Seeking {
        attempt: Box<Attempt>,
        terms: Terms,
        reply: Reply<Option<Guard>>,
        announced: bool,
    },
    Resuming(Resuming),
    Held {
        hold: Arc<Hold>,
        lease: Lease,
        unknown_until: Moment,
        asked: Vec<Asked>,
        /// How many looks at the storage a hint has caused: one under way, and one that follows.
        looks: u8,
    },
    Clearing {
        resolver: Resolver,
        errand: Errand,
    },
}

/// How a lease is kept once it is there.
#[derive(Clone, Copy)]
pub(super) struct Terms {
    pub(super) renewal: Renewal,
    pub(super) max_hold: Option<Duration>,
    /// Whether nobody can have shortened the lease before, in a request that is still under way.
    pub(super) settled: bool,
}

/// A ticket that is taken up: first looked at, then renewed.
pub(super) struct Resuming {
    /// Who does so, lest somebody else who leaves stops it.
    pub(super) by: Owner,
    pub(super) token: Token,
    pub(super) terms: Terms,
    pub(super) reply: Reply<Resumed>,
    pub(super) until: Moment,
    pub(super) ask_at: Moment,
    /// What was to be detached here and how long it lasts until then, if that is not known to have been done.
    pub(super) detaching: Option<(Claim, Duration)>,
    /// Whether the storage has shown this lease.
    pub(super) found: bool,
    pub(super) sent: Moment,
}

/// Somebody who waits for a renewal that is sent after he asked.
pub(super) struct Asked {
    /// How many had been sent by then.
    pub(super) after: u32,
    pub(super) reply: Reply<()>,
}

/// What is still to be done at the storage for an acquisition that nobody holds any more.
pub(super) enum Errand {
    /// End the lease and the waiter's entry.
    Release { goodbye: Option<Goodbye> },
    /// Let the lease outlive this process. `lasts` is how long it lasts until that is done.
    Detach { lasts: Duration },
}

/// A guard's release, as its holder is told about it.
pub(super) struct Goodbye {
    pub(super) reply: Option<Reply<()>>,
    pub(super) token: Token,
    pub(super) held: Duration,
    /// Until then the lease was ours as far as we knew.
    pub(super) deadline: Moment,
    pub(super) answer_by: Moment,
    /// An earlier release was not answered, so that this one may find its own work done.
    pub(super) repeated: bool,
}

/// A lock held for longer than this is worth a subscription, so that its holder learns at once if somebody ends
/// it. Most are not, and cost none.
const HOLD_SHORT: Duration = Duration::from_millis(100);
/// How many holds are looked at when hints are subscribed to late.
const LOOKS_MAX: usize = 64;

impl Actor {
    pub(super) fn sit(&mut self, owner: Owner, claim: Claim, stage: Stage) {
        self.seats.insert(owner, Seat { claim, stage, wake: Moment::FAR });
        self.rearm(owner);
    }

    /// Takes an acquisition out, along with its timer.
    pub(super) fn vacate(&mut self, owner: Owner) -> Option<Seat> {
        let seat = self.seats.remove(&owner)?;
        self.keeper.set(owner, seat.wake, Moment::FAR);
        Some(seat)
    }

    /// Seats a lease that was just granted or resumed.
    pub(super) fn hold(
        &mut self,
        claim: Claim,
        terms: Terms,
        sent: Moment,
        token: Token,
        ttl: Duration,
        unknown_until: Moment,
    ) -> Arc<Hold> {
        let owner = claim.owner;
        let ttl = std::cmp::min(ttl, self.shared.limits.ttl_max);
        let mut lease = Lease::granted(owner, sent, ttl, terms.renewal, terms.max_hold);
        if !terms.settled {
            lease = lease.resumed(sent, claim.ttl);
        }
        let lease = lease.claimed(sent, claim.ttl);
        let (name, label, clock) = (claim.name.clone(), claim.label.clone(), self.clock.clone());
        let hold = Arc::new(Hold::new(name, owner, token, label, clock, &lease));
        self.shared.holds().insert(owner, Arc::clone(&hold));
        if self.hints.is_none() && self.subscribe_at == Moment::FAR {
            self.subscribe_at = self.clock.now().after(HOLD_SHORT);
        }
        let stage =
            Stage::Held { hold: Arc::clone(&hold), lease, unknown_until, asked: Vec::new(), looks: 0 };
        self.sit(owner, claim, stage);
        self.verify_if_older(owner, sent);
        hold
    }

    /// Subscribes to hints if anything has been held for a while, and then looks at what is held: it may have been
    /// ended before (rule R6).
    pub(super) fn subscribe_if_held(&mut self, now: Moment) {
        if now < self.subscribe_at {
            return;
        }
        self.subscribe_at = Moment::FAR;
        let mut held: Vec<_> = self.shared.holds().keys().copied().take(LOOKS_MAX).collect();
        held.sort_unstable(); // one order, so that a run can be repeated
        if held.is_empty() {
            return;
        }
        self.subscribe();
        for owner in held {
            self.verify(owner, None);
        }
    }

    /// Ends a hold, and does the errand that is left.
    pub(super) fn clear(
        &mut self,
        now: Moment,
        owner: Owner,
        errand: Errand,
        unknown_until: Moment,
        expires: Moment,
    ) {
        self.renews.withdraw(owner);
        if !planted::is(Bug::ExpiredStillListed) {
            self.shared.holds().remove(&owner);
        }
        let Some(seat) = self.vacate(owner) else { return };
        // A claim that is executed after the release may leave a waiter's entry, which outlives a short lease.
        let entry_ends = unknown_until.after(by_a_slow_clock(WAITER_TTL));
        let expires = if unknown_until > now { std::cmp::max(expires, entry_ends) } else { expires };
        self.begin(owner, seat.claim, Resolver::new(owner, now, None, unknown_until, expires), errand);
    }

    pub(super) fn begin(&mut self, owner: Owner, claim: Claim, resolver: Resolver, errand: Errand) {
        if resolver.begin() == resolver::Action::Send {
            match errand {
                Errand::Detach { lasts } => self.renews.push(owner, claim.name.clone(), lasts),
                Errand::Release { .. } => self.releases.push(owner, claim.name.clone(), claim.ttl),
            }
        }
        self.sit(owner, claim, Stage::Clearing { resolver, errand });
    }

    pub(super) fn rearm(&mut self, owner: Owner) {
        let Some(seat) = self.seats.get_mut(&owner) else {
            return;
        };
        let wake = match &seat.stage {
            Stage::Seeking { attempt, .. } => attempt.wake(),
            Stage::Resuming(resuming) => std::cmp::min(resuming.until, resuming.ask_at),
            Stage::Held { lease, .. } => lease.wake(),
            Stage::Clearing {
                resolver,
                errand: Errand::Release { goodbye: Some(Goodbye { reply: Some(_), answer_by, .. }) },
            } => std::cmp::min(resolver.wake(), *answer_by),
            Stage::Clearing { resolver, .. } => resolver.wake(),
        };
        let before = std::mem::replace(&mut seat.wake, wake);
        self.keeper.set(owner, before, wake);
    }

    /// Somebody left the local queue of a name: the next one asks.
    pub(super) fn next_in_line(&mut self, name: &Name, left: Owner, now: Moment) {
        if let Some(next) = self.queues.leave(name, left) {
            self.step(next, now, Step::Turn);
        }
    }

    /// Wakes whoever is first in the local queue of a name.
    pub(super) fn hint_first(&mut self, name: &Name) {
        if let Some(first) = self.queues.first(name) {
            self.step(first, self.clock.now(), Step::Hint);
        }
    }

    /// Why the storage does not answer, as the first in the local queue has found.
    pub(super) fn error_here(&self, name: &Name) -> Option<Error> {
        match &self.seats.get(&self.queues.first(name)?)?.stage {
            Stage::Seeking { attempt, .. } => attempt.error().cloned(),
            _ => None,
        }
    }

    /// Who holds a lock, as the first in the local queue has seen.
    pub(super) fn holder_here(&self, name: &Name) -> Option<Holder> {
        match &self.seats.get(&self.queues.first(name)?)?.stage {
            Stage::Seeking { attempt, .. } => attempt.seen().cloned(),
            _ => None,
        }
    }

    pub(super) fn announce_seen(&mut self, owner: Owner) {
        if let Some(Seat { stage: Stage::Seeking { attempt, announced: false, .. }, .. }) =
            self.seats.get(&owner)
            && attempt.was_refused()
        {
            let holder = attempt.seen().cloned();
            self.announce(owner, holder);
        }
    }

    /// Says once that a caller waits.
    pub(super) fn announce(&mut self, owner: Owner, holder: Option<Holder>) {
        let Some(Seat { claim, stage: Stage::Seeking { announced, .. }, .. }) = self.seats.get_mut(&owner)
        else {
            return;
        };
        *announced = true;
        let name = claim.name.clone();
        self.emit(Event::Waiting { name, holder });
    }
}

impl Goodbye {
    pub(super) fn answer(&mut self, answer: Result<()>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(answer);
        }
    }

    /// The storage has answered a release; what there is to report.
    pub(super) fn answered(&mut self, name: &Name, now: Moment, answer: &Result<Release>) -> Option<Event> {
        let (name, token, held) = (name.clone(), self.token, self.held);
        match answer {
            Ok(Release::NotHeld) if !(self.repeated && now < self.deadline) => {
                self.answer(Err(Error::lost_for(&name, Lost::Taken)));
                Some(Event::Lost { name, token, lost: Lost::Taken })
            }
            // An earlier release was not answered and the lease had not ended: it was that one.
            Ok(Release::NotHeld | Release::Released) => {
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
