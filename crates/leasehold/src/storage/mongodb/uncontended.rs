//! The locks for which no owner waited when this client last saw them. Short statements serve such a lock.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::storage::{Claim, Name};

/// A guess for each lock, in a table of fixed size: locks with the same slot share theirs. A wrong guess costs one command, and in a batch of
/// acquires a read, too.
pub(super) struct Uncontended {
    slots: Box<[AtomicBool]>,
}

const SLOTS: u64 = 4_096;

impl Default for Uncontended {
    fn default() -> Self {
        Self { slots: (0..SLOTS).map(|_| AtomicBool::new(false)).collect() }
    }
}

impl Uncontended {
    /// Returns `true` if no owner waits for any of these locks, as far as this client knows.
    pub(super) fn are_all(&self, claims: &[Claim]) -> bool {
        claims.iter().all(|claim| self.slot(&claim.name).is_some_and(|slot| slot.load(Ordering::Relaxed)))
    }

    pub(super) fn note(&self, name: &Name, is_uncontended: bool) {
        if let Some(slot) = self.slot(name) {
            slot.store(is_uncontended, Ordering::Relaxed);
        }
    }

    fn slot(&self, name: &Name) -> Option<&AtomicBool> {
        let mut hasher = DefaultHasher::new();
        name.as_str().hash(&mut hasher);
        self.slots.get(usize::try_from(hasher.finish() % SLOTS).ok()?)
    }
}
