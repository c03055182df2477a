/// How much of a lock a claim takes: some permits, of at most so many that may be out while it holds.
///
/// Shares fit together if their permits add up to no more than the least of their limits. A claim is granted if its share
/// fits beside those of all leases that live. An exclusive lock is one permit of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Share {
    /// How many permits it takes; at least 1, at most `limit`.
    pub permits: u32,
    /// How many permits of all holders together may be out while it holds; at least 1.
    pub limit: u32,
}

impl Share {
    /// The share of an exclusive lock: one permit of one.
    pub const EXCLUSIVE: Self = Self { permits: 1, limit: 1 };
}

impl Default for Share {
    /// Returns [`Share::EXCLUSIVE`].
    fn default() -> Self {
        Self::EXCLUSIVE
    }
}
