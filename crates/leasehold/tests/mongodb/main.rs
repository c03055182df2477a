//! The MongoDB storage against real servers, one test per promise.
#![cfg(all(unix, feature = "mongodb"))]

mod clocks;
mod cost;
mod dns;
mod edges;
mod fitness;
mod limits;
mod login;
#[path = "../common/net/mod.rs"]
mod net;
mod observers;
mod oplog;
mod options;
mod runtimes;
mod srv;
mod tls;
mod tools;
mod uncontended;
mod unknown;
mod waking;
