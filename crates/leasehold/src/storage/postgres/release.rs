//! `release`: ends leases, and hands the locks over.

use futures_util::future::join;
use tokio_postgres::Row;
use uuid::Uuid;

use super::answers::Failure;
use super::apart::Apart;
use super::call::{Around, NONE, at, names, owners};
use super::link::Params;
use super::passes::{answered, take, tell, unanswered};
use super::replies::{Columns, done, heard, read_token, under_way};
use super::statements::Verb;
use super::waiting::Heir;
use crate::error::Result;
use crate::storage::{Claim, Hint, Owner, ReleaseReply};

pub(super) async fn release(around: Around<'_>, claims: &[Claim]) -> Result<Vec<Result<ReleaseReply>>> {
    let link = around.link;
    // Those whose lease was ended here, whatever becomes of an entry of theirs that somebody has locked.
    let mut ended = Vec::new();
    let once = async |verb: Verb, places: &[usize]| {
        let claims = at(claims, places);
        let (names, owners) = (names(&claims), owners(&claims));
        let Around { space, client, key, .. } = around;
        let release: Params<'_> = &[&space, &key, &names, &owners, &link.waits_for_answers(), &client];
        let rows = release_and_pass(around, (verb, release), Verb::PassOn, &names).await?;
        heard(around, claims.len(), &rows)?;
        inherit(around, &claims, &rows)?;
        tell(around, &claims, &rows).await?;
        let read = |(claim, row): (&&Claim, &Row)| {
            let row = Columns(row, link);
            let held: bool = row.get("held")?;
            let answer = if row.get("locked")? {
                None
            } else if held {
                Some(Ok(ReleaseReply::Released))
            } else if around.key.is_none() || row.get::<Option<bool>>("alone")? == Some(true) {
                Some(Ok(ReleaseReply::NotHeld))
            } else {
                Some(Err(under_way(&claim.name)))
            };
            Ok((answer, held))
        };
        claims.iter().zip(&rows).map(read).collect::<Result<Vec<_>, Failure>>()
    };
    let mut answers = vec![None; claims.len()];
    if !link.is_crowded() {
        free(around, claims, &mut answers).await?;
    }
    for verb in [Verb::HandOver, Verb::ReleaseLocked, Verb::HandOver] {
        let mut apart = Apart::new(unanswered(claims, &answers));
        while let Some(places) = apart.next() {
            let said = once(verb, &places).await.map(|said| {
                let (said, held): (Vec<_>, Vec<_>) = said.into_iter().unzip();
                ended.extend(places.iter().zip(held).filter_map(|(i, held): (_, bool)| held.then_some(*i)));
                said
            });
            apart.said(places, said);
        }
        if !take(&mut answers, apart.answers(), verb, ReleaseReply::NotHeld) {
            break;
        }
    }
    ended.into_iter().for_each(|i| answers[i] = Some(Ok(ReleaseReply::Released)));
    Ok(answered(claims, answers))
}

/// Releases what can be released where nobody waits.
async fn free(
    around: Around<'_>,
    claims: &[Claim],
    answers: &mut [Option<Result<ReleaseReply>>],
) -> Result<()> {
    let all: Vec<_> = claims.iter().collect();
    let (names, owners) = (names(&all), owners(&all));
    let Around { space, client, .. } = around;
    let release: Params<'_> = &[&space, &client, &names, &owners];
    let rows = match release_and_pass(around, (Verb::Free, release), Verb::Pass, &names).await {
        Ok(rows) => rows,
        // Which of them is refused is found out by those that are asked for next.
        Err(failure) if failure.is_of_one_claim() => return Ok(()),
        Err(failure) => return Err(failure.into()),
    };
    for (place, _) in done(around, claims.len(), &rows)? {
        answers[place] = Some(Ok(ReleaseReply::Released));
    }
    Ok(())
}

/// Takes in which waiters of this client hold now: nobody else tells them.
fn inherit(around: Around<'_>, claims: &[&Claim], rows: &[Row]) -> Result<()> {
    let link = around.link;
    for (claim, row) in claims.iter().zip(rows) {
        let row = Columns(row, link);
        if let Some(heir) = row.get::<Option<Uuid>>("heir")? {
            let owner = Owner::from_bytes(heir.into_bytes());
            let (token, asked) = (read_token(link, row.get("token")?)?, row.get("asked")?);
            around
                .waiting
                .inherits(Heir { owner, token, asked, name: claim.name.clone() }, &link.facts.identity);
            around.hinter.send(Hint::Owner(owner));
        }
    }
    Ok(())
}

/// Releases, and passes the turn on in a statement of its own, since NOTIFY holds up other commits. The server executes
/// it when the release is committed: so it sees every waiter that does not see the release, and whoever is told that the
/// lock is theirs is told of what is on the disk.
async fn release_and_pass(
    around: Around<'_>,
    (verb, release): (Verb, Params<'_>),
    next: Verb,
    names: &[&str],
) -> Result<Vec<Row>, Failure> {
    let Around { link, space, client, .. } = around;
    // What becomes of it is of no interest: waiters look by themselves, too.
    let passing = async |tokens: &[i64]| link.send_off(next, &[&space, &names, &client, &tokens]).await;
    if link.waits_for_answers() {
        let rows = link.ask(verb, release).await?;
        let handed = rows.iter().filter_map(|row| row.try_get::<_, Option<i64>>("token").ok().flatten());
        passing(&handed.collect::<Vec<_>>()).await;
        return Ok(rows);
    }
    link.prepare(verb).await?;
    link.prepare(next).await?;
    let (released, ()) = join(link.ask_and_count(verb, release), passing(NONE)).await;
    let (rows, tries) = released?;
    if tries > 1 {
        // It overtook a release that was rolled back and sent again.
        passing(NONE).await;
    }
    Ok(rows)
}
