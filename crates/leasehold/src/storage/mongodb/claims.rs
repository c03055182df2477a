//! Claims as the statements want them, and their answers as the engine wants them.

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};

use super::config::Config;
use super::explain::explain_code;
use super::link::{Failure, Link};
use super::statements::{self, Asked, DUPLICATE_KEY, NOT_HELD, VERSION, millis};
use super::waiting::Waiting;
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::net::hints::Hinter;
use crate::storage::{AcquireReply, Claim, Cursor, Holder, Name, Owner, ReleaseReply, RenewReply, Token};

/// What a batch needs besides its claims.
#[derive(Clone, Copy)]
pub(super) struct Session<'a> {
    pub(super) link: &'a Link,
    pub(super) config: &'a Config,
    /// When the claims were sent.
    pub(super) sent: Moment,
    /// This client's id.
    pub(super) client: &'a str,
    pub(super) hinter: &'a Hinter,
    pub(super) waiting: &'a Waiting,
}

/// Without a change stream the first of the queue asks again after an eighth of the time that it has waited, within these.
const HEAD: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));
/// And the others.
const BEHIND: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(500));
/// How often statements are sent whose documents others insert at the same moment.
const INSERTS: usize = 3;

pub(super) async fn acquire(session: Session<'_>, claims: &[Claim]) -> Result<Vec<Result<AcquireReply>>> {
    match claims {
        [claim] => acquire_one(session, claim).await.map(|answer| vec![answer]),
        _ => acquire_many(session, claims).await,
    }
}

/// Asks by one command, which returns the document as it is afterwards.
async fn acquire_one(session: Session<'_>, claim: &Claim) -> Result<Result<AcquireReply>> {
    let Session { link, .. } = session;
    let id = session.config.id(claim.name.as_str());
    let command = doc! {
        "findAndModify": &link.collection,
        "query": { "_id": &id, "v": VERSION },
        "update": statements::acquire(session.asked(claim)),
        "upsert": true,
        "new": true,
        "fields": statements::shown(&[claim.owner.to_string()]),
    };
    for _ in 0..INSERTS {
        match link.write(command.clone()).await {
            Ok(reply) => {
                let found = reply.get_document("value").map_err(|_| link.senseless())?;
                return Ok(session.acquired(claim, found));
            }
            Err(Failure { code: Some(DUPLICATE_KEY), .. }) => {}
            Err(Failure { error, .. }) => return Err(error),
        }
    }
    let found = session.look(std::slice::from_ref(&id), &[], None).await?;
    Ok(Err(if found.iter().any(is_foreign) { foreign(&claim.name) } else { raced(&claim.name) }))
}

/// Asks by one command for all, and then looks what has become of each.
async fn acquire_many(session: Session<'_>, claims: &[Claim]) -> Result<Vec<Result<AcquireReply>>> {
    let ids = session.ids(claims);
    let statement = |i: usize| {
        let q = doc! { "_id": &ids[i], "v": VERSION };
        doc! { "q": q, "u": statements::acquire(session.asked(&claims[i])), "upsert": true }
    };
    let mut failed: Vec<Option<i32>> = vec![None; claims.len()];
    let mut places: Vec<_> = (0..claims.len()).collect();
    let mut reply = Document::new();
    for _ in 0..INSERTS {
        let refused;
        (reply, refused) = session.update(places.iter().map(|i| statement(*i)).collect()).await?;
        places.iter().for_each(|i| failed[*i] = None);
        refused.iter().for_each(|(at, code)| failed[places[*at]] = Some(*code));
        places.retain(|i| failed[*i] == Some(DUPLICATE_KEY));
        if places.is_empty() {
            break;
        }
    }
    let owners: Vec<_> = claims.iter().map(|claim| claim.owner.to_string()).collect();
    let found = session.look(&ids, &owners, Some(&reply)).await?;
    let answer = |i: usize| {
        let found = found.iter().find(|found| found.get_str("_id").is_ok_and(|text| text == &*ids[i]));
        match (failed[i], found) {
            (Some(DUPLICATE_KEY), Some(found)) if is_foreign(found) => Err(foreign(&claims[i].name)),
            (Some(DUPLICATE_KEY), _) => Err(raced(&claims[i].name)),
            (Some(code), _) => Err(explain_code(code, &session.link.place)),
            (None, Some(found)) => session.acquired(&claims[i], found),
            (None, None) => Err(session.link.senseless()),
        }
    };
    Ok((0..claims.len()).map(answer).collect())
}

