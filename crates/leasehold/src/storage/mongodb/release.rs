//! `release`: ends the leases of these owners, and whatever else is left of them.
//!
//! 1. One `update` command ends the leases that are held, and hands the locks over.
//! 2. A second one, for the owners without a lease only, removes their entries from the queues.

use mongodb::bson::{Document, doc};

use super::call::{Call, Updated};
use super::errors::{TIME_OVER, error_of_code};
use super::pipelines::{self, REFUSED, VERSION};
use crate::error::Result;
use crate::storage::{Claim, ReleaseReply};

pub(super) async fn release(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<ReleaseReply>>> {
    let updated = call.update(claims, call.for_holders(claims, pipelines::release)).await?;
    let mut replies: Vec<_> = claims.iter().map(|_| Ok(ReleaseReply::Released)).collect();
    let not_held = record(call, updated, &mut replies, &(0..claims.len()).collect::<Vec<_>>())?;
    let rest: Vec<_> = not_held.iter().map(|index| claims[*index].clone()).collect();
    let statements = rest.iter().map(|claim| withdrawal(call, claim)).collect();
    match call
        .update(&rest, statements)
        .await
        .and_then(|updated| record(call, updated, &mut replies, &not_held))
    {
        Ok(_) => {}
        Err(error) => not_held.iter().for_each(|index| replies[*index] = Err(error.clone())),
    }
    Ok(replies)
}

/// Records what the server replied to the statements of the claims at `indexes`. Returns the indexes of those that do not
/// hold.
fn record(
    call: Call<'_>,
    updated: Updated,
    replies: &mut [Result<ReleaseReply>],
    indexes: &[usize],
) -> Result<Vec<usize>> {
    if let Some(code) = updated.unconfirmed {
        return Err(error_of_code(code, &call.link.place));
    }
    let mut not_held = Vec::new();
    for (index, failure) in updated.failed {
        let index = indexes[index];
        replies[index] = match failure.code {
            // The first of its statements may have ended the lease.
            Some(REFUSED) if updated.repeated => Err(error_of_code(TIME_OVER, &call.link.place)),
            Some(REFUSED) => Ok(ReleaseReply::NotHeld),
            _ => Err(failure.error),
        };
        if replies[index].is_ok() {
            not_held.push(index);
        }
    }
    Ok(not_held)
}

/// Makes the statement that removes what is left of an owner. It matches no document if nothing is.
fn withdrawal(call: Call<'_>, claim: &Claim) -> Document {
    let owner = claim.owner.to_string();
    let left = vec![doc! { "owner": &owner }, doc! { "queue.owner": &owner }];
    let query = doc! { "_id": call.id(claim), "leasehold": VERSION, "$or": left };
    doc! { "q": query, "u": pipelines::withdraw(call.params(claim)) }
}
