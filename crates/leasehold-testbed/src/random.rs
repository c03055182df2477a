//! Randomness for names and ports, which nobody has to be unable to guess.

use std::hash::{BuildHasher as _, RandomState};

pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
