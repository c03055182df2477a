//! The ids that tell one acquisition from another of the same owner, and one call from another of the same acquisition.

use crate::clock::Moment;
use crate::storage::Owner;

/// The id of an acquisition. A resumed ticket has the owner of an earlier acquisition and another generation. So a
/// reply or a command for the earlier one never reaches the later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    pub(crate) owner: Owner,
    pub(crate) generation: u64,
}

/// The number of a claim or of an inspection. An engine uses each number once, so that a late reply is recognized by
/// comparing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct CallId(pub(crate) u64);

/// A call that was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) id: CallId,
    pub(crate) sent: Moment,
}

#[cfg(test)]
impl Call {
    /// Makes a call for a unit test, where the time of sending tells calls apart.
    pub(crate) fn at(sent: Moment) -> Self {
        Self { id: CallId(sent.as_nanos()), sent }
    }
}
