use std::sync::Arc;
use std::time::Duration;

use super::{Name, Owner, Token};

/// The holder of a lock, as the storage reported it. The report may be outdated when it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The lock.
    pub name: Name,
    /// What kind of lock it is.
    pub kind: Kind,
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
        Self { name, kind: Kind::Mutex, owner, token, label: None, remaining, held_for: None, waiters: None }
    }
}

/// What a lock is. Kept in every record, so that a name is never two kinds at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// At most one holder.
    #[default]
    Mutex,
}

impl Kind {
    /// Returns the word kept in records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Mutex => "mutex",
        }
    }
}
