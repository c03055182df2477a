//! `acquire`: grants each claim, or enters it in the queue.
//!
//! 1. A single claim is one `findAndModify`, which inserts the document if there is none, and returns it as it is afterward.
//!    For a lock that is likely to be free, and to have no waiters, a short one is sent first; so is a short `update` for
//!    several.
//! 2. Several claims are one `update`, and a read behind it of all their documents. For documents that do not exist, an `insert`
//!    adds empty ones, and both commands are sent again.
//! 3. Claims that came too late, or were not executed for another reason, are sent one by one.
//! 4. A claim whose document a transaction has changed, as a [`Fence`](super::Fence) does, is *locked*. It is not granted,
//!    and leaves no entry in the queue. It asks again soon.

use std::ops::RangeInclusive;
use std::time::Duration;

use mongodb::bson::{Bson, DateTime, Document, doc};
use tokio::time::timeout;

use super::call::{Call, Updated, each};
use super::errors::{DUPLICATE_KEY, UNCONFIRMED, error_of_code};
use super::link::{Failure, Written};
use super::pipelines::{self, REFUSED, VERSION, projection, projection_without_queue};
use super::replies::{
    self, Entry, between, entry, foreign, holder, is_foreign, late, lease_ttl, locked, now, raced, whole,
};
use crate::error::{Error, Result};
use crate::storage::{AcquireReply, Claim, Holder};

/// The bounds of the time that the server may take for a call. The client's other claims wait for its reply.
///
/// A claim with less patience may be executed as much too late, if a transaction has changed its document. Such a lease is
/// short, too, and ends by itself.
const LIMITS: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(2);
/// What part of a single claim's time is for the read behind a command that failed.
const READ_PART: u32 = 8;
/// How often a document is inserted that another client inserts or deletes at the same moment.
const INSERTS_MAX: usize = 3;
/// When to ask again if a transaction has changed the document.
const RETRY_AFTER_LOCKED: Duration = Duration::from_millis(50);
/// Without a change stream, the first of the queue asks again after an eighth of the time that it has waited, within these.
const HEAD_PAUSE_MIN: Duration = Duration::from_millis(10);
const HEAD_PAUSE_MAX: Duration = Duration::from_millis(250);

