//! The features of the npm package `microlock` over a real etcd, without its bugs. `docs/parity.md` lists which test covers
//! which feature or bug.
#![cfg(all(unix, feature = "etcd"))]

mod bugs;
mod features;
#[path = "../common/timed.rs"]
mod timed;

use std::sync::atomic::{AtomicU64, Ordering};

use leasehold::blocking::{Changes, Guard, Locks};
use leasehold::{Change, Renewal};
use leasehold_testbed::{Etcd, shared};

use self::timed::{LONG, time, timed};

/// Returns a server that is shared by the tests that do not break it.
fn etcd() -> &'static Etcd {
    shared::etcd().expect("a server")
}

/// Returns the URL of a unique prefix on it.
fn place() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("{}?prefix=m{}/", etcd().url(), LAST.fetch_add(1, Ordering::Relaxed))
}

fn client(url: &str) -> Locks {
    Locks::connect(url).expect("connected")
}

fn take(locks: &Locks, name: &str) -> Guard {
    locks.lock(name).ttl(LONG).try_acquire().expect("answered").expect("the lock is free")
}

/// Takes a lock that ends by itself, as one of the original does without `renew()`.
fn take_for_2_s(locks: &Locks, name: &str) -> Guard {
    let lock = locks.lock(name).ttl(time(2_000)).renewal(Renewal::Never);
    lock.try_acquire().expect("answered").expect("the lock is free")
}

/// Returns the next change, which must be a lock, and its holder's label.
fn locked(changes: &mut Changes) -> Option<String> {
    match changes.next() {
        Some(Change::Locked { holder }) => holder.label.map(|label| label.to_string()),
        other => panic!("not locked: {other:?}"),
    }
}

fn unlocked(changes: &mut Changes) {
    assert_eq!(changes.next(), Some(Change::Unlocked));
}
