//! Maps whose keys are owner ids: the engine looks into one a few dozen times for each lock.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::storage::Owner;

pub(crate) type Owners<T> = HashMap<Owner, T, ByOwner>;

/// One multiplication: the ids are random already. Keyed all the same, as a ticket may carry one that was chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ByOwner(u64);

impl Default for ByOwner {
    fn default() -> Self {
        Self(RandomState::new().hash_one(()))
    }
}

impl BuildHasher for ByOwner {
    type Hasher = Fold;

    fn build_hasher(&self) -> Fold {
        Fold(self.0)
    }
}

pub(crate) struct Fold(u64);

impl Hasher for Fold {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u128(u128::from(*byte)));
    }

    fn write_u128(&mut self, id: u128) {
        let [low, high] = halves(id);
        let [low, high] = halves(u128::from(low ^ self.0) * u128::from(high ^ self.0.rotate_left(32)));
        self.0 = low ^ high;
    }
}

fn halves(n: u128) -> [u64; 2] {
    let low = u128::from(u64::MAX);
    [n & low, n >> 64].map(|half| u64::try_from(half).expect("BUG: half as long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_differ_in_one_bit_hash_apart() {
        let by_owner = ByOwner::default();
        let hashes: std::collections::HashSet<_> =
            (0..128).map(|bit| by_owner.hash_one(Owner::from_bytes((1_u128 << bit).to_be_bytes()))).collect();
        assert_eq!(hashes.len(), 128);
        assert_ne!(by_owner.0, ByOwner::default().0, "keyed");
    }
}
