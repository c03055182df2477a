//! Deletes the keys that are overdue: etcd ends leases, and the keys of one lease have different ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::try_join_all;
use tokio::time::{sleep, timeout};

use super::errors::Fault;
use super::facts::GATES_MAX;
use super::holds::{Hold, Id};
use super::leases::Lease;
use super::ops::{Answers, attached_to, changed_by, created_by, delete, nested, one, put, read};
use super::proto::TxnRequest;
use super::session::Session;
use crate::clock::Moment;

/// How many keys one transaction deletes.
const BATCH_MAX: usize = 32;
/// On how many leases one transaction deletes a key: it has two operations for each.
const LEASES_MAX: usize = GATES_MAX / 2;
/// How long deleting them may take before it is tried again.
const LIMIT: Duration = Duration::from_secs(3);
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long after the storage is gone claims are undone. After that, what they may have left ends with its lease.
const CLOSING_MAX: Duration = Duration::from_secs(60);

/// Deletes each key when it is due, until the storage is gone. Then it deletes what claims without an answer may have left.
/// All other keys stay until their leases end, since they may belong to locks that outlive their process.
pub(super) async fn run(session: Arc<Session>) {
    let mut pause = FIRST_PAUSE;
    let mut end = Moment::FAR;
    loop {
        if session.is_closing.load(Ordering::Acquire) {
            session.holds.keep_unknown();
            end = std::cmp::min(end, session.api.now().after(CLOSING_MAX));
            if session.holds.next_due() == Moment::FAR || session.api.now() >= end {
                return;
            }
        }
        let due = session.holds.next_due();
        let left = due.since(session.api.now());
        if !left.is_zero() {
            tokio::select! {
                () = sleep(left) => {}
                () = session.holds.changed.notified() => {}
            }
            continue;
        }
        match timeout(LIMIT, session.sweep()).await {
            Ok(Ok(())) => pause = FIRST_PAUSE,
            Ok(Err(_)) | Err(_) => {
                sleep(pause).await;
                pause = std::cmp::min(pause * 2, LONGEST_PAUSE);
            }
        }
    }
}

impl Session {
    /// Deletes all keys that are overdue.
    pub(super) async fn sweep(&self) -> Result<(), Fault> {
        let _turn = self.sweeping.lock().await;
        loop {
            let overdue = self.holds.overdue(self.api.now(), std::cmp::min(self.batch_max, BATCH_MAX));
            if overdue.is_empty() {
                return Ok(());
            }
            let (kept, overdue): (Vec<_>, Vec<_>) = overdue.into_iter().partition(|(_, hold)| !hold.is_swept);
            for (_, hold) in kept {
                self.shut(&hold.open_leases()).await?;
            }
            let (unknown, known): (Vec<_>, Vec<_>) =
                overdue.into_iter().partition(|(_, hold)| !hold.unknown.is_empty());
            self.delete_known(&known).await?;
            for some in of_the_same_leases(unknown) {
                self.delete_unknown(&some).await?;
            }
        }
    }

    /// Deletes keys that are known, unless they have been attached to another lease, by another client.
    async fn delete_known(&self, known: &[(Id, Hold)]) -> Result<(), Fault> {
        match self.delete_together(known).await {
            Err(fault) if fault.is_too_large() => {
                try_join_all(known.chunks(1).map(|one| self.delete_together(one))).await.map(drop)
            }
            done => done,
        }
    }

    async fn delete_together(&self, known: &[(Id, Hold)]) -> Result<(), Fault> {
        let deletion = |(id, hold): &(Id, Hold)| {
            let key = self.keys.key(&id.name, id.owner);
            let created = created_by(key.clone(), hold.created.unwrap_or_default());
            let attached = attached_to(key.clone(), hold.lease.as_ref().map_or(0, |lease| lease.id));
            TxnRequest { compare: vec![created, attached], success: vec![delete(key)], failure: Vec::new() }
        };
        if known.is_empty() {
            return Ok(());
        }
        let (revision, _) = self.together(known.iter().map(deletion).collect(), false).await?;
        known.iter().for_each(|(id, hold)| self.gone(id, revision, hold));
        Ok(())
    }

    /// Deletes keys that writes may have created, or may still create, on the same leases. If these are many, it sends several
    /// transactions. Each of them leaves the keys on none of its leases, now and later.
    async fn delete_unknown(&self, unknown: &[(Id, Hold)]) -> Result<(), Fault> {
        let leases = unknown.first().map(|(_, hold)| hold.leases()).unwrap_or_default();
        let on_each = leases.len().clamp(1, LEASES_MAX);
        for some in unknown.chunks(std::cmp::max(self.batch_max / on_each, 1)) {
            match self.delete_of_some(some, &leases).await {
                Err(fault) if fault.is_too_large() => {
                    for one in some.chunks(1) {
                        self.delete_of_some(one, &leases).await?;
                    }
                }
                done => done?,
            }
        }
        Ok(())
    }

