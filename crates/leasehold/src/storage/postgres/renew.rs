//! `renew`: gives each owner that still holds a full TTL.

use super::call::{Call, limits, names, owners, select, ttls};
use super::failure::Failure;
use super::halving::by_halves;
use super::passes::{Passes, notify_owners};
use super::replies::{Columns, check_all, late};
use super::statements::Statement;
use crate::error::Result;
use crate::storage::{Claim, Hint, RenewReply};

pub(super) async fn renew(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<RenewReply>>> {
    let mut passes = Passes::new(claims, RenewReply::NotHeld);
    for statement in [Statement::Renew, Statement::RenewBlocking, Statement::Renew] {
        let pass =
            |indexes: Vec<usize>| async move { renew_once(call, statement, &select(claims, &indexes)).await };
        let results = by_halves(passes.open(), pass).await;
        if !passes.record(statement, results) {
            break;
        }
    }
    Ok(passes.into_replies())
}

/// Sends one statement for these claims. Returns the reply to each, or `None` if its row was skipped.
async fn renew_once(
    call: Call<'_>,
    statement: Statement,
    claims: &[&Claim],
) -> Result<Vec<Option<Result<RenewReply>>>, Failure> {
    let shorten: Vec<_> = claims.iter().map(|claim| claim.shorten).collect();
    let (names, owners, ttls, limits) = (names(claims), owners(claims), ttls(claims), limits(call, claims));
    let rows =
        call.link.execute(statement, &[&call.space, &names, &owners, &ttls, &limits, &shorten]).await?;
    check_all(call, claims.len(), &rows)?;
    notify_owners(call, claims, &rows).await?;
    for (claim, row) in claims.iter().zip(&rows) {
        // Another guard of this client may hold the lease that was shortened.
        if Columns(row, call.link).get::<Option<&str>>("client")? == Some(call.client) {
            call.hinter.send(Hint::Owner(claim.owner));
        }
    }
    claims.iter().zip(&rows).map(|(claim, row)| read(claim, &Columns(row, call.link))).collect()
}

fn read(claim: &Claim, row: &Columns<'_>) -> Result<Option<Result<RenewReply>>, Failure> {
    let (held, renewed): (bool, bool) = (row.get("held")?, row.get("renewed")?);
    Ok(if renewed {
        Some(Ok(RenewReply::Renewed { ttl: claim.ttl }))
    } else if row.get("late")? {
        Some(Err(late(&claim.name)))
    } else if held {
        None
    } else {
        Some(Ok(RenewReply::NotHeld))
    })
}
