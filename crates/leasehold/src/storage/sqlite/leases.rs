//! The leases of this storage's owners, as far as it knows. If the lock file is replaced, these owners are hinted.

use std::collections::HashMap;

use super::job::{Done, Job};
use crate::clock::Moment;
use crate::storage::{AcquireReply, Claim, Name, Owner, ReleaseReply, RenewReply};

/// The leases that were granted or renewed through this storage, and not released through it.
#[derive(Debug, Default)]
pub(super) struct Leases(HashMap<Owner, Lease>);

#[derive(Debug)]
struct Lease {
    name: Name,
    until: Moment,
    /// Whether this storage granted the lease, and did not only renew it.
    is_granted: bool,
}

impl Leases {
    /// Updates the set by the answers to a job.
    pub(super) fn update(&mut self, job: &Job, done: &Done, now: Moment) {
        match (job, done) {
            (Job::Acquire { claims, .. }, Done::Acquire(done)) => {
                for (claim, answer) in claims.iter().zip(done) {
                    if let Ok(AcquireReply::Granted { .. }) = answer {
                        self.add(claim, now, true);
                    }
                }
            }
            (Job::Renew { claims, .. }, Done::Renew(done)) => {
                for (claim, answer) in claims.iter().zip(done) {
                    match answer {
                        Ok(RenewReply::Renewed { .. }) => self.add(claim, now, self.is_granted(claim.owner)),
                        Ok(RenewReply::NotHeld) => self.remove(claim.owner),
                        Err(_) => {}
                    }
                }
            }
            (Job::Release { claims, .. }, Done::Release(done)) => {
                for (claim, answer) in claims.iter().zip(done) {
                    if let Ok(ReleaseReply::Released | ReleaseReply::NotHeld) = answer {
                        self.remove(claim.owner);
                    }
                }
            }
            _ => {}
        }
    }

    /// Adds the leases of another set.
    pub(super) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = Owner> + '_ {
        self.0.keys().copied()
    }

    pub(super) fn holds(&self, owner: Owner) -> bool {
        self.0.contains_key(&owner)
    }

    /// Returns `true` if this storage granted the owner's lease.
    pub(super) fn is_granted(&self, owner: Owner) -> bool {
        self.0.get(&owner).is_some_and(|lease| lease.is_granted)
    }

    pub(super) fn has_name(&self, name: &Name) -> bool {
        self.0.values().any(|lease| lease.name == *name)
    }

    fn add(&mut self, claim: &Claim, now: Moment, is_granted: bool) {
        // Some leases are never released here: their tickets were resumed by another storage.
        if self.0.len() >= 64 && self.0.len().is_power_of_two() {
            self.0.retain(|_, lease| lease.until > now);
        }
        let lease = Lease { name: claim.name.clone(), until: now.after(claim.ttl), is_granted };
        self.0.insert(claim.owner, lease);
    }

    fn remove(&mut self, owner: Owner) {
        self.0.remove(&owner);
    }
}
