use std::sync::Arc;
use std::time::Duration;

use super::{Cursor, Name, Owner, Share, Token};

/// The holder of a lock, as the storage reported it. The report may be outdated when it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The lock.
    pub name: Name,
    /// How much of the lock it has taken.
    pub share: Share,
    /// The acquisition that holds.
    pub owner: Owner,
    /// Its fencing token.
    pub token: Token,
    /// The label that its client gave it.
    pub label: Option<Arc<str>>,
    /// How much of its lease is left; [`Duration::MAX`] if it has no end, as a lock of another library may have none.
    pub remaining: Duration,
    /// How long it has held the lock, if the storage knows.
    pub held_for: Option<Duration>,
    /// How many processes wait behind it, if the storage knows.
    pub waiters: Option<u64>,
}

impl Holder {
    /// Makes a holder without a label, a start or a queue; set those fields if they are known.
    pub fn new(name: Name, owner: Owner, token: Token, remaining: Duration) -> Self {
        let share = Share::EXCLUSIVE;
        Self { name, share, owner, token, label: None, remaining, held_for: None, waiters: None }
    }

    /// Returns where this holder stands in a list.
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.name.clone(), self.token)
    }
}
