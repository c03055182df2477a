//! The PostgreSQL storage against real servers, one test per promise. The number in a comment is that of a way in which
//! locks fail.
#![cfg(all(unix, feature = "postgres"))]

mod clocks;
mod cost;
mod failover;
mod fence;
mod handover;
mod limits;
mod login;
#[path = "../common/net/mod.rs"]
mod net;
mod others;
mod page;
mod pooler;
mod schema;
mod shadows;
mod states;
mod tls;
mod tools;
mod unknown;
mod waking;
