//! `renew`: one `update` command for all claims.
//!
//! A refused claim is looked up by a read that a deposed primary cannot answer. If the owner still holds the lock, the claim
//! came too late to shorten the lease, or another server is the primary now.

use mongodb::bson::Timestamp;

use super::call::{Call, Updated};
use super::errors::{NOT_PRIMARY, error_of_code};
use super::pipelines::{self, REFUSED};
use super::replies::{holder, id, late, whole};
use crate::error::Result;
use crate::storage::{Claim, RenewReply};

pub(super) async fn renew(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<RenewReply>>> {
    let call = call.bounded(claims.iter().filter(|claim| claim.shorten));
    let statements = || call.for_holders(claims, pipelines::renew);
    let mut updated = call.update(claims, statements()).await?;
    if updated.unconfirmed.is_some() {
        // The batch had little time. A renewal does no harm if it is executed twice.
        updated = call.update_once(&statements(), call.limit).await.map_err(|failure| failure.error)?;
    }
    let Updated { time, unconfirmed, failed, .. } = updated;
    if let Some(code) = unconfirmed {
        return Err(error_of_code(code, &call.link.place));
    }
    let renewed = |claim: &Claim| Ok(RenewReply::Renewed { ttl: whole(claim.ttl) });
    let mut replies: Vec<_> = claims.iter().map(renewed).collect();
    let mut refused = Vec::new();
    for (index, failure) in failed {
        match failure.code {
            Some(REFUSED) => refused.push(index),
            _ => replies[index] = Err(failure.error),
        }
    }
    let claims: Vec<_> = refused.iter().map(|index| &claims[*index]).collect();
    for (index, reply) in refused.into_iter().zip(look_up(call, &claims, time).await) {
        replies[index] = reply;
    }
    Ok(replies)
}

/// Returns the replies to claims that were refused.
async fn look_up(call: Call<'_>, claims: &[&Claim], time: Option<Timestamp>) -> Vec<Result<RenewReply>> {
    if claims.is_empty() {
        return Vec::new();
    }
    let found = match call.find_latest(claims, time).await {
        Ok(found) => found,
        Err(error) => return claims.iter().map(|_| Err(error.clone())).collect(),
    };
    let reply = |claim: &&Claim| {
        let found = found.iter().find(|found| id(found) == Some(&call.id(claim)));
        let holder = found.and_then(|found| holder(found, claim.name.clone())).flatten();
        match holder.is_some_and(|holder| holder.owner == claim.owner) {
            false => Ok(RenewReply::NotHeld),
            true if claim.shorten => Err(late(&claim.name)),
            true => Err(error_of_code(NOT_PRIMARY, &call.link.place)),
        }
    };
    claims.iter().map(reply).collect()
}
