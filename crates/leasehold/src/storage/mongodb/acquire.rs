//! `acquire`: grants each claim, or enters it in the queue.
//!
//! 1. A single claim is one `findAndModify`, which returns the document as it is afterward.
//! 2. Several claims are one `update`, and a read behind it of all their documents.
//! 3. If other clients insert the same documents at that moment, the statements are sent again.
//! 4. A claim whose document a transaction has changed, as a [`Fence`](super::Fence) does, is *locked*. It is not granted,
//!    and leaves no entry in the queue. It asks again soon.

use std::time::Duration;

use mongodb::bson::{Document, Timestamp, doc};

use super::call::{Call, Updated};
use super::errors::{DUPLICATE_KEY, TIME_OVER, WRITE_CONFLICT, error_of_code};
use super::link::{Failure, Written};
use super::pipelines::{self, REFUSED, VERSION, projection};
use super::replies::{
    Entry, between, entry, foreign, holder, id, is_foreign, late, lease_ttl, locked, now, raced, whole,
};
use crate::error::{Error, Result};
use crate::storage::{AcquireReply, Claim};

/// How often statements are sent whose documents other clients insert at the same moment.
const INSERTS_MAX: usize = 3;
/// When to ask again if a transaction has changed the document.
const RETRY_AFTER_LOCKED: Duration = Duration::from_millis(50);
/// Without a change stream, the first of the queue asks again after an eighth of the time that it has waited, within these.
const HEAD_PAUSE_MIN: Duration = Duration::from_millis(10);
const HEAD_PAUSE_MAX: Duration = Duration::from_millis(250);

