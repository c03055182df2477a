//! Helpers of the tests of this storage: servers, keys, and counts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) use leasehold::storage::etcd::Config;
use leasehold::storage::{Claim, Owner, RenewReply};
use leasehold_testbed::{Etcd, shared};

pub(crate) use crate::net::tools::*;

/// The storage without an engine.
pub(crate) type Bare = leasehold::storage::etcd::Etcd;
pub(crate) type Server = Etcd;

/// Returns a server that is shared by the tests that do not break it.
pub(crate) fn common() -> &'static Etcd {
    shared::etcd().expect("a server")
}

/// Returns the URL with a unique prefix.
pub(crate) fn own(url: &str) -> String {
    with(url, &format!("prefix={}/", unique()))
}

/// Returns a unique name.
pub(crate) fn unique() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("t{}", LAST.fetch_add(1, Ordering::Relaxed))
}

/// Returns the prefix of a URL that [`own`] returned.
pub(crate) fn prefix_of(url: &str) -> &str {
    let (_, rest) = url.split_once("prefix=").expect("a prefix of its own");
    rest.split('&').next().expect("its value")
}

/// Watches are on the connection of all other requests, so no test disturbs them alone.
pub(crate) const SUBSCRIBE: &str = "leasehold";

/// What the value of every claim begins with.
pub(crate) const ACQUIRE: &str = "leasehold 1 ttl=";

/// Returns the form of an owner in requests.
pub(crate) fn marker(owner: Owner) -> String {
    owner.to_string()
}

/// Runs `etcdctl`.
#[track_caller]
pub(crate) fn tell(server: &Etcd, args: &[&str]) -> String {
    match server.command(args) {
        Ok(said) => said,
        Err(error) => panic!("{args:?}: {error}"),
    }
}

/// Returns the keys of the locks of a URL that [`own`] returned, without the gates.
pub(crate) fn keys(server: &Etcd, url: &str) -> Vec<String> {
    let all = tell(server, &["get", "--prefix", "--keys-only", prefix_of(url)]);
    all.lines().filter(|key| !key.is_empty() && !key.contains('\0')).map(str::to_owned).collect()
}

/// Returns the lease of a key, in the form in which `etcdctl` takes it.
pub(crate) fn lease_of(server: &Etcd, key: &str) -> String {
    let fields = tell(server, &["get", key, "--write-out=fields"]);
    let lease = fields.lines().find_map(|line| line.strip_prefix("\"Lease\" : "));
    format!("{:x}", lease.expect("a key").trim().parse::<i64>().expect("a number"))
}

/// Counts the leases of a server.
pub(crate) fn leases(server: &Etcd) -> usize {
    let said = tell(server, &["lease", "list"]);
    said.lines().skip(1).filter(|line| !line.is_empty()).count()
}

/// Returns a claim with that TTL, whose patience is half of it.
pub(crate) fn with_ttl(lock: &str, ttl: Duration) -> Claim {
    Claim::new(name(lock), Owner::random(), ttl)
}

/// Renews a lock until no other key is left. So the lease of both is alive all the time.
pub(crate) async fn is_left_alone(server: &Etcd, url: &str, storage: &Bare, kept: &Claim, limit: Duration) {
    let end = tokio::time::Instant::now() + limit;
    loop {
        let renewed = answered(async || renew(storage, kept).await).await;
        assert!(matches!(renewed, RenewReply::Renewed { .. }), "{renewed:?}");
        let left = keys(server, url);
        if left.len() == 1 {
            return;
        }
        assert!(tokio::time::Instant::now() < end, "after {limit:?}: {left:?}");
        // No hint is sent for keys that end.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Fills the database of a server that was started with a small one, until it refuses to write.
pub(crate) fn fill(server: &Etcd) {
    let filling = "x".repeat(100_000);
    assert!((0..100).any(|i| server.command(&["put", &format!("filling{i}"), &filling]).is_err()));
    // The server raises the alarm in the background.
    until("the alarm", || match server.command(&["alarm", "list"])? {
        alarms if alarms.contains("NOSPACE") => Ok(()),
        alarms => Err(leasehold_testbed::Error::new(alarms)),
    });
}

/// Acquires, verifies and releases a lock.
pub(crate) async fn works(url: &str) {
    let locks = client(url).await;
    let guard = hold(&locks, "works", LONG).await;
    guard.verify().await.expect("held");
    guard.release().await.expect("released");
}

/// Checks that no key is left, soon.
pub(crate) fn nothing_is_left(url: &str) {
    until("all keys to be gone", || match keys(common(), url) {
        none if none.is_empty() => Ok(()),
        left => Err(leasehold_testbed::Error::new(format!("{left:?}"))),
    });
}
