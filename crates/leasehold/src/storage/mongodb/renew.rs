//! `renew`: one `update` command for all claims.
//!
//! If it does not renew all of them, a read tells which it has renewed, and the others are sent one by one. A primary that
//! was deposed cannot answer that read, nor the one that looks up a refused claim. If the owner of such a claim still holds
//! the lock, the claim came too late to shorten the lease, or another server is the primary now.

use std::ops::RangeInclusive;
use std::time::Duration;

use mongodb::bson::Document;

use super::call::{Call, unknown};
use super::errors::{NOT_PRIMARY, error_of_code};
use super::pipelines::COMMAND_MAX;
use super::replies::{holder, late, whole};
use crate::error::Result;
use crate::storage::{Claim, RenewReply};

/// The bounds of the time that the server may take for a call.
const LIMITS: RangeInclusive<Duration> = Duration::from_millis(250)..=COMMAND_MAX;
/// The same for several claims, and what part of the TTL it is. The engine waits for a sixth, and for 20 ms at least. Then it
/// gives up all of them, also those that are not held up.
const LIMITS_OF_SEVERAL: RangeInclusive<Duration> = Duration::from_millis(10)..=COMMAND_MAX;
const LIMIT_PART_OF_TTL: u32 = 7;

pub(super) async fn renew(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<RenewReply>>> {
    let limit = |claim: &Claim| if claim.shorten { claim.patience / 2 } else { COMMAND_MAX };
    let call = call.limited(claims, limit, LIMITS);
    let limit = |claim: &Claim| claim.ttl / LIMIT_PART_OF_TTL;
    let call = if claims.len() > 1 { call.limited(claims, limit, LIMITS_OF_SEVERAL) } else { call };
    let known = renew_together(call, claims).await?;
    let open = unknown(claims, &known);
    let sent = call.update_each(&open, |claim| claim.renewal(call.params())).await;
    let refused = open.iter().zip(&sent).filter(|(_, sent)| matches!(sent, Ok(false)));
    let refused: Vec<_> = refused.map(|(claim, _)| *claim).collect();
    let mut looked_up = look_up(call, &refused).await.into_iter();
    let unanswered = || Err(call.link.unexpected_reply());
    let mut replies = open.iter().zip(sent).map(|(claim, sent)| match sent? {
        true => Ok(renewed(claim)),
        false => looked_up.next().unwrap_or_else(unanswered),
    });
    let reply =
        |known: Option<RenewReply>| known.map_or_else(|| replies.next().unwrap_or_else(unanswered), Ok);
    Ok(known.into_iter().map(reply).collect())
}

fn renewed(claim: &Claim) -> RenewReply {
    RenewReply::Renewed { ttl: whole(claim.ttl) }
}

/// Sends all claims in one command. Returns `None` for each that may not have been executed.
async fn renew_together(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Option<RenewReply>>> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let statement = call.claims(claims).renewal(call.params());
    let updated = call.update(statement, call.first_part(claims)).await?;
    if updated.failure.is_none() && updated.count == claims.len() {
        if updated.unconfirmed.is_none() {
            return Ok(claims.iter().map(|claim| Some(renewed(claim))).collect());
        }
        let found = call.confirmed(claims, &updated).await?;
        return Ok(claims.iter().map(|claim| read_renewed(call, claim, &found)).collect());
    }
    let found = call.find_latest(claims).await?;
    Ok(claims.iter().map(|claim| read(call, claim, &found)).collect())
}

/// Reads whether a claim was executed, from the latest document.
fn read(call: Call<'_>, claim: &Claim, found: &[Document]) -> Option<RenewReply> {
    match of_owner(call, claim, found) {
        None => Some(RenewReply::NotHeld),
        Some(_) => read_renewed(call, claim, found),
    }
}

/// Reads the renewal, if the document has it.
fn read_renewed(call: Call<'_>, claim: &Claim, found: &[Document]) -> Option<RenewReply> {
    of_owner(call, claim, found).filter(|found| call.has_written(found)).map(|_| renewed(claim))
}

/// Finds out why claims were refused.
async fn look_up(call: Call<'_>, claims: &[&Claim]) -> Vec<Result<RenewReply>> {
    if claims.is_empty() {
        return Vec::new();
    }
    let found = match call.find_latest(claims.iter().copied()).await {
        Ok(found) => found,
        Err(error) => return claims.iter().map(|_| Err(error.clone())).collect(),
    };
    let reply = |claim: &&Claim| match of_owner(call, claim, &found) {
        None => Ok(RenewReply::NotHeld),
        Some(_) if claim.shorten => Err(late(&claim.name)),
        Some(_) => Err(error_of_code(NOT_PRIMARY, &call.link.place)),
    };
    claims.iter().map(reply).collect()
}

/// Returns the lock's document, if the claim's owner holds the lock.
fn of_owner<'a>(call: Call<'_>, claim: &Claim, found: &'a [Document]) -> Option<&'a Document> {
    let found = call.document(claim, found)?;
    let holder = holder(found, claim.name.clone()).flatten()?;
    (holder.owner == claim.owner).then_some(found)
}
