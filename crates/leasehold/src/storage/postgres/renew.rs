//! `renew`: gives each owner that still holds a full TTL.

use tokio_postgres::Row;

use super::answers::Failure;
use super::apart::Apart;
use super::call::{Around, at, limits, names, owners, ttls};
use super::passes::{answered, take, tell, unanswered};
use super::replies::{Columns, heard, late};
use super::statements::Verb;
use crate::error::Result;
use crate::storage::{Claim, Hint, RenewReply};

pub(super) async fn renew(around: Around<'_>, claims: &[Claim]) -> Result<Vec<Result<RenewReply>>> {
    let link = around.link;
    let once = async |verb: Verb, places: &[usize]| {
        let claims = at(claims, places);
        let shorten: Vec<_> = claims.iter().map(|claim| claim.shorten).collect();
        let (names, owners, ttls) = (names(&claims), owners(&claims), ttls(&claims));
        let limits = limits(around, &claims);
        let rows = link.ask(verb, &[&around.space, &names, &owners, &ttls, &limits, &shorten]).await?;
        heard(around, claims.len(), &rows)?;
        tell(around, &claims, &rows).await?;
        for (claim, row) in claims.iter().zip(&rows) {
            // A guard of this client may not be what has asked.
            if Columns(row, link).get::<Option<&str>>("client")? == Some(around.client) {
                around.hinter.send(Hint::Owner(claim.owner));
            }
        }
        let read = |(claim, row): (&&Claim, &Row)| {
            let row = Columns(row, link);
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
        };
        claims.iter().zip(&rows).map(read).collect::<Result<Vec<_>, Failure>>()
    };
    let mut answers = vec![None; claims.len()];
    for verb in [Verb::Renew, Verb::RenewLocked, Verb::Renew] {
        let mut apart = Apart::new(unanswered(claims, &answers));
        while let Some(places) = apart.next() {
            let said = once(verb, &places).await;
            apart.said(places, said);
        }
        if !take(&mut answers, apart.answers(), verb, RenewReply::NotHeld) {
            break;
        }
    }
    Ok(answered(claims, answers))
}
