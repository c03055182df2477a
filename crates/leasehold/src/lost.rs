use std::fmt;

/// The reason why a lock that was held is lost. Final: the same guard never holds it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Lost {
    /// The client was closed, or its engine has stopped.
    Closed,
    /// The local deadline passed before a renewal was answered.
    Expired,
    /// This process is a fork of the one that holds the lock. The parent still holds it.
    Forked,
    /// The lock was held for `max_hold`.
    MaxHold,
    /// A part of the program that shares the guard has released the lock.
    Released,
    /// The storage reported that the lease of this guard does not exist: it has expired, was broken, or another
    /// client holds the lock.
    Taken,
}

impl Lost {
    /// Returns the reason as one word: `closed`, `expired`, `forked`, `max-hold`, `released`, `taken`.
    /// [`Display`](fmt::Display) writes a sentence.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Expired => "expired",
            Self::Forked => "forked",
            Self::MaxHold => "max-hold",
            Self::Released => "released",
            Self::Taken => "taken",
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the client was closed",
            Self::Expired => "the lease ended before it could be renewed",
            Self::Forked => "this process is a fork of the holder",
            Self::MaxHold => "it was held for max_hold",
            Self::Released => "it was released",
            Self::Taken => "the storage ended the lease",
        })
    }
}
