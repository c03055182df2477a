//! The leases of this client: one for all locks with about the same TTL.
//!
//! # Gates
//!
//! A claim may be executed long after its client has given it up, and a lease that other locks keep alive would keep its
//! key alive, too. etcd cannot compare times. So each lease has a *gate*: a key that does not exist at first, attached to
//! the lease. Every transaction that attaches a key to the lease compares the revision of its gate. Putting the gate *shuts*
//! it: whatever was sent before and is executed later changes nothing. The next claims compare the new revision.
//!
//! If the lease ends, its gate goes, too, and looks as at first. But then nothing can be attached to the lease.
//!
//! # Forgotten leases
//!
//! A lease is forgotten if another program has deleted its gate, or if the servers were restored from a backup: then claims that
//! were given up, or keys that were deleted, may come back on it. A forgotten lease is not kept alive any more, so whatever
//! is on it ends. The locks that are held move to a new one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::api::Api;
use super::errors::Fault;
use crate::clock::{Moment, millis};

/// A lease of this client.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) id: i64,
    /// For how many seconds it was asked. The server may grant more.
    pub(super) class: u64,
    /// How long it lives after it was kept alive.
    pub(super) span: Duration,
    /// Until when it lives at least, in nanoseconds: counted from when it was sent to be kept alive.
    lives_until: AtomicU64,
    /// The revision of its gate; 0 if there is none.
    gate: AtomicI64,
    /// Whether a transaction whose outcome is unknown may still shut the gate and delete keys.
    is_unsettled: AtomicBool,
    has_ended: AtomicBool,
    is_forgotten: AtomicBool,
    /// Which servers have granted it, and which ones answer now.
    era: (u64, Arc<AtomicU64>),
    /// Held while it is kept alive, so that one request serves all who need it.
    pub(super) keeping: tokio::sync::Mutex<()>,
}

/// All of them, by their TTL in seconds.
#[derive(Debug, Default)]
pub(super) struct Leases {
    classes: Mutex<HashMap<u64, Arc<Class>>>,
    /// How often all leases were forgotten.
    era: Arc<AtomicU64>,
}

type Class = tokio::sync::Mutex<Option<Arc<Lease>>>;

/// How much longer than the locks that are attached to it a lease lives at least. So a lease that was kept alive a moment
/// ago is long enough for the next lock.
pub(super) const SLACK: Duration = Duration::from_millis(500);

impl Lease {
    fn new(id: i64, class: u64, span: Duration, sent: Moment, era: (u64, Arc<AtomicU64>)) -> Self {
        Self {
            id,
            class,
            span,
            lives_until: AtomicU64::new(sent.after(span).as_nanos()),
            gate: AtomicI64::new(0),
            is_unsettled: AtomicBool::new(false),
            has_ended: AtomicBool::new(false),
            is_forgotten: AtomicBool::new(false),
            era,
            keeping: tokio::sync::Mutex::default(),
        }
    }

    #[cfg(test)]
    pub(super) fn new_for_tests(id: i64) -> Self {
        Self::new(id, 60, Duration::from_secs(60), Moment::ZERO, (0, Arc::default()))
    }

    pub(super) fn lives_until(&self) -> Moment {
        Moment::from_nanos(self.lives_until.load(Ordering::Relaxed))
    }

    /// Records that it was kept alive by a request that was sent then.
    pub(super) fn kept(&self, sent: Moment, span: Duration) {
        self.lives_until.fetch_max(sent.after(span).as_nanos(), Ordering::Relaxed);
    }

    pub(super) fn gate(&self) -> i64 {
        self.gate.load(Ordering::Acquire)
    }

    /// Records the revision that has shut its gate.
    pub(super) fn shut(&self, revision: i64) {
        self.gate.fetch_max(revision, Ordering::AcqRel);
    }

    /// Records the revision of its gate that was read when the store had the revision `at`. It only grows, unless another program
    /// has deleted it.
    pub(super) fn saw_gate(&self, revision: i64, at: i64) {
        let known = self.gate.fetch_max(revision, Ordering::AcqRel);
        if revision < known && known <= at {
            self.is_forgotten.store(true, Ordering::Release);
        }
    }

