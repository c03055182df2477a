//! `acquire`: grants each claim, or enters it in the queue.
//!
//! 1. While no client waits, one small statement grants the locks that are free (`acquire_uncontended.sql`).
//! 2. `acquire.sql` decides the remaining claims. It waits for no locked row: such a claim *raced*.
//! 3. `find_turns.sql` checks the claims that have just entered the queue. Their lock may have become free after the
//!    statement looked, and before other clients could see the new entry; then no notification comes.
//! 4. `acquire.sql` decides the claims that raced, and those that step 3 found free, once more.
//! 5. Observers are notified, and leases that last too long are shortened.

use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::call::{Call, NO_TOKENS, kinds, labels, limits, names, owners, select, ttls};
use super::failure::{Failure, Refusal};
use super::halving::by_halves;
use super::link::Params;
use super::renew::renew;
use super::replies::{Columns, check_all, check_some, holder, late, locked, micros};
use super::statements::Statement;
use crate::error::Result;
use crate::storage::{AcquireReply, Claim, Holder, RenewReply, Token};

/// When to ask again if another transaction has locked the row of the lock, or the waiter's entry.
const RETRY_AFTER_RACE: Duration = Duration::from_millis(20);
/// When to ask again if another transaction has inserted the row of the lock and does not commit.
const RETRY_AFTER_UNCOMMITTED: Duration = Duration::from_millis(100);
/// How long an acquire waits for another transaction that inserts the same row.
const INSERT_WAIT: &str = "50ms";
/// How long it waits once that was in vain, for a part of the rows.
const INSERT_WAIT_OF_PART: &str = "10ms";
/// How many parts it waits for in vain.
const INSERT_PARTS_MAX: u32 = 16;
/// Without notifications the first of the queue asks again after an eighth of the time that it has waited, within these.
const HEAD_PAUSE_MIN: Duration = Duration::from_millis(10);
const HEAD_PAUSE_MAX: Duration = Duration::from_millis(250);

pub(super) async fn acquire(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<AcquireReply>>> {
    let mut batch = Batch { call, claims, outcomes: claims.iter().map(|_| None).collect() };
    if !call.link.has_waiters() {
        batch.grant_uncontended().await?;
    }
    let undecided = (0..claims.len()).filter(|i| batch.outcomes[*i].is_none()).collect();
    batch.decide(undecided).await;
    let mut again = batch.indexes(|outcome| outcome.raced && !outcome.uncommitted);
    again.extend(batch.find_turns().await);
    batch.decide(again.clone()).await;
    batch.bound_retries(&again);
    batch.notify_and_shorten().await;
    Ok(batch.into_replies())
}

/// The claims of a call, and what the statements have reported about them so far.
struct Batch<'a> {
    call: Call<'a>,
    claims: &'a [Claim],
    outcomes: Vec<Option<Outcome>>,
}

/// What a statement reported about one claim. See the header of `acquire.sql`.
struct Outcome {
    reply: Result<AcquireReply>,
    raced: bool,
    missing: bool,
    /// Whether another transaction has inserted the row and does not commit.
    uncommitted: bool,
    /// Whether the claim has just entered the queue.
    entered: bool,
    /// The token of the lease, if the owner holds it already.
    mine: Option<Token>,
    overlong: bool,
    observed: bool,
}

