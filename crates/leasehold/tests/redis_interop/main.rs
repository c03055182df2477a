//! Our locks and those of other makers exclude each other, with the matching prefix, on a real Redis.
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

/// How late anything may be on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

/// A server that tests share which do not break it; each has names of its own.
fn redis() -> &'static Redis {
    shared::redis().expect("a server")
}

/// A client of ours whose keys begin with `prefix`.
fn ours(prefix: &str) -> Locks {
    Locks::connect(&format!("{}?prefix={prefix}", redis().url())).expect("connected")
}
