//! Locks of Leasehold and of other clients exclude each other on a real Redis if the prefix matches.
#![cfg(all(unix, feature = "redis"))]

mod makers;
mod matrix;
#[path = "../common/timed.rs"]
mod timed;
mod values;

use std::time::Duration;

use leasehold::blocking::Locks;
use leasehold_testbed::{Redis, shared};

use self::timed::{LONG, time, timed};

/// The tolerated delay on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

/// Returns a server that is shared by the tests that do not break it. Each test uses names of its own.
fn redis() -> &'static Redis {
    shared::redis().expect("a server")
}

/// Returns a client of Leasehold whose keys begin with `prefix`.
fn ours(prefix: &str) -> Locks {
    Locks::connect(&format!("{}?prefix={prefix}", redis().url())).expect("connected")
}