impl Batch<'_> {
    /// Grants the claims that a small statement can grant.
    async fn grant_uncontended(&mut self) -> Result<()> {
        let Self { call, claims, .. } = *self;
        let all: Vec<_> = claims.iter().collect();
        let (names, owners, ttls) = (names(&all), owners(&all), ttls(&all));
        let (kinds, labels, limits) = (kinds(&all), labels(&all), limits(call, &all));
        let Call { link, space, client, client_key, .. } = call;
        let params: Params<'_> =
            &[&space, &client, &client_key, &names, &kinds, &owners, &ttls, &limits, &labels];
        let rows = match link.execute(Statement::AcquireUncontended, params).await {
            Ok(rows) => rows,
            // The next statement finds out which of them is refused.
            Err(failure) if failure.is_of_one_claim() => return Ok(()),
            Err(failure) => return Err(failure.into()),
        };
        for (index, row) in check_some(call, claims.len(), &rows)? {
            let token = row.token("token")?.ok_or_else(|| link.unexpected_reply())?;
            let granted = AcquireReply::Granted { token, ttl: claims[index].ttl };
            self.outcomes[index] = Some(Outcome::of(Ok(granted)));
        }
        Ok(())
    }

    /// Decides the claims at these indexes. A claim that the server refuses costs the others no more than the time in which
    /// that is found out.
    async fn decide(&mut self, indexes: Vec<usize>) {
        if indexes.is_empty() {
            return;
        }
        let Self { call, claims, .. } = *self;
        let decide = |indexes: Vec<usize>| async move {
            let some = select(claims, &indexes);
            let inserts: Vec<_> = some.iter().map(|claim| !call.uncommitted.contains(&claim.name)).collect();
            match execute_and_renew(call, &some, &inserts, INSERT_WAIT).await {
                // Without inserts it waits for nothing but a locked table.
                Err(Failure { refusal: Some(Refusal::LockTimeout), .. }) if inserts.contains(&true) => {
                    execute_and_renew(call, &some, &vec![false; some.len()], INSERT_WAIT).await
                }
                result => result,
            }
        };
        let mut missing = Vec::new();
        for (index, result) in by_halves(indexes, decide).await {
            let outcome = result.unwrap_or_else(|failure| Outcome::of(Err(failure.into_reply())));
            missing.extend(outcome.missing.then_some(index));
            self.outcomes[index] = Some(outcome);
        }
        missing.sort_unstable();
        self.insert_by_halves(missing).await;
    }

    /// Decides claims whose locks have no row, once more with inserts: by halves, since most of them can be inserted. A claim
    /// whose row cannot be inserted keeps its reply: it was not granted, and has its place in the queue.
    async fn insert_by_halves(&mut self, missing: Vec<usize>) {
        let Self { call, claims, .. } = *self;
        let (mut in_vain, mut open) = (0, vec![missing]);
        while let Some(mut indexes) = open.pop() {
            if indexes.is_empty() || in_vain == INSERT_PARTS_MAX {
                self.postpone(&indexes, None);
                continue;
            }
            let some = select(claims, &indexes);
            match execute_and_renew(call, &some, &vec![true; some.len()], INSERT_WAIT_OF_PART).await {
                Ok(outcomes) => {
                    for (index, outcome) in indexes.into_iter().zip(outcomes) {
                        call.uncommitted.remove(&claims[index].name);
                        self.outcomes[index] = Some(outcome);
                    }
                }
                Err(_) if indexes.len() > 1 => {
                    in_vain += 1;
                    let rest = indexes.split_off(indexes.len() / 2);
                    open.extend([rest, indexes]);
                }
                Err(failure) => self.postpone(&indexes, failure.refusal),
            }
        }
    }

    /// Makes claims ask again whose rows could not be inserted.
    fn postpone(&mut self, indexes: &[usize], refusal: Option<Refusal>) {
        let Call { uncommitted, server, .. } = self.call;
        for index in indexes {
            if refusal == Some(Refusal::LockTimeout) {
                uncommitted.add(&self.claims[*index].name, server.now());
            }
            if let Some(outcome) = &mut self.outcomes[*index] {
                outcome.uncommitted = true;
                if let Ok(AcquireReply::Held { retry_after, .. }) = &mut outcome.reply {
                    *retry_after = Some(RETRY_AFTER_UNCOMMITTED);
                }
            }
        }
    }

    /// Returns the indexes of the claims that have just entered the queue, and whose turn it is nevertheless.
    async fn find_turns(&mut self) -> Vec<usize> {
        let Call { link, space, .. } = self.call;
        let entered = self.indexes(|outcome| outcome.entered && !outcome.raced && !outcome.uncommitted);
        if entered.is_empty() {
            return Vec::new();
        }
        let some = select(self.claims, &entered);
        let params: Params<'_> = &[&space, &names(&some), &owners(&some)];
        let found = link.execute(Statement::FindTurns, params).await.and_then(|rows| {
            rows.iter().map(|row| Ok(entered[Columns(row, link).index(entered.len())?])).collect()
        });
        found.unwrap_or_else(|failure: Failure| {
            for index in &entered {
                self.outcomes[*index] = Some(Outcome::of(Err(failure.error.clone())));
            }
            Vec::new()
        })
    }

    /// Bounds when claims ask again that have entered the queue only now: no `find_turns.sql` has checked them.
    fn bound_retries(&mut self, indexes: &[usize]) {
        for index in indexes {
            if let Some(Outcome {
                entered: true, reply: Ok(AcquireReply::Held { retry_after, .. }), ..
            }) = &mut self.outcomes[*index]
            {
                let bounded =
                    retry_after.map_or(RETRY_AFTER_RACE, |after| std::cmp::min(after, RETRY_AFTER_RACE));
                *retry_after = Some(bounded);
            }
        }
    }

    /// Notifies observers, and shortens leases that last too long. The outcome does not matter: both are also found out by
    /// asking.
    async fn notify_and_shorten(&self) {
        let Call { link, space, client, .. } = self.call;
        let names = |wanted| -> Vec<_> {
            self.indexes(wanted).into_iter().map(|i| self.claims[i].name.as_str()).collect()
        };
        let (observed, overlong) = (names(|outcome| outcome.observed), names(|outcome| outcome.overlong));
        if !observed.is_empty() {
            let params: Params<'_> = &[&space, &observed, &client, &NO_TOKENS];
            let _ = link.execute(Statement::NotifyIfAnyWaiter, params).await;
        }
        if !overlong.is_empty() {
            let _ = link.execute(Statement::ShortenOverlong, &[&space, &overlong]).await;
        }
    }

    /// Returns the indexes of the claims with such an outcome.
    fn indexes(&self, wanted: fn(&Outcome) -> bool) -> Vec<usize> {
        let all = self.outcomes.iter().enumerate();
        all.filter(|(_, outcome)| outcome.as_ref().is_some_and(wanted)).map(|(index, _)| index).collect()
    }

    fn into_replies(self) -> Vec<Result<AcquireReply>> {
        let unanswered = || Err(self.call.link.unexpected_reply());
        self.outcomes.into_iter().map(|outcome| outcome.map_or_else(unanswered, |o| o.reply)).collect()
    }
}

