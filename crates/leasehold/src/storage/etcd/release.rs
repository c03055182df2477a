//! Releases locks: deletes the keys of owners.

use std::sync::Arc;

use super::errors::Fault;
use super::facts::GATES_MAX;
use super::holds::{Hold, Id, distinct};
use super::leases::Lease;
use super::ops::{Answers, all, changed_by, delete, nested, oldest, one, put, read, revision};
use super::proto::{KeyValue, RequestOp, TxnRequest};
use super::session::Session;
use crate::storage::{Claim, ReleaseReply};

/// How often a release is sent in one call, if a lease has ended meanwhile.
const ROUNDS: u32 = 4;

impl Session {
    /// Answers each claim.
    pub(super) async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply, Fault>> {
        let ids: Vec<_> = claims.iter().map(Id::of).collect();
        ids.iter().for_each(|id| self.interests.remove(id));
        for _ in 0..ROUNDS {
            let holds: Vec<_> = ids.iter().map(|id| self.holds.get(id)).collect();
            // Under these, a claim of one of the owners may still be executed.
            let mut leases = distinct(holds.iter().flatten().flat_map(Hold::open_leases));
            if leases.len() > GATES_MAX {
                // Claims for many different TTLs are unknown, and their gates are too many for one transaction.
                if let Err(fault) = self.shut(&leases).await {
                    return claims.iter().map(|_| Err(fault.clone())).collect();
                }
                leases.clear();
            }
            match self.release_once(&ids, &leases).await {
                Err(fault) if fault.is_lease_gone() => {
                    if let Err(fault) = self.find_ended(leases.into_iter()).await {
                        return claims.iter().map(|_| Err(fault.clone())).collect();
                    }
                }
                Err(fault) => return claims.iter().map(|_| Err(fault.clone())).collect(),
                Ok((revision, replies)) => {
                    for (id, hold) in ids.iter().zip(holds) {
                        let sent = hold.map(|hold| hold.sent()).unwrap_or_default();
                        self.holds.forget(id, revision, &sent);
                    }
                    return replies.into_iter().map(Ok).collect();
                }
            }
        }
        claims.iter().map(|_| Err(Fault::Broken)).collect()
    }

    /// Deletes the keys, and in the same step shuts the gates of these leases. So no claim that was sent before is executed
    /// afterward.
    async fn release_once(
        &self,
        ids: &[Id],
        leases: &[Arc<Lease>],
    ) -> Result<(i64, Vec<ReleaseReply>), Fault> {
        let known: Vec<_> = ids.iter().map(|id| self.holds.get(id)).collect();
        let is_granted = |hold: &Option<Hold>| hold.as_ref().is_some_and(|hold| hold.is_granted);
        let shut = leases.iter().map(|lease| self.shutting(lease));
        let deletions = ids.iter().zip(&known).flat_map(|(id, known)| {
            let key = self.keys.key(&id.name, id.owner);
            // Whether it holds or waits is known if it was granted.
            let stands = (!is_granted(known))
                .then(|| [read(oldest(self.keys.range(&id.name), 1)), read(one(key.clone()))]);
            stands.into_iter().flatten().chain([delete(key)])
        });
        let answer = self.api.txn(&all(shut.chain(deletions).collect())).await?;
        let revision = revision(&answer)?;
        let mut answers = Answers::of(answer.responses);
        for lease in leases {
            let shut = answers.txn()?;
            if shut.succeeded {
                lease.shut(revision);
            } else {
                let gate = Answers::of(shut.responses).kv()?;
                lease.saw_gate(gate.map_or(0, |gate| gate.mod_revision), revision);
            }
        }
        let mut replies = Vec::with_capacity(ids.len());
        for (id, known) in ids.iter().zip(known) {
            let held = if is_granted(&known) {
                true
            } else {
                let (first, own) = (answers.kv()?, answers.kv()?);
                let waits_on = known.and_then(|hold| hold.waits_on());
                let own = own.filter(|own| waits_on != Some(own.lease));
                self.held(id, first, own).await
            };
            replies.push(if answers.deleted()? && held {
                ReleaseReply::Released
            } else {
                ReleaseReply::NotHeld
            });
        }
        Ok((revision, replies))
    }

    /// Returns `true` if an owner held the lock before its key was deleted, because its key was the first.
    async fn held(&self, id: &Id, first: Option<KeyValue>, own: Option<KeyValue>) -> bool {
        let (Some(first), Some(own)) = (first, own) else { return false };
        if self.keys.is_of(&id.name, &first.key) {
            return first.key == own.key;
        }
        // The first one is of a lock with a longer name. If the others cannot be read, it has ended in any case.
        self.owners(&id.name)
            .await
            .map_or(true, |others| others.iter().all(|other| other.create_revision > own.create_revision))
    }

    fn shutting(&self, lease: &Lease) -> RequestOp {
        let gate = self.keys.gate(lease.id);
        nested(TxnRequest {
            compare: vec![changed_by(gate.clone(), lease.gate())],
            success: vec![put(gate.clone(), Vec::new(), lease.id)],
            failure: vec![read(one(gate))],
        })
    }
}
