//! Acquires locks: creates the keys of owners, or looks where they stand.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;

use super::claim::{self, Outcome};
use super::errors::Fault;
use super::holds::{Id, InFlight};
use super::keep::fault_of;
use super::keys::{Keys, Value};
use super::leases::Lease;
use super::proto::KeyValue;
use super::session::{Key, Planned, Session};
use crate::clock::Moment;
use crate::storage::{AcquireReply, Claim, Holder, Name, Token, WAITER_TTL};

/// A claim of a call, with its number.
pub(super) type Item<'a> = (usize, &'a Claim);
pub(super) type Reply = (usize, Result<AcquireReply, Fault>);

/// How often a claim is sent in one call. It is sent again if a lease has ended, or its gate was shut.
const ROUNDS: u32 = 8;

/// What to do next for claims of which not all are answered.
#[derive(Default)]
struct Step<'a> {
    replies: Vec<Reply>,
    /// To be sent again.
    again: Vec<Item<'a>>,
    /// Those whose keys exist.
    exist: Vec<Item<'a>>,
    /// To be sent as if they waited, because only a list of all keys tells whether the lock is free.
    as_waiters: Vec<Item<'a>>,
}

/// The answer to a claim.
struct Answered<'a> {
    plan: &'a Planned<'a>,
    outcome: Outcome,
    revision: i64,
    /// Why a lease of it was not kept alive, if it was not.
    not_kept: Option<Fault>,
}

impl Session {
    /// Answers each claim. They were sent at `sent`.
    pub(super) async fn acquire(&self, claims: &[Claim], sent: Moment) -> Vec<Result<AcquireReply, Fault>> {
        // An owner whose key is overdue has lost its place.
        let is_overdue = |claim: &Claim| {
            self.holds.get(&Id::of(claim)).is_some_and(|hold| hold.is_overdue(self.api.now()))
        };
        let swept = if claims.iter().any(is_overdue) { self.sweep().await } else { Ok(()) };
        let mut replies: Vec<Reply> = Vec::with_capacity(claims.len());
        let (mut new, mut queued, mut held) = (Vec::new(), Vec::new(), Vec::new());
        for item in claims.iter().enumerate() {
            let (i, claim) = item;
            if is_late(claim, sent, self.api.now()) {
                replies.push((i, Err(Fault::Late)));
                continue;
            }
            match self.holds.get(&Id::of(claim)) {
                Some(hold) if hold.is_overdue(self.api.now()) => {
                    replies.push((i, Err(swept.clone().err().unwrap_or(Fault::Broken))));
                }
                Some(hold) if hold.is_granted => held.push(item),
                Some(hold) if hold.created.is_some() => queued.push(item),
                _ => new.push(item),
            }
        }
        let (looked, held) = join(self.look(queued, sent), self.hold(held, sent)).await;
        let (known, missing) = looked;
        let (held, lost) = held;
        replies.extend(known);
        replies.extend(held);
        new.extend(missing.into_iter().chain(lost));
        if !new.is_empty() {
            replies.extend(self.claim(new, sent).await);
        }
        replies.sort_by_key(|(i, _)| *i);
        replies.into_iter().map(|(_, reply)| reply).collect()
    }

    /// Creates the keys of owners that have none.
    async fn claim(&self, mut items: Vec<Item<'_>>, sent: Moment) -> Vec<Reply> {
        let mut replies = Vec::new();
        for _ in 0..ROUNDS {
            let Step { replies: now, again, exist, as_waiters } = self.claim_once(&items, false, sent).await;
            replies.extend(now);
            let Step { replies: now, again: more, exist: others, .. } =
                self.claim_once(&as_waiters, true, sent).await;
            replies.extend(now);
            let exist = exist.into_iter().chain(others).collect();
            let (known, missing) = self.look(exist, sent).await;
            replies.extend(known);
            items = again.into_iter().chain(more).chain(missing).collect();
            if items.is_empty() {
                return replies;
            }
        }
        let busy =
            |(i, _)| (i, Err(Fault::Status { code: 10, text: "gates shut again and again".to_owned() }));
        replies.extend(items.into_iter().map(busy));
        replies
    }

