//! The status of a lease, which the engine and the guard share. The guard reads it without asking the engine.

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

/// The status of a lease: its deadline, its TTL, and why it was lost.
///
/// The engine publishes a deadline and a TTL after each renewal. Any thread may read them at any time, without a lock.
/// The first thread that sees the deadline pass ends the lease for all of them, and no renewal revives it.
#[derive(Debug)]
pub(crate) struct LeaseStatus {
    pub(crate) name: Name,
    pub(crate) key: Key,
    pub(crate) token: Token,
    label: Option<Arc<str>>,
    clock: Clock,
    process: Process,
    granted: Moment,
    /// The moment until which a claim without an answer may still be executed.
    unknown_until: Moment,
    /// When `max_hold` ends the lease.
    hold_until: Moment,
    ttl_nanos: AtomicU64,
    /// Whether a renewal that shortens the lease may be in flight.
    unsettled: AtomicBool,
    /// How often the holder has set another TTL.
    extends: AtomicU32,
    /// The deadline in nanoseconds. A thread that sees it pass sets it to [`OVER`], which is final.
    deadline: AtomicU64,
    lost: OnceLock<Lost>,
    /// Whether the guard has given the lease up, by a release or otherwise.
    given_up: AtomicBool,
    /// Wakes up the callers of [`LeaseStatus::lost`] and [`LeaseStatus::ended`].
    end_notify: Notify,
}

/// A deadline that has passed. The thread that sees it pass writes this value. A renewal that is answered at
/// the same moment then cannot move the deadline any more.
const OVER: u64 = 0;