impl Outcome {
    /// Returns an outcome of which only the reply matters.
    fn of(reply: Result<AcquireReply>) -> Self {
        Self {
            reply,
            raced: false,
            missing: false,
            uncommitted: false,
            entered: false,
            mine: None,
            overlong: false,
            observed: false,
        }
    }
}

/// Executes `acquire.sql`. Owners that hold already get a full TTL from now, and the same token.
async fn execute_and_renew(
    call: Call<'_>,
    claims: &[&Claim],
    inserts: &[bool],
    insert_wait: &str,
) -> Result<Vec<Outcome>, Failure> {
    let mut outcomes = execute(call, claims, inserts, insert_wait).await?;
    let mine = outcomes.iter().enumerate().filter_map(|(i, outcome)| Some((i, outcome.mine?)));
    let mine: Vec<_> = mine.collect();
    if mine.is_empty() {
        return Ok(outcomes);
    }
    let again: Vec<_> = mine.iter().map(|(i, _)| Claim { shorten: false, ..claims[*i].clone() }).collect();
    let renewed = renew(call, &again).await?;
    for ((i, token), renewed) in mine.into_iter().zip(renewed) {
        outcomes[i].raced = matches!(renewed, Ok(RenewReply::NotHeld));
        outcomes[i].reply = match renewed {
            Ok(RenewReply::Renewed { ttl }) => Ok(AcquireReply::Granted { token, ttl }),
            Ok(RenewReply::NotHeld) => Err(locked(&claims[i].name)),
            Err(error) => Err(error),
        };
    }
    Ok(outcomes)
}

