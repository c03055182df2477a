//! Random numbers that a seed reproduces.

use std::time::Duration;

/// A SplitMix64 generator, which gives the same numbers for the same seed on every machine.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Starts with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.draw() % std::cmp::max(n, 1)
    }

    /// Returns an index of a list of that length, or zero for an empty one.
    pub fn index(&mut self, length: usize) -> usize {
        let n = u64::try_from(length).unwrap_or(u64::MAX);
        usize::try_from(self.below(n)).unwrap_or(0)
    }

    /// Returns `true` with this probability, in percent.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Returns a duration of `from..to` milliseconds.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to.saturating_sub(from)))
    }

    /// Returns one of the choices.
    ///
    /// # Panics
    ///
    /// If there are none.
    pub fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        choices.get(self.index(choices.len())).expect("BUG: a choice among none")
    }
}
