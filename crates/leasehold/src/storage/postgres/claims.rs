//! Claims as the statements want them, and their answers as the engine wants them.

use std::time::Duration;

use futures_util::future::join;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use super::answers::{Failure, Refused};
use super::apart::{Apart, Blocked};
use super::link::{Link, Params, Server};
use super::statements::Verb;
use super::waiting::{Heir, Waiting};
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::net::hints::Hinter;
use crate::storage::{
    AcquireReply, Claim, Cursor, Hint, Holder, Name, Owner, ReleaseReply, RenewReply, Token,
};

/// What a batch's statements need besides the claims.
#[derive(Clone, Copy)]
pub(super) struct Around<'a> {
    pub(super) server: &'a Server,
    pub(super) link: &'a Link,
    /// When the claims were sent.
    pub(super) sent: Moment,
    /// The option `prefix`.
    pub(super) space: &'a str,
    /// This client's id.
    pub(super) client: &'a str,
    /// The same as a number: its advisory lock. None if what is not found is asked for again behind what is on its way.
    pub(super) key: Option<i64>,
    pub(super) hinter: &'a Hinter,
    pub(super) waiting: &'a Waiting,
    pub(super) blocked: &'a Blocked,
}

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

/// No tokens: of none is it known that a standby has it.
const NONE: &[i64] = &[];

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

/// What a statement said of one claim: its answer, if it was not passed over.
type Said<T> = Result<Option<Result<T>>, Failure>;

/// Takes in what was answered. What is left has been passed over, since others have locked it: then comes a statement that
/// waits for it. If that is in vain for one, the others are looked at once more without waiting. Returns `true` if there is
/// reason for the next.
fn take<T: Copy>(
    answers: &mut [Option<Result<T>>],
    said: Vec<(usize, Said<T>)>,
    verb: Verb,
    not_held: T,
) -> bool {
    let waits = matches!(verb, Verb::RenewLocked | Verb::ReleaseLocked);
    let mut in_vain = false;
    for (place, said) in said {
        answers[place] = match said {
            Ok(answer) => answer,
            Err(Failure { refused: Some(Refused::Wait), .. }) if waits => {
                in_vain = true;
                None
            }
            // What the database cannot hold it does not hold.
            Err(Failure { refused: Some(Refused::Text), .. }) => Some(Ok(not_held)),
            // Perhaps only to whom the lock is handed over, which the next does not do.
            Err(Failure { refused: Some(Refused::Claim | Refused::Perhaps), .. })
                if verb == Verb::HandOver =>
            {
                None
            }
            Err(failure) => Some(Err(failure.error)),
        };
    }
    in_vain || !waits && answers.iter().any(Option::is_none)
}

/// The claims at these places.
fn at<'a>(claims: &'a [Claim], places: &[usize]) -> Vec<&'a Claim> {
    places.iter().map(|i| &claims[*i]).collect()
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

/// The answer of a small statement: a row for each claim that it has done, with its place.
fn done<'a>(around: Around<'_>, claims: usize, rows: &'a [Row]) -> Result<Vec<(usize, &'a Row)>> {
    rows.first().map_or(Ok(()), |row| learn(around, row))?;
    rows.iter().map(|row| Ok((place(around.link, claims, row)?, row))).collect()
}

/// The place of the claim that a row is about; the server counts from 1.
fn place(link: &Link, claims: usize, row: &Row) -> Result<usize> {
    let i: i64 = Columns(row, link).get("i")?;
    let place = usize::try_from(i).ok().and_then(|i| i.checked_sub(1)).filter(|place| *place < claims);
    place.ok_or_else(|| link.senseless())
}

/// The places of the claims without an answer, in the order of their names: what waits for locks takes them in one order.
fn unanswered<T>(claims: &[Claim], answers: &[Option<T>]) -> Vec<usize> {
    let mut places: Vec<_> = (0..claims.len()).filter(|i| answers[*i].is_none()).collect();
    places.sort_by(|a, b| claims[*a].name.cmp(&claims[*b].name));
    places
}

