//! The servers of a quorum. A request goes to all of them at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::mpsc;

use super::node::Node;
use crate::clock::{Clock, Moment};
use crate::storage::Claim;

/// The servers of a quorum.
pub(super) struct Nodes {
    pub(super) all: Vec<Arc<Node>>,
    pub(super) clock: Clock,
    /// The longest TTL that this client promises.
    pub(super) ttl_max: Duration,
    /// Whether a refresh of the markers is in flight.
    pub(super) refreshing: AtomicBool,
}

/// The replies to one request, as they come.
///
/// Each request is a task that continues when its replies are no longer needed: to drop a request would break a
/// connection that is only slow.
pub(super) struct Replies<T> {
    received: mpsc::UnboundedReceiver<(usize, T)>,
    clock: Clock,
}

/// The time limit of each step, as a share of the TTL, and its bounds.
const STEP_SHARE: u32 = 5;
const STEP_MIN: Duration = Duration::from_millis(50);
pub(super) const STEP_MAX: Duration = Duration::from_millis(500);

impl Nodes {
    /// Sends a request to each server for which there is one.
    pub(super) fn call<T, F>(&self, request: impl Fn(Arc<Node>) -> Option<F>) -> Replies<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, received) = mpsc::unbounded_channel();
        for node in &self.all {
            let Some(request) = request(Arc::clone(node)) else { continue };
            let (sender, index) = (sender.clone(), node.index);
            tokio::spawn(async move {
                // The receiver may be gone.
                let _ = sender.send((index, request.await));
            });
        }
        Replies { received, clock: self.clock.clone() }
    }

    /// Returns the time limit of each step.
    pub(super) fn limit(&self, claims: &[Claim]) -> Duration {
        let shortest = claims.iter().map(|claim| claim.ttl).min().unwrap_or_default();
        (shortest / STEP_SHARE).clamp(STEP_MIN, STEP_MAX)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

impl<T> Replies<T> {
    /// Returns the next reply, with the index of its server. `None` if none comes until then, or none is left.
    pub(super) async fn next(&mut self, until: Moment) -> Option<(usize, T)> {
        if let Ok(reply) = self.received.try_recv() {
            return Some(reply);
        }
        let left = until.since(self.clock.now());
        tokio::time::timeout(left, self.received.recv()).await.unwrap_or(None)
    }

    /// Returns the next reply, however late.
    pub(super) async fn next_late(&mut self) -> Option<(usize, T)> {
        self.received.recv().await
    }
}
