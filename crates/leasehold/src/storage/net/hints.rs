//! The hints of a storage: the state that it shares with its listener, and the stream that the engine reads.
//!
//! A storage's listener is a task that subscribes at the server. It calls [`Hinter::subscribed`] when the subscription
//! stands, sends a hint for each message, and pauses by [`Pauses`] before it connects again. [`stream()`] starts it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::storage::{Hint, Name};

/// The sender of a storage's hints, and what the storage and its listener tell each other.
pub(in crate::storage) struct Hinter {
    sender: mpsc::UnboundedSender<Hint>,
    /// Whether the listener is subscribed.
    listening: AtomicBool,
    watched: Watched,
    /// The number of times that a lock may have moved to another server.
    moves: watch::Sender<u64>,
}

/// How often a silent connection is checked, and how long the answer may take.
pub(in crate::storage) const HEARTBEAT: Duration = Duration::from_secs(2);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause before the listener connects again.
pub(in crate::storage) const LONGEST_PAUSE: Duration = Duration::from_millis(750);

impl Hinter {
    pub(in crate::storage) fn new() -> (Arc<Self>, mpsc::UnboundedReceiver<Hint>) {
        let (sender, received) = mpsc::unbounded_channel();
        let moves = watch::channel(0).0;
        (
            Arc::new(Self { sender, listening: AtomicBool::new(false), watched: Watched::default(), moves }),
            received,
        )
    }

    pub(in crate::storage) fn send(&self, hint: Hint) {
        let _stream_gone = self.sender.send(hint);
    }

    pub(in crate::storage) fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    /// Reports that the subscription stands. `restarted` says that the server may have forgotten leases meanwhile.
    pub(in crate::storage) fn subscribed(&self, restarted: bool) {
        self.listening.store(true, Ordering::Relaxed);
        self.send(if restarted { Hint::Restarted } else { Hint::Any });
    }

    pub(in crate::storage) fn watch(&self, added: &[Name], removed: &[Name]) {
        self.watched.change(added, removed);
    }

    /// Reports that a lock may have moved to another server.
    pub(in crate::storage) fn moved(&self) {
        self.moves.send_modify(|moves| *moves += 1);
    }

    pub(in crate::storage) fn moves(&self) -> watch::Receiver<u64> {
        self.moves.subscribe()
    }

    /// Returns the names that this process observes: all of them first, and then each change.
    pub(in crate::storage) fn watched(&self) -> Changes {
        self.watched.subscribe()
    }
}

/// A set of names. Each reader receives its content once, and then only its changes.
#[derive(Default)]
pub(in crate::storage) struct Watched(Mutex<State>);

#[derive(Default)]
struct State {
    names: HashSet<Name>,
    readers: Vec<mpsc::UnboundedSender<Change>>,
}

/// The difference between two sets of names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::storage) struct Change {
    pub(in crate::storage) added: Vec<Name>,
    pub(in crate::storage) removed: Vec<Name>,
}

/// The changes that a reader of a [`Watched`] receives.
pub(in crate::storage) type Changes = mpsc::UnboundedReceiver<Change>;

impl Watched {
    /// Changes the set. Readers do not receive added names that it contains already, nor removed ones that it does not.
    pub(in crate::storage) fn change(&self, added: &[Name], removed: &[Name]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let added = added.iter().filter(|name| state.names.insert((*name).clone())).cloned().collect();
        let removed = removed.iter().filter(|name| state.names.remove(*name)).cloned().collect();
        let change = Change { added, removed };
        state.readers.retain(|reader| reader.send(change.clone()).is_ok());
    }

    /// Returns the changes of the set from now on. The first of them adds all its names.
    pub(in crate::storage) fn subscribe(&self) -> Changes {
        let (reader, changes) = mpsc::unbounded_channel();
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all = Change { added: state.names.iter().cloned().collect(), removed: Vec::new() };
        if reader.send(all).is_ok() {
            state.readers.push(reader);
        }
        changes
    }
}

/// The pauses between attempts to listen. They grow while no subscription stands.
pub(in crate::storage) struct Pauses(Duration);

impl Pauses {
    pub(in crate::storage) fn new() -> Self {
        Self(FIRST_PAUSE)
    }

    /// Pauses after an attempt. `stood` says whether its subscription stood for a while.
    pub(in crate::storage) async fn pause(&mut self, hinter: &Hinter, stood: bool) {
        hinter.listening.store(false, Ordering::Relaxed);
        let pause = if stood { FIRST_PAUSE } else { self.0 };
        tokio::time::sleep(pause).await;
        self.0 = std::cmp::min(pause * 2, LONGEST_PAUSE);
    }
}

/// Returns the stream of the received hints. When it is first polled, a task begins to run what `start` returns.
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

/// A task that is aborted when this is dropped.
pub(in crate::storage) struct Task(pub(in crate::storage) JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_receives_all_names_once_and_then_the_differences() {
        let [a, b, c] = ["a", "b", "c"].map(|name| Name::new(name).expect("valid"));
        let watched = Watched::default();
        watched.change(&[a.clone(), b.clone()], &[]);
        let mut changes = watched.subscribe();
        let mut all = changes.try_recv().expect("the first").added;
        all.sort();
        assert_eq!(all, [a.clone(), b.clone()]);
        watched.change(&[a.clone(), c.clone()], std::slice::from_ref(&b));
        assert_eq!(changes.try_recv(), Ok(Change { added: vec![c], removed: vec![b.clone()] }));
        watched.change(&[], &[b, a.clone()]);
        assert_eq!(changes.try_recv(), Ok(Change { added: vec![], removed: vec![a] }));
        drop(changes);
        watched.change(&[], &[]);
        assert_eq!(watched.0.lock().expect("not poisoned").readers.len(), 0, "a dropped reader is forgotten");
    }
}
