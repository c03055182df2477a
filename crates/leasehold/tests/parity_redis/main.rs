//! The features of the npm packages `distributed-locks` and `redislock` over a real Redis, without their
//! bugs. `docs/parity.md` lists which test covers which feature or bug.
#![cfg(all(unix, feature = "redis"))]

mod distributed_locks;
#[path = "../common/parity/mod.rs"]
mod parity;
mod redislock;

use leasehold_testbed::{Redis, shared};

use self::parity::*;

/// Returns a server that is shared by the tests that do not break it.
fn redis() -> &'static Redis {
    shared::redis().expect("a server")
}

/// Returns the URL of a unique prefix on it, and the prefix.
fn place() -> (String, String) {
    place_at(&redis().url())
}

/// Returns how many script calls the server received.
fn calls(redis: &Redis) -> u64 {
    let counts = redis.command_counts().expect("answered");
    counts.get("evalsha").copied().unwrap_or(0)
}

/// Returns how many claims the server has refused, because it counts the queue for each of them.
fn refusals(redis: &Redis) -> u64 {
    redis.command_counts().expect("answered").get("zcard").copied().unwrap_or(0)
}

/// Returns the remaining lease of a key, in ms, according to the server.
fn left(redis: &Redis, key: &str) -> i64 {
    redis.command(&["pttl", key]).expect("answered").parse().expect("a number")
}