/// What has no answer in the end is locked by somebody else.
fn answered<T>(claims: &[Claim], answers: Vec<Option<Result<T>>>) -> Vec<Result<T>> {
    let answer =
        |(claim, answer): (&Claim, Option<Result<T>>)| answer.unwrap_or_else(|| Err(locked(&claim.name)));
    claims.iter().zip(answers).map(answer).collect()
}

/// Tells the clients of leases that were ended or shortened over another client. Each finds out when it renews, too.
async fn tell(around: Around<'_>, claims: &[&Claim], rows: &[Row]) -> Result<()> {
    let link = around.link;
    let (mut clients, mut told) = (Vec::new(), Vec::new());
    for (claim, row) in claims.iter().zip(rows) {
        let row = Columns(row, link);
        if let Some(client) = row.get::<Option<String>>("client")?.filter(|client| client != around.client) {
            clients.push(client);
            told.push(id(claim.owner));
        }
    }
    if !clients.is_empty() {
        let _ = link.ask(Verb::Tell, &[&clients, &told]).await;
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

pub(super) async fn inspect(link: &Link, space: &str, name: &Name) -> Result<Vec<Holder>> {
    match link.ask(Verb::Inspect, &[&space, &name.as_str()]).await {
        Ok(rows) => rows.iter().map(|row| shown(link, row)).collect(),
        // What the database cannot hold it does not hold.
        Err(Failure { refused: Some(Refused::Text), .. }) => Ok(Vec::new()),
        Err(failure) => Err(failure.into()),
    }
}

pub(super) async fn list(
    link: &Link,
    space: &str,
    prefix: &str,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<Vec<Holder>> {
    let after = after.filter(|after| after.name.as_str() >= prefix);
    let from = after.map_or(prefix, |after| after.name.as_str());
    let token = after.map(|after| i64::try_from(after.token.get()).unwrap_or(i64::MAX));
    // In other encodings what is next is not what follows, or cannot be written.
    let below = if link.facts.utf8 { successor(prefix) } else { None };
    let (mut all, mut skipped) = (Vec::new(), 0_usize);
    loop {
        let wanted = i64::try_from(limit - all.len()).unwrap_or(i64::MAX);
        let seen = i64::try_from(all.len() + skipped).unwrap_or(i64::MAX);
        let params: Params<'_> = &[&space, &from, &token, &below, &wanted, &prefix, &seen];
        let rows = match link.ask(Verb::List, params).await {
            // What the database cannot hold it does not hold.
            Err(Failure { refused: Some(Refused::Text), .. }) if after.is_none() => return Ok(all),
            rows => rows?,
        };
        for row in &rows {
            // Of others: no name of ours, such as one that is no UTF-8.
            match name_of(&Columns(row, link)) {
                Ok(_) => all.push(shown(link, row)?),
                Err(_) => skipped += 1,
            }
        }
        if all.len() >= limit || i64::try_from(rows.len()).is_ok_and(|rows| rows < wanted) {
            return Ok(all);
        }
    }
}

/// The smallest text that is larger than every text that begins with `prefix`, if there is one.
fn successor(prefix: &str) -> Option<String> {
    let mut chars: Vec<_> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Over the gap of the surrogates, which are no characters.
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

fn shown(link: &Link, row: &Row) -> Result<Holder> {
    let row = Columns(row, link);
    let name = name_of(&row)?;
    let (owner, waiters) = (row.get("owner")?, row.get::<i64>("waiters")?);
    holder(&row, name, owner, "token", "label", u64::try_from(waiters).ok())
}

fn name_of(row: &Columns<'_>) -> Result<Name> {
    let name = std::str::from_utf8(row.get("name")?).ok().and_then(|name| Name::new(name).ok());
    name.ok_or_else(|| row.1.senseless())
}

fn holder(
    row: &Columns<'_>,
    name: Name,
    owner: Uuid,
    token: &str,
    label: &str,
    waiters: Option<u64>,
) -> Result<Holder> {
    let token = u64::try_from(row.get::<i64>(token)?).map_err(|_| row.1.senseless())?;
    let remaining = micros(row.get("remaining")?);
    Ok(Holder {
        label: row.get::<Option<Readable>>(label)?.map(|label| label.0.into()),
        held_for: Some(micros(row.get("held_for")?)),
        waiters,
        ..Holder::new(name, Owner::from_bytes(owner.into_bytes()), Token::new(token), remaining)
    })
}

/// A row, and the connection that it came from.
struct Columns<'a>(&'a Row, &'a Link);

impl<'a> Columns<'a> {
    fn get<T: FromSql<'a>>(&self, column: &str) -> Result<T> {
        self.0.try_get(column).map_err(|_| self.1.senseless())
    }
}

/// Text of which others may have written more than UTF-8 is.
struct Readable(String);

impl<'a> FromSql<'a> for Readable {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::BYTEA
    }
}

/// Takes in what the answer tells of the server's clock; refuses an answer that is not one.
fn heard(around: Around<'_>, claims: usize, rows: &[Row]) -> Result<()> {
    if rows.len() != claims {
        return Err(around.link.senseless());
    }
    rows.first().map_or(Ok(()), |row| learn(around, row))
}

fn learn(around: Around<'_>, row: &Row) -> Result<()> {
    let Around { server, link, sent, .. } = around;
    let now = u64::try_from(Columns(row, link).get::<i64>("now")?).map_err(|_| link.senseless())?;
    server.time.learn(sent, server.now(), now);
    Ok(())
}

fn read_token(link: &Link, token: i64) -> Result<Token> {
    u64::try_from(token).map(Token::new).map_err(|_| link.senseless())
}

/// The last moments of the server's clock at which the claims may be executed, in microseconds.
fn limits(around: Around<'_>, claims: &[&Claim]) -> Vec<i64> {
    let limit = |claim: &&Claim| around.server.time.not_after(around.sent, claim.patience).unwrap_or(0);
    claims.iter().map(limit).map(|limit| i64::try_from(limit).unwrap_or(i64::MAX)).collect()
}

fn names<'a>(claims: &[&'a Claim]) -> Vec<&'a str> {
    claims.iter().map(|claim| claim.name.as_str()).collect()
}

