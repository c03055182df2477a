//! What the owners of this client want to hear of, for the task that watches (`hints.rs`).

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use super::holds::Id;

/// What an owner wants to hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Interest {
    /// The end of the key before its own.
    Turn { before: Vec<u8> },
    /// Changes of its own key, which it holds the lock with. The key is attached to that lease.
    Hold { lease: i64 },
}

/// What all owners want to hear of. One task hears of changes.
#[derive(Default)]
pub(super) struct Interests(Mutex<State>);

#[derive(Default)]
struct State {
    all: HashMap<Id, Interest>,
    listener: Option<mpsc::UnboundedSender<Id>>,
}

impl Interests {
    pub(super) fn set(&self, id: &Id, interest: Interest) {
        let mut state = self.state();
        if state.all.get(id) != Some(&interest) {
            state.all.insert(id.clone(), interest);
            state.tell(id);
        }
    }

    pub(super) fn remove(&self, id: &Id) {
        let mut state = self.state();
        if state.all.remove(id).is_some() {
            state.tell(id);
        }
    }

    pub(super) fn get(&self, id: &Id) -> Option<Interest> {
        self.state().all.get(id).cloned()
    }

    /// Returns the owners whose interests change from now on. The first ones are all owners with an interest.
    pub(super) fn listen(&self) -> mpsc::UnboundedReceiver<Id> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.state();
        state.listener = Some(sender);
        state.all.keys().for_each(|id| state.tell(id));
        receiver
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn tell(&self, id: &Id) {
        if let Some(listener) = &self.listener {
            let _listener_gone = listener.send(id.clone());
        }
    }
}
