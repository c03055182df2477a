//! The storage of the simulator: the contract once more, with the time as an argument.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use super::Sabotage;
use crate::clock::nanos;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{
    AcquireReply, Claim, Hint, Holder, Name, Owner, ReleaseReply, RenewReply, Token, WAITER_TTL,
};

#[derive(Default)]
pub(super) struct Model {
    pub(super) locks: BTreeMap<Name, Record>,
    pub(super) fair: bool,
    /// `true` if waiters are granted a shorter lease than they asked for.
    pub(super) short_handovers: bool,
    pub(super) sabotage: Option<Sabotage>,
    /// The hints that are not sent yet.
    pub(super) hints: Vec<Hint>,
    /// Leases that had ended by themselves before the lock was granted again.
    pub(super) overtaken: HashSet<(Name, Token)>,
    /// The grants since the simulator last took them.
    pub(super) grants: Vec<(Name, Owner, Token)>,
}

#[derive(Default)]
pub(super) struct Record {
    last: u64,
    pub(super) lease: Option<Lease>,
    pub(super) queue: VecDeque<Entry>,
}

#[derive(Clone)]
pub(super) struct Lease {
    pub(super) owner: Owner,
    pub(super) until: u64,
}

pub(super) struct Entry {
    pub(super) owner: Owner,
    pub(super) until: u64,
}

impl Model {
    /// Executes a claim, which comes too late at `not_after`. All times are of the storage's clock.
    pub(super) fn acquire(&mut self, claim: &Claim, not_after: u64, now: u64) -> Result<AcquireReply> {
        if now >= not_after && self.sabotage != Some(Sabotage::IgnoresPatience) {
            return Err(too_late());
        }
        let shortens = self.sabotage == Some(Sabotage::ShortensWithEveryRenewal);
        let record = self.locks.entry(claim.name.clone()).or_default();
        let until = now + nanos(claim.ttl);
        if let Some(lease) = record.live(now)
            && lease.owner == claim.owner
        {
            lease.until = if shortens { until } else { std::cmp::max(lease.until, until) };
            return Ok(AcquireReply::Granted { token: Token::new(record.last), ttl: claim.ttl });
        }
        let turn = record.first(now).is_none_or(|first| first == claim.owner);
        if record.live(now).is_none() && (turn || !self.fair) {
            record.queue.retain(|entry| entry.owner != claim.owner);
            let before = Token::new(record.last);
            record.last = match self.sabotage {
                Some(Sabotage::TokensRestart) if record.lease.is_none() => 1,
                _ => std::cmp::max(record.last + 1, now / 1000),
            };
            let given = if self.short_handovers && claim.wait { claim.ttl / 4 * 3 } else { claim.ttl };
            let until = now + nanos(given);
            if record.lease.replace(Lease { owner: claim.owner, until }).is_some() {
                self.overtaken.insert((claim.name.clone(), before));
            }
            let token = Token::new(record.last);
            self.grants.push((claim.name.clone(), claim.owner, token));
            let ignored = self.sabotage == Some(Sabotage::BelievesTheClaim);
            return Ok(AcquireReply::Granted { token, ttl: if ignored { claim.ttl } else { given } });
        }
        if claim.wait && self.fair {
            record.enqueue(claim.owner, now + nanos(WAITER_TTL));
        }
        let holder = record.holder(&claim.name, now);
        let retry_after = holder.as_ref().map(|holder| holder.remaining);
        Ok(AcquireReply::Held { holder, retry_after })
    }

    /// Executes a renewal. One that shortens comes too late at `not_after`.
    pub(super) fn renew(&mut self, claim: &Claim, not_after: u64, now: u64) -> Result<RenewReply> {
        let late_is_fine = self.sabotage == Some(Sabotage::ShortenWithoutPatience);
        if claim.shorten && now >= not_after && !late_is_fine {
            return Err(too_late());
        }
        let shortens = claim.shorten || self.sabotage == Some(Sabotage::ShortensWithEveryRenewal);
        let upserts = self.sabotage == Some(Sabotage::RenewsAsUpsert);
        let Some(record) = self.locks.get_mut(&claim.name) else {
            return Ok(RenewReply::NotHeld);
        };
        let until = now + nanos(claim.ttl);
        match record.live(now) {
            Some(lease) if lease.owner == claim.owner => {
                // With the planted defect no hint is sent, or the owner would learn of it at once.
                if claim.shorten && until < lease.until && !late_is_fine {
                    self.hints.push(Hint::Owner(claim.owner));
                }
                lease.until = if shortens { until } else { std::cmp::max(lease.until, until) };
            }
            None if upserts => record.lease = Some(Lease { owner: claim.owner, until }),
            _ => return Ok(RenewReply::NotHeld),
        }
        Ok(RenewReply::Renewed { ttl: claim.ttl })
    }

    pub(super) fn release(&mut self, claim: &Claim, now: u64) -> ReleaseReply {
        let Some(record) = self.locks.get_mut(&claim.name) else {
            return ReleaseReply::NotHeld;
        };
        if self.sabotage != Some(Sabotage::KeepsEntries) {
            record.queue.retain(|entry| entry.owner != claim.owner);
        }
        let any_owner = self.sabotage == Some(Sabotage::ReleasesForAnyOwner);
        let held = record.live(now).is_some_and(|lease| lease.owner == claim.owner || any_owner);
        if held {
            record.lease = None;
            self.hints.push(Hint::Owner(claim.owner));
        }
        if record.live(now).is_none()
            && let Some(next) = record.first(now)
        {
            self.hints.push(Hint::Owner(next));
        }
        if held { ReleaseReply::Released } else { ReleaseReply::NotHeld }
    }

    pub(super) fn inspect(&mut self, name: &Name, now: u64) -> Option<Holder> {
        self.locks.get_mut(name)?.holder(name, now)
    }

    /// Forgets every lease and every waiter, like a server that keeps nothing on disk.
    pub(super) fn forget(&mut self) {
        self.locks.clear();
    }
}

fn too_late() -> Error {
    Error::new(ErrorKind::Unavailable, "the claim came too late")
}

impl Record {
    pub(super) fn live(&mut self, now: u64) -> Option<&mut Lease> {
        self.lease.as_mut().filter(|lease| lease.until > now)
    }

    fn first(&mut self, now: u64) -> Option<Owner> {
        while self.queue.front().is_some_and(|entry| entry.until <= now) {
            self.queue.pop_front();
        }
        self.queue.front().map(|entry| entry.owner)
    }

    fn enqueue(&mut self, owner: Owner, until: u64) {
        match self.queue.iter_mut().find(|entry| entry.owner == owner) {
            Some(entry) => entry.until = until,
            None => self.queue.push_back(Entry { owner, until }),
        }
    }

    fn holder(&mut self, name: &Name, now: u64) -> Option<Holder> {
        let token = Token::new(self.last);
        let lease = self.live(now)?;
        Some(Holder::new(name.clone(), lease.owner, token, Duration::from_nanos(lease.until - now)))
    }
}
