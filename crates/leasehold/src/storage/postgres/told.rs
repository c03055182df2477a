//! Whom the server has told that it is their turn.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use crate::storage::{Claim, Owner};

/// Those whose next claim is likely to be granted.
#[derive(Default)]
pub(super) struct Told(Mutex<HashSet<Owner>>);

/// Some have left meanwhile, and never ask again.
const MOST: usize = 1024;

impl Told {
    pub(super) fn add(&self, owner: Owner) {
        let mut owners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if owners.len() == MOST {
            owners.clear();
        }
        owners.insert(owner);
    }

    /// Returns the places of those claims whose owners were told since they last asked.
    pub(super) fn take(&self, claims: &[Claim]) -> Vec<usize> {
        let mut owners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_told = |(i, claim): (usize, &Claim)| owners.remove(&claim.owner).then_some(i);
        claims.iter().enumerate().filter_map(is_told).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::storage::Name;

    #[test]
    fn who_is_told_counts_once_and_there_are_never_too_many() {
        let told = Told::default();
        let claims = [(); 3]
            .map(|()| Claim::new(Name::new("a").expect("valid"), Owner::random(), Duration::from_secs(1)));
        told.add(claims[1].owner);
        assert_eq!(told.take(&claims), [1]);
        assert_eq!(told.take(&claims), [0; 0]);
        (0..10 * MOST).for_each(|_| told.add(Owner::random()));
        assert!(told.0.lock().expect("not poisoned").len() <= MOST);
    }
}
