//! Tells the engine that a call that takes long gets on, so that its time is counted from the last step.
//!
//! A list in order can have no first page before every key of the server was gone through. That takes as long as there
//! are keys, in many short steps; only the time without a step tells that the server is silent.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

tokio::task_local! {
    static CURRENT: Progress;
}

/// The steps that one list has made, over all its pages. Clones count together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Progress(Arc<Steps>);

#[derive(Debug, Default)]
struct Steps {
    /// Identifies the list; 0 outside of the engine.
    #[cfg_attr(
        not(feature = "redis"),
        expect(dead_code, reason = "only lists over a network are kept apart")
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

    /// Makes a call whose steps are counted here.
    pub(crate) fn of<F: Future>(&self, call: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(self.clone(), call)
    }

    /// Returns how many steps were made.
    pub(crate) fn made(&self) -> u64 {
        self.0.made.load(Ordering::Relaxed)
    }
}

#[cfg(any(test, feature = "redis"))]
impl Progress {
    /// Counts a step: a server has answered.
    pub(crate) fn step(&self) {
        self.0.made.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(feature = "redis")]
impl Progress {
    /// Returns that of the list of which the caller is a call; outside of the engine one that only the caller reads.
    pub(in crate::storage) fn current() -> Self {
        CURRENT.try_with(Self::clone).unwrap_or_default()
    }

    /// Returns the number of the list; 0 outside of the engine.
    pub(in crate::storage) fn list(&self) -> u64 {
        self.0.list
    }
}
