//! What the npm package `distributed-locks` does over PostgreSQL, without what it does wrong, on a real one. Which test
//! stands for which of its features and bugs: `docs/parity.md`.
#![cfg(all(unix, feature = "postgres"))]

mod bugs;
mod features;
#[path = "../common/parity/mod.rs"]
mod parity;

use leasehold_testbed::{Postgres, shared};

use self::parity::*;

/// A server that tests share which do not break it.
fn postgres() -> &'static Postgres {
    shared::postgres().expect("a server")
}

/// A place on it that nobody else has, and its prefix.
fn place() -> (String, String) {
    place_at(&postgres().url())
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
