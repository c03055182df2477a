//! The etcd storage against real servers, one test per promise.
#![cfg(all(unix, feature = "etcd"))]

mod changes;
mod cost;
mod endings;
mod fence;
mod gates;
mod gateway;
mod ghosts;
mod limits;
mod login;
mod members;
#[expect(
    dead_code,
    reason = "watches have no connection of their own to disturb, and the clock of etcd cannot be set"
)]
#[path = "../common/net/mod.rs"]
mod net;
mod options;
mod others;
mod promises;
mod queue;
mod replay;
mod tls;
mod tools;
mod unknown;
mod waking;
