//! `release`: ends the leases of these owners, and whatever else is left of them.
//!
//! 1. One `update` command ends the leases that are held, hands the locks over, and leaves the id of the call in the documents.
//!    A short one is sent first where no owner waits for the locks, as far as this client knows.
//! 2. If it does not end all of them, a read tells by that id which it has ended. The others whose owner still holds the
//!    lock are sent one by one.
//! 3. Another `update`, for the owners without a lease only, removes their entries from the queues.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::call::{Call, Updated, unknown};
use crate::error::Result;
use crate::storage::{Claim, ReleaseReply};

/// The bounds of the time that the server may take for a call. The client's other releases wait for its reply.
const LIMITS: RangeInclusive<Duration> = Duration::from_millis(250)..=Duration::from_secs(2);

pub(super) async fn release(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<ReleaseReply>>> {
    let call = call.limited(claims, |claim| claim.patience / 2, LIMITS);
    let known = release_together(call, claims).await?;
    let open = unknown(claims, &known);
    let mut sent = call.update_each(&open, |claim| claim.release(call.params())).await.into_iter();
    let unanswered = || Err(call.link.unexpected_reply());
    let is_released = |known: Option<bool>| known.map_or_else(|| sent.next().unwrap_or_else(unanswered), Ok);
    let are_released: Vec<_> = known.into_iter().map(is_released).collect();
    let not_held = claims.iter().zip(&are_released).filter(|(_, released)| matches!(released, Ok(false)));
    let not_held: Vec<_> = not_held.map(|(claim, _)| claim).collect();
    let mut withdrawn = withdraw(call, &not_held).await.into_iter();
    let reply = |is_released: Result<bool>| match is_released? {
        true => Ok(ReleaseReply::Released),
        false => withdrawn.next().unwrap_or_else(unanswered).map(|_| ReleaseReply::NotHeld),
    };
    Ok(are_released.into_iter().map(reply).collect())
}

/// Sends all claims in one command. Returns whether each has ended a lease; `None` if it may not have been executed.
async fn release_together(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Option<bool>>> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let updated = update(call, claims).await?;
    if updated.failure.is_none() && (updated.count == claims.len() || updated.count == 0) {
        if updated.unconfirmed.is_none() {
            return Ok(vec![Some(updated.count > 0); claims.len()]);
        }
        let found = call.confirmed(claims, &updated).await?;
        let has_released =
            |claim: &Claim| call.document(claim, &found).is_some_and(|found| call.has_released(found));
        return Ok(claims.iter().map(|claim| has_released(claim).then_some(true)).collect());
    }
    let found = call.find_latest(claims).await?;
    let is_released = |claim: &Claim| {
        let found = call.document(claim, &found);
        let owner = found.and_then(|found| found.get_str("owner").ok());
        match found.is_some_and(|found| call.has_released(found)) {
            true => Some(true),
            false if owner == Some(&claim.owner.to_string()) => None,
            false => Some(false),
        }
    };
    Ok(claims.iter().map(is_released).collect())
}

/// Ends the leases: those of uncontended locks by a short statement, if all are likely to be that.
async fn update(call: Call<'_>, claims: &[Claim]) -> Result<Updated> {
    let (of_call, mut updated) = (call.claims(claims), Updated::default());
    if call.uncontended.are_all(claims) {
        let statement = of_call.last_release(call.params());
        // The other half is for the long one. Even one that matches nothing waits for a majority.
        updated = call.update(statement, call.left() / 2).await?;
        if updated.failure.is_none() && updated.count == claims.len() {
            return Ok(updated);
        }
        // Also if the server was only slow: the next call has all of its time for the long one.
        claims.iter().for_each(|claim| call.uncontended.note(&claim.name, false));
        if updated.failure.is_some() {
            return Ok(updated);
        }
    }
    let statement = of_call.release(call.params());
    Ok(updated.and(call.update(statement, call.first_part(claims)).await?))
}

/// Removes what is left of owners without a lease.
async fn withdraw(call: Call<'_>, claims: &[&Claim]) -> Vec<Result<bool>> {
    if claims.len() > 1 {
        let statement = call.claims(claims.iter().copied()).withdrawal(call.params());
        let updated = call.update(statement, call.left() / 2).await;
        if updated.is_ok_and(|updated| updated.failure.or(updated.unconfirmed).is_none()) {
            return claims.iter().map(|_| Ok(true)).collect();
        }
    }
    call.update_each(claims, |claim| claim.withdrawal(call.params())).await
}