pub(super) async fn renew(session: Session<'_>, claims: &[Claim]) -> Result<Vec<Result<RenewReply>>> {
    let ids = session.ids(claims);
    let updates = session.of_owners(claims, &ids, statements::renew);
    let (reply, refused) = session.update(updates).await?;
    let mut answers: Vec<_> =
        claims.iter().map(|claim| Ok(RenewReply::Renewed { ttl: whole(claim.ttl) })).collect();
    for (i, code) in &refused {
        answers[*i] = match *code {
            NOT_HELD => Ok(RenewReply::NotHeld),
            code => Err(explain_code(code, &session.link.place)),
        };
    }
    // One that shortens is refused also if it comes too late.
    let doubtful: Vec<_> = refused.iter().map(|(i, _)| *i).filter(|i| claims[*i].shorten).collect();
    if !doubtful.is_empty() {
        let ids: Vec<_> = doubtful.iter().map(|i| ids[*i].clone()).collect();
        let found = session.look(&ids, &[], Some(&reply)).await?;
        for (i, id) in doubtful.into_iter().zip(&ids) {
            let found = found.iter().find(|found| found.get_str("_id").is_ok_and(|text| text == id));
            let holder = found.and_then(|found| holder(found, claims[i].name.clone()).ok().flatten());
            if holder.is_some_and(|holder| holder.owner == claims[i].owner) {
                answers[i] = Err(late(&claims[i].name));
            }
        }
    }
    Ok(answers)
}

/// Ends the leases that are held; then whatever else there is of the other owners.
pub(super) async fn release(session: Session<'_>, claims: &[Claim]) -> Result<Vec<Result<ReleaseReply>>> {
    let ids = session.ids(claims);
    let updates = session.of_owners(claims, &ids, |asked| statements::release(asked, true));
    let (_, refused) = session.update(updates).await?;
    let mut answers: Vec<_> = claims.iter().map(|_| Ok(ReleaseReply::Released)).collect();
    let mut rest = Vec::new();
    for (i, code) in refused {
        answers[i] = match code {
            NOT_HELD => Ok(ReleaseReply::NotHeld),
            code => Err(explain_code(code, &session.link.place)),
        };
        if code == NOT_HELD {
            rest.push(i);
        }
    }
    if rest.is_empty() {
        return Ok(answers);
    }
    let statement = |i: &usize| {
        let owner = claims[*i].owner.to_string();
        let q =
            doc! { "_id": &ids[*i], "v": VERSION, "$or": [{ "owner": &owner }, { "queue.owner": &owner }] };
        doc! { "q": q, "u": statements::release(session.asked(&claims[*i]), false) }
    };
    match session.update(rest.iter().map(statement).collect()).await {
        Ok((_, refused)) => refused
            .into_iter()
            .for_each(|(at, code)| answers[rest[at]] = Err(explain_code(code, &session.link.place))),
        Err(error) => rest.iter().for_each(|i| answers[*i] = Err(error.clone())),
    }
    Ok(answers)
}

pub(super) async fn inspect(link: &Link, config: &Config, name: &Name) -> Result<Vec<Holder>> {
    let query = doc! {
        "find": &link.collection,
        "filter": { "_id": config.id(name.as_str()), "v": VERSION },
        "projection": statements::shown(&[]),
        "limit": 1,
    };
    let found = link.read(query, None).await?;
    match found.first() {
        Some(found) => {
            let holder = shown(found, name.clone()).ok_or_else(|| link.senseless())?;
            Ok(holder.into_iter().collect())
        }
        None => Ok(Vec::new()),
    }
}

