//! What a storage and its listener share, and the stream of hints that they make.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::storage::{Hint, Name};

/// Takes hints from wherever they come.
pub(in crate::storage) struct Hinter {
    sender: mpsc::UnboundedSender<Hint>,
    /// Whether the subscription stands.
    listening: AtomicBool,
    watched: watch::Sender<Vec<Name>>,
    /// Counts the times that a lock may have moved to another server.
    moves: watch::Sender<u64>,
}

/// How often a silent connection is asked for a sign of life, and how long that may take.
pub(in crate::storage) const HEARTBEAT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// How long to wait at most before listening is tried again.
pub(in crate::storage) const LONGEST_PAUSE: Duration = Duration::from_millis(750);

impl Hinter {
    pub(in crate::storage) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Hint>) {
        let (sender, received) = mpsc::unbounded_channel();
        let (watched, _) = watch::channel(Vec::new());
        let moves = watch::channel(0).0;
        (Arc::new(Self { sender, listening: AtomicBool::new(false), watched, moves }), received)
    }

    pub(in crate::storage) fn send(&self, hint: Hint) {
        // Nobody listens: nobody waits.
        let _ = self.sender.send(hint);
    }

    pub(in crate::storage) fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    /// The subscription stands; `restarted` if the server may have forgotten leases meanwhile.
    pub(in crate::storage) fn subscribed(&self, restarted: bool) {
        self.listening.store(true, Ordering::Relaxed);
        self.send(if restarted { Hint::Restarted } else { Hint::Any });
    }

    pub(in crate::storage) fn watch(&self, names: &[Name]) {
        self.watched.send_replace(names.to_vec());
    }

    /// A lock may have moved to another server.
    pub(in crate::storage) fn moved(&self) {
        self.moves.send_modify(|moves| *moves += 1);
    }

    pub(in crate::storage) fn moves(&self) -> watch::Receiver<u64> {
        self.moves.subscribe()
    }

    /// The names that somebody observes, and their changes.
    pub(in crate::storage) fn watched(&self) -> watch::Receiver<Vec<Name>> {
        self.watched.subscribe()
    }
}

/// The pauses between tries to listen: longer and longer while the subscription never stands.
pub(in crate::storage) struct Pauses(Duration);

impl Pauses {
    pub(in crate::storage) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    /// Pauses after a try; `stood` says whether the subscription did.
    pub(in crate::storage) async fn pause(&mut self, hinter: &Hinter, stood: bool) {
        hinter.listening.store(false, Ordering::Relaxed);
        let pause = if stood { FIRST_PAUSE } else { self.0 };
        tokio::time::sleep(pause).await;
        self.0 = std::cmp::min(pause * 2, LONGEST_PAUSE);
    }
}

/// Yields what is received, while a task of its own does what `start` returns, from the first look on.
pub(in crate::storage) fn stream<F>(
    received: mpsc::UnboundedReceiver<Hint>,
    start: impl FnOnce() -> F + Send + 'static,
) -> impl Stream<Item = Hint> + Send + 'static
where
    F: Future<Output = ()> + Send + 'static,
{
    stream::unfold((received, Some(start), None), async |(mut received, start, task)| {
        let task = task.or_else(|| start.map(|start| Task(tokio::spawn(start()))));
        let hint = received.recv().await?;
        Some((hint, (received, None, task)))
    })
}

/// A task that ends when it is dropped.
pub(in crate::storage) struct Task(pub(in crate::storage) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}
