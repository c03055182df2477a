//! The Redis storage against real servers, one test per promise.
#![cfg(all(unix, feature = "redis"))]

mod access;
mod addresses;
mod clocks;
mod cluster;
mod limits;
#[path = "../common/net/mod.rs"]
mod net;
mod sentinel;
mod states;
mod tools;
mod unknown;
mod waking;
