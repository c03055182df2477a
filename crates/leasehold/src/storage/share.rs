/// How much of a lock a claim takes: a number of permits, out of a limit on the permits of all holders together.
///
/// Shares fit together if the sum of their permits is at most the smallest of their limits. A claim is granted if its
/// share fits together with those of all live leases. An exclusive lock is one permit out of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Share {
    /// The number of permits that it takes; at least 1 and at most `limit`.
    pub permits: u32,
    /// The largest number of permits that all holders together may have while this one holds the lock; at least 1.
    pub limit: u32,
}

impl Share {
    /// The share of an exclusive lock: one permit out of one.
    pub const EXCLUSIVE: Self = Self { permits: 1, limit: 1 };
}

impl Default for Share {
    /// Returns [`Share::EXCLUSIVE`].
    fn default() -> Self {
        Self::EXCLUSIVE
    }
}
