//! Renews leases: keeps etcd's leases alive, and sees that the keys are still there. A key moves to another lease where its
//! own does not fit.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join, join_all};

use super::errors::Fault;
use super::holds::{Hold, Id};
use super::keep::fault_of;
use super::keys::Value;
use super::leases::{Lease, SLACK, seconds};
use super::ops::{Answers, all, changed_by, created_by, oldest, one, put, read};
use super::proto::{KeyValue, RequestOp, TxnRequest};
use super::session::{GRACE, Key, Session};
use crate::clock::Moment;
use crate::storage::{Claim, RenewReply};

/// How often a key is moved in one call, if it changes meanwhile or a gate was shut.
const ROUNDS: u32 = 8;
/// How much longer than the TTL, and an eighth, the lease of a key may be before the key moves to a shorter one.
const SURPLUS: Duration = Duration::from_secs(1);

/// What is known of the key that is to be moved.
struct Move<'a> {
    claim: &'a Claim,
    id: Id,
    created: i64,
    /// The revision of its last change, if it was read.
    changed: Option<i64>,
    label: Option<Arc<str>>,
    ttl: Duration,
    /// Whether another client has promised the TTL, and may have done so until the key was moved.
    is_of_another: bool,
}

/// What was read for an owner: its key, and the oldest of its lock.
type Seen = (Option<KeyValue>, Option<KeyValue>);

/// How a claim is renewed.
enum Way {
    /// Its lease is kept alive.
    Keep(Arc<Lease>),
    /// It is read, and then moved.
    Look,
    /// It is moved. What is known of it suffices: the revision that created it, and its label.
    Move(i64, Option<Arc<str>>),
}

impl Session {
    /// Answers each claim. They were sent at `sent`.
    pub(super) async fn renew(&self, claims: &[Claim], sent: Moment) -> Vec<Result<RenewReply, Fault>> {
        let mut replies = self.renew_once(claims, sent).await;
        for _ in 0..ROUNDS {
            let is_overdue = |(_, reply): &(usize, &Result<_, Fault>)| matches!(reply, Err(Fault::Overdue));
            let overdue: Vec<_> = replies.iter().enumerate().filter(is_overdue).map(|(i, _)| i).collect();
            if overdue.is_empty() {
                break;
            }
            // What is deleted now was not renewed. What is left after that, another client has renewed.
            if let Err(fault) = self.sweep().await {
                overdue.into_iter().for_each(|i| replies[i] = Err(fault.clone()));
                break;
            }
            let again: Vec<_> = overdue.iter().map(|i| claims[*i].clone()).collect();
            for (i, reply) in overdue.into_iter().zip(self.renew_once(&again, sent).await) {
                replies[i] = reply;
            }
        }
        replies
    }

