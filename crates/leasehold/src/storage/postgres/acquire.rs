//! `acquire`: grants, or puts into the queue.

use std::time::Duration;

use tokio_postgres::Row;
use uuid::Uuid;

use super::answers::{Failure, Refused};
use super::apart::Apart;
use super::call::{Around, NONE, at, kinds, labels, limits, names, owners, ttls};
use super::link::Params;
use super::renew::renew;
use super::replies::{Columns, done, heard, holder, late, locked, micros, place, read_token};
use super::statements::Verb;
use crate::error::{Error, Result};
use crate::storage::{AcquireReply, Claim, RenewReply, Token};

/// When to ask again if somebody else has locked the row of the lock, or the waiter's entry.
const RACED: Duration = Duration::from_millis(20);
/// And if another transaction has made that row, and does not end.
const BLOCKED: Duration = Duration::from_millis(100);
/// How long an acquire waits for whoever makes the same row; and how long and how often, if that was in vain, for some of
/// its rows.
const MAKING: &str = "50ms";
const MAKING_SOME: &str = "10ms";
const IN_VAIN: u32 = 16;
/// Without notifications the first of the queue asks again after an eighth of the time that it has waited, within these.
const HEAD: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

/// What the statements say to one claim.
struct Asked {
    answer: Result<AcquireReply>,
    /// Another transaction had the row or the entry, or it has changed since.
    raced: bool,
    /// The row of the lock is not there, and was not made.
    missing: bool,
    /// Another transaction makes it, and does not end.
    blocked: bool,
    /// It entered the queue just now.
    entered: bool,
    /// The owner holds, with this token: it asks again.
    mine: Option<Token>,
    /// The lease lasts longer than it can: the server's clock was set back.
    overlong: bool,
    observed: bool,
}

pub(super) async fn acquire(around: Around<'_>, claims: &[Claim]) -> Result<Vec<Result<AcquireReply>>> {
    let link = around.link;
    let mut answers: Vec<Option<Asked>> = claims.iter().map(|_| None).collect();
    if !link.is_crowded() {
        for (place, asked) in grant(around, claims).await? {
            answers[place] = Some(asked);
        }
    }
    let rest: Vec<_> = (0..claims.len()).filter(|i| answers[*i].is_none()).collect();
    settle(around, claims, &rest, &mut answers).await;
    // The lock may have become free after the statement looked, and before others could see the new entry; then nobody
    // will tell. A look at a time when they can see it finds that out.
    let entered = places(&answers, |asked| asked.entered && !asked.raced && !asked.blocked);
    let mut again = places(&answers, |asked| asked.raced && !asked.blocked);
    match look(around, claims, &entered).await {
        Ok(free) => again.extend(free),
        Err(failure) => fail(&mut answers, &entered, &failure.error),
    }
    settle(around, claims, &again, &mut answers).await;
    // Who entered only now has not looked.
    for i in again {
        if let Some(Asked { entered: true, answer: Ok(AcquireReply::Held { retry_after, .. }), .. }) =
            &mut answers[i]
        {
            *retry_after = Some(retry_after.map_or(RACED, |after| std::cmp::min(after, RACED)));
        }
    }
    aftermath(around, claims, &answers).await;
    let unanswered = || Err(link.senseless());
    Ok(answers.into_iter().map(|asked| asked.map_or_else(unanswered, |asked| asked.answer)).collect())
}

/// The places of those that are so.
fn places(answers: &[Option<Asked>], wanted: fn(&Asked) -> bool) -> Vec<usize> {
    let all = answers.iter().enumerate();
    all.filter(|(_, asked)| asked.as_ref().is_some_and(wanted)).map(|(i, _)| i).collect()
}

fn fail(answers: &mut [Option<Asked>], places: &[usize], error: &Error) {
    for i in places {
        answers[*i] = Some(Asked::plain(Err(error.clone())));
    }
}

impl Asked {
    /// Has it ask again later.
    fn block(&mut self) {
        self.blocked = true;
        if let Ok(AcquireReply::Held { retry_after, .. }) = &mut self.answer {
            *retry_after = Some(BLOCKED);
        }
    }

    fn plain(answer: Result<AcquireReply>) -> Self {
        Self {
            answer,
            raced: false,
            missing: false,
            blocked: false,
            entered: false,
            mine: None,
            overlong: false,
            observed: false,
        }
    }
}

