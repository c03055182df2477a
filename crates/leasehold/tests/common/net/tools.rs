//! What the tests have in common: time, clients, claims.

use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use leasehold::storage::{AcquireReply, Claim, Hint, Name, Owner, ReleaseReply, RenewReply, Storage, Token};
use leasehold::{Error, ErrorKind, Event, Events, Guard, Lock, Locks, Result};
use leasehold_faultproxy::Proxy;
use leasehold_testbed::scaled;
use tokio::task::JoinHandle;

use crate::tools::{Bare, Config, Server, own};

pub(crate) type Hints = Pin<Box<dyn Stream<Item = Hint> + Send>>;

/// Longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// So many milliseconds, times what a slow machine is given.
pub(crate) fn time(ms: u64) -> Duration {
    scaled(Duration::from_millis(ms))
}

/// What ends at once where all goes well, and must not be mistaken for waiting until a TTL is over.
pub(crate) fn soon() -> Duration {
    time(5_000)
}

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// Waits for what must happen well before any TTL is over.
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

/// Looks until it is so.
#[track_caller]
pub(crate) fn until(what: &str, look: impl FnMut() -> leasehold_testbed::Result<()>) {
    leasehold_testbed::until(what, look).expect("it happens");
}

pub(crate) fn with(url: &str, option: &str) -> String {
    format!("{url}{}{option}", if url.contains('?') { '&' } else { '?' })
}

/// Numbers without order, the same every time.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// A proxy before a server, and a place through it and without it.
pub(crate) async fn proxied(server: &Server) -> (Proxy, String, String) {
    let proxy = Proxy::start(format!("127.0.0.1:{}", server.port())).await.expect("a proxy");
    let direct = own(&server.url());
    let through = proxy.url_for(&direct);
    (proxy, through, direct)
}

pub(crate) async fn bare(url: &str) -> Bare {
    match within(LONG, try_bare(url)).await {
        Ok(storage) => storage,
        Err(error) => panic!("{url}: {error}"),
    }
}

pub(crate) async fn try_bare(url: &str) -> Result<Bare> {
    Bare::connect(Config::new(url)?).await
}

/// What a storage says when it is connected to in vain.
pub(crate) async fn refusal(url: &str) -> Error {
    match within(LONG, try_bare(url)).await {
        Ok(storage) => panic!("connected: {storage} by {url}"),
        Err(error) => error,
    }
}

/// A storage that listens: its first hint says so.
pub(crate) async fn listening(url: &str) -> (Bare, Hints) {
    let storage = bare(url).await;
    let mut hints: Hints = Box::pin(storage.hints());
    assert_eq!(within(LONG, hints.next()).await, Some(Hint::Any));
    (storage, hints)
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

/// Takes what is free.
pub(crate) async fn take(storage: &impl Storage, claim: &Claim) -> Token {
    match acquire(storage, claim).await {
        Ok(AcquireReply::Granted { token, .. }) => token,
        other => panic!("not granted: {other:?}"),
    }
}

/// Takes what somebody holds, as soon as that lease is over.
pub(crate) async fn take_over(storage: &impl Storage, claim: &Claim) -> Token {
    let asking = async {
        loop {
            if let Ok(AcquireReply::Granted { token, .. }) = acquire(storage, claim).await {
                return token;
            }
            // Whoever does not wait is told nothing.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(LONG, asking).await
}

/// Asks for what is held.
pub(crate) async fn is_held(storage: &impl Storage, claim: &Claim) {
    let answer = acquire(storage, claim).await;
    assert!(matches!(answer, Ok(AcquireReply::Held { .. })), "{answer:?}");
}

/// Asks until there is an answer; what comes before may only be `Unavailable`.
pub(crate) async fn answered<T>(mut ask: impl AsyncFnMut() -> Result<T>) -> T {
    let asking = async {
        loop {
            match ask().await {
                Ok(answer) => return answer,
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
            // A storage asks once, and nothing tells when a server answers again.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(LONG, asking).await
}

/// Takes what is free, with an engine.
pub(crate) async fn hold(locks: &Locks, lock: &str, ttl: Duration) -> Guard {
    within(LONG, locks.lock(lock).ttl(ttl).acquire()).await.expect("nobody else holds it")
}

/// Takes and gives back, which ends soon if nobody holds.
pub(crate) async fn is_free(locks: &Locks, lock: &str) {
    within(soon(), locks.lock(lock).acquire()).await.expect("granted").release().await.expect("released");
}

/// Waits for a lock, in a task of its own.
pub(crate) fn waiting(lock: Lock) -> JoinHandle<Result<Guard>> {
    tokio::spawn(async move { lock.acquire().await })
}

/// Waits until so many wait for a lock.
pub(crate) async fn waiters(locks: &Locks, lock: &str, wanted: u64) {
    let looking = async {
        while locks.inspect(lock).await.ok().and_then(|holders| holders.first()?.waiters) != Some(wanted) {
            // Nobody is told of an entry in the queue.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(LONG, looking).await;
}

/// Waits until a renewal has failed.
pub(crate) async fn is_at_risk(events: &mut Events) {
    within(soon(), async { while !matches!(events.next().await, Some(Event::RenewFailed { .. })) {} }).await;
}
