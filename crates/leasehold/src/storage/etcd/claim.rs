//! The transaction that claims a lock, and what its answer means.
//!
//! 1. If the gates of the leases are as they were, and the owner has no key:
//!    - If the lock has no keys at all, create the owner's key on the lease of a holder: it holds the lock.
//!    - Otherwise a claim that waits creates its key on the lease of a waiter, and reads the oldest key and the one before
//!      its own. A claim that does not wait only reads the oldest key.
//! 2. Otherwise read the owner's key, and the gates.

use super::errors::Fault;
use super::keys::Value;
use super::ops::{Answers, changed_by, created_by, empty, nested, oldest, one, put, read, youngest};
use super::proto::{KeyValue, TxnRequest, TxnResponse};
use super::session::{Planned, Session};

/// What the answer says.
pub(super) enum Outcome {
    /// The key was created by the transaction, and it is the only one.
    Created,
    /// The key was created by the transaction, behind others: the oldest, and the one before it.
    Queued { oldest: Option<KeyValue>, before: Option<KeyValue> },
    /// No key was created, because there are others. The oldest may belong to a lock with a longer name.
    Refused { oldest: Option<KeyValue> },
    /// The owner has a key already.
    Exists(KeyValue),
    /// A gate was shut meanwhile. The claim can be sent again.
    Shut,
}

/// Makes the transaction. `waits` says whether the claim leaves a key if others have one.
pub(super) fn request(session: &Session, plan: &Planned<'_>, waits: bool) -> TxnRequest {
    let claim = plan.claim;
    let key = session.keys.key(&claim.name, claim.owner);
    let value = Value::write(claim.ttl, claim.label.as_deref());
    let range = session.keys.range(&claim.name);
    let leases = plan.gates();
    let gate = |lease: &super::leases::Lease| session.keys.gate(lease.id);
    let others = if waits {
        vec![
            put(key.clone(), value.clone(), plan.waiting.id),
            read(oldest(range.clone(), 1)),
            read(youngest(range.clone(), 2, 0)),
        ]
    } else {
        vec![read(oldest(range.clone(), 1))]
    };
    let create = TxnRequest {
        compare: vec![empty(range)],
        success: vec![put(key.clone(), value, plan.holding.id)],
        failure: others,
    };
    let gates = leases.iter().map(|(lease, revision)| changed_by(gate(lease), *revision));
    TxnRequest {
        compare: [created_by(key.clone(), 0)].into_iter().chain(gates).collect(),
        success: vec![nested(create)],
        failure: [read(one(key))]
            .into_iter()
            .chain(leases.iter().map(|(lease, _)| read(one(gate(lease)))))
            .collect(),
    }
}

/// Reads the answer, and the revision of the store that it shows.
pub(super) fn outcome(
    session: &Session,
    plan: &Planned<'_>,
    waits: bool,
    answer: TxnResponse,
    revision: i64,
) -> Result<Outcome, Fault> {
    let mut answers = Answers::of(answer.responses);
    if !answer.succeeded {
        if let Some(kv) = answers.kv()? {
            return Ok(Outcome::Exists(kv));
        }
        for (lease, _) in plan.gates() {
            lease.saw_gate(answers.kv()?.map_or(0, |gate| gate.mod_revision), revision);
        }
        return Ok(Outcome::Shut);
    }
    let inner = answers.txn()?;
    let mut answers = Answers::of(inner.responses);
    if inner.succeeded {
        return Ok(Outcome::Created);
    }
    if !waits {
        return Ok(Outcome::Refused { oldest: answers.kv()? });
    }
    answers.skip()?;
    let oldest = answers.kv()?;
    let key = session.keys.key(&plan.claim.name, plan.claim.owner);
    let before = answers.kvs()?.into_iter().find(|kv| kv.key != key);
    Ok(Outcome::Queued { oldest, before })
}
