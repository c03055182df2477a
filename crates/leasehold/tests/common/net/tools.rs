//! Helpers of the tests, besides the calls.

use std::time::Duration;

use futures_util::StreamExt;
use leasehold::storage::{AcquireReply, Claim, Hint, Storage, Token};
use leasehold::{Error, Event, Events, Locks, Result};
use leasehold_faultproxy::Proxy;

pub(crate) use super::calls::*;
use crate::tools::{Bare, Config, Server, own};

/// Returns the limit for what happens at once, if it works. It is too short for waiting until a TTL ends.
pub(crate) fn soon() -> Duration {
    time(5_000)
}

/// Repeats a check until it succeeds.
#[track_caller]
pub(crate) fn until(what: &str, look: impl FnMut() -> leasehold_testbed::Result<()>) {
    leasehold_testbed::until(what, look).expect("it happens");
}

pub(crate) fn with(url: &str, option: &str) -> String {
    format!("{url}{}{option}", if url.contains('?') { '&' } else { '?' })
}

/// A generator of pseudorandom numbers, the same in every run.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Starts a proxy before a server. Returns it with two URLs of one place: through the proxy, and directly.
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

/// Connects, which must fail, and returns the error.
pub(crate) async fn refusal(url: &str) -> Error {
    match within(LONG, try_bare(url)).await {
        Ok(storage) => panic!("connected: {storage} by {url}"),
        Err(error) => error,
    }
}

/// Returns a storage that listens. Its first hint has shown that.
pub(crate) async fn listening(url: &str) -> (Bare, Hints) {
    let storage = bare(url).await;
    let mut hints: Hints = Box::pin(storage.hints());
    assert_eq!(within(LONG, hints.next()).await, Some(Hint::Any));
    (storage, hints)
}

/// Acquires a free lock.
pub(crate) async fn take(storage: &impl Storage, claim: &Claim) -> Token {
    match acquire(storage, claim).await {
        Ok(AcquireReply::Granted { token, .. }) => token,
        other => panic!("not granted: {other:?}"),
    }
}

/// Acquires a lock that another owner holds, as soon as that lease has ended.
pub(crate) async fn take_over(storage: &impl Storage, claim: &Claim) -> Token {
    let asking = async {
        loop {
            if let Ok(AcquireReply::Granted { token, .. }) = acquire(storage, claim).await {
                return token;
            }
            // A claim that does not wait gets no hint.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within(LONG, asking).await
}

/// Sends a claim that must be refused, because another owner holds the lock.
pub(crate) async fn is_held(storage: &impl Storage, claim: &Claim) {
    let answer = acquire(storage, claim).await;
    assert!(matches!(answer, Ok(AcquireReply::Held { .. })), "{answer:?}");
}

/// Acquires and releases a lock, which must be free.
pub(crate) async fn is_free(locks: &Locks, lock: &str) {
    within(soon(), locks.lock(lock).acquire()).await.expect("granted").release().await.expect("released");
}

/// Waits until a renewal has failed.
pub(crate) async fn is_at_risk(events: &mut Events) {
    within(soon(), async { while !matches!(events.next().await, Some(Event::RenewFailed { .. })) {} }).await;
}