async fn execute(
    call: Call<'_>,
    claims: &[&Claim],
    inserts: &[bool],
    insert_wait: &str,
) -> Result<Vec<Outcome>, Failure> {
    let (names, owners, ttls) = (names(claims), owners(claims), ttls(claims));
    let (kinds, labels, limits) = (kinds(claims), labels(claims), limits(call, claims));
    let waits: Vec<_> = claims.iter().map(|claim| claim.wait).collect();
    let Call { link, space, client, client_key, hinter, .. } = call;
    let channel = hinter.is_listening().then_some(client);
    let params: Params<'_> = &[
        &space,
        &client,
        &client_key,
        &names,
        &kinds,
        &owners,
        &ttls,
        &limits,
        &waits,
        &labels,
        &channel,
        &insert_wait,
        &inserts,
    ];
    let rows = link.execute(Statement::Acquire, params).await?;
    check_all(call, claims.len(), &rows)?;
    let outcomes = claims.iter().zip(&rows).map(|(claim, row)| read(call, claim, row));
    let outcomes = outcomes.collect::<Result<Vec<_>>>()?;
    let any_waiter = rows.first().map_or(Ok(false), |row| Columns(row, link).get("any_waiter"))?;
    link.set_has_waiters(any_waiter || outcomes.iter().any(|outcome| outcome.entered));
    Ok(outcomes)
}

fn read(call: Call<'_>, claim: &Claim, row: &Row) -> Result<Outcome> {
    let row = Columns(row, call.link);
    let (timely, raced): (bool, bool) = (row.get("timely")?, row.get("raced")?);
    let waited: Option<i64> = row.get("waited")?;
    let mut mine = None;
    let reply = if let Some(token) = row.token("token")? {
        Ok(AcquireReply::Granted { token, ttl: claim.ttl })
    } else if !timely {
        Err(late(&claim.name))
    } else {
        let holder = read_holder(claim, &row)?;
        mine = holder.as_ref().filter(|holder| holder.owner == claim.owner).map(|holder| holder.token);
        let remaining = holder.as_ref().map(|holder| holder.remaining);
        let pause = record_waiter(call, claim, &row, waited)?;
        let retry_after = [remaining, pause, raced.then_some(RETRY_AFTER_RACE)].into_iter().flatten().min();
        Ok(AcquireReply::Held { holder, retry_after })
    };
    let (missing, overlong, observed) = (row.get("missing")?, row.get("overlong")?, row.get("observed")?);
    let entered = waited == Some(0);
    Ok(Outcome { reply, raced, missing, uncommitted: false, entered, mine, overlong, observed })
}

fn read_holder(claim: &Claim, row: &Columns<'_>) -> Result<Option<Holder>> {
    let Some(owner) = row.get::<Option<Uuid>>("holder")? else { return Ok(None) };
    holder(row, claim.name.clone(), owner, "held_token", "held_label", None).map(Some)
}

/// Records a claim that is in the queue. Returns when it asks again, if no channel is notified.
fn record_waiter(
    call: Call<'_>,
    claim: &Claim,
    row: &Columns<'_>,
    waited: Option<i64>,
) -> Result<Option<Duration>> {
    let Some(waited) = waited else { return Ok(None) };
    let before: Option<i64> = row.get("before")?;
    let before = before.map(|before| u32::try_from(before).unwrap_or(u32::MAX));
    call.waiters.queued(claim, call.sent, row.get("now")?, before);
    Ok(match before {
        Some(_) if row.get::<Option<bool>>("is_head")? == Some(true) => {
            Some((micros(waited) / 8).clamp(HEAD_PAUSE_MIN, HEAD_PAUSE_MAX))
        }
        Some(_) => call.waiters.pause(&claim.owner),
        None => None,
    })
}
