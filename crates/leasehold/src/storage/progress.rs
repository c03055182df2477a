//! The progress of a call that takes long. The engine limits the time since its last step, not since its beginning.
//!
//! A list in order has no first page before the storage has read every key of the server. That takes many short steps,
//! and the more the more keys there are. Only the time without a step shows that the server is silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

tokio::task_local! {
    static CURRENT: Progress;
}

/// The steps of one list, over all its pages. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<Steps>);

#[derive(Debug, Default)]
struct Steps {
    /// Identifies the list; 0 outside of the engine.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "only a storage over a network tells lists apart")
    )]
    list: u64,
    made: AtomicU64,
}

impl Progress {
    /// Begins to count the steps of a list.
    pub(crate) fn begin() -> Self {
        static LISTS: AtomicU64 = AtomicU64::new(1);
        let list = LISTS.fetch_add(1, Ordering::Relaxed);
        Self(Arc::new(Steps { list, ..Steps::default() }))
    }

    /// Runs a call and counts its steps.
    pub(crate) fn of<F: Future>(&self, call: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self.clone(), call)
    }

    /// Returns the number of steps.
    pub(crate) fn made(&self) -> u64 {
        self.0.made.load(Ordering::Relaxed)
    }
}

#[cfg(any(test, feature = "redis"))]
impl Progress {
    /// Counts a step, because a server has answered.
    pub(crate) fn step(&self) {
        self.0.made.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(feature = "redis")]
impl Progress {
    /// Returns the progress of the list that the running call belongs to; outside of the engine, a new one.
    pub(in crate::storage) fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_default()
    }

    /// Returns the number of the list; 0 outside of the engine.
    pub(in crate::storage) fn list(&self) -> u64 {
        self.0.list
    }
}