/// Grants what a small statement can grant; returns whom.
async fn grant(around: Around<'_>, claims: &[Claim]) -> Result<Vec<(usize, Asked)>> {
    let all: Vec<_> = claims.iter().collect();
    let (names, owners, ttls) = (names(&all), owners(&all), ttls(&all));
    let (kinds, labels, limits) = (kinds(&all), labels(&all), limits(around, &all));
    let Around { link, space, client, key, .. } = around;
    let params: Params<'_> = &[&space, &client, &key, &names, &kinds, &owners, &ttls, &limits, &labels];
    let rows = match link.ask(Verb::Grant, params).await {
        Ok(rows) => rows,
        // Which of them is refused is found out by those that are asked for next.
        Err(failure) if failure.is_of_one_claim() => return Ok(Vec::new()),
        Err(failure) => return Err(failure.into()),
    };
    let granted = done(around, claims.len(), &rows)?.into_iter().map(|(place, row)| {
        let token = read_token(link, Columns(row, link).get("token")?)?;
        Ok((place, Asked::plain(Ok(AcquireReply::Granted { token, ttl: claims[place].ttl }))))
    });
    granted.collect()
}

/// Asks for the claims at these places, whatever is to be done about each. What the server refuses of one costs the others
/// no more than the time in which that is found out.
async fn settle(around: Around<'_>, claims: &[Claim], places: &[usize], answers: &mut [Option<Asked>]) {
    if places.is_empty() {
        return;
    }
    let Around { blocked, server, .. } = around;
    let mut apart = Apart::new(places.to_vec());
    while let Some(places) = apart.next() {
        let some = at(claims, &places);
        let makes: Vec<_> = some.iter().map(|claim| !blocked.contains(&claim.name)).collect();
        let asked = match ask_and_repeat(around, &some, &makes, MAKING).await {
            // If nothing is made, nothing is waited for but a table that is locked.
            Err(Failure { refused: Some(Refused::Wait), .. }) if makes.contains(&true) => {
                ask_and_repeat(around, &some, &vec![false; some.len()], MAKING).await
            }
            asked => asked,
        };
        apart.said(places, asked);
    }
    for (place, asked) in apart.answers() {
        answers[place] = Some(asked.unwrap_or_else(|failure| Asked::plain(Err(failure.refusal()))));
    }
    let is_missing = |place: &&usize| answers[**place].as_ref().is_some_and(|asked| asked.missing);
    let missing: Vec<_> = places.iter().filter(is_missing).copied().collect();
    // By halves: most of them can be made.
    let (mut in_vain, mut open) = (0, vec![missing]);
    while let Some(mut some_places) = open.pop() {
        let some = at(claims, &some_places);
        let asked = match some.is_empty() || in_vain == IN_VAIN {
            true => Err(None),
            false => ask_and_repeat(around, &some, &vec![true; some.len()], MAKING_SOME).await.map_err(Some),
        };
        match asked {
            Ok(asked) => {
                for (place, asked) in some_places.into_iter().zip(asked) {
                    blocked.remove(&claims[place].name);
                    answers[place] = Some(asked);
                }
            }
            Err(Some(_)) if some_places.len() > 1 => {
                in_vain += 1;
                let rest = some_places.split_off(some_places.len() / 2);
                open.extend([rest, some_places]);
            }
            // What it was answered before holds: it was not granted, and has its place in the queue.
            Err(failure) => {
                for place in some_places {
                    if failure.as_ref().is_some_and(|failure| failure.refused == Some(Refused::Wait)) {
                        blocked.add(&claims[place].name, server.now());
                    }
                    if let Some(asked) = &mut answers[place] {
                        asked.block();
                    }
                }
            }
        }
    }
}

/// Asks; those who turn out to hold get a full TTL from now, and the same token.
async fn ask_and_repeat(
    around: Around<'_>,
    claims: &[&Claim],
    makes: &[bool],
    patience: &str,
) -> Result<Vec<Asked>, Failure> {
    let mut asked = ask(around, claims, makes, patience).await?;
    let mine: Vec<_> = asked.iter().enumerate().filter_map(|(i, asked)| Some((i, asked.mine?))).collect();
    if mine.is_empty() {
        return Ok(asked);
    }
    let again: Vec<_> = mine.iter().map(|(i, _)| Claim { shorten: false, ..claims[*i].clone() }).collect();
    let renewed = renew(around, &again).await?;
    for ((i, token), renewed) in mine.into_iter().zip(renewed) {
        asked[i].raced = matches!(renewed, Ok(RenewReply::NotHeld));
        asked[i].answer = match renewed {
            Ok(RenewReply::Renewed { ttl }) => Ok(AcquireReply::Granted { token, ttl }),
            Ok(RenewReply::NotHeld) => Err(locked(&claims[i].name)),
            Err(error) => Err(error),
        };
    }
    Ok(asked)
}

