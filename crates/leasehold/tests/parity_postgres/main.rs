//! What the npm package `distributed-locks` does over PostgreSQL, without what it does wrong, on a real one. Which test
//! stands for which of its features and bugs: `docs/parity.md`.
#![cfg(all(unix, feature = "postgres"))]

mod bugs;
mod features;

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use leasehold::blocking::{Guard, Locks};
use leasehold_testbed::{Postgres, scaled, shared};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

/// A server that tests share which do not break it.
fn postgres() -> &'static Postgres {
    shared::postgres().expect("a server")
}

/// A URL with a prefix that nobody else has, and the prefix.
fn place() -> (String, String) {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let prefix = format!("p{}:", LAST.fetch_add(1, Ordering::Relaxed));
    (with(&postgres().url(), &format!("prefix={prefix}")), prefix)
}

fn with(url: &str, option: &str) -> String {
    format!("{url}{}{option}", if url.contains('?') { '&' } else { '?' })
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

/// How much is left of the lease of the lock `job`, in ms, as the server says.
fn left(space: &str) -> i64 {
    let left = "select (extract(epoch from expires_at - clock_timestamp()) * 1000)::bigint";
    let of = format!("{left} from leasehold where space = '{space}' and name = 'job' and owner is not null");
    postgres().sql(&of).expect("answered").parse().expect("held")
}

/// How many statements with claims a server was sent.
fn claims(server: &Postgres) -> u64 {
    server.statements("pg_try_advisory_xact_lock_shared").expect("answered").calls
}

/// How many of them were for claims that cannot simply be granted.
fn refusals(server: &Postgres) -> u64 {
    server.statements("as is_head").expect("answered").calls
}
