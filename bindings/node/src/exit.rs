//! Closes clients when the process ends, where nothing asynchronous runs any more.

use std::time::Duration;

use futures_util::future::join_all;
use leasehold::WeakLocks;
use napi_derive::napi;

use crate::locks::NativeLocks;
use crate::outcome::duration;

/// The clients that are closed at the end of the process. It does not keep them running.
#[napi]
#[derive(Default)]
pub struct ExitList(Vec<(WeakLocks, Duration)>);

#[napi]
impl ExitList {
    /// Makes an empty list.
    #[napi(constructor)]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a client, and drops those that have ended.
    #[napi]
    pub fn add(&mut self, locks: &NativeLocks, limit: f64) {
        self.0.retain(|(locks, _)| locks.upgrade().is_some());
        self.0.push((locks.0.downgrade(), duration(limit)));
    }

    /// Closes all clients at once. Blocks until the storages have confirmed it, and not longer than the limits.
    #[napi]
    pub fn close_all(&mut self) {
        let clients = self.0.drain(..).filter_map(|(locks, limit)| Some((locks.upgrade()?, limit)));
        let clients: Vec<_> = clients.collect();
        // What is not confirmed in time ends with its TTL.
        pollster::block_on(join_all(clients.iter().map(|(locks, limit)| locks.close_within(*limit))));
    }
}
