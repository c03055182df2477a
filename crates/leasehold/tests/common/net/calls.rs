//! Durations, clients and calls of a storage, for tests over real servers.

use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use leasehold::storage::{AcquireReply, Claim, Hint, Name, Owner, ReleaseReply, RenewReply, Storage};
use leasehold::{ErrorKind, Guard, Lock, Locks, Result};
use leasehold_testbed::scaled;
use tokio::task::JoinHandle;

pub(crate) type Hints = Pin<Box<dyn Stream<Item = Hint> + Send>>;

/// A duration longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Returns so many milliseconds, times the factor for a slow machine.
pub(crate) fn time(ms: u64) -> Duration {
    scaled(Duration::from_millis(ms))
}

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// Waits for a future, and fails after the limit.
#[track_caller]
pub(crate) fn within<T>(limit: Duration, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(limit, future).await {
            Ok(outcome) => outcome,
            Err(_) => panic!("not within {limit:?} at {caller}"),
        }
    }
}

pub(crate) async fn client(url: &str) -> Locks {
    within(LONG, Locks::connect(url)).await.expect("connected")
}

pub(crate) fn name(lock: &str) -> Name {
    Name::new(lock).expect("a name")
}

pub(crate) fn claim(lock: &str) -> Claim {
    Claim::new(name(lock), Owner::random(), LONG)
}

pub(crate) async fn acquire(storage: &impl Storage, claim: &Claim) -> Result<AcquireReply> {
    storage.acquire(std::slice::from_ref(claim)).await.pop().expect("an answer")
}

pub(crate) async fn renew(storage: &impl Storage, claim: &Claim) -> Result<RenewReply> {
    storage.renew(std::slice::from_ref(claim)).await.pop().expect("an answer")
}

pub(crate) async fn release(storage: &impl Storage, claim: &Claim) -> Result<ReleaseReply> {
    storage.release(std::slice::from_ref(claim)).await.pop().expect("an answer")
}

/// Repeats a call until it is answered. Until then, only `Unavailable` is allowed.
pub(crate) async fn answered<T>(mut ask: impl AsyncFnMut() -> Result<T>) -> T {
    let asking = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
            // A storage does not repeat a call, and no event shows when a server answers again.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(LONG, asking).await
}

/// Acquires a free lock through an engine.
pub(crate) async fn hold(locks: &Locks, lock: &str, ttl: Duration) -> Guard {
    within(LONG, locks.lock(lock).ttl(ttl).acquire()).await.expect("the lock is free")
}

/// Acquires a lock in a task of its own.
pub(crate) fn waiting(lock: Lock) -> JoinHandle<Result<Guard>> {
    tokio::spawn(async move { lock.acquire().await })
}

/// Waits until a lock has so many waiters.
pub(crate) async fn waiters(locks: &Locks, lock: &str, wanted: u64) {
    let looking = async {
        while locks.inspect(lock).await.ok().and_then(|holders| holders.first()?.waiters) != Some(wanted) {
            // No hint is sent for an entry in the queue.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(LONG, looking).await;
}