fn owners(claims: &[&Claim]) -> Vec<Uuid> {
    claims.iter().map(|claim| id(claim.owner)).collect()
}

/// What the column `kind` says of an exclusive lock.
const KIND: &str = "mutex";

fn kinds(claims: &[&Claim]) -> Vec<&'static str> {
    vec![KIND; claims.len()]
}

fn labels<'a>(claims: &[&'a Claim]) -> Vec<Option<&'a str>> {
    claims.iter().map(|claim| claim.label.as_deref()).collect()
}

fn ttls(claims: &[&Claim]) -> Vec<i64> {
    claims.iter().map(|claim| i64::try_from(claim.ttl.as_micros()).unwrap_or(i64::MAX)).collect()
}

pub(super) fn id(owner: Owner) -> Uuid {
    Uuid::from_bytes(owner.to_bytes())
}

fn micros(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

fn late(name: &Name) -> Error {
    unavailable("the claim came too late and was refused; ask again", name)
}

fn locked(name: &Name) -> Error {
    unavailable("another transaction has locked the lock's row; retry when it has ended", name)
}

/// An acquire that an earlier connection has sent is being executed or committed; what comes of it is unknown.
fn under_way(name: &Name) -> Error {
    unavailable("an earlier statement of this client is not finished; retry", name)
}

fn unavailable(text: &str, name: &Name) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{text} name=`{name}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_is_above_all_that_begin_so() {
        for prefix in ["a", "shop:", "é", "z\u{10ffff}", "\u{d7ff}", "\u{7f}"] {
            let next = successor(prefix).expect("there is one");
            for rest in ["", "a", "\u{10ffff}\u{10ffff}"] {
                assert!(format!("{prefix}{rest}").as_str() < next.as_str(), "{prefix:?} {rest:?} {next:?}");
            }
        }
        assert_eq!(successor(""), None);
        assert_eq!(successor("\u{10ffff}"), None);
    }
}
