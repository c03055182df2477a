use std::fmt;

/// The id of one acquisition: 128 random bits, used only once.
///
/// It is drawn before the first request is sent. A request whose answer was lost can therefore be repeated
/// or undone under the same id. It is shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(u128);

impl Owner {
    /// Draws a new id from the operating system's random source.
    ///
    /// # Panics
    ///
    /// If the operating system has no random source, which no supported platform allows once it is up.
    pub fn random() -> Self {
        let mut bytes = [0; 16];
        #[expect(clippy::disallowed_methods, reason = "the only source of random numbers")]
        getrandom::fill(&mut bytes).expect("the operating system has a random source");
        Self(u128::from_be_bytes(bytes))
    }

    /// Returns the id as 16 bytes, for storages that keep it as such.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// Returns the id with the bytes of [`Owner::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }

    /// Returns a number in `0..n` that depends only on this id and `salt`. It serves as jitter without
    /// another random source.
    pub(crate) fn spread(self, salt: u32, n: u64) -> u64 {
        // A multiplicative hash (Knuth); the id is random already, the salt only has to shuffle it.
        let mixed = (self.0 ^ u128::from(salt)).wrapping_mul(0x2d35_8dcc_aa6c_78a5_8bb8_4b93_962e_acc9);
        u64::try_from((mixed >> 64) % u128::from(std::cmp::max(n, 1))).expect("BUG: below a u64")
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Owner({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spread_returns_different_numbers_within_the_range() {
        let owner = Owner::random();
        let drawn: std::collections::HashSet<_> =
            (0..100).map(|salt| owner.spread(salt, 1_000_000)).collect();
        assert!(drawn.iter().all(|&x| x < 1_000_000));
        assert!(drawn.len() > 90, "{}", drawn.len());
        assert_eq!(owner.spread(7, 0), 0);
    }
}
