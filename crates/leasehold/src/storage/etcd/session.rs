//! What the calls of this client share.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use futures_util::future::try_join_all;

use super::api::Api;
use super::errors::Fault;
use super::holds::{Hold, Holds, Id, InFlight, Sent};
use super::interests::{Interest, Interests};
use super::keys::Keys;
use super::leases::{Lease, Leases};
use super::ops::{Answers, all, nested, put, revision};
use super::proto::{KeyValue, TxnRequest, TxnResponse};
use crate::clock::Moment;
use crate::storage::{Claim, WAITER_TTL};

/// The state of this client.
pub(super) struct Session {
    pub(super) api: Api,
    /// How many claims a transaction may have at this server.
    pub(super) batch_max: usize,
    pub(super) keys: Keys,
    pub(super) holds: Holds,
    pub(super) leases: Arc<Leases>,
    pub(super) interests: Interests,
    /// Whether the storage is gone. Then only what its last claims may have left is deleted.
    pub(super) is_closing: AtomicBool,
    /// Held while overdue keys are deleted.
    pub(super) sweeping: tokio::sync::Mutex<()>,
}

/// A claim that is about to be sent, with the leases for its key.
#[derive(Clone)]
pub(super) struct Planned<'a> {
    pub(super) claim: &'a Claim,
    pub(super) id: Id,
    /// The lease of a holder.
    pub(super) holding: Arc<Lease>,
    /// The lease of a waiter; the same, if both are as long.
    pub(super) waiting: Arc<Lease>,
}

impl Planned<'_> {
    /// Returns the lease with that id, if it is one of its own.
    pub(super) fn lease(&self, id: i64) -> Option<Arc<Lease>> {
        [&self.holding, &self.waiting].into_iter().find(|lease| lease.id == id).map(Arc::clone)
    }

    /// Returns its leases, with their gates as they are now.
    pub(super) fn gates(&self) -> Vec<(Arc<Lease>, i64)> {
        let gate = |lease: &Arc<Lease>| (Arc::clone(lease), lease.gate());
        let waiting = (self.waiting.id != self.holding.id).then(|| gate(&self.waiting));
        [gate(&self.holding)].into_iter().chain(waiting).collect()
    }
}