    async fn claim_once<'a>(&self, items: &[Item<'a>], as_waiters: bool, sent: Moment) -> Step<'a> {
        let mut step = Step::default();
        if items.is_empty() {
            return step;
        }
        let plans = match self.plan_all(items).await {
            Ok(plans) => plans,
            Err(fault) => return Step { replies: to_all(items, &fault), ..step },
        };
        let waits = |claim: &Claim| as_waiters || claim.wait;
        let needs: Vec<_> = plans.iter().flat_map(|(_, plan)| needs(plan, sent)).collect();
        let txns = plans.iter().map(|(_, plan)| claim::request(self, plan, waits(plan.claim))).collect();
        let writes =
            plans.iter().map(|(_, plan)| (plan.id.clone(), Self::sent(plan.gates(), plan.claim, sent)));
        let Some(mut in_flight) = self.holds.send(self.api.now(), writes.collect()) else {
            return match self.sweep().await {
                Ok(()) => Step { again: items.to_vec(), ..step },
                Err(fault) => Step { replies: to_all(items, &fault), ..step },
            };
        };
        let (kept, answered) = join(self.keep_all(&needs), self.together(txns, true)).await;
        let (revision, answers) = match answered {
            Ok(answered) => answered,
            Err(fault) => {
                if fault.is_definite() {
                    in_flight.refused();
                }
                if !fault.is_lease_gone() {
                    return Step { replies: to_all(items, &fault), ..step };
                }
                let leases = plans.iter().flat_map(|(_, plan)| plan.gates()).map(|(lease, _)| lease);
                return match self.find_ended(leases).await {
                    Ok(()) => Step { again: items.to_vec(), ..step },
                    Err(fault) => Step { replies: to_all(items, &fault), ..step },
                };
            }
        };
        for ((item, plan), answer) in plans.iter().zip(answers) {
            let not_kept = plan.gates().iter().find_map(|(lease, _)| fault_of(&kept, Some(lease)));
            match claim::outcome(self, plan, waits(plan.claim), answer, revision) {
                Err(fault) => step.replies.push((item.0, Err(fault))),
                Ok(outcome) => {
                    let answered = Answered { plan, outcome, revision, not_kept };
                    self.take(*item, answered, sent, &mut in_flight, &mut step).await;
                }
            }
        }
        step
    }

    /// Records what an answer says, and answers the claim.
    async fn take<'a>(
        &self,
        item: Item<'a>,
        answered: Answered<'_>,
        sent: Moment,
        in_flight: &mut InFlight<'_>,
        step: &mut Step<'a>,
    ) {
        let Answered { plan, outcome, revision, not_kept } = answered;
        let (i, claim) = item;
        let (id, label) = (&plan.id, claim.label.clone());
        let (holding, waiting) = (sent.after(claim.ttl), sent.after(WAITER_TTL));
        let reply = match outcome {
            Outcome::Shut => {
                in_flight.answered(id, |_| {});
                return step.again.push(item);
            }
            Outcome::Exists(kv) => {
                let lease = plan.lease(kv.lease);
                let label = Value::read(&kv.value).and_then(|value| value.label);
                let key = Key { created: kv.create_revision, lease, label, holds: false };
                self.has_key(in_flight, id, &key, waiting);
                return step.exist.push(item);
            }
            Outcome::Created => {
                let lease = Some(plan.holding.clone());
                let key = Key { created: revision, lease, label, holds: true };
                self.has_key(in_flight, id, &key, holding);
                granted(revision, claim.ttl)
            }
            Outcome::Queued { oldest, before } => {
                let lease = Some(plan.waiting.clone());
                let key = Key { created: revision, lease, label, holds: false };
                self.has_key(in_flight, id, &key, waiting);
                match self.queued(claim, revision, oldest, before).await {
                    Ok(Some(held)) => held,
                    // Only locks with longer names have keys.
                    Ok(None) => return step.exist.push(item),
                    Err(fault) => return step.replies.push((i, Err(fault))),
                }
            }
            Outcome::Refused { oldest: Some(kv) } if self.keys.is_of(&claim.name, &kv.key) => {
                self.has_none(Some(in_flight), id);
                held(self.holder(&claim.name, &kv))
            }
            Outcome::Refused { .. } => {
                in_flight.answered(id, |_| {});
                return step.as_waiters.push(item);
            }
        };
        step.replies.push((i, self.conclude(claim, reply, not_kept, sent).await));
    }

    /// Returns the reply to a claim that was executed in time. Undoes one that may have been executed too late.
    async fn conclude(
        &self,
        claim: &Claim,
        reply: AcquireReply,
        not_kept: Option<Fault>,
        sent: Moment,
    ) -> Result<AcquireReply, Fault> {
        let has_key = !matches!(reply, AcquireReply::Held { .. }) || claim.wait;
        if has_key && is_late(claim, sent, self.api.now()) {
            self.undo(&Id::of(claim)).await;
            return Err(Fault::Late);
        }
        // Without the lease it is not known how long the key lives. The engine asks again.
        not_kept.map_or(Ok(reply), Err)
    }

    /// Answers a claim whose key was created behind others; `None` if these are of other locks.
    async fn queued(
        &self,
        claim: &Claim,
        created: i64,
        oldest: Option<KeyValue>,
        before: Option<KeyValue>,
    ) -> Result<Option<AcquireReply>, Fault> {
        let held = self.stand(claim, created, oldest, before).await?;
        if held.is_some() && !claim.wait {
            // It was only to be seen whether the lock is free.
            self.undo(&Id::of(claim)).await;
        }
        Ok(held)
    }

    /// Deletes the key of a claim that leaves nothing. If that fails now, it is done as soon as possible.
    async fn undo(&self, id: &Id) {
        let now = self.api.now();
        self.holds.change_known(id, |hold| (hold.end, hold.is_granted) = (now, false));
        let _done_later = self.sweep().await;
    }

    async fn plan_all<'a>(&self, items: &[Item<'a>]) -> Result<Vec<(Item<'a>, Planned<'a>)>, Fault> {
        let mut plans = Vec::with_capacity(items.len());
        for (i, claim) in items {
            let plan = self.plan(claim).await?;
            for (lease, _) in plan.gates() {
                if lease.is_unsettled() {
                    self.shut(&[lease]).await?;
                }
            }
            plans.push(((*i, *claim), plan));
        }
        Ok(plans)
    }

    /// Returns the holder with that key, if its value says how long it holds at most.
    pub(super) fn holder(&self, name: &Name, kv: &KeyValue) -> Option<Holder> {
        let value = Value::read(&kv.value)?;
        let (owner, token) = (Keys::owner(&kv.key)?, token(kv.create_revision));
        let id = Id { name: name.clone(), owner };
        let own = self.holds.get(&id).map(|hold| hold.end.since(self.api.now()));
        let mut holder = Holder::new(name.clone(), owner, token, own.unwrap_or(value.ttl));
        holder.label = value.label;
        Some(holder)
    }
}

/// Returns how long the leases of a claim must live.
fn needs(plan: &Planned<'_>, sent: Moment) -> [(Arc<Lease>, Moment); 2] {
    [(plan.holding.clone(), sent.after(plan.claim.ttl)), (plan.waiting.clone(), sent.after(WAITER_TTL))]
}

fn is_late(claim: &Claim, sent: Moment, now: Moment) -> bool {
    claim.patience.is_zero() || now > sent.after(claim.patience)
}

fn to_all(items: &[Item<'_>], fault: &Fault) -> Vec<Reply> {
    items.iter().map(|(i, _)| (*i, Err(fault.clone()))).collect()
}

/// Returns the token of a lock: the revision that created the key of its holder.
pub(super) fn token(created: i64) -> Token {
    Token::new(created.unsigned_abs())
}

pub(super) fn granted(created: i64, ttl: Duration) -> AcquireReply {
    AcquireReply::Granted { token: token(created), ttl }
}

pub(super) fn held(holder: Option<Holder>) -> AcquireReply {
    AcquireReply::Held { holder, retry_after: None }
}
