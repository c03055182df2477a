//! The features of the npm package `distributed-locks` over a real PostgreSQL, without its bugs.
//! `docs/parity.md` lists which test covers which feature or bug.
#![cfg(all(unix, feature = "postgres"))]

mod bugs;
#[path = "../common/parity/databases.rs"]
mod databases;
mod features;
#[path = "../common/parity/mod.rs"]
mod parity;

use leasehold_testbed::{Postgres, shared};

use self::parity::*;

/// Returns a server that is shared by the tests that do not break it.
fn postgres() -> &'static Postgres {
    shared::postgres().expect("a server")
}

/// Returns the URL of a unique prefix on it, and the prefix.
fn place() -> (String, String) {
    place_at(&postgres().url())
}

/// Returns the remaining lease of the lock `job`, in ms, according to the server.
fn left(space: &str) -> i64 {
    let left = "select (extract(epoch from expires_at - clock_timestamp()) * 1000)::bigint";
    let of = format!("{left} from leasehold where space = '{space}' and name = 'job' and owner is not null");
    postgres().sql(&of).expect("answered").parse().expect("held")
}

/// Returns how many statements with claims the server received.
fn claims(server: &Postgres) -> u64 {
    server.statements("pg_try_advisory_xact_lock_shared").expect("answered").calls
}

/// Returns how many of them were for claims that could not simply be granted.
fn refusals(server: &Postgres) -> u64 {
    server.statements("as is_head").expect("answered").calls
}