impl LeaseStatus {
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
            ttl_nanos: AtomicU64::new(nanos(lease.certain_ttl())),
            unsettled: AtomicBool::new(!lease.is_settled(granted)),
            extends: AtomicU32::new(0),
            deadline: AtomicU64::new(lease.deadline().as_nanos()),
            lost: OnceLock::new(),
            given_up: AtomicBool::new(false),
            end_notify: Notify::new(),
        }
    }

    /// Returns the owner id of the lease.
    pub(crate) fn owner(&self) -> Owner {
        self.key.owner
    }

    /// Returns `true` if the lease is neither expired nor lost.
    pub(crate) fn is_held(&self) -> bool {
        !self.remaining().is_zero()
    }

    /// Returns the remaining time of the lease. In a fork of this process that is zero: the parent holds the lock.
    pub(crate) fn remaining(&self) -> Duration {
        // A lease that was given up is read no more: its deadline may pass during the release, which is no loss.
        if !self.process.is_current() || self.is_given_up() {
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
            // If the deadline was moved meanwhile, it has not passed.
            if self.deadline.compare_exchange(deadline, OVER, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                let over = deadline >= self.hold_until.as_nanos();
                self.set_lost(if over { Lost::MaxHold } else { Lost::Expired });
                return Duration::ZERO;
            }
        }
    }

    /// Waits until the lease is lost. Returns the reason.
    pub(crate) async fn lost(&self) -> Lost {
        match self.ended().await {
            Some(lost) => lost,
            // A lease that its guard has given up is never lost.
            None => std::future::pending().await,
        }
    }

    /// Waits until the lease is lost, or its guard has given it up. Returns the reason of a loss.
    pub(crate) async fn ended(&self) -> Option<Lost> {
        // The process is checked first: in a fork, another thread may have left the mutex of the notification locked.
        while self.process.is_current() {
            let notified = self.end_notify.notified();
            if let Some(lost) = self.why_lost() {
                return Some(lost);
            }
            if self.is_given_up() {
                return None;
            }
            self.process.limits(notified).await;
        }
        Some(Lost::Forked)
    }

    /// Notes that the guard gives the lease up. Returns `false` if it had done so before. A fork notes nothing.
    pub(crate) fn give_up(&self) -> bool {
        if !self.process.is_current() {
            return true;
        }
        let first = !self.given_up.swap(true, Ordering::AcqRel);
        self.end_notify.notify_waiters();
        first
    }

    /// Returns `true` if the guard has given the lease up.
    pub(crate) fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Acquire)
    }

    /// Returns why the lease was lost, if it was.
    pub(crate) fn why_lost(&self) -> Option<Lost> {
        if self.process.is_current() { self.lost.get().copied() } else { Some(Lost::Forked) }
    }

    /// Returns the TTL that a renewal gives for certain.
    pub(crate) fn ttl(&self) -> Duration {
        Duration::from_nanos(self.ttl_nanos.load(Ordering::Relaxed))
    }

    /// Notes that the holder sets another TTL. A shorter one may reach the storage at any time from now on.
    pub(crate) fn shorten(&self, ttl: Duration) {
        self.extends.fetch_add(1, Ordering::AcqRel);
        if nanos(ttl) < self.ttl_nanos.fetch_min(nanos(ttl), Ordering::AcqRel) {
            self.unsettled.store(true, Ordering::Release);
        }
    }

    /// Returns a ticket for the lease as it is now.
    pub(crate) fn ticket(&self) -> Ticket {
        let settled = !self.unsettled.load(Ordering::Acquire) && self.clock.now() >= self.unknown_until;
        Ticket { name: self.name.clone(), owner: self.owner(), token: self.token, ttl: self.ttl(), settled }
    }

    /// Returns the most that a renewal can give.
    pub(crate) fn longest(&self) -> Duration {
        let most = self.ttl().saturating_sub(margin(self.ttl()));
        std::cmp::min(most, self.hold_until.since(self.clock.now()))
    }

    /// Returns how long the lease has been held.
    pub(crate) fn age(&self) -> Duration {
        self.clock.now().since(self.granted)
    }

    /// Returns the holder as `held` lists it.
    pub(crate) fn holder(&self) -> Holder {
        Holder {
            label: self.label.clone(),
            held_for: Some(self.age()),
            ..Holder::new(self.name.clone(), self.owner(), self.token, self.remaining())
        }
    }

    /// Moves the deadline, unless a thread has seen it pass. Returns `true` if it was moved. `extends` is how often the
    /// holder had set another TTL when the lease became what it is: a TTL that was set since then stays in force.
    pub(super) fn publish(&self, now: Moment, lease: &Lease, extends: u32) -> bool {
        if self.extends.load(Ordering::Acquire) == extends {
            self.ttl_nanos.store(nanos(lease.certain_ttl()), Ordering::Release);
            self.unsettled.store(!lease.is_settled(now), Ordering::Release);
        } else {
            self.ttl_nanos.fetch_min(nanos(lease.certain_ttl()), Ordering::AcqRel);
        }
        let deadline = lease.deadline();
        let revives = planted::is(Bug::LateRenewalRevives);
        let update = |old| (old != OVER || revives).then_some(deadline.as_nanos());
        self.deadline.fetch_update(Ordering::AcqRel, Ordering::Acquire, update).is_ok()
    }

    /// Ends the lease for every reader of the status. Returns the reason: the first one stays.
    pub(super) fn lose(&self, lost: Lost) -> Lost {
        self.deadline.store(OVER, Ordering::Release);
        self.set_lost(lost);
        self.why_lost().unwrap_or(lost)
    }

    /// Returns the deadline without reading the clock.
    #[cfg(test)]
    pub(super) fn deadline(&self) -> Moment {
        Moment::from_nanos(self.deadline.load(Ordering::Acquire))
    }

    /// Violates invariant 3 of docs/architecture.md (lost is final), to check that the simulator notices.
    #[cfg(test)]
    pub(super) fn revive(&self, deadline: Moment) {
        self.deadline.store(deadline.as_nanos(), Ordering::Release);
    }

    fn set_lost(&self, lost: Lost) {
        // The first reason stays.
        let _ = self.lost.set(lost);
        self.end_notify.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;
    use crate::options::Renewal;

    const DEADLINE: u64 = 100_000_000;

    fn status(now: &Arc<AtomicU64>) -> LeaseStatus {
        let clock = Clock::injected(Arc::clone(now));
        let name = Name::new("a").expect("valid");
        let key = Key { owner: Owner::random(), generation: 1 };
        let ttl = Duration::from_millis(112);
        let lease = Lease::granted(key.owner, Moment::ZERO, ttl, Renewal::Automatic, None);
        assert_eq!(lease.deadline(), Moment::from_nanos(DEADLINE));
        LeaseStatus::new(name, key, Token::new(1), None, clock, Moment::ZERO, &lease)
    }

    #[test]
    fn a_deadline_that_a_thread_has_seen_pass_cannot_be_moved() {
        let now = Arc::new(AtomicU64::new(1));
        let status = status(&now);
        assert!(status.is_held());
        now.store(DEADLINE, Ordering::Relaxed);
        assert!(!status.is_held());
        let (sent, ttl) = (Moment::from_nanos(DEADLINE), Duration::from_secs(1));
        let renewed = Lease::granted(status.owner(), sent, ttl, Renewal::Automatic, None);
        assert!(!status.publish(sent, &renewed, 0));
        assert!(!status.is_held(), "lost is final");
        assert_eq!(status.why_lost(), Some(Lost::Expired));
        assert_eq!(status.lose(Lost::Taken), Lost::Expired, "the first reason stays");
    }

    #[test]
    fn a_ticket_is_not_settled_while_a_claim_may_still_be_executed() {
        let now = Arc::new(AtomicU64::new(1));
        let status = LeaseStatus { unknown_until: Moment::from_nanos(50), ..status(&now) };
        assert!(!status.ticket().settled);
        now.store(50, Ordering::Relaxed);
        assert!(status.ticket().settled);
    }

    #[test]
    fn an_older_answer_does_not_replace_a_shorter_ttl_that_was_set_since() {
        let now = Arc::new(AtomicU64::new(1));
        let status = status(&now);
        status.shorten(Duration::from_millis(100));
        let renewed =
            Lease::granted(status.owner(), Moment::ZERO, status.ttl() * 2, Renewal::Automatic, None);
        assert!(status.publish(Moment::from_nanos(1), &renewed, 0));
        assert_eq!((status.ttl(), status.ticket().settled), (Duration::from_millis(100), false));
        assert!(status.publish(Moment::from_nanos(1), &renewed, 1));
        assert_eq!((status.ttl(), status.ticket().settled), (Duration::from_millis(200), true));
    }

    #[test]
    fn the_first_read_after_a_suspend_sees_that_the_lease_has_expired() {
        let now = Arc::new(AtomicU64::new(1));
        let status = status(&now);
        // The machine slept for an hour. The clock counts that, and no timer has fired.
        now.store(3_600_000_000_000, Ordering::Relaxed);
        assert_eq!(status.remaining(), Duration::ZERO);
        assert_eq!(pollster::block_on(status.lost()), Lost::Expired);
    }
}
