//! Callers that take several locks at once: the real `All`, whose futures the simulator polls.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt;

use super::client::Ending;
use super::schedule::Random;
use crate::all::All;
use crate::engine::handle::MakeOwner;
use crate::error::Result;
use crate::guard::Guard;
use crate::guards::Guards;
use crate::storage::Owner;

/// The callers of one client that take several locks at once.
pub(super) struct Together {
    callers: Vec<Caller>,
    pub(super) groups: Vec<Guards>,
    /// The owners of the guards in `groups` that were seen to be lost.
    pub(super) over: BTreeSet<Owner>,
    /// The owner ids that were made since the last poll of a caller.
    made: Arc<Mutex<Vec<Owner>>>,
    /// The owner ids that the simulator does not know yet.
    fresh: Vec<Owner>,
}

/// A caller that waits for several locks.
struct Caller {
    future: Pin<Box<dyn Future<Output = Result<Guards>>>>,
    /// The owners of its acquisitions so far.
    owners: Vec<Owner>,
    /// How many locks it wants.
    names: usize,
}

impl Together {
    /// Makes the callers of a client, and what makes its owner ids, the same for the same seed, and notes them in `made`.
    pub(super) fn new(seed: u64, made: Arc<Mutex<Vec<Owner>>>) -> (Self, MakeOwner) {
        let random = Mutex::new(Random::new(seed));
        let keep = Arc::clone(&made);
        let make_owner: MakeOwner = Box::new(move || {
            let owner = random.lock().unwrap_or_else(PoisonError::into_inner).owner();
            keep.lock().unwrap_or_else(PoisonError::into_inner).push(owner);
            owner
        });
        let (over, fresh) = (BTreeSet::new(), Vec::new());
        (Self { callers: Vec::new(), groups: Vec::new(), over, made, fresh }, make_owner)
    }

    /// Starts to acquire several locks.
    pub(super) fn acquire(&mut self, all: All, names: usize) {
        let future = Box::pin(async move { all.acquire().await });
        self.callers.push(Caller { future, owners: Vec::new(), names });
        self.poll();
    }

    /// Lets the callers take what has arrived for them. Returns `true` if one has made a request or has ended.
    pub(super) fn poll(&mut self) -> bool {
        let mut busy = false;
        let Self { callers, groups, made, fresh, .. } = self;
        callers.retain_mut(|caller| {
            let ended = caller.future.as_mut().now_or_never();
            let made = std::mem::take(&mut *made.lock().unwrap_or_else(PoisonError::into_inner));
            busy |= !made.is_empty() || ended.is_some();
            caller.owners.extend(&made);
            fresh.extend(made);
            let waits = ended.is_none();
            if let Some(Ok(guards)) = ended {
                assert_eq!(guards.len(), caller.names, "all or none");
                groups.push(guards);
            }
            waits
        });
        busy
    }

    /// Returns the owner ids that were made since the last time.
    pub(super) fn take_fresh(&mut self) -> Vec<Owner> {
        std::mem::take(&mut self.fresh)
    }

    /// Drops the future of a caller that waits.
    pub(super) fn leave(&mut self, place: usize) {
        drop(self.callers.remove(place));
    }

    /// Ends the guards of a group. Returns the grants and the future of the release, if it is one.
    pub(super) fn give_back(
        &mut self,
        place: usize,
        ending: Ending,
    ) -> Option<(Vec<super::client::Grant>, super::client::Releasing)> {
        let guards = self.groups.remove(place);
        let grants = guards.iter().map(|guard| (guard.name().clone(), guard.token())).collect();
        match ending {
            Ending::Release => Some((grants, Box::pin(guards.release()))),
            Ending::Drop | Ending::Forget => None,
        }
    }

    /// Returns the guards of all groups.
    pub(super) fn guards(&self) -> impl Iterator<Item = &Guard> {
        self.groups.iter().flat_map(|group| group.iter())
    }

    /// Returns how many callers wait.
    pub(super) fn waiting(&self) -> usize {
        self.callers.len()
    }

    /// Returns how many locks its callers hold at most, in groups and while they wait.
    pub(super) fn most_held(&self) -> usize {
        self.guards().count() + self.callers.iter().map(|caller| caller.names).sum::<usize>()
    }

    /// Returns `true` if a caller has made that owner id and waits, or has its guard.
    pub(super) fn wants(&self, owner: Owner) -> bool {
        self.callers.iter().any(|caller| caller.owners.contains(&owner))
            || self.guards().any(|guard| guard.owner() == owner)
    }

    /// Ends with its client, at once.
    pub(super) fn crash(&mut self) {
        self.callers.clear();
        self.groups.clear();
        self.over.clear();
    }
}
