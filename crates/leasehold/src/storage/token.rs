use std::fmt;

/// A fencing token, which orders the acquisitions of one name.
///
/// The token of each grant is larger than all earlier ones, also across releases, expiry and restarts.
///
/// Send it with every write to the resource that the lock protects. Let the resource refuse a token that is
/// smaller than the largest it has seen (Kleppmann, "How to do distributed locking", 2016). Only that check
/// makes a lock safe against a holder that was paused. A token is written in decimal digits, and is below 2^63
/// on every storage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(u64);

impl Token {
    /// Makes a token from the number that a storage gave.
    pub const fn new(token: u64) -> Self {
        Self(token)
    }

    /// Returns the number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.0)
    }
}
