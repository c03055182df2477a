//! `release`: ends the leases of these owners, and whatever else is left of them.
//!
//! 1. One `update` command ends the leases that are held, and hands the locks over.
//! 2. A second one, for the owners without a lease only, removes their entries from the queues.

use mongodb::bson::{Document, doc};

use super::call::{Call, TIMED_OUT};
use super::errors::error_of_code;
use super::pipelines::{self, REFUSED, VERSION};
use crate::error::Result;
use crate::storage::{Claim, ReleaseReply};

pub(super) async fn release(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<ReleaseReply>>> {
    let all: Vec<_> = claims.iter().collect();
    let updated = call.update(&all, |claim| call.for_holder(claim, pipelines::release)).await?;
    let mut replies: Vec<_> = claims.iter().map(|_| Ok(ReleaseReply::Released)).collect();
    let mut not_held = Vec::new();
    for (index, code) in updated.failed {
        replies[index] = match code {
            // The first of its statements may have ended the lease.
            REFUSED if updated.apart => Err(error_of_code(TIMED_OUT, &call.link.place)),
            REFUSED => Ok(ReleaseReply::NotHeld),
            code => Err(error_of_code(code, &call.link.place)),
        };
        if code == REFUSED {
            not_held.push(index);
        }
    }
    if not_held.is_empty() {
        return Ok(replies);
    }
    let withdrawn: Vec<_> = not_held.iter().map(|index| &claims[*index]).collect();
    match call.update(&withdrawn, |claim| withdrawal(call, claim)).await {
        Ok(updated) => {
            for (index, code) in updated.failed {
                replies[not_held[index]] = Err(error_of_code(code, &call.link.place));
            }
        }
        Err(error) => not_held.iter().for_each(|index| replies[*index] = Err(error.clone())),
    }
    Ok(replies)
}

/// Makes the statement that removes what is left of an owner. It matches no document if nothing is.
fn withdrawal(call: Call<'_>, claim: &Claim) -> Document {
    let owner = claim.owner.to_string();
    let left = vec![doc! { "owner": &owner }, doc! { "queue.owner": &owner }];
    let query = doc! { "_id": call.id(claim), "v": VERSION, "$or": left };
    doc! { "q": query, "u": pipelines::withdraw(call.params(claim)) }
}
