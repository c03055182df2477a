//! The MongoDB storage under faults of its servers, one test per promise.
#![cfg(all(unix, feature = "mongodb"))]

mod abandoned;
mod batches;
#[path = "../common/net/calls.rs"]
mod calls;
mod clocks;
mod connections;
mod elections;
mod fail_points;
mod majority;
mod repeated;
mod rollback;
mod streams;
mod tools;
mod uncontended;
