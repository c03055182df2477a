//! Looks where owners stand whose keys exist: first, or behind others.

use std::sync::Arc;

use futures_util::future::join;

use super::acquire::{Item, Reply, granted, held};
use super::errors::Fault;
use super::holds::{Hold, Id};
use super::interests::Interest;
use super::keep::fault_of;
use super::leases::Lease;
use super::ops::{Answers, all, oldest, one, read, youngest};
use super::proto::{KeyValue, RequestOp};
use super::session::{Key, Session};
use crate::clock::Moment;
use crate::storage::{AcquireReply, Claim, RenewReply, WAITER_TTL};

/// An owner with a key.
struct Owned<'a> {
    item: Item<'a>,
    id: Id,
    created: i64,
    lease: Option<Arc<Lease>>,
    label: Option<Arc<str>>,
}

/// What was read for an owner: its key, the one before it, and the oldest.
type Seen = (Option<KeyValue>, Option<KeyValue>, Option<KeyValue>);

/// How an owner stands.
enum Standing {
    /// It has no key any more.
    Missing,
    /// It is answered.
    Answered(AcquireReply),
    /// It is the first, on a lease that does not fit.
    First,
}

impl Owned<'_> {
    /// Returns how long its lease lets it hold, if that is one of this client.
    fn ttl(&self) -> Option<std::time::Duration> {
        let (lease, claim) = (self.lease.as_ref()?, self.item.1);
        Some(if lease.span >= claim.ttl { claim.ttl } else { WAITER_TTL })
    }
}

