//! What the npm packages `distributed-locks` and `redislock` do, without what they do wrong, on a real Redis. Which
//! test stands for which of their features and bugs: `docs/parity.md`.
#![cfg(all(unix, feature = "redis"))]

mod distributed_locks;
mod redislock;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leasehold::blocking::{Guard, Locks};
use leasehold_testbed::{Redis, scaled, shared};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

/// A server that tests share which do not break it.
fn redis() -> &'static Redis {
    shared::redis().expect("a server")
}

/// A URL with a prefix that nobody else has, and the prefix.
fn place() -> (String, String) {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let prefix = format!("p{}:", LAST.fetch_add(1, Ordering::Relaxed));
    (format!("{}?prefix={prefix}", redis().url()), prefix)
}

fn client(url: &str) -> Locks {
    Locks::connect(url).expect("connected")
}

fn take(locks: &Locks, name: &str) -> Guard {
    locks.lock(name).ttl(LONG).try_acquire().expect("answered").expect("nobody else holds it")
}

fn time(ms: u64) -> Duration {
    scaled(Duration::from_millis(ms))
}

/// Measures how long something takes.
#[expect(clippy::disallowed_methods, reason = "it decides nothing, and a test's machine does not sleep")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let since = std::time::Instant::now();
    (work(), since.elapsed())
}

fn until(what: &str, mut seen: impl FnMut() -> bool) {
    let look = || if seen() { Ok(()) } else { Err(leasehold_testbed::Error::new("not yet")) };
    leasehold_testbed::until(what, look).expect("it happens");
}

/// How many calls of a script a server was sent.
fn calls(redis: &Redis) -> u64 {
    let counts = redis.command_counts().expect("answered");
    counts.get("evalsha").copied().unwrap_or(0)
}

/// How many claims a server has refused: for each, its queue is counted.
fn refusals(redis: &Redis) -> u64 {
    redis.command_counts().expect("answered").get("zcard").copied().unwrap_or(0)
}

/// How much is left of the lease under a key, in ms, as the server says.
fn left(redis: &Redis, key: &str) -> i64 {
    redis.command(&["pttl", key]).expect("answered").parse().expect("a number")
}
