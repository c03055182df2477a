//! Locks whose rows another transaction has inserted and not committed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::storage::Name;

/// The locks whose rows were found to be inserted by another transaction that does not commit. An insert of such a row
/// waits for that transaction; so these locks are acquired apart from others.
#[derive(Default)]
pub(super) struct UncommittedRows(Mutex<HashMap<Name, Moment>>);

/// How long a lock is remembered.
const MEMORY: Duration = Duration::from_secs(10);

impl UncommittedRows {
    pub(super) fn contains(&self, name: &Name) -> bool {
        self.names().contains_key(name)
    }

    pub(super) fn add(&self, name: &Name, now: Moment) {
        let mut names = self.names();
        names.retain(|_, since| now.since(*since) < MEMORY);
        names.insert(name.clone(), now);
    }

    pub(super) fn remove(&self, name: &Name) {
        self.names().remove(name);
    }

    fn names(&self) -> MutexGuard<'_, HashMap<Name, Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
