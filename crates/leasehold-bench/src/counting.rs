//! A storage that counts calls and passes them on.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use futures_core::Stream;
use leasehold::storage::{
    AcquireReply, AnyStorage, Claim, Cursor, Finding, Guarantees, Hint, Holder, Limits, Name, Owner,
    ReleaseReply, RenewReply, Storage, WAITER_HEARTBEAT,
};

use crate::clock::{nanos, now_ns};

#[derive(Debug)]
pub(crate) struct Counting {
    inner: AnyStorage,
    counts: Arc<Counts>,
}

/// The calls since the start. Renewals are also counted for each second.
#[derive(Debug)]
pub(crate) struct Counts {
    pub(crate) acquire: AtomicU64,
    pub(crate) acquire_answered: AtomicU64,
    /// The calls of `acquire` that only repeat a wait.
    pub(crate) heartbeat: AtomicU64,
    pub(crate) renew: AtomicU64,
    pub(crate) release: AtomicU64,
    since: u64,
    renewed: [AtomicU64; SECONDS],
    /// When each waiter last sent a claim.
    waiting: Mutex<HashMap<Owner, u64>>,
}

/// How many seconds of renewals are counted separately.
const SECONDS: usize = 600;

impl Counting {
    pub(crate) fn new(inner: AnyStorage) -> (Self, Arc<Counts>) {
        let counts = Arc::new(Counts {
            acquire: AtomicU64::new(0),
            acquire_answered: AtomicU64::new(0),
            heartbeat: AtomicU64::new(0),
            renew: AtomicU64::new(0),
            release: AtomicU64::new(0),
            since: now_ns(),
            renewed: [const { AtomicU64::new(0) }; SECONDS],
            waiting: Mutex::default(),
        });
        (Self { inner, counts: Arc::clone(&counts) }, counts)
    }
}

impl Counts {
    /// Returns the renewed claims of each whole second between two moments.
    pub(crate) fn renewed_between(&self, from_ns: u64, to_ns: u64) -> Vec<u64> {
        let second =
            |ns: u64| usize::try_from(ns.saturating_sub(self.since) / 1_000_000_000).unwrap_or(SECONDS);
        let seconds = self.renewed.iter().take(second(to_ns)).skip(second(from_ns) + 1);
        seconds.map(|count| count.load(Ordering::Relaxed)).collect()
    }

    /// Returns `true` if each claim repeats a wait after about a heartbeat interval.
    fn are_heartbeats(&self, claims: &[Claim]) -> bool {
        let (now, long) = (now_ns(), nanos(WAITER_HEARTBEAT) * 9 / 10);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = true;
        for claim in claims.iter().filter(|claim| claim.wait) {
            all &= waiting.insert(claim.owner, now).is_some_and(|before| now - before >= long);
        }
        all && claims.iter().all(|claim| claim.wait)
    }

    fn stopped_waiting(&self, claims: &[Claim], answers: &[leasehold::Result<AcquireReply>]) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for (claim, answer) in claims.iter().zip(answers) {
            if matches!(answer, Ok(AcquireReply::Granted { .. })) {
                waiting.remove(&claim.owner);
            }
        }
    }

    fn renewed(&self, claims: usize) {
        let second = usize::try_from((now_ns() - self.since) / 1_000_000_000).unwrap_or(SECONDS);
        if let Some(count) = self.renewed.get(second) {
            count.fetch_add(u64::try_from(claims).unwrap_or(0), Ordering::Relaxed);
        }
    }
}

impl fmt::Display for Counting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

impl Storage for Counting {
    fn guarantees(&self) -> Guarantees {
        self.inner.guarantees()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<leasehold::Result<AcquireReply>> {
        self.counts.acquire.fetch_add(1, Ordering::Relaxed);
        let heartbeat = self.counts.are_heartbeats(claims);
        self.counts.heartbeat.fetch_add(u64::from(heartbeat), Ordering::Relaxed);
        let answers = self.inner.acquire(claims).await;
        self.counts.stopped_waiting(claims, &answers);
        self.counts.acquire_answered.fetch_add(1, Ordering::Relaxed);
        answers
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<leasehold::Result<RenewReply>> {
        self.counts.renew.fetch_add(1, Ordering::Relaxed);
        self.counts.renewed(claims.len());
        self.inner.renew(claims).await
    }

    async fn release(&self, claims: &[Claim]) -> Vec<leasehold::Result<ReleaseReply>> {
        self.counts.release.fetch_add(1, Ordering::Relaxed);
        self.inner.release(claims).await
    }

    async fn inspect(&self, name: &Name) -> leasehold::Result<Vec<Holder>> {
        self.inner.inspect(name).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&Cursor>,
        limit: usize,
    ) -> leasehold::Result<Vec<Holder>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn findings(&self) -> leasehold::Result<Vec<Finding>> {
        self.inner.findings().await
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        self.inner.watch(added, removed);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        self.inner.hints()
    }
}
