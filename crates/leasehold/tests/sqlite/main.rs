//! Tests of the SQLite storage: what only a lock file promises, among processes, accounts and containers.
//!
//! Most tests drive worker processes, which `worker` starts and talks to.
#![cfg(all(unix, feature = "sqlite"))]

mod accounts;
mod boot;
#[cfg(target_os = "linux")]
mod containers;
mod contract;
mod copies;
mod descriptors;
mod detached;
mod file;
mod hints;
#[cfg(target_os = "linux")]
mod limits;
mod paths;
mod processes;
mod replaced;
mod tools;
mod worker;
