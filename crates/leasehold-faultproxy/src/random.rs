//! Random numbers from a seed.

/// A SplitMix64 generator, which gives the same numbers on every machine.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the generator of one direction of one connection: always the same, and independent of all others.
    pub(crate) fn of(connection: u64, direction: usize) -> Self {
        let direction = u64::try_from(direction).expect("BUG: there are two directions");
        let mut mixed = Self::new(connection.wrapping_mul(2).wrapping_add(direction).rotate_left(32));
        Self::new(mixed.next())
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}
