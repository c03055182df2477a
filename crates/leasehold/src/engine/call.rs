//! What tells one acquisition from another of the same owner, and one call from another of the same acquisition.

use crate::clock::Moment;
use crate::storage::Owner;

/// One acquisition. A ticket that is resumed has the owner of an earlier acquisition, and another generation: what was
/// asked for the earlier one never reaches the later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) owner: Owner,
    pub(crate) generation: u64,
}

/// A claim that waits in a lane or is in flight, or a look that is. No two of an engine have the same number, so a
/// late answer is told from the one that is waited for by comparing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallId(pub(crate) u64);

/// A call that has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) id: CallId,
    pub(crate) sent: Moment,
}

#[cfg(test)]
impl Call {
    /// A call of a test, told from others by when it was sent.
    pub(crate) fn at(sent: Moment) -> Self {
        Self { id: CallId(sent.as_nanos()), sent }
    }
}
