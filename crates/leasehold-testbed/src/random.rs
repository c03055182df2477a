//! Random numbers for names and ports, which need not be unpredictable.

use std::hash::{BuildHasher as _, RandomState};

pub(crate) fn random() -> u64 {
    RandomState::new().hash_one(std::process::id())
}