impl Session {
    /// Looks where the owners stand whose keys exist. Returns the replies, and the claims without a key.
    pub(super) async fn look<'a>(&self, items: Vec<Item<'a>>, sent: Moment) -> (Vec<Reply>, Vec<Item<'a>>) {
        let (mut replies, mut missing, mut first) = (Vec::new(), Vec::new(), Vec::new());
        let mut owned = Vec::with_capacity(items.len());
        for item in items {
            let id = Id::of(item.1);
            let end = sent.after(WAITER_TTL);
            let extend = |hold: &mut Hold| hold.end = std::cmp::max(hold.end, end);
            let is_kept = self.holds.extend(&id, self.api.now(), extend);
            match self.holds.get(&id).filter(|_| is_kept) {
                Some(Hold { created: Some(created), lease, label, .. }) => {
                    let lease = lease.filter(|lease| !lease.is_forgotten());
                    owned.push(Owned { item, id, created, lease, label });
                }
                _ => missing.push(item),
            }
        }
        if owned.is_empty() {
            return (replies, missing);
        }
        let need = |one: &Owned<'_>| Some((one.lease.clone()?, sent.after(one.ttl()?)));
        let needs: Vec<_> = owned.iter().filter_map(need).collect();
        let (kept, seen) = join(self.keep_all(&needs), self.read_standings(&owned)).await;
        let seen = match seen {
            Ok(seen) => seen,
            Err(fault) => {
                replies.extend(owned.iter().map(|one| (one.item.0, Err(fault.clone()))));
                return (replies, missing);
            }
        };
        for (one, seen) in owned.into_iter().zip(seen) {
            let standing = match fault_of(&kept, one.lease.as_deref()) {
                Some(fault) => Err(fault),
                None => self.standing(&one, seen, sent).await,
            };
            match standing {
                Ok(Standing::Missing) => missing.push(one.item),
                Ok(Standing::Answered(reply)) => replies.push((one.item.0, Ok(reply))),
                Ok(Standing::First) => first.push(one.item),
                Err(fault) => replies.push((one.item.0, Err(fault))),
            }
        }
        let (held, lost) = self.hold(first, sent).await;
        replies.extend(held);
        missing.extend(lost);
        (replies, missing)
    }

    async fn read_standings(&self, owned: &[Owned<'_>]) -> Result<Vec<Seen>, Fault> {
        let reads = owned.iter().flat_map(|one| self.reads(one.item.1, one.created)).collect();
        let mut answers = Answers::of(self.api.txn(&all(reads)).await?.responses);
        owned.iter().map(|_| Ok((answers.kv()?, answers.kv()?, answers.kv()?))).collect()
    }

    fn reads(&self, claim: &Claim, created: i64) -> [RequestOp; 3] {
        let range = || self.keys.range(&claim.name);
        [
            read(one(self.keys.key(&claim.name, claim.owner))),
            read(youngest(range(), 1, created - 1)),
            read(oldest(range(), 1)),
        ]
    }

    async fn standing(
        &self,
        one: &Owned<'_>,
        (own, before, oldest): Seen,
        sent: Moment,
    ) -> Result<Standing, Fault> {
        let claim = one.item.1;
        if own.is_none_or(|own| own.create_revision != one.created) {
            self.has_none(None, &one.id);
            return Ok(Standing::Missing);
        }
        if let Some(held) = self.stand(claim, one.created, oldest, before).await? {
            return Ok(Standing::Answered(held));
        }
        match (one.ttl(), &one.lease) {
            // It is its turn. The lease of a waiter is enough to begin with; the engine renews it soon.
            (Some(ttl), Some(lease)) if ttl == claim.ttl || claim.wait => {
                let (lease, label) = (Some(Arc::clone(lease)), one.label.clone());
                let key = Key { created: one.created, lease, label, holds: true };
                if !self.saw_key(&one.id, &key, sent.after(ttl)) {
                    return Ok(Standing::Missing);
                }
                Ok(Standing::Answered(granted(one.created, ttl)))
            }
            _ => Ok(Standing::First),
        }
    }

    /// Answers an owner whose key others precede, and listens for the end of the one before it. `None` if it is the first.
    pub(super) async fn stand(
        &self,
        claim: &Claim,
        created: i64,
        oldest: Option<KeyValue>,
        before: Option<KeyValue>,
    ) -> Result<Option<AcquireReply>, Fault> {
        let is_other = |kv: &KeyValue| !self.keys.is_of(&claim.name, &kv.key);
        let (mut oldest, mut before) = (oldest, before);
        if oldest.as_ref().is_some_and(is_other) || before.as_ref().is_some_and(is_other) {
            // Keys of locks with longer names stand between.
            let mut all = self.owners(&claim.name).await?;
            all.retain(|kv| kv.create_revision < created);
            (oldest, before) = (all.first().cloned(), all.pop());
        }
        let Some(before) = before else { return Ok(None) };
        if claim.wait {
            self.interests.set(&Id::of(claim), Interest::Turn { before: before.key.clone() });
        }
        Ok(Some(held(self.holder(&claim.name, &oldest.unwrap_or(before)))))
    }

    /// Extends what owners hold already. Returns the replies, and the claims of owners that hold nothing any more.
    pub(super) async fn hold<'a>(&self, items: Vec<Item<'a>>, sent: Moment) -> (Vec<Reply>, Vec<Item<'a>>) {
        let (mut replies, mut lost) = (Vec::new(), Vec::new());
        if items.is_empty() {
            return (replies, lost);
        }
        let claims: Vec<_> =
            items.iter().map(|(_, claim)| Claim { shorten: false, ..(*claim).clone() }).collect();
        let renewed = self.renew(&claims, sent).await;
        for (item, reply) in items.into_iter().zip(renewed) {
            let created = self.holds.get(&Id::of(item.1)).and_then(|hold| hold.created);
            match (reply, created) {
                (Ok(RenewReply::Renewed { ttl }), Some(created)) => {
                    replies.push((item.0, Ok(granted(created, ttl))))
                }
                (Ok(_), _) => lost.push(item),
                (Err(fault), _) => replies.push((item.0, Err(fault))),
            }
        }
        (replies, lost)
    }
}
