//! The Redis storage against real servers, one test per promise.
#![cfg(all(unix, feature = "redis"))]

mod access;
mod addresses;
mod clocks;
mod cluster;
mod fitness;
mod keys;
mod limits;
#[path = "../common/net/mod.rs"]
mod net;
mod permissions;
mod sentinel;
mod states;
mod tls;
mod tools;
mod unknown;
mod waking;
