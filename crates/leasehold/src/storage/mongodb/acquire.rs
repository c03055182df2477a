//! `acquire`: grants each claim, or enters it in the queue.
//!
//! 1. A single claim is one `findAndModify`, which returns the document as it is afterwards.
//! 2. Several claims are one `update`, and a read behind it of all their documents.
//! 3. If other clients insert the same documents at that moment, their statements are sent again.

use std::time::Duration;

use mongodb::bson::{Document, doc};

use super::call::{Call, Updated};
use super::errors::error_of_code;
use super::link::Failure;
use super::pipelines::{self, DUPLICATE_KEY, REFUSED, VERSION, projection};
use super::replies::{
    Entry, between, entry, foreign, holder, id, is_foreign, late, lease_ttl, now, raced, whole,
};
use crate::error::Result;
use crate::storage::{AcquireReply, Claim};

/// How often statements are sent whose documents other clients insert at the same moment.
const INSERTS_MAX: usize = 3;
/// Without a change stream, the first of the queue asks again after an eighth of the time that it has waited, within these.
const HEAD_PAUSE_MIN: Duration = Duration::from_millis(10);
const HEAD_PAUSE_MAX: Duration = Duration::from_millis(250);

pub(super) async fn acquire(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<AcquireReply>>> {
    match claims {
        [] => Ok(Vec::new()),
        [claim] => Ok(vec![acquire_one(call, claim).await]),
        _ => acquire_many(call, claims).await,
    }
}

async fn acquire_one(call: Call<'_>, claim: &Claim) -> Result<AcquireReply> {
    let Call { link, .. } = call;
    let id = call.id(claim);
    let command = doc! {
        "findAndModify": &link.collection,
        "query": { "_id": &id, "v": VERSION },
        "update": pipelines::acquire(call.params(claim)),
        "upsert": true,
        "new": true,
        "fields": projection(&[claim.owner.to_string()]),
    };
    for _ in 0..INSERTS_MAX {
        match link.write(command.clone()).await {
            Ok(reply) => {
                let found = reply.get_document("value").map_err(|_| link.unexpected_reply())?;
                return read(call, claim, found);
            }
            Err(Failure { code: Some(DUPLICATE_KEY), .. }) => {}
            Err(Failure { code: Some(REFUSED), .. }) => return Err(late(&claim.name)),
            Err(Failure { error, .. }) => return Err(error),
        }
    }
    let found = call.find(std::slice::from_ref(&id), &[], None).await?;
    Err(if found.iter().any(is_foreign) { foreign(&claim.name) } else { raced(&claim.name) })
}

async fn acquire_many(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<AcquireReply>>> {
    let ids = call.ids(claims);
    let Sent { last_reply, codes } = send(call, claims).await?;
    let owners: Vec<_> = claims.iter().map(|claim| claim.owner.to_string()).collect();
    let found = call.find(&ids, &owners, Some(&last_reply)).await?;
    let reply = |i: usize| {
        let (claim, found) = (&claims[i], found.iter().find(|found| id(found) == Some(&ids[i])));
        match (codes[i], found) {
            (None, Some(found)) => read(call, claim, found),
            (None, None) => Err(call.link.unexpected_reply()),
            (Some(REFUSED), _) => Err(late(&claim.name)),
            (Some(DUPLICATE_KEY), Some(found)) if is_foreign(found) => Err(foreign(&claim.name)),
            (Some(DUPLICATE_KEY), _) => Err(raced(&claim.name)),
            (Some(code), _) => Err(error_of_code(code, &call.link.place)),
        }
    };
    Ok((0..claims.len()).map(reply).collect())
}

/// What the server replied to the statements of several claims.
struct Sent {
    last_reply: Document,
    /// The codes of the statements that failed at last.
    codes: Vec<Option<i32>>,
}

/// Sends a statement for each claim, and again those that raced with an insert.
async fn send(call: Call<'_>, claims: &[Claim]) -> Result<Sent> {
    let statement = |claim: &Claim| {
        let query = doc! { "_id": call.id(claim), "v": VERSION };
        doc! { "q": query, "u": pipelines::acquire(call.params(claim)), "upsert": true }
    };
    let mut sent = Sent { last_reply: Document::new(), codes: vec![None; claims.len()] };
    let mut open: Vec<_> = (0..claims.len()).collect();
    for _ in 0..INSERTS_MAX {
        let sent_again: Vec<_> = open.iter().map(|i| &claims[*i]).collect();
        let Updated { reply, failed, .. } = call.update(&sent_again, statement).await?;
        sent.last_reply = reply;
        open.iter().for_each(|i| sent.codes[*i] = None);
        failed.iter().for_each(|(index, code)| sent.codes[open[*index]] = Some(*code));
        open.retain(|i| sent.codes[*i] == Some(DUPLICATE_KEY));
        if open.is_empty() {
            break;
        }
    }
    Ok(sent)
}

/// Reads the reply to a claim from the document as it was afterwards.
fn read(call: Call<'_>, claim: &Claim, found: &Document) -> Result<AcquireReply> {
    let Call { link, sent, hinter, waiters, .. } = call;
    link.primary.learn(sent, now(found).ok_or_else(|| link.unexpected_reply())?);
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
