//! `release`: ends leases and waiters' entries, and hands the locks over to the next waiters.
//!
//! 1. While no client waits, one small statement ends the leases (`release_uncontended.sql`).
//! 2. `release.sql` decides the remaining claims, in up to three [passes](super::passes).
//! 3. Behind each release, `notify.sql` tells the next waiters that it is their turn, or that the lock is theirs.

use futures_util::future::join;
use tokio_postgres::Row;
use uuid::Uuid;

use super::call::{Call, NO_TOKENS, names, owners, select};
use super::failure::Failure;
use super::halving::by_halves;
use super::link::Params;
use super::passes::{PassResult, Passes, notify_owners};
use super::replies::{Columns, acquire_in_flight, check_all, check_some};
use super::statements::Statement;
use crate::error::Result;
use crate::storage::net::waiters::Handover;
use crate::storage::{Claim, Hint, Owner, ReleaseReply};

pub(super) async fn release(call: Call<'_>, claims: &[Claim]) -> Result<Vec<Result<ReleaseReply>>> {
    let mut passes = Passes::new(claims, ReleaseReply::NotHeld);
    if !call.link.has_waiters() {
        for index in release_uncontended(call, claims).await? {
            passes.set(index, ReleaseReply::Released);
        }
    }
    // The claims whose lease has ended, even if another transaction keeps their entry in the queue locked.
    let mut ended = Vec::new();
    for statement in [Statement::Release, Statement::ReleaseBlocking, Statement::Release] {
        let pass = |indexes: Vec<usize>| async move {
            release_once(call, statement, &select(claims, &indexes)).await
        };
        let results = by_halves(passes.open(), pass).await;
        let result =
            |(index, result): (usize, Result<Outcome, Failure>)| -> (usize, PassResult<ReleaseReply>) {
                let result = result.map(|Outcome { reply, held }| {
                    ended.extend(held.then_some(index));
                    reply
                });
                (index, result)
            };
        let results = results.into_iter().map(result).collect();
        if !passes.record(statement, results) {
            break;
        }
    }
    ended.into_iter().for_each(|index| passes.set(index, ReleaseReply::Released));
    Ok(passes.into_replies())
}

/// What a statement reported about one claim.
struct Outcome {
    /// `None` if a row of it was skipped.
    reply: Option<Result<ReleaseReply>>,
    /// Whether a lease was ended.
    held: bool,
}

/// Ends the leases that a small statement can end. Returns the indexes of those claims.
async fn release_uncontended(call: Call<'_>, claims: &[Claim]) -> Result<Vec<usize>> {
    let all: Vec<_> = claims.iter().collect();
    let (names, owners) = (names(&all), owners(&all));
    let Call { space, client, .. } = call;
    let release: Params<'_> = &[&space, &client, &names, &owners];
    let statements = (Statement::ReleaseUncontended, Statement::NotifyIfAnyWaiter);
    match release_and_notify(call, statements, release, &names).await {
        Ok(rows) => Ok(check_some(call, claims.len(), &rows)?.into_iter().map(|(index, _)| index).collect()),
        // The next statement finds out which of them is refused.
        Err(failure) if failure.is_of_one_claim() => Ok(Vec::new()),
        Err(failure) => Err(failure.into()),
    }
}

/// Sends one statement for these claims. Returns what it reported about each.
async fn release_once(
    call: Call<'_>,
    statement: Statement,
    claims: &[&Claim],
) -> Result<Vec<Outcome>, Failure> {
    let (names, owners) = (names(claims), owners(claims));
    let Call { link, space, client, client_key, .. } = call;
    let release: Params<'_> = &[&space, &client_key, &names, &owners, &link.waits_for_replies(), &client];
    let rows = release_and_notify(call, (statement, Statement::Notify), release, &names).await?;
    check_all(call, claims.len(), &rows)?;
    record_handovers(call, claims, &rows)?;
    notify_owners(call, claims, &rows).await?;
    claims.iter().zip(&rows).map(|(claim, row)| read(call, claim, &Columns(row, link))).collect()
}

fn read(call: Call<'_>, claim: &Claim, row: &Columns<'_>) -> Result<Outcome, Failure> {
    let held: bool = row.get("held")?;
    let reply = if row.get("locked")? {
        None
    } else if held {
        Some(Ok(ReleaseReply::Released))
    } else if call.client_key.is_none() || row.get::<Option<bool>>("alone")? == Some(true) {
        Some(Ok(ReleaseReply::NotHeld))
    } else {
        Some(Err(acquire_in_flight(&claim.name)))
    };
    Ok(Outcome { reply, held })
}

/// Records which waiters of this client hold the locks now: no other client notifies them.
fn record_handovers(call: Call<'_>, claims: &[&Claim], rows: &[Row]) -> Result<()> {
    let link = call.link;
    for (claim, row) in claims.iter().zip(rows) {
        let row = Columns(row, link);
        if let Some(owner) = row.get::<Option<Uuid>>("successor")? {
            let owner = Owner::from_bytes(owner.into_bytes());
            let token = row.token("token")?.ok_or_else(|| link.unexpected_reply())?;
            let handover = Handover { owner, token, asked: row.get("asked")?, name: claim.name.clone() };
            call.waiters.hand_over(handover, &link.facts.identity);
            call.hinter.send(Hint::Owner(owner));
        }
    }
    Ok(())
}

/// Releases, and notifies by a statement of its own, since NOTIFY holds up other commits. The server executes that one
/// when the release is committed. So it sees every waiter that does not see the release, and it announces only what is on
/// the disk.
async fn release_and_notify(
    call: Call<'_>,
    (release, notify): (Statement, Statement),
    params: Params<'_>,
    names: &[&str],
) -> Result<Vec<Row>, Failure> {
    let Call { link, space, client, .. } = call;
    // The outcome does not matter: waiters ask again by themselves, too.
    let notifying =
        async |tokens: &[i64]| link.send_unanswered(notify, &[&space, &names, &client, &tokens]).await;
    if link.waits_for_replies() {
        let rows = link.execute(release, params).await?;
        let handed_over = rows.iter().filter_map(|row| row.try_get::<_, Option<i64>>("token").ok().flatten());
        notifying(&handed_over.collect::<Vec<_>>()).await;
        return Ok(rows);
    }
    link.prepare(release).await?;
    link.prepare(notify).await?;
    let (released, ()) = join(link.execute_and_count(release, params), notifying(NO_TOKENS)).await;
    let (rows, tries) = released?;
    if tries > 1 {
        // The first notification overtook a release that was rolled back and sent again.
        notifying(NO_TOKENS).await;
    }
    Ok(rows)
}
