//! What a guard and the engine share about one held lock. No lock, no engine needed to ask it.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::Notify;

use super::call::Key;
use super::lease::Lease;
use super::planted::{self, Bug};
use super::timing::margin;
use crate::clock::{Clock, Moment, nanos};
use crate::lost::Lost;
use crate::process::Process;
use crate::storage::{Holder, Name, Owner, Token};
use crate::ticket::Ticket;

#[derive(Debug)]
pub(crate) struct Hold {
    pub(crate) name: Name,
    pub(crate) key: Key,
    pub(crate) token: Token,
    label: Option<Arc<str>>,
    clock: Clock,
    process: Process,
    granted: Moment,
    /// Until then a claim whose answer was lost may still be executed.
    unknown_until: Moment,
    /// When `max_hold` is over.
    hold_until: Moment,
    ttl_nanos: AtomicU64,
    /// Whether a request that shortens the lease may be under way.
    unsettled: AtomicBool,
    /// How often another TTL was asked for.
    extends: AtomicU32,
    /// Nanoseconds of the local deadline; [`OVER`] once it was seen to have passed, for ever.
    deadline: AtomicU64,
    lost: OnceLock<Lost>,
    told: Notify,
}

/// A deadline that has passed. The thread that sees it pass writes this, so that a renewal answered at the same
/// moment cannot move it any more.
const OVER: u64 = 0;

impl Hold {
    pub(crate) fn new(
        name: Name,
        key: Key,
        token: Token,
        label: Option<Arc<str>>,
        clock: Clock,
        unknown_until: Moment,
        lease: &Lease,
    ) -> Self {
        let granted = clock.now();
        Self {
            name,
            key,
            token,
            label,
            granted,
            clock,
            process: Process::current(),
            unknown_until,
            hold_until: lease.hold_until(),
            ttl_nanos: AtomicU64::new(nanos(lease.sure())),
            unsettled: AtomicBool::new(!lease.is_settled(granted)),
            extends: AtomicU32::new(0),
            deadline: AtomicU64::new(lease.deadline().as_nanos()),
            lost: OnceLock::new(),
            told: Notify::new(),
        }
    }

    pub(crate) fn owner(&self) -> Owner {
        self.key.owner
    }

    pub(crate) fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// What is left of the lease. Nothing is in a fork of this process: the lock is its parent's.
    pub(crate) fn remaining(&self) -> Duration {
        if !self.process.is_current() {
            return Duration::ZERO;
        }
        loop {
            let deadline = self.deadline.load(Ordering::Acquire);
            if deadline == OVER {
                return Duration::ZERO;
            }
            let left = Moment::from_nanos(deadline).since(self.clock.now());
            if !left.is_zero() {
                return left;
            }
            // Moved meanwhile? Then it did not pass.
            if self.deadline.compare_exchange(deadline, OVER, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                let over = deadline >= self.hold_until.as_nanos();
                self.tell(if over { Lost::MaxHold } else { Lost::Expired });
                return Duration::ZERO;
            }
        }
    }

    pub(crate) async fn lost(&self) -> Lost {
        // Before anything that another thread may have locked when this process was forked.
        while self.process.is_current() {
            let told = self.told.notified();
            if let Some(lost) = self.why_lost() {
                return lost;
            }
            self.process.limits(told).await;
        }
        Lost::Forked
    }

