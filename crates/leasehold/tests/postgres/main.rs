//! The PostgreSQL storage against real servers, one test per promise.
#![cfg(all(unix, feature = "postgres"))]

mod clocks;
mod cost;
mod failover;
mod fence;
mod handover;
mod limits;
mod locked_rows;
mod login;
mod many_clients;
#[path = "../common/net/mod.rs"]
mod net;
mod page;
mod pooler;
mod refusals;
mod schema;
mod settings;
mod shadows;
mod states;
mod tls;
mod tools;
mod unknown;
mod waking;
