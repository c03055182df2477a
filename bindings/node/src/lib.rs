//! The native half of the npm package `leasehold`: clients, locks, guards, and a reactor that polls their futures.
//!
//! It is thin. Names, error classes, signals and iterators are JavaScript, in `lib/`. Nothing here has a runtime or a
//! thread: a future is polled on the thread of JavaScript that has started it, and the engine of a client, which has a
//! thread of its own, wakes it up.

mod exit;
mod guard;
mod locks;
mod options;
mod outcome;
mod reactor;
mod stream;

use napi_derive::napi;

use crate::outcome::{Failure, millis};

/// Reads a duration as people write it, in milliseconds.
#[napi]
pub fn parse_duration(text: String) -> napi::Either<f64, Failure> {
    match leasehold::parse_duration(&text) {
        Ok(duration) => napi::Either::A(millis(duration)),
        Err(error) => napi::Either::B(Failure::from(&error)),
    }
}

/// Returns the version of the native half, which the JavaScript half compares with its own.
#[napi]
pub fn version() -> &'static str {
    env!("CARGO_PKG_VERSION")
}
