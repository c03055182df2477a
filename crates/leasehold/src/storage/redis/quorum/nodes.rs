//! All the servers, asked at once.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::sync::mpsc;

use super::node::Node;
use crate::clock::{Clock, Moment};
use crate::storage::Claim;

pub(super) struct Nodes {
    pub(super) all: Vec<Arc<Node>>,
    pub(super) clock: Clock,
    /// The longest TTL that this client promises.
    pub(super) ttl_max: Duration,
    /// Whether it is being found out whose votes count.
    pub(super) tending: AtomicBool,
}

/// Answers on their way. Nobody is waited for longer than needed, and each task goes on without those who asked: a
/// question that were dropped would break a connection that is only slow.
pub(super) struct Answers<T> {
    received: mpsc::UnboundedReceiver<(usize, T)>,
    clock: Clock,
}

/// How long the servers are waited for, as a share of the TTL, and its bounds.
const SHARE: u32 = 5;
const SHORTEST: Duration = Duration::from_millis(50);
pub(super) const LONGEST: Duration = Duration::from_millis(500);

impl Nodes {
    /// Asks each of the servers for which there is a question.
    pub(super) fn ask<T, F>(&self, question: impl Fn(Arc<Node>) -> Option<F>) -> Answers<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (sender, received) = mpsc::unbounded_channel();
        for node in &self.all {
            let Some(asked) = question(Arc::clone(node)) else { continue };
            let (sender, index) = (sender.clone(), node.index);
            tokio::spawn(async move {
                // Who asked may be gone.
                let _ = sender.send((index, asked.await));
            });
        }
        Answers { received, clock: self.clock.clone() }
    }

    /// How long the servers are waited for in each step.
    pub(super) fn limit(&self, claims: &[Claim]) -> Duration {
        let shortest = claims.iter().map(|claim| claim.ttl).min().unwrap_or_default();
        (shortest / SHARE).clamp(SHORTEST, LONGEST)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

impl<T> Answers<T> {
    /// The next answer; `None` if there is none until then, or if there are no more.
    pub(super) async fn next(&mut self, until: Moment) -> Option<(usize, T)> {
        if let Ok(answer) = self.received.try_recv() {
            return Some(answer);
        }
        let left = until.since(self.clock.now());
        tokio::time::timeout(left, self.received.recv()).await.unwrap_or(None)
    }

    /// The next answer, however late.
    pub(super) async fn late(&mut self) -> Option<(usize, T)> {
        self.received.recv().await
    }
}