pub(super) async fn list(
    link: &Link,
    config: &Config,
    prefix: &str,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<Vec<Holder>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let after = after.filter(|after| after.name.as_str() >= prefix);
    let from = config.id(after.map_or(prefix, |after| after.name.as_str()));
    let mut ids = doc! { "$gte": &from };
    if let Some(next) = successor(&config.id(prefix)) {
        ids.insert("$lt", next);
    }
    let mut filter = doc! { "_id": ids, "v": VERSION, "owner": { "$ne": Bson::Null }, "$expr": { "$gt": ["$until", "$$NOW"] } };
    if let Some(after) = after {
        let token = i64::try_from(after.token.get()).unwrap_or(i64::MAX);
        filter.insert("$or", [doc! { "_id": { "$ne": from } }, doc! { "token": { "$gt": token } }].to_vec());
    }
    let query = doc! {
        "find": &link.collection,
        "filter": filter,
        "projection": statements::shown(&[]),
        "sort": { "_id": 1 },
        "limit": i64::try_from(limit).unwrap_or(i64::MAX),
    };
    let mut holders = Vec::new();
    for found in link.read(query, None).await? {
        // With no prefix the range has those of all prefixes.
        let id = found.get_str("_id").map_err(|_| link.senseless())?;
        if let Some(name) = config.name(id) {
            let name = Name::new(name).map_err(|_| link.senseless())?;
            holders.extend(shown(&found, name).ok_or_else(|| link.senseless())?);
        }
    }
    Ok(holders)
}

impl Session<'_> {
    fn ids(&self, claims: &[Claim]) -> Vec<String> {
        claims.iter().map(|claim| self.config.id(claim.name.as_str())).collect()
    }

    fn asked<'b>(&'b self, claim: &'b Claim) -> Asked<'b> {
        Asked {
            claim,
            client: self.client,
            listens: self.hinter.is_listening(),
            not_after: self.link.primary.not_after(self.sent, claim.patience),
        }
    }

    /// Makes a statement for each claim, which fails if its owner does not hold.
    fn of_owners(
        &self,
        claims: &[Claim],
        ids: &[String],
        pipeline: impl Fn(Asked<'_>) -> Vec<Document>,
    ) -> Vec<Document> {
        let statement = |(claim, id): (&Claim, &String)| {
            let q = doc! { "_id": id, "v": VERSION, "owner": claim.owner.to_string() };
            doc! { "q": q, "u": pipeline(self.asked(claim)), "upsert": true }
        };
        claims.iter().zip(ids).map(statement).collect()
    }

    /// Sends statements; returns the reply, and which statements were refused, with the server's codes.
    async fn update(&self, updates: Vec<Document>) -> Result<(Document, Vec<(usize, i32)>)> {
        let n = updates.len();
        let command = doc! { "update": &self.link.collection, "updates": updates, "ordered": false };
        let reply = self.link.write(command).await.map_err(|failure| failure.error)?;
        let errors = reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        let refused = errors.iter().map(|error| {
            let error = error.as_document()?;
            let i = usize::try_from(error.get_i32("index").ok()?).ok().filter(|i| *i < n)?;
            Some((i, error.get_i32("code").ok()?))
        });
        let refused = refused.collect::<Option<Vec<_>>>().ok_or_else(|| self.link.senseless())?;
        Ok((reply, refused))
    }

    /// Reads documents, also those that are not ours.
    async fn look(
        &self,
        ids: &[String],
        owners: &[String],
        reply: Option<&Document>,
    ) -> Result<Vec<Document>> {
        let query = doc! {
            "find": &self.link.collection,
            "filter": { "_id": { "$in": ids } },
            "projection": statements::shown(owners),
            "batchSize": i64::try_from(ids.len()).unwrap_or(i64::MAX),
        };
        self.link.read(query, reply).await
    }

    /// Says what has become of a claim, from the document as it was then or later.
    fn acquired(&self, claim: &Claim, found: &Document) -> Result<AcquireReply> {
        let link = self.link;
        let now = time(found, "now").ok_or_else(|| link.senseless())?;
        link.primary.learn(self.sent, now);
        // It is not later than this that the claim was executed.
        if now > link.primary.not_after(self.sent, claim.patience) {
            return Err(late(&claim.name));
        }
        let holder = holder(found, claim.name.clone()).map_err(|()| link.senseless())?;
        if let Some(holder) = holder.as_ref().filter(|holder| holder.owner == claim.owner) {
            let full = whole(claim.ttl);
            let since = link.primary.now().since(self.sent) + Duration::from_millis(1);
            // A lock that was handed over meanwhile lasts less.
            let ttl = if holder.remaining + since >= full { full } else { holder.remaining };
            return Ok(AcquireReply::Granted { token: holder.token, ttl });
        }
        let entry = entry(found, claim.owner);
        if let (Some((asked, _)), true) = (entry, claim.wait) {
            self.waiting.asked(claim, self.sent, asked);
        }
        let polled = entry.filter(|_| claim.wait && !self.hinter.is_listening()).map(|(_, since)| {
            let is_head = found.get_str("head").is_ok_and(|head| head == claim.owner.to_string());
            let (least, most) = if is_head { HEAD } else { BEHIND };
            (between(since, now) / 8).clamp(least, most)
        });
        let remaining = holder.as_ref().map(|holder| holder.remaining);
        Ok(AcquireReply::Held { retry_after: [remaining, polled].into_iter().flatten().min(), holder })
    }
}