    async fn delete_of_some(&self, unknown: &[(Id, Hold)], leases: &[Arc<Lease>]) -> Result<(), Fault> {
        let keys: Vec<_> = unknown.iter().map(|(id, _)| self.keys.key(&id.name, id.owner)).collect();
        let deleting = leases.chunks(LEASES_MAX).map(|some| self.delete_on_some(&keys, some));
        let revision = try_join_all(deleting).await?.into_iter().flatten().max();
        unknown.iter().for_each(|(id, hold)| self.gone(id, revision.unwrap_or(i64::MAX), hold));
        Ok(())
    }

    /// Deletes the keys that are on one of these leases, and shuts their gates in the same step. Returns the revision; `None` if
    /// the leases have ended, with what was on them.
    async fn delete_on_some(&self, keys: &[Vec<u8>], some: &[Arc<Lease>]) -> Result<Option<i64>, Fault> {
        loop {
            let on: Vec<_> = some.iter().filter(|lease| !lease.has_ended()).cloned().collect();
            if on.is_empty() {
                return Ok(None);
            }
            let leases: Vec<_> = on.iter().filter(|lease| !lease.is_forgotten()).cloned().collect();
            let request = self.shutting_deletion(keys, &on, &leases);
            // If there is no answer, it may be executed later, and delete what a later claim has created.
            leases.iter().for_each(|lease| lease.set_unsettled(true));
            let (revision, answer) = match self.alone(request).await {
                Err(fault) if fault.is_lease_gone() => {
                    self.find_ended(on.iter().cloned()).await?;
                    if !on.iter().any(|lease| lease.has_ended()) {
                        // A member that lags behind, which is asked again later.
                        return Err(fault);
                    }
                    continue;
                }
                answer => answer?,
            };
            if answer.succeeded {
                // An earlier one without an answer fits no more. One that did not fit says nothing of that.
                leases.iter().for_each(|lease| lease.set_unsettled(false));
                leases.iter().for_each(|lease| lease.shut(revision));
                return Ok(Some(revision));
            }
            let mut answers = Answers::of(answer.responses);
            for lease in &leases {
                lease.saw_gate(answers.kv()?.map_or(0, |gate| gate.mod_revision), revision);
            }
        }
    }

    /// Deletes keys on one of the leases `on`, and shuts the gates of those that are still used. It does so also where nothing
    /// can come any more: a deletion without an answer fits as long as the gates are as they were.
    fn shutting_deletion(&self, keys: &[Vec<u8>], on: &[Arc<Lease>], leases: &[Arc<Lease>]) -> TxnRequest {
        let gate = |lease: &Arc<Lease>| self.keys.gate(lease.id);
        let shut = leases.iter().map(|lease| put(gate(lease), Vec::new(), lease.id));
        let deletions = keys.iter().flat_map(|key| on.iter().map(|lease| delete_on(key, lease)));
        TxnRequest {
            compare: leases.iter().map(|lease| changed_by(gate(lease), lease.gate())).collect(),
            success: shut.chain(deletions).collect(),
            failure: leases.iter().map(|lease| read(one(gate(lease)))).collect(),
        }
    }

    fn gone(&self, id: &Id, revision: i64, hold: &Hold) {
        self.holds.forget(id, revision, &hold.unknown);
        self.interests.remove(id);
    }
}

/// Groups owners whose keys may be on the same leases: one transaction shuts the gates of these for all of them.
fn of_the_same_leases(unknown: Vec<(Id, Hold)>) -> Vec<Vec<(Id, Hold)>> {
    let mut groups: BTreeMap<Vec<i64>, Vec<_>> = BTreeMap::new();
    for (id, hold) in unknown {
        let mut leases: Vec<_> = hold.leases().iter().map(|lease| lease.id).collect();
        leases.sort_unstable();
        groups.entry(leases).or_default().push((id, hold));
    }
    groups.into_values().collect()
}

/// Deletes a key if it is attached to that lease.
fn delete_on(key: &[u8], lease: &Lease) -> super::proto::RequestOp {
    let compare = vec![attached_to(key.to_vec(), lease.id)];
    nested(TxnRequest { compare, success: vec![delete(key.to_vec())], failure: Vec::new() })
}