    pub(crate) fn why_lost(&self) -> Option<Lost> {
        if self.process.is_current() { self.lost.get().copied() } else { Some(Lost::Forked) }
    }

    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl_nanos.load(Ordering::Relaxed))
    }

    /// Another TTL was asked for. A shorter one may reach the storage at any time.
    pub(crate) fn shorten(&self, ttl: Duration) {
        self.extends.fetch_add(1, Ordering::AcqRel);
        if nanos(ttl) < self.ttl_nanos.fetch_min(nanos(ttl), Ordering::AcqRel) {
            self.unsettled.store(true, Ordering::Release);
        }
    }

    /// The lease as it may be handed over now.
    pub(crate) fn ticket(&self) -> Ticket {
        let settled = !self.unsettled.load(Ordering::Acquire) && self.clock.now() >= self.unknown_until;
        Ticket { name: self.name.clone(), owner: self.owner(), token: self.token, ttl: self.ttl(), settled }
    }

    /// The most that a renewal can give.
    pub(crate) fn longest(&self) -> Duration {
        let most = self.ttl().saturating_sub(margin(self.ttl()));
        std::cmp::min(most, self.hold_until.since(self.clock.now()))
    }

    /// How long it has been held.
    pub(crate) fn age(&self) -> Duration {
        self.clock.now().since(self.granted)
    }

    pub(crate) fn holder(&self) -> Holder {
        Holder {
            label: self.label.clone(),
            held_for: Some(self.age()),
            ..Holder::new(self.name.clone(), self.owner(), self.token, self.remaining())
        }
    }

    /// Moves the deadline, unless it was seen to have passed. Returns `true` if it was moved. `extends` is how often
    /// another TTL had been asked for when the lease became what it is: what was asked for since stays in force.
    pub(super) fn publish(&self, now: Moment, lease: &Lease, extends: u32) -> bool {
        if self.extends.load(Ordering::Acquire) == extends {
            self.ttl_nanos.store(nanos(lease.sure()), Ordering::Release);
            self.unsettled.store(!lease.is_settled(now), Ordering::Release);
        } else {
            self.ttl_nanos.fetch_min(nanos(lease.sure()), Ordering::AcqRel);
        }
        let deadline = lease.deadline();
        let revives = planted::is(Bug::LateRenewalRevives);
        let update = |old| (old != OVER || revives).then_some(deadline.as_nanos());
        self.deadline.fetch_update(Ordering::AcqRel, Ordering::Acquire, update).is_ok()
    }

    /// Ends it for all who look. The first reason stays.
    pub(super) fn lose(&self, lost: Lost) -> Lost {
        self.deadline.store(OVER, Ordering::Release);
        self.tell(lost);
        self.why_lost().unwrap_or(lost)
    }

    /// The end of what its holder believes, without looking at the clock.
    #[cfg(test)]
    pub(super) fn believed(&self) -> Moment {
        Moment::from_nanos(self.deadline.load(Ordering::Acquire))
    }

    /// Breaks the rule that lost is final, to see whether that is noticed.
    #[cfg(test)]
    pub(super) fn revive(&self, deadline: Moment) {
        self.deadline.store(deadline.as_nanos(), Ordering::Release);
    }

    fn tell(&self, lost: Lost) {
        // Already told: the first reason stays.
        let _ = self.lost.set(lost);
        self.told.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::options::Renewal;

    const DEADLINE: u64 = 100_000_000;

    fn hold(now: &Arc<AtomicU64>) -> Hold {
        let clock = Clock::injected(Arc::clone(now));
        let name = Name::new("a").expect("valid");
        let key = Key { owner: Owner::random(), generation: 1 };
        let ttl = Duration::from_millis(112);
        let lease = Lease::granted(key.owner, Moment::ZERO, ttl, Renewal::Automatic, None);
        assert_eq!(lease.deadline(), Moment::from_nanos(DEADLINE));
        Hold::new(name, key, Token::new(1), None, clock, Moment::ZERO, &lease)
    }

    #[test]
    fn a_deadline_that_was_seen_to_pass_cannot_be_moved() {
        let now = Arc::new(AtomicU64::new(1));
        let hold = hold(&now);
        assert!(hold.is_held());
        now.store(DEADLINE, Ordering::Relaxed);
        assert!(!hold.is_held());
        let (sent, ttl) = (Moment::from_nanos(DEADLINE), Duration::from_secs(1));
        let renewed = Lease::granted(hold.owner(), sent, ttl, Renewal::Automatic, None);
        assert!(!hold.publish(sent, &renewed, 0));
        assert!(!hold.is_held(), "lost is final");
        assert_eq!(hold.why_lost(), Some(Lost::Expired));
        assert_eq!(hold.lose(Lost::Taken), Lost::Expired, "the first reason stays");
    }

    #[test]
    fn a_ticket_says_that_a_claim_may_still_be_executed() {
        let now = Arc::new(AtomicU64::new(1));
        let hold = Hold { unknown_until: Moment::from_nanos(50), ..hold(&now) };
        assert!(!hold.ticket().settled);
        now.store(50, Ordering::Relaxed);
        assert!(hold.ticket().settled);
    }

    #[test]
    fn a_shorter_ttl_that_was_just_asked_for_is_not_taken_back_by_an_older_answer() {
        let now = Arc::new(AtomicU64::new(1));
        let hold = hold(&now);
        hold.shorten(Duration::from_millis(100));
        let renewed = Lease::granted(hold.owner(), Moment::ZERO, hold.ttl() * 2, Renewal::Automatic, None);
        assert!(hold.publish(Moment::from_nanos(1), &renewed, 0));
        assert_eq!((hold.ttl(), hold.ticket().settled), (Duration::from_millis(100), false));
        assert!(hold.publish(Moment::from_nanos(1), &renewed, 1));
        assert_eq!((hold.ttl(), hold.ticket().settled), (Duration::from_millis(200), true));
    }

    #[test]
    fn a_suspend_is_seen_at_the_first_look() {
        let now = Arc::new(AtomicU64::new(1));
        let hold = hold(&now);
        // The machine slept for an hour: the clock counts it, no timer has fired.
        now.store(3_600_000_000_000, Ordering::Relaxed);
        assert_eq!(hold.remaining(), Duration::ZERO);
        assert_eq!(pollster::block_on(hold.lost()), Lost::Expired);
    }
}
