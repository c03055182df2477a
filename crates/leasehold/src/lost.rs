use std::fmt;

/// Says why a lock that was held is lost. Final: a lost lock is never held again by the same guard.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lost {
    /// The client was closed, or its engine has stopped.
    Closed,
    /// The local deadline passed before a renewal was answered.
    Expired,
    /// This process is a fork of the one that holds the lock. That one still does.
    Forked,
    /// `max_hold` was over.
    MaxHold,
    /// The storage says that the lease is not ours: it ended, was broken, or another client holds.
    Taken,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the client was closed",
            Self::Expired => "the lease ended before it could be renewed",
            Self::Forked => "this process is a fork of the holder",
            Self::MaxHold => "it was held for max_hold",
            Self::Taken => "the storage ended the lease",
        })
    }
}