/// Does what nobody waits for: what becomes of it is found out by looking, too.
async fn aftermath(around: Around<'_>, claims: &[Claim], answers: &[Option<Asked>]) {
    let Around { link, space, client, .. } = around;
    let names =
        |wanted| -> Vec<_> { places(answers, wanted).into_iter().map(|i| claims[i].name.as_str()).collect() };
    let (observed, overlong) = (names(|asked| asked.observed), names(|asked| asked.overlong));
    if !observed.is_empty() {
        let _ = link.ask(Verb::Pass, &[&space, &observed, &client, &NONE]).await;
    }
    if !overlong.is_empty() {
        let _ = link.ask(Verb::Shorten, &[&space, &overlong]).await;
    }
}

async fn ask(
    around: Around<'_>,
    claims: &[&Claim],
    makes: &[bool],
    patience: &str,
) -> Result<Vec<Asked>, Failure> {
    let (names, owners, ttls) = (names(claims), owners(claims), ttls(claims));
    let (kinds, labels, limits) = (kinds(claims), labels(claims), limits(around, claims));
    let waits: Vec<_> = claims.iter().map(|claim| claim.wait).collect();
    let Around { link, space, client, key, hinter, .. } = around;
    let channel = hinter.is_listening().then_some(client);
    let params: Params<'_> = &[
        &space, &client, &key, &names, &kinds, &owners, &ttls, &limits, &waits, &labels, &channel, &patience,
        &makes,
    ];
    let rows = link.ask(Verb::Acquire, params).await?;
    heard(around, claims.len(), &rows)?;
    let asked = claims.iter().zip(&rows).map(|(claim, row)| asked(around, claim, row));
    let asked = asked.collect::<Result<Vec<_>>>()?;
    let any_waiter = rows.first().map_or(Ok(false), |row| Columns(row, link).get("any_waiter"))?;
    link.set_crowded(any_waiter || asked.iter().any(|asked| asked.entered));
    Ok(asked)
}

fn asked(around: Around<'_>, claim: &Claim, row: &Row) -> Result<Asked> {
    let link = around.link;
    let row = Columns(row, link);
    let token: Option<i64> = row.get("token")?;
    let (timely, raced): (bool, bool) = (row.get("timely")?, row.get("raced")?);
    let waited: Option<i64> = row.get("waited")?;
    let mut mine = None;
    let answer = if let Some(token) = token {
        Ok(AcquireReply::Granted { token: read_token(link, token)?, ttl: claim.ttl })
    } else if !timely {
        Err(late(&claim.name))
    } else {
        let holder = match row.get::<Option<Uuid>>("holder")? {
            Some(owner) => Some(holder(&row, claim.name.clone(), owner, "held_token", "held_label", None)?),
            None => None,
        };
        mine = holder.as_ref().filter(|holder| holder.owner == claim.owner).map(|holder| holder.token);
        let remaining = holder.as_ref().map(|holder| holder.remaining);
        let before: Option<i64> = row.get("before")?;
        if waited.is_some() {
            let before = before.map(|before| u32::try_from(before).unwrap_or(u32::MAX));
            around.waiting.asked(claim, around.sent, row.get("now")?, before);
        }
        let polled = match waited.filter(|_| before.is_some()) {
            Some(waited) if row.get::<Option<bool>>("is_head")? == Some(true) => {
                Some((micros(waited) / 8).clamp(HEAD.0, HEAD.1))
            }
            Some(_) => around.waiting.pause(&claim.owner),
            None => None,
        };
        let soonest = [remaining, polled, raced.then_some(RACED)].into_iter().flatten().min();
        Ok(AcquireReply::Held { holder, retry_after: soonest })
    };
    let (missing, overlong, observed) = (row.get("missing")?, row.get("overlong")?, row.get("observed")?);
    let entered = waited == Some(0);
    Ok(Asked { answer, raced, missing, blocked: false, entered, mine, overlong, observed })
}

/// Returns which of the claims at these places could be granted now.
async fn look(around: Around<'_>, claims: &[Claim], places: &[usize]) -> Result<Vec<usize>, Failure> {
    if places.is_empty() {
        return Ok(Vec::new());
    }
    let some: Vec<_> = places.iter().map(|i| &claims[*i]).collect();
    let Around { link, space, .. } = around;
    let rows = link.ask(Verb::Look, &[&space, &names(&some), &owners(&some)]).await?;
    rows.iter().map(|row| Ok(places[place(link, places.len(), row)?])).collect()
}
