//! What the npm packages `distributed-locks` and `redislock` do, without what they do wrong, on a real Redis. Which
//! test stands for which of their features and bugs: `docs/parity.md`.
#![cfg(all(unix, feature = "redis"))]

mod distributed_locks;
#[path = "../common/parity/mod.rs"]
mod parity;
mod redislock;

use leasehold_testbed::{Redis, shared};

use self::parity::*;

/// A server that tests share which do not break it.
fn redis() -> &'static Redis {
    shared::redis().expect("a server")
}

/// A place on it that nobody else has, and its prefix.
fn place() -> (String, String) {
    place_at(&redis().url())
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
