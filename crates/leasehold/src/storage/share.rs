use crate::error::{Error, ErrorKind, Result};

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

    /// Makes a share of `permits` out of `limit`.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) if there are no permits, or more than the limit.
    pub fn new(permits: u32, limit: u32) -> Result<Self> {
        if permits == 0 || permits > limit {
            let text = "a share takes at least 1 permit, and no more than its limit";
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{text} permits=`{permits}` limit=`{limit}`"),
            ));
        }
        Ok(Self { permits, limit })
    }

    /// Refuses a share that a storage does not grant. `limit_max` is its [`Limits::share_max`](super::Limits::share_max).
    pub(super) fn check(self, limit_max: u32) -> Result<()> {
        let Self { permits, limit } = Self::new(self.permits, self.limit)?;
        if limit > limit_max {
            let text = if limit_max == 1 {
                "this storage grants exclusive locks only, one permit of one"
            } else {
                "the limit of a share is larger than this storage allows; use a smaller one"
            };
            let values = format!("permits=`{permits}` limit=`{limit}` max=`{limit_max}`");
            return Err(Error::new(ErrorKind::Unsupported, format!("{text} {values}")));
        }
        Ok(())
    }
}

impl Default for Share {
    /// Returns [`Share::EXCLUSIVE`].
    fn default() -> Self {
        Self::EXCLUSIVE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_has_permits_and_no_more_than_its_limit() {
        for (permits, limit) in [(0, 0), (0, 1), (2, 1), (u32::MAX, 5)] {
            assert_eq!(Share::new(permits, limit).expect_err("invalid").kind(), ErrorKind::Invalid);
            assert_eq!(Share { permits, limit }.check(9).expect_err("invalid").kind(), ErrorKind::Invalid);
        }
        for (permits, limit) in [(1, 1), (3, 5), (u32::MAX, u32::MAX)] {
            assert_eq!(Share::new(permits, limit).expect("valid"), Share { permits, limit });
        }
    }

    #[test]
    fn a_storage_grants_shares_up_to_its_limit() {
        let check = |permits, limit, max| Share { permits, limit }.check(max).map_err(|error| error.kind());
        assert_eq!(check(1, 1, 1), Ok(()));
        assert_eq!(check(1, 2, 1), Err(ErrorKind::Unsupported));
        assert_eq!(check(2, 5, 5), Ok(()));
        assert_eq!(check(2, 6, 5), Err(ErrorKind::Unsupported));
    }
}
