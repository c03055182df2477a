//! Scenarios of npm `distributed-locks` over a database: PostgreSQL or MongoDB.

use std::thread;

use leasehold::blocking::{Guard, Locks};
use leasehold::{ErrorKind, Renewal};

use crate::{LONG, client, time, timed, until, with};

/// Hands the lock of the guard over to a waiter.
pub(crate) fn handover((locks, other, guard): (Locks, Locks, Guard)) {
    let token = guard.token();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| other.lock("job").ttl(LONG).acquire().expect("free"));
        until(
            "the waiter",
            || matches!(locks.inspect("job"), Ok(seen) if seen.first().is_some_and(|seen| seen.waiters == Some(1))),
        );
        guard.release().expect("released");
        let next = waiter.join().expect("no panic");
        assert!(next.token() > token);
        next.release().expect("released");
    });
    assert_eq!(other.inspect("job").expect("answered"), []);
}

/// Acquires a lock whose holder neither renews nor releases it.
pub(crate) fn dead_holder(url: &str) {
    let (locks, other) = (client(url), client(url));
    let ttl = time(2_000);
    let ((token, guard), took) = timed(|| {
        let dead = locks.lock("job").ttl(ttl).acquire().expect("free");
        let token = dead.token();
        dead.forget();
        (token, other.lock("job").ttl(LONG).acquire().expect("it ends"))
    });
    assert!(guard.token() > token && took >= ttl - ttl / 10, "{took:?}");
    guard.release().expect("released");
}

/// Bug 1: three takeovers with equal TTLs. In the original, each client saw the first lease, which was over. `lasts`
/// returns how long the server says that the lease is, in µs. Returns one of the clients.
pub(crate) fn takeovers(url: &str, lasts: impl Fn() -> u128) -> Locks {
    let clients = [client(url), client(url), client(url)];
    let ttl = time(3_000);
    let mut tokens = Vec::new();
    for holder in &clients {
        let guard =
            holder.lock("job").ttl(ttl).renewal(Renewal::Never).acquire().expect("the last has ended");
        assert_eq!(lasts(), ttl.as_micros());
        for other in &clients {
            assert!(other.lock("job").try_acquire().expect("answered").is_none());
        }
        tokens.push(guard.token());
        guard.forget();
    }
    assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    let [first, ..] = clients;
    first
}

/// Bugs 4 and 9: claims with the rights of a user that may only read. The error says what to do, by this text.
pub(crate) fn refused_writes(locks: &Locks, what_to_do: &str) {
    for attempt in [
        locks.lock("job").try_acquire().map(drop),
        locks.lock("job").retries(2).acquire().map(drop),
        locks.lock("job").wait(time(1_000)).acquire().map(drop),
    ] {
        let error = attempt.expect_err("it may not write");
        assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains(what_to_do), "{error}");
        assert!(error.holder().is_none());
    }
}

/// Bug 5: uses the longest prefix, names and labels.
pub(crate) fn longest_texts(url: &str) {
    let url = with(url, &format!("prefix={}", "é".repeat(128)));
    let (locks, other) = (client(&url), client(&url));
    // The names have 512 bytes each, and differ only in the last one.
    let names = ["a", "b"].map(|last| format!("{}{last}", "n".repeat(511)));
    let label = "ß".repeat(2048);
    for name in &names {
        let guard = locks.lock(name).ttl(LONG).label(&label).acquire().expect("free");
        let seen = other.inspect(name).expect("answered").pop().expect("held");
        assert_eq!((seen.name.as_str(), seen.label.as_deref()), (name.as_str(), Some(label.as_str())));
        assert!(other.lock(name).try_acquire().expect("answered").is_none());
        guard.forget();
    }
    assert_eq!(other.list("n").expect("answered").len(), 2);
    // One more byte is refused before anything is sent.
    let error = locks.lock("n".repeat(513)).try_acquire().expect_err("too long");
    assert_eq!(error.kind(), ErrorKind::Invalid);
}
