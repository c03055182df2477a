//! Our locks and those of other makers exclude each other, with the matching prefix, on a real Redis.
#![cfg(all(unix, feature = "redis"))]

mod makers;
mod matrix;
mod values;

use std::time::Duration;

use leasehold::blocking::Locks;
use leasehold_testbed::{Redis, scaled, shared};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);
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

fn time(ms: u64) -> Duration {
    scaled(Duration::from_millis(ms))
}

/// Measures how long something takes.
#[expect(clippy::disallowed_methods, reason = "it decides nothing, and a test's machine does not sleep")]
fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let since = std::time::Instant::now();
    (work(), since.elapsed())
}