/// Whether a document is another program's.
fn is_foreign(found: &Document) -> bool {
    !found.get_i32("v").is_ok_and(|version| version == VERSION)
}

/// When the owner's waiter's entry was refreshed, and when it was made.
fn entry(found: &Document, owner: Owner) -> Option<(i64, i64)> {
    let entries = found.get_array("entries").ok()?;
    let owner = owner.to_string();
    let entry = entries
        .iter()
        .filter_map(Bson::as_document)
        .find(|entry| entry.get_str("owner").is_ok_and(|text| text == &*owner))?;
    Some((time(entry, "asked")?, time(entry, "since")?))
}

fn shown(found: &Document, name: Name) -> Option<Option<Holder>> {
    let waiters = found.get_i32("waiters").ok().and_then(|waiters| u64::try_from(waiters).ok());
    let holder = holder(found, name).ok()?;
    Some(holder.map(|holder| Holder { waiters, ..holder }))
}

/// Reads who holds, if any owner does; an error if the document makes no sense.
fn holder(found: &Document, name: Name) -> Result<Option<Holder>, ()> {
    let now = time(found, "now").ok_or(())?;
    let Ok(owner) = found.get_str("owner") else { return Ok(None) };
    let until = time(found, "until").ok_or(())?;
    if until <= now {
        return Ok(None);
    }
    let owner = owner.parse().map_err(|_| ())?;
    let token = found.get_i64("token").ok().and_then(|token| u64::try_from(token).ok()).ok_or(())?;
    let ttl = found.get_i64("ttl").ok().and_then(|ttl| u64::try_from(ttl).ok()).ok_or(())?;
    let since = time(found, "since").ok_or(())?;
    // More than a TTL ahead: the server's clock was set back.
    let remaining = std::cmp::min(between(now, until), Duration::from_millis(ttl));
    Ok(Some(Holder {
        label: found.get_str("label").ok().map(Arc::from),
        held_for: Some(between(since, now)),
        ..Holder::new(name, owner, Token::new(token), remaining)
    }))
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

fn time(document: &Document, field: &str) -> Option<i64> {
    document.get_datetime(field).ok().map(|time| time.timestamp_millis())
}

fn between(from: i64, to: i64) -> Duration {
    Duration::from_millis(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
}

/// The TTL as the server gives it.
fn whole(ttl: Duration) -> Duration {
    Duration::from_millis(u64::try_from(millis(ttl)).unwrap_or(0))
}

fn late(name: &Name) -> Error {
    unavailable("the claim came too late and was refused; ask again", name)
}

fn raced(name: &Name) -> Error {
    unavailable("others make the lock's document at this moment; retry", name)
}

fn unavailable(text: &str, name: &Name) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{text} name=`{name}`"))
}

fn foreign(name: &Name) -> Error {
    let text = "another program's document has the lock's `_id`; use another collection by the URL option `collection`, or \
        a `prefix`";
    Error::new(ErrorKind::Unsupported, format!("{text} name=`{name}`"))
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