    /// Returns `true` if it must not be used any more, although it may be alive.
    pub(super) fn is_forgotten(&self) -> bool {
        let (born, now) = &self.era;
        self.is_forgotten.load(Ordering::Acquire) || *born != now.load(Ordering::Acquire)
    }

    pub(super) fn is_unsettled(&self) -> bool {
        self.is_unsettled.load(Ordering::Acquire)
    }

    pub(super) fn set_unsettled(&self, unsettled: bool) {
        self.is_unsettled.store(unsettled, Ordering::Release);
    }

    pub(super) fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    pub(super) fn end(&self) {
        self.has_ended.store(true, Ordering::Release);
    }
}

impl Leases {
    /// Forgets all leases: other servers answer now, or older data.
    pub(super) fn forget_all(&self) {
        self.era.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns the lease for locks with that TTL. Grants one, if there is none.
    pub(super) async fn get(&self, api: &Api, ttl: Duration) -> Result<Arc<Lease>, Fault> {
        let seconds = seconds(ttl);
        let class = {
            let mut classes = self.classes.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(classes.entry(seconds).or_default())
        };
        let mut lease = class.lock().await;
        if let Some(lease) = &*lease
            && !lease.has_ended()
            && !lease.is_forgotten()
            && api.now() < lease.lives_until()
        {
            return Ok(Arc::clone(lease));
        }
        let era = (self.era.load(Ordering::Acquire), Arc::clone(&self.era));
        let sent = api.now();
        let granted = api.grant(i64::try_from(seconds).unwrap_or(i64::MAX)).await?;
        let span = Duration::from_secs(u64::try_from(granted.ttl).map_err(|_| Fault::Broken)?);
        let new = Arc::new(Lease::new(granted.id, seconds, span, sent, era));
        *lease = Some(Arc::clone(&new));
        Ok(new)
    }
}

/// Returns the TTL of the lease for locks with that TTL: whole seconds, and at most a sixteenth more than needed.
pub(super) fn seconds(ttl: Duration) -> u64 {
    let least = millis(ttl + SLACK).div_ceil(1000);
    let step = std::cmp::max(least / 16, 1);
    let step = 1 << step.ilog2();
    least.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_longer_than_its_locks_and_not_by_much() {
        for (ms, expected) in [(2_000, 3), (2_500, 3), (2_501, 4), (10_000, 11), (30_000, 31), (60_000, 62)] {
            assert_eq!(seconds(Duration::from_millis(ms)), expected, "{ms}");
        }
        let classes: std::collections::HashSet<_> =
            (2..=86_400).map(|s| seconds(Duration::from_secs(s))).collect();
        assert!(classes.len() < 250, "{}", classes.len());
        for s in 2..=86_400 {
            let (ttl, lease) = (Duration::from_secs(s), Duration::from_secs(seconds(Duration::from_secs(s))));
            assert!(lease >= ttl + SLACK && lease <= ttl + ttl / 8 + 2 * SLACK, "{ttl:?} {lease:?}");
        }
    }

    #[test]
    fn a_gate_and_an_end_only_grow() {
        let at = |s| Moment::ZERO.after(Duration::from_secs(s));
        let lease = Lease::new(1, 3, Duration::from_secs(3), at(10), (0, Arc::default()));
        lease.kept(at(9), Duration::from_secs(3));
        assert_eq!(lease.lives_until(), at(13));
        lease.shut(7);
        lease.shut(5);
        assert_eq!(lease.gate(), 7);
    }

    #[test]
    fn a_lease_whose_gate_is_gone_is_forgotten_and_one_whose_gate_was_read_earlier_is_not() {
        let lease = Lease::new_for_tests(1);
        lease.saw_gate(0, 3);
        lease.shut(7);
        lease.saw_gate(0, 6);
        lease.saw_gate(7, 9);
        assert!(!lease.is_forgotten());
        lease.saw_gate(0, 9);
        assert!(lease.is_forgotten() && lease.gate() == 7);
    }

    #[test]
    fn what_was_granted_before_other_servers_answered_is_forgotten() {
        let leases = Leases::default();
        let granted =
            |era| Lease::new(1, 3, Duration::from_secs(3), Moment::ZERO, (era, Arc::clone(&leases.era)));
        let old = granted(0);
        leases.forget_all();
        assert!(old.is_forgotten() && !granted(1).is_forgotten());
    }
}