    async fn renew_once(&self, claims: &[Claim], sent: Moment) -> Vec<Result<RenewReply, Fault>> {
        let mut replies: Vec<Option<Result<RenewReply, Fault>>> = vec![None; claims.len()];
        let mut ways = Vec::new();
        for (i, claim) in claims.iter().enumerate() {
            let id = Id::of(claim);
            match self.way(claim, &id, sent).await {
                Ok(way) => ways.push((i, claim, id, way)),
                Err(fault) => replies[i] = Some(Err(fault)),
            }
        }
        let (direct, looked): (Vec<_>, Vec<_>) =
            ways.into_iter().partition(|(.., way)| matches!(way, Way::Move(..)));
        let direct = direct.into_iter().filter_map(|(i, claim, id, way)| {
            let Way::Move(created, label) = way else { return None };
            let (changed, ttl) = (None, claim.ttl);
            Some((i, Move { claim, id, created, changed, label, ttl, is_of_another: false }))
        });
        let moves = join_all(direct.map(async |(i, r#move)| (i, self.move_key(r#move, sent).await)));
        let (moved, kept) = join(moves, self.keep_and_look(looked, sent)).await;
        let is_full = |(_, reply): &(usize, Result<_, Fault>)| matches!(reply, Err(fault) if fault.is_full());
        let (full, answered): (Vec<_>, Vec<_>) = moved.into_iter().chain(kept).partition(is_full);
        let stayed = self.keep_where_they_are(claims, full, sent).await;
        for (i, reply) in answered.into_iter().chain(stayed) {
            replies[i] = Some(reply);
        }
        replies.into_iter().map(|reply| reply.unwrap_or(Err(Fault::Broken))).collect()
    }

    /// Decides how to renew.
    async fn way(&self, claim: &Claim, id: &Id, sent: Moment) -> Result<Way, Fault> {
        if claim.shorten && (claim.patience.is_zero() || self.api.now() > sent.after(claim.patience)) {
            return Err(Fault::Late);
        }
        if let Some(hold) = self.holds.get(id) {
            // An earlier claim or renewal may be executed after this one.
            self.shut(&hold.open_leases()).await?;
        }
        let Some(hold) = self.holds.get(id) else { return Ok(Way::Look) };
        if hold.is_overdue(self.api.now()) {
            return Err(Fault::Overdue);
        }
        let Hold { created: Some(created), is_granted: true, lease: Some(lease), end, label, .. } = hold
        else {
            return Ok(Way::Look);
        };
        let new_end = sent.after(claim.ttl);
        let is_too_long = lease.class > seconds(claim.ttl)
            && lease.span > claim.ttl + claim.ttl / 8 + SURPLUS
            && end <= new_end;
        if claim.shorten || is_too_long || lease.is_forgotten() {
            return Ok(Way::Look);
        }
        if lease.span < claim.ttl {
            return Ok(Way::Move(created, label));
        }
        self.extend(id, new_end)?;
        Ok(Way::Keep(lease))
    }

    /// Records that a key lives until then, unless it is overdue.
    fn extend(&self, id: &Id, end: Moment) -> Result<(), Fault> {
        let extend = |hold: &mut Hold| hold.end = std::cmp::max(hold.end, end);
        if self.holds.extend(id, self.api.now(), extend) { Ok(()) } else { Err(Fault::Overdue) }
    }

    /// Renews locks that a full server grants no other lease: on the one that they have, and as long as that lasts at most. Where it
    /// is longer than wanted, this client ends the key.
    async fn keep_where_they_are(
        &self,
        claims: &[Claim],
        full: Vec<(usize, Result<RenewReply, Fault>)>,
        sent: Moment,
    ) -> Vec<(usize, Result<RenewReply, Fault>)> {
        let (mut replies, mut kept) = (Vec::new(), Vec::new());
        for (i, reply) in full {
            let id = Id::of(&claims[i]);
            let Some(lease) = self.holds.get(&id).filter(|hold| hold.is_granted).and_then(|hold| hold.lease)
            else {
                replies.push((i, reply));
                continue;
            };
            let ttl = std::cmp::min(claims[i].ttl, lease.span.saturating_sub(SLACK));
            match self.extend(&id, sent.after(ttl)) {
                Ok(()) => kept.push((i, Claim { ttl, ..claims[i].clone() }, id, lease)),
                Err(fault) => replies.push((i, Err(fault))),
            }
        }
        let ways = kept.iter().map(|(i, claim, id, lease)| (*i, claim, id.clone(), Way::Keep(lease.clone())));
        for (i, reply) in self.keep_and_look(ways.collect(), sent).await {
            if let (true, Ok(RenewReply::Renewed { ttl })) = (claims[i].shorten, &reply) {
                let end = sent.after(*ttl);
                self.holds.change_known(&Id::of(&claims[i]), |hold| hold.end = end);
            }
            replies.push((i, reply));
        }
        replies
    }

    /// Keeps the leases alive, and then reads the keys: a key that is there then has lived until then.
    async fn keep_and_look(
        &self,
        claims: Vec<(usize, &Claim, Id, Way)>,
        sent: Moment,
    ) -> Vec<(usize, Result<RenewReply, Fault>)> {
        let need = |(_, claim, _, way): &(usize, &Claim, Id, Way)| match way {
            Way::Keep(lease) => Some((Arc::clone(lease), sent.after(claim.ttl))),
            _ => None,
        };
        let needs: Vec<_> = claims.iter().filter_map(need).collect();
        let kept = self.keep_all(&needs).await;
        let mut replies = Vec::new();
        let seen = match self.read_keys(&claims).await {
            Ok(seen) => seen,
            Err(fault) => return claims.iter().map(|(i, ..)| (*i, Err(fault.clone()))).collect(),
        };
        let mut moves = Vec::new();
        for ((i, claim, id, way), (own, first)) in claims.into_iter().zip(seen) {
            let granted = self.holds.get(&id).filter(|hold| hold.is_granted).and_then(|hold| hold.created);
            // A key of this owner that is of another time is not the one that was granted.
            let own = own.filter(|own| granted.is_none_or(|created| created == own.create_revision));
            match (own, way) {
                (None, _) => {
                    self.has_none(None, &id);
                    replies.push((i, Ok(RenewReply::NotHeld)));
                }
                (Some(own), Way::Keep(lease)) if own.lease == lease.id => {
                    let renewed = Ok(RenewReply::Renewed { ttl: claim.ttl });
                    replies.push((i, fault_of(&kept, Some(&lease)).map_or(renewed, Err)));
                }
                (Some(own), _) => moves.push((i, claim, id, own, first)),
            }
        }
        let moving = moves.into_iter().map(async |(i, claim, id, own, first)| {
            (i, self.move_if_held(claim, id, own, first, sent).await)
        });
        replies.extend(join_all(moving).await);
        replies
    }

    /// Reads the key of each owner. Reads the oldest key of the lock, too, where it is unknown whether the owner holds it.
    async fn read_keys(&self, claims: &[(usize, &Claim, Id, Way)]) -> Result<Vec<Seen>, Fault> {
        let reads = claims.iter().flat_map(|(_, claim, id, way)| {
            let own = read(one(self.keys.key(&id.name, id.owner)));
            let first = matches!(way, Way::Look).then(|| read(oldest(self.keys.range(&claim.name), 1)));
            [own].into_iter().chain(first)
        });
        let reads: Vec<_> = reads.collect();
        if reads.is_empty() {
            return Ok(Vec::new());
        }
        let mut answers = Answers::of(self.api.txn(&all(reads)).await?.responses);
        let seen = claims.iter().map(|(.., way)| {
            let own = answers.kv()?;
            let first = if matches!(way, Way::Look) { answers.kv()? } else { own.clone() };
            Ok((own, first))
        });
        seen.collect()
    }

    /// Moves a key that was read, if its owner holds the lock.
    async fn move_if_held(
        &self,
        claim: &Claim,
        id: Id,
        own: KeyValue,
        first: Option<KeyValue>,
        sent: Moment,
    ) -> Result<RenewReply, Fault> {
        let first = match first {
            Some(first) if self.keys.is_of(&id.name, &first.key) => Some(first),
            _ => self.owners(&id.name).await?.into_iter().next(),
        };
        if first.is_none_or(|first| first.key != own.key) {
            return Ok(RenewReply::NotHeld);
        }
        let value = Value::read(&own.value);
        let (mut ttl, mut is_of_another) = (claim.ttl, false);
        if !claim.shorten {
            let promised = self.promised(&id, &own, sent);
            is_of_another = promised.is_none();
            ttl = std::cmp::max(
                ttl,
                match promised {
                    Some(promised) => promised,
                    // The other client may renew it until the key is moved. Each of its leases is longer than its locks.
                    None => self.api.granted_ttl(own.lease).await?.saturating_sub(SLACK),
                },
            );
        }
        // The label is that of the claim that was granted. Another process, with a ticket, has one of its own.
        let label = value.map_or_else(|| claim.label.clone(), |value| value.label);
        let (created, changed) = (own.create_revision, Some(own.mod_revision));
        self.move_key(Move { claim, id, created, changed, label, ttl, is_of_another }, sent).await
    }

    /// Returns how long the owner may rely on its key already, if that is on a lease of this client. An owner that has only
    /// waited relies on none.
    fn promised(&self, id: &Id, own: &KeyValue, sent: Moment) -> Option<Duration> {
        let hold = self.holds.get(id)?;
        let is_own = hold.lease.is_some_and(|lease| lease.id == own.lease);
        is_own.then(|| if hold.is_granted { hold.end.since(sent) } else { Duration::ZERO })
    }

    /// Records when a key must be gone that another client has promised, and that this one is about to move. Without an answer
    /// it would otherwise be deleted like that of a claim.
    fn note_promise(&self, id: &Id, created: i64, end: Moment) {
        self.holds.change(id, |hold| {
            if hold.created.is_none() {
                (hold.created, hold.end) = (Some(created), std::cmp::max(hold.end, end.after(GRACE)));
            }
        });
    }

    /// Attaches a key to the lease for a TTL. The key stays as old as it is.
    async fn move_key(&self, r#move: Move<'_>, sent: Moment) -> Result<RenewReply, Fault> {
        let Move { claim, id, created, mut changed, label, ttl, is_of_another } = r#move;
        let key = self.keys.key(&id.name, id.owner);
        let end = sent.after(ttl);
        for _ in 0..ROUNDS {
            let lease = self.leases.get(&self.api, ttl).await?;
            if lease.is_unsettled() {
                self.shut(&[Arc::clone(&lease)]).await?;
            }
            let gate = (self.keys.gate(lease.id), lease.gate());
            let gates = vec![(Arc::clone(&lease), gate.1)];
            let value = Value::write(ttl, label.as_deref());
            let request = moving(&key, created, changed, gate, put(key.clone(), value, lease.id));
            let writes = vec![(id.clone(), Self::sent(gates, claim, sent))];
            self.note_promise(&id, created, self.api.now().after(ttl.saturating_add(claim.patience)));
            let now = self.api.now();
            let Some(mut in_flight) = self.holds.send(now, writes) else { return Err(Fault::Overdue) };
            let (kept, answer) = join(self.keep_alive(&lease, end), self.alone(request)).await;
            let (revision, answer) = match answer {
                Ok(answer) => answer,
                Err(fault) => {
                    if fault.is_definite() {
                        in_flight.refused();
                    }
                    if !fault.is_lease_gone() {
                        return Err(fault);
                    }
                    self.find_ended([lease].into_iter()).await?;
                    continue;
                }
            };
            if answer.succeeded {
                let end = if is_of_another { self.api.now().after(ttl) } else { end };
                let key = Key { created, lease: Some(Arc::clone(&lease)), label, holds: true };
                self.has_key(&mut in_flight, &id, &key, end);
                if is_of_another {
                    self.keep_alive(&lease, end).await?;
                }
                if claim.shorten {
                    self.holds.change_known(&id, |hold| hold.end = end);
                }
                return kept.map(|()| RenewReply::Renewed { ttl });
            }
            let mut answers = Answers::of(answer.responses);
            let own = answers.kv()?.filter(|own| own.create_revision == created);
            lease.saw_gate(answers.kv()?.map_or(0, |gate| gate.mod_revision), revision);
            let Some(own) = own else {
                self.has_none(Some(&mut in_flight), &id);
                return Ok(RenewReply::NotHeld);
            };
            in_flight.answered(&id, |_| {});
            changed = changed.map(|_| own.mod_revision);
        }
        Err(Fault::Status { code: 10, text: "the key changed again and again".to_owned() })
    }
}

/// Makes the transaction that moves a key, if that is the one that was created then, and last changed then. The gate of its new
/// lease must be as it was.
fn moving(key: &[u8], created: i64, changed: Option<i64>, gate: (Vec<u8>, i64), to: RequestOp) -> TxnRequest {
    let unchanged = changed.map(|revision| changed_by(key.to_vec(), revision));
    let compare = [created_by(key.to_vec(), created), changed_by(gate.0.clone(), gate.1)];
    TxnRequest {
        compare: compare.into_iter().chain(unchanged).collect(),
        success: vec![to],
        failure: vec![read(one(key.to_vec())), read(one(gate.0))],
    }
}
