use super::{Name, Token};

/// Where a page of a list ended: at the holder with this name and token. Ordered as lists are.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Cursor {
    /// The lock.
    pub name: Name,
    /// The token of the holder.
    pub token: Token,
}

impl Cursor {
    /// Makes the cursor of the holder of `name` with that token.
    pub const fn new(name: Name, token: Token) -> Self {
        Self { name, token }
    }
}
