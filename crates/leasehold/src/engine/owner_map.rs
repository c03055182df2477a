//! Maps whose keys are owner ids. The engine looks into such a map a few dozen times for each lock.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};

use crate::storage::Owner;

pub(crate) type OwnerMap<T> = HashMap<Owner, T, OwnerHash>;

/// A hash of one multiplication, as owner ids are random already. It has a random key all the same, because a
/// ticket may carry an id that was chosen.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OwnerHash(u64);

impl Default for OwnerHash {
    fn default() -> Self {
        Self(RandomState::new().hash_one(()))
    }
}

impl BuildHasher for OwnerHash {
    type Hasher = OwnerHasher;

    fn build_hasher(&self) -> OwnerHasher {
        OwnerHasher(self.0)
    }
}

pub(crate) struct OwnerHasher(u64);

impl Hasher for OwnerHasher {
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
        let owner_hash = OwnerHash::default();
        let hashes: std::collections::HashSet<_> = (0..128)
            .map(|bit| owner_hash.hash_one(Owner::from_bytes((1_u128 << bit).to_be_bytes())))
            .collect();
        assert_eq!(hashes.len(), 128);
        assert_ne!(owner_hash.0, OwnerHash::default().0, "keyed");
    }
}
