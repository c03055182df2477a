//! Helpers of the tests of this storage: servers, keys, and counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use leasehold::storage::Owner;
pub(crate) use leasehold::storage::redis::Config;
use leasehold_testbed::{Redis, shared};

pub(crate) use crate::net::tools::*;

/// The storage without an engine.
pub(crate) type Bare = leasehold::storage::redis::Redis;
pub(crate) type Server = Redis;

/// Returns a server that is shared by the tests that do not break it.
pub(crate) fn common() -> &'static Redis {
    shared::redis().expect("a server")
}

/// Returns the URL with a unique prefix.
pub(crate) fn own(url: &str) -> String {
    with(url, &format!("prefix={}", prefix()))
}

pub(crate) fn prefix() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("p{}:", LAST.fetch_add(1, Ordering::Relaxed))
}

/// The command that only a subscription contains.
pub(crate) const SUBSCRIBE: &str = "SUBSCRIBE";

/// Returns the form of an owner in requests.
pub(crate) fn marker(owner: Owner) -> String {
    owner.to_string()
}

/// Sends a command through `redis-cli`.
pub(crate) fn tell(redis: &Redis, command: &[&str]) -> String {
    redis.command(command).expect("answered")
}

/// Returns all keys, as `redis-cli` prints them.
pub(crate) fn keys(redis: &Redis) -> Vec<String> {
    let mut keys: Vec<_> = tell(redis, &["keys", "*"]).lines().map(str::to_owned).collect();
    keys.sort_unstable();
    keys
}

/// Returns how often each command was called since `before`.
pub(crate) fn since(redis: &Redis, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let now = redis.command_counts().expect("answered");
    let more = now.into_iter().map(|(name, count)| {
        let was = before.get(&name).copied().unwrap_or(0);
        (name, count.saturating_sub(was))
    });
    more.filter(|(_, count)| *count > 0).collect()
}

/// Returns the number of connections, without those of `redis-cli`.
pub(crate) fn connections(redis: &Redis) -> usize {
    let list = tell(redis, &["client", "list"]);
    list.lines().filter(|line| !line.contains("cmd=client|list")).count()
}

/// Waits until there are so many connections.
pub(crate) fn until_connections(redis: &Redis, wanted: usize) {
    until("its connections", || match connections(redis) {
        found if found == wanted => Ok(()),
        found => Err(leasehold_testbed::Error::new(format!("{found}, not {wanted}"))),
    });
}
