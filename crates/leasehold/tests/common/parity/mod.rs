//! Helpers that the parity tests over Redis and PostgreSQL share.

pub(crate) mod distributed_locks;
#[path = "../timed.rs"]
mod timed;

use std::sync::atomic::{AtomicU64, Ordering};

use leasehold::blocking::{Guard, Locks};

pub(crate) use self::timed::{LONG, time, timed};

/// Returns the URL with a unique prefix, and the prefix.
pub(crate) fn place_at(url: &str) -> (String, String) {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let prefix = format!("p{}:", LAST.fetch_add(1, Ordering::Relaxed));
    (with(url, &format!("prefix={prefix}")), prefix)
}

pub(crate) fn with(url: &str, option: &str) -> String {
    format!("{url}{}{option}", if url.contains('?') { '&' } else { '?' })
}

pub(crate) fn client(url: &str) -> Locks {
    Locks::connect(url).expect("connected")
}

pub(crate) fn take(locks: &Locks, name: &str) -> Guard {
    locks.lock(name).ttl(LONG).try_acquire().expect("answered").expect("the lock is free")
}

pub(crate) fn until(what: &str, mut seen: impl FnMut() -> bool) {
    let look = || if seen() { Ok(()) } else { Err(leasehold_testbed::Error::new("not yet")) };
    leasehold_testbed::until(what, look).expect("it happens");
}