pub(super) async fn acquire(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<AcquireReply>>> {
    let call = call.limited(claims, |claim| claim.patience / 2, LIMITS);
    match claims {
        [] => Ok(Vec::new()),
        [claim] => Ok(vec![acquire_one(call, claim, call.limit).await]),
        _ => acquire_many(call, claims).await,
    }
}

async fn acquire_one(call: Call<'_>, claim: &Claim, limit: Duration) -> Result<AcquireReply> {
    // The rest is for the read that tells why it was held up.
    let limit = limit - limit / READ_PART;
    let sent = match send_uncontended(call, claim, limit).await {
        Some(sent) => sent,
        None => send(call, claim, std::cmp::min(limit, call.left() - call.left() / READ_PART)).await,
    };
    let failure = match sent {
        Ok(Written { unconfirmed: None, reply, .. }) => {
            let found = reply.get_document("value").map_err(|_| call.link.unexpected_reply())?;
            return read(call, claim, found);
        }
        Ok(written) => return confirm(call, claim, &written).await,
        Err(failure) => failure,
    };
    if failure.code == Some(REFUSED) {
        call.refresh_clock().await;
    }
    if !(failure.is_delay() || failure.code == Some(DUPLICATE_KEY)) {
        // The document says no more.
        return Err(error_of(claim, failure, None));
    }
    let found = call.find_latest([claim]).await?;
    read_failed(call, claim, failure, found.first())
}

/// Sends a claim that is likely to find its lock free, and no owner that waits for it. Returns `None` if it finds another one.
async fn send_uncontended(
    call: Call<'_>,
    claim: &Claim,
    limit: Duration,
) -> Option<Result<Written, Failure>> {
    if !call.uncontended.are_all(std::slice::from_ref(claim)) {
        return None;
    }
    let (query, pipeline) = call.claims([claim]).grant(call.params());
    let command = doc! {
        "findAndModify": &call.link.collection,
        "query": query,
        "update": pipeline,
        "new": true,
        "fields": projection_without_queue(),
    };
    // The other half is for the long one. Even one that matches nothing waits for a majority.
    let sent = call.link.write(command, limit / 2).await;
    let is_another = |written: &Written| written.reply.get("value").is_none_or(|value| *value == Bson::Null);
    let is_wrong = sent.as_ref().is_ok_and(is_another);
    if is_wrong || sent.is_err() {
        // Also if the server was only slow: the next call has all of its time for the long one.
        call.uncontended.note(&claim.name, false);
    }
    if is_wrong { None } else { Some(sent) }
}

/// Sends a claim for any lock.
async fn send(call: Call<'_>, claim: &Claim, limit: Duration) -> Result<Written, Failure> {
    let Call { link, .. } = call;
    let (claims, owner) = (call.claims([claim]), claim.owner.to_string());
    let command = doc! {
        "findAndModify": &link.collection,
        "query": { "_id": call.id_of(claim), "leasehold": VERSION },
        "update": claims.pipeline_unless_late(pipelines::acquire(call.params())),
        "upsert": true,
        "new": true,
        "fields": projection(std::slice::from_ref(&owner)),
    };
    let mut sent = link.write(command.clone(), limit).await;
    for _ in 1..INSERTS_MAX {
        if !matches!(sent, Err(Failure { code: Some(DUPLICATE_KEY), .. })) {
            break;
        }
        sent = link.write(command.clone(), limit).await;
    }
    sent
}

/// Finds out what has become of a claim that no majority has confirmed in its time.
async fn confirm(call: Call<'_>, claim: &Claim, written: &Written) -> Result<AcquireReply> {
    if let (false, Some(code)) = (written.may_be_confirmed(), written.unconfirmed) {
        return Err(error_of_code(code, &call.link.place));
    }
    let found = call.find(&[call.id_of(claim)], &[claim.owner.to_string()], written.time).await?;
    match found.first() {
        Some(found) if is_answer(call, claim, found)? => read(call, claim, found),
        // Another server was elected meanwhile, and does not have the write.
        _ => Err(error_of_code(UNCONFIRMED, &call.link.place)),
    }
}

async fn acquire_many(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<AcquireReply>>> {
    let mut states: Vec<_> = claims.iter().map(|_| State::Missing).collect();
    for round in 0..=INSERTS_MAX {
        let executed = async {
            match round {
                0 => acquire_uncontended(call, claims, &mut states).await?,
                _ => insert_missing(call, claims, &mut states).await?,
            }
            acquire_existing(call, claims, &mut states).await
        };
        if let Err(error) = executed.await {
            // The others are answered.
            indexes(&states, is_missing)
                .into_iter()
                .for_each(|i| states[i] = State::Answered(Err(error.clone())));
        }
        if indexes(&states, is_missing).is_empty() {
            break;
        }
    }
    let open = indexes(&states, |state| matches!(state, State::Open));
    let limit = call.share(open.len());
    let replies = each(open.iter().map(|index| acquire_open(call, &claims[*index], limit)).collect()).await;
    for (index, reply) in open.into_iter().zip(replies) {
        states[index] = State::Answered(reply);
    }
    let reply = |(claim, state): (&Claim, State)| match state {
        State::Answered(reply) => reply,
        State::Missing | State::Open => Err(raced(&claim.name)),
    };
    Ok(claims.iter().zip(states).map(reply).collect())
}

/// Sends a claim that may have been executed already, unless it comes too late.
///
/// The server does not interrupt an insert that waits for a transaction which inserts the same document.
async fn acquire_open(call: Call<'_>, claim: &Claim, limit: Duration) -> Result<AcquireReply> {
    if call.is_late(claim) {
        return Err(late(&claim.name));
    }
    let reply = timeout(limit + limit / 2, acquire_one(call, claim, limit)).await;
    reply.unwrap_or_else(|_| Err(locked(&claim.name)))
}

/// What is known of one claim of several.
enum State {
    /// Its document was not found.
    Missing,
    /// It may not have been executed.
    Open,
    Answered(Result<AcquireReply>),
}

fn is_missing(state: &State) -> bool {
    matches!(state, State::Missing)
}

fn indexes(states: &[State], is_wanted: fn(&State) -> bool) -> Vec<usize> {
    (0..states.len()).filter(|index| is_wanted(&states[*index])).collect()
}

/// Executes the claims on the documents of free locks for which no owner waits, if all are likely to be that.
async fn acquire_uncontended(call: Call<'_>, claims: &[Claim], states: &mut [State]) -> Result<()> {
    if !call.uncontended.are_all(claims) {
        return Ok(());
    }
    let of_call = call.claims(claims);
    let (query, pipeline) = of_call.grant(call.params());
    let statement = doc! { "q": query, "u": pipeline, "multi": true };
    let updated = call.update(statement, call.first_part(claims)).await?;
    let has_stopped = updated.failure.is_some();
    let found = match updated.count {
        0 if !has_stopped => Vec::new(),
        _ => call.find_without_queue(of_call.ids(), updated.time).await?,
    };
    for (claim, state) in claims.iter().zip(states) {
        if let Some(found) = call.document(claim, &found).filter(|found| call.has_written(found)) {
            *state = State::Answered(read(call, claim, found));
            continue;
        }
        call.uncontended.note(&claim.name, false);
        if has_stopped {
            *state = State::Open;
        }
    }
    Ok(())
}

/// Executes the claims without an answer on the documents that exist.
async fn acquire_existing(call: Call<'_>, claims: &[Claim], states: &mut [State]) -> Result<()> {
    let indexes = indexes(states, is_missing);
    if indexes.is_empty() {
        return Ok(());
    }
    let of_call = call.claims(indexes.iter().map(|index| &claims[*index]));
    let owners: Vec<_> = indexes.iter().map(|index| claims[*index].owner.to_string()).collect();
    let statement = of_call.statement(pipelines::acquire(call.params()));
    let Updated { time, failure, .. } = call.update(statement, call.first_part(claims)).await?;
    let found = match failure {
        // The read waits until a majority has the writes.
        None => call.find(of_call.ids(), &owners, time).await?,
        Some(_) => call.find_latest(indexes.iter().map(|index| &claims[*index])).await?,
    };
    for index in indexes {
        let claim = &claims[index];
        let Some(found) = call.document(claim, &found) else { continue };
        states[index] = if is_foreign(found) {
            State::Answered(Err(foreign(&claim.name)))
        } else if is_answer(call, claim, found)? {
            State::Answered(read(call, claim, found))
        } else {
            // It came too late, or was not executed.
            State::Open
        };
    }
    Ok(())
}

/// Returns `true` if the document answers the claim: this call has written it, or would not have. A lease or an entry of the
/// claim's owner may be from an earlier claim.
fn is_answer(call: Call<'_>, claim: &Claim, found: &Document) -> Result<bool> {
    Ok(call.has_written(found) || (!claim.wait && is_for_another(call, claim, found)?))
}

/// Returns `true` if another owner holds the lock, or waits for it before the claim's owner.
fn is_for_another(call: Call<'_>, claim: &Claim, found: &Document) -> Result<bool> {
    if let Some(holder) = read_holder(call, claim, found)? {
        return Ok(holder.owner != claim.owner);
    }
    let before =
        entry(found, claim.owner).map_or(replies::waiters(found), |entry| entry.before.map(u64::from));
    Ok(before.is_some_and(|before| before > 0))
}

/// Inserts the documents that do not exist, as those of free locks.
async fn insert_missing(call: Call<'_>, claims: &[Claim], states: &mut [State]) -> Result<()> {
    let mut missing = indexes(states, is_missing);
    for index in missing.extract_if(.., |index| call.is_late(&claims[*index])) {
        states[index] = State::Answered(Err(late(&claims[index].name)));
    }
    if missing.is_empty() {
        return Ok(());
    }
    let ended = DateTime::from_millis(0);
    let free =
        |index: &usize| doc! { "_id": call.id_of(&claims[*index]), "leasehold": VERSION, "until": ended };
    let documents: Vec<_> = missing.iter().map(free).collect();
    let command = doc! { "insert": &call.link.collection, "documents": documents, "ordered": false };
    let written = match call.link.write(command, call.first_part(claims)).await {
        Err(failure) if failure.is_delay() => {
            // For example, a transaction inserts one of them.
            missing.into_iter().for_each(|index| states[index] = State::Open);
            return Ok(());
        }
        written => written.map_err(|failure| failure.error)?,
    };
    for (i, failure) in written.refused(&call.link.place)? {
        // Another client has inserted it, or it belongs to another program.
        if failure.code != Some(DUPLICATE_KEY)
            && let Some(index) = missing.get(i)
        {
            states[*index] = State::Answered(Err(failure.error));
        }
    }
    Ok(())
}

/// Reads the reply to a claim that failed, from the document as it is now. A claim that was not executed may be answered as
/// *held* only if it would have been.
fn read_failed(
    call: Call<'_>,
    claim: &Claim,
    failure: Failure,
    found: Option<&Document>,
) -> Result<AcquireReply> {
    let Some(found) = found.filter(|found| failure.is_delay() && !is_foreign(found)) else {
        return Err(error_of(claim, failure, found));
    };
    if !is_for_another(call, claim, found)? {
        return Err(error_of(claim, failure, None));
    }
    let holder = read_holder(call, claim, found)?;
    let remaining = holder.as_ref().map(|holder| holder.remaining);
    let retry_after = remaining.map_or(RETRY_AFTER_LOCKED, |rest| std::cmp::min(rest, RETRY_AFTER_LOCKED));
    Ok(AcquireReply::Held { retry_after: Some(retry_after), holder })
}

/// Returns the error of a claim that failed.
fn error_of(claim: &Claim, failure: Failure, found: Option<&Document>) -> Error {
    match failure.code {
        Some(REFUSED) => late(&claim.name),
        Some(DUPLICATE_KEY) if found.is_some_and(is_foreign) => foreign(&claim.name),
        Some(DUPLICATE_KEY) => raced(&claim.name),
        _ if failure.is_delay() => locked(&claim.name),
        _ => failure.error,
    }
}

/// Reads the reply to a claim from the document as it was afterward.
fn read(call: Call<'_>, claim: &Claim, found: &Document) -> Result<AcquireReply> {
    let Call { sent, hinter, waiters, .. } = call;
    call.learn_clock(now(found).ok_or_else(|| call.link.unexpected_reply())?);
    let holder = read_holder(call, claim, found)?;
    if let Some(holder) = holder.as_ref().filter(|holder| holder.owner == claim.owner) {
        // This claim made the lease as long as it asks for, unless the lock was handed over to it just before the read.
        let is_full = lease_ttl(found) >= Some(whole(claim.ttl));
        let ttl = if is_full { whole(claim.ttl) } else { holder.remaining };
        call.uncontended.note(&claim.name, replies::waiters(found).is_none_or(|waiters| waiters == 0));
        return Ok(AcquireReply::Granted { token: holder.token, ttl });
    }
    call.uncontended.note(&claim.name, false);
    let mut retry_after = holder.as_ref().map(|holder| holder.remaining);
    if let (Some(entry), true) = (entry(found, claim.owner), claim.wait) {
        let polls = !hinter.is_listening();
        waiters.queued(claim, sent, entry.asked, entry.before.filter(|_| polls));
        let pause = match entry.before {
            Some(0) => head_pause(&entry),
            _ => waiters.pause(&claim.owner),
        };
        retry_after = [retry_after, pause.filter(|_| polls)].into_iter().flatten().min();
    }
    Ok(AcquireReply::Held { retry_after, holder })
}

fn read_holder(call: Call<'_>, claim: &Claim, found: &Document) -> Result<Option<Holder>> {
    holder(found, claim.name.clone()).ok_or_else(|| call.link.unexpected_reply())
}

/// Returns when the first of the queue asks again if no change stream wakes it up.
fn head_pause(entry: &Entry) -> Option<Duration> {
    Some((between(entry.since, entry.asked) / 8).clamp(HEAD_PAUSE_MIN, HEAD_PAUSE_MAX))
}
