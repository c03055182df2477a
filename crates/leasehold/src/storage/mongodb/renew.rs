//! `renew`: one `update` command for all claims.
//!
//! A claim that shortens is refused also if it comes too late. Only then, a read finds out which of the two it was.

use mongodb::bson::Document;

use super::call::{Call, Updated};
use super::errors::error_of_code;
use super::pipelines::{self, REFUSED};
use super::replies::{holder, id, late, whole};
use crate::error::Result;
use crate::storage::{Claim, RenewReply};

pub(super) async fn renew(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<RenewReply>>> {
    let all: Vec<_> = claims.iter().collect();
    let statement = |claim: &Claim| call.for_holder(claim, pipelines::renew);
    let Updated { reply, failed, .. } = call.update(&all, statement).await?;
    let renewed = |claim: &Claim| Ok(RenewReply::Renewed { ttl: whole(claim.ttl) });
    let mut replies: Vec<_> = claims.iter().map(renewed).collect();
    let mut refused_to_shorten = Vec::new();
    for (index, code) in failed {
        replies[index] = match code {
            REFUSED => Ok(RenewReply::NotHeld),
            code => Err(error_of_code(code, &call.link.place)),
        };
        if code == REFUSED && claims[index].shorten {
            refused_to_shorten.push(index);
        }
    }
    for index in held_still(call, claims, refused_to_shorten, &reply).await? {
        replies[index] = Err(late(&claims[index].name));
    }
    Ok(replies)
}

/// Returns those of the indexes whose owner still holds the lock.
async fn held_still(
    call: Call<'_>,
    claims: &[Claim],
    indexes: Vec<usize>,
    reply: &Document,
) -> Result<Vec<usize>> {
    if indexes.is_empty() {
        return Ok(indexes);
    }
    let ids: Vec<_> = indexes.iter().map(|index| call.id(&claims[*index])).collect();
    let found = call.find(&ids, &[], Some(reply)).await?;
    let is_held = |index: &usize| {
        let claim = &claims[*index];
        let found = found.iter().find(|found| id(found) == Some(&call.id(claim)));
        let holder = found.and_then(|found| holder(found, claim.name.clone())).flatten();
        holder.is_some_and(|holder| holder.owner == claim.owner)
    };
    Ok(indexes.into_iter().filter(is_held).collect())
}