impl Session {
    /// Finds the leases for a claim.
    pub(super) async fn plan<'a>(&self, claim: &'a Claim) -> Result<Planned<'a>, Fault> {
        let (holding, waiting) =
            tokio::try_join!(self.leases.get(&self.api, claim.ttl), self.leases.get(&self.api, WAITER_TTL),)?;
        Ok(Planned { claim, id: Id::of(claim), holding, waiting })
    }

    /// Returns what is recorded of a write with these leases, which was sent at `sent`.
    pub(super) fn sent(leases: Vec<(Arc<Lease>, i64)>, claim: &Claim, sent: Moment) -> Sent {
        // The engine claims again, or releases, as soon as the patience is over.
        Sent { leases, until: sent.after(claim.patience.saturating_add(GRACE)) }
    }

    /// Shuts the gates of these leases: what was sent before and is executed later changes nothing.
    pub(super) async fn shut(&self, leases: &[Arc<Lease>]) -> Result<(), Fault> {
        try_join_all(leases.iter().map(|lease| self.shut_one(lease))).await.map(drop)
    }

    async fn shut_one(&self, lease: &Arc<Lease>) -> Result<(), Fault> {
        let request = all(vec![put(self.keys.gate(lease.id), Vec::new(), lease.id)]);
        match self.alone(request).await {
            Ok((revision, _)) => {
                // In this order: a deletion that is sent meanwhile has the new gate, or leaves the mark where it is.
                lease.set_unsettled(false);
                lease.shut(revision);
                Ok(())
            }
            Err(fault) if fault.is_lease_gone() => {
                self.lease_ended(lease);
                Ok(())
            }
            Err(fault) => Err(fault),
        }
    }

    /// Records that a lease has ended, with all keys on it.
    pub(super) fn lease_ended(&self, lease: &Lease) {
        lease.end();
        for id in self.holds.on(lease) {
            self.holds.change_known(&id, |hold| {
                (hold.created, hold.lease, hold.is_granted) = (None, None, false);
            });
        }
    }

    /// Finds out which of these leases have ended, after the server has said that one has.
    pub(super) async fn find_ended(&self, leases: impl Iterator<Item = Arc<Lease>>) -> Result<(), Fault> {
        for lease in leases {
            if !lease.has_ended() && self.api.time_to_live(lease.id).await? < 0 {
                self.lease_ended(&lease);
            }
        }
        Ok(())
    }

    /// Records that an owner has a key, as the answer to a write in flight.
    pub(super) fn has_key(&self, in_flight: &mut InFlight<'_>, id: &Id, kv: &Key, end: Moment) {
        in_flight.answered(id, |hold| kv.record(hold, end));
        self.heed(id, kv);
    }

    /// Records that an owner has a key, as it was read. Returns `false` if the key is overdue, so that it may be deleted since.
    #[must_use]
    pub(super) fn saw_key(&self, id: &Id, kv: &Key, end: Moment) -> bool {
        let is_kept = self.holds.extend(id, self.api.now(), |hold| kv.record(hold, end));
        if is_kept {
            self.heed(id, kv);
        }
        is_kept
    }

    /// Listens for the end of a key whose owner is told that it holds the lock.
    fn heed(&self, id: &Id, kv: &Key) {
        if kv.holds {
            let lease = kv.lease.as_ref().map_or(0, |lease| lease.id);
            self.interests.set(id, Interest::Hold { lease });
        }
    }

    /// Records that an owner has no key, as the answer to a write in flight or to a read.
    pub(super) fn has_none(&self, in_flight: Option<&mut InFlight<'_>>, id: &Id) {
        let record = |hold: &mut Hold| (hold.created, hold.lease, hold.is_granted) = (None, None, false);
        match in_flight {
            Some(in_flight) => in_flight.answered(id, record),
            None => self.holds.change_known(id, record),
        }
        self.interests.remove(id);
    }

    /// Sends transactions that are independent of each other, as one.
    ///
    /// A server that is full refuses transactions with a put, but overlooks those that are nested. So locks that are held can
    /// be renewed and released, whatever they put. `is_new` says that these must be refused: the branch that is never taken
    /// has a put.
    pub(super) async fn together(
        &self,
        txns: Vec<TxnRequest>,
        is_new: bool,
    ) -> Result<(i64, Vec<TxnResponse>), Fault> {
        let n = txns.len();
        let failure = if is_new { vec![put(self.keys.probe(), Vec::new(), 0)] } else { Vec::new() };
        let success = txns.into_iter().map(nested).collect();
        let answer = self.api.txn(&TxnRequest { compare: Vec::new(), success, failure }).await?;
        let revision = revision(&answer)?;
        let mut answers = Answers::of(answer.responses);
        let answers = (0..n).map(|_| answers.txn()).collect::<Result<_, _>>()?;
        Ok((revision, answers))
    }

    /// Sends one transaction, which a full server executes, too.
    pub(super) async fn alone(&self, txn: TxnRequest) -> Result<(i64, TxnResponse), Fault> {
        let (revision, mut answers) = self.together(vec![txn], false).await?;
        Ok((revision, answers.pop().ok_or(Fault::Broken)?))
    }

    /// Reads the keys of a lock's owners, from the oldest to the youngest.
    pub(super) async fn owners(&self, name: &crate::storage::Name) -> Result<Vec<KeyValue>, Fault> {
        let answer = self.api.range(&super::ops::oldest(self.keys.range(name), 0)).await?;
        Ok(answer.kvs.into_iter().filter(|kv| self.keys.is_of(name, &kv.key)).collect())
    }
}

/// What an answer tells of the key of an owner.
pub(super) struct Key {
    /// The revision that created it.
    pub(super) created: i64,
    /// The lease, if it is one of this client.
    pub(super) lease: Option<Arc<Lease>>,
    pub(super) label: Option<Arc<str>>,
    /// Whether the owner is told that it holds the lock.
    pub(super) holds: bool,
}

impl Key {
    fn record(&self, hold: &mut Hold, end: Moment) {
        (hold.created, hold.lease) = (Some(self.created), self.lease.clone());
        hold.label.clone_from(&self.label);
        // Nothing was promised to an owner that waited but its place.
        let is_first = self.holds && !hold.is_granted;
        hold.end = if is_first { end } else { std::cmp::max(hold.end, end) };
        hold.is_granted |= self.holds;
    }
}

/// How long after its patience a claim without an answer is undone, if the engine does not do it.
pub(super) const GRACE: Duration = Duration::from_millis(500);