pub(super) async fn acquire(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<AcquireReply>>> {
    let call = call.bounded(claims.iter());
    match claims {
        [] => Ok(Vec::new()),
        [claim] => Ok(vec![acquire_one(call, claim).await]),
        _ => acquire_many(call, claims).await,
    }
}

async fn acquire_one(call: Call<'_>, claim: &Claim) -> Result<AcquireReply> {
    let Call { link, .. } = call;
    let owner = claim.owner.to_string();
    let command = doc! {
        "findAndModify": &link.collection,
        "query": { "_id": call.id(claim), "leasehold": VERSION },
        "update": pipelines::acquire(call.params(claim)),
        "upsert": true,
        "new": true,
        "fields": projection(std::slice::from_ref(&owner)),
    };
    let mut sent = link.write(command.clone(), call.limit).await;
    for _ in 1..INSERTS_MAX {
        if !matches!(sent, Err(Failure { code: Some(DUPLICATE_KEY), .. })) {
            break;
        }
        sent = link.write(command.clone(), call.limit).await;
    }
    let failure = match sent {
        Ok(Written { unconfirmed: None, reply }) => {
            let found = reply.get_document("value").map_err(|_| link.unexpected_reply())?;
            return read(call, claim, found);
        }
        Ok(written) => return confirm(call, claim, &written).await,
        Err(failure) => failure,
    };
    if failure.code == Some(REFUSED) {
        call.refresh_clock().await;
    }
    if !needs_document(failure.code) {
        return Err(error_of(claim, failure, None));
    }
    let found = call.find(&[call.id(claim)], &[owner], None).await?;
    read_failed(call, claim, failure, found.first())
}

/// Finds out what has become of a claim that no majority has confirmed in its time.
async fn confirm(call: Call<'_>, claim: &Claim, written: &Written) -> Result<AcquireReply> {
    if let (false, Some(code)) = (written.may_be_confirmed(), written.unconfirmed) {
        return Err(error_of_code(code, &call.link.place));
    }
    let found = call.find(&[call.id(claim)], &[claim.owner.to_string()], written.time()).await?;
    read(call, claim, found.first().ok_or_else(|| call.link.unexpected_reply())?)
}

async fn acquire_many(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<AcquireReply>>> {
    let ids = call.ids(claims);
    let Sent { time, mut failures } = send(call, claims, &ids).await?;
    let owners: Vec<_> = claims.iter().map(|claim| claim.owner.to_string()).collect();
    if failures.iter().flatten().any(|failure| failure.code == Some(REFUSED)) {
        call.refresh_clock().await;
    }
    // The read waits until a majority has the writes.
    let found = call.find(&ids, &owners, time).await?;
    let reply = |i: usize| {
        let (claim, found) = (&claims[i], found.iter().find(|found| id(found) == Some(&ids[i])));
        match failures[i].take() {
            None => read(call, claim, found.ok_or_else(|| call.link.unexpected_reply())?),
            Some(failure) => read_failed(call, claim, failure, found),
        }
    };
    Ok((0..claims.len()).map(reply).collect())
}

/// What the server replied to the statements of several claims.
struct Sent {
    /// The time of the last write.
    time: Option<Timestamp>,
    /// The reasons of the statements that failed at last.
    failures: Vec<Option<Failure>>,
}

/// Sends a statement for each claim, and again those that raced with an insert.
async fn send(call: Call<'_>, claims: &[Claim], ids: &[String]) -> Result<Sent> {
    let statement = |i: &usize| {
        let query = doc! { "_id": &ids[*i], "leasehold": VERSION };
        doc! { "q": query, "u": pipelines::acquire(call.params(&claims[*i])), "upsert": true }
    };
    let mut sent = Sent { time: None, failures: claims.iter().map(|_| None).collect() };
    let mut open: Vec<_> = (0..claims.len()).collect();
    for _ in 0..INSERTS_MAX {
        let Updated { time, failed, .. } = call.update(claims, open.iter().map(statement).collect()).await?;
        sent.time = std::cmp::max(sent.time, time);
        open.iter().for_each(|i| sent.failures[*i] = None);
        failed.into_iter().for_each(|(index, failure)| sent.failures[open[index]] = Some(failure));
        let raced = |i: &usize| sent.failures[*i].as_ref().is_some_and(|f| f.code == Some(DUPLICATE_KEY));
        open.retain(raced);
        if open.is_empty() {
            break;
        }
    }
    Ok(sent)
}

/// Returns `true` if the document says what a failure means for the claim.
fn needs_document(code: Option<i32>) -> bool {
    matches!(code, Some(DUPLICATE_KEY | TIME_OVER | WRITE_CONFLICT))
}

/// Reads the reply to a claim that failed, from the document as it is now.
fn read_failed(
    call: Call<'_>,
    claim: &Claim,
    failure: Failure,
    found: Option<&Document>,
) -> Result<AcquireReply> {
    let is_locked = matches!(failure.code, Some(TIME_OVER | WRITE_CONFLICT));
    let Some(found) = found.filter(|found| is_locked && !is_foreign(found)) else {
        return Err(error_of(claim, failure, found));
    };
    let holder = holder(found, claim.name.clone()).ok_or_else(|| call.link.unexpected_reply())?;
    if holder.as_ref().is_some_and(|holder| holder.owner == claim.owner) {
        return Err(locked(&claim.name));
    }
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
        Some(TIME_OVER | WRITE_CONFLICT) => locked(&claim.name),
        _ => failure.error,
    }
}

/// Reads the reply to a claim from the document as it was afterward.
fn read(call: Call<'_>, claim: &Claim, found: &Document) -> Result<AcquireReply> {
    let Call { link, sent, hinter, waiters, .. } = call;
    call.learn_clock(now(found).ok_or_else(|| link.unexpected_reply())?);
    let holder = holder(found, claim.name.clone()).ok_or_else(|| link.unexpected_reply())?;
    if let Some(holder) = holder.as_ref().filter(|holder| holder.owner == claim.owner) {
        // This claim made the lease as long as it asks for, unless the lock was handed over to it just before the read.
        let is_full = lease_ttl(found) >= Some(whole(claim.ttl));
        let ttl = if is_full { whole(claim.ttl) } else { holder.remaining };
        return Ok(AcquireReply::Granted { token: holder.token, ttl });
    }
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

/// Returns when the first of the queue asks again if no change stream wakes it up.
fn head_pause(entry: &Entry) -> Option<Duration> {
    Some((between(entry.since, entry.asked) / 8).clamp(HEAD_PAUSE_MIN, HEAD_PAUSE_MAX))
}
