//! Reads a lock's document, as [`projection`](super::pipelines::projection) returns it.

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Bson, Document};

use super::pipelines::{VERSION, millis};
use crate::error::{Error, ErrorKind};
use crate::storage::{Holder, Name, Owner, Token};

/// A waiter's entry. Times are in milliseconds, by the server's clock.
pub(super) struct Entry {
    /// When its owner's first claim was executed.
    pub(super) since: i64,
    /// When its owner's last claim was executed.
    pub(super) asked: i64,
    /// How many live entries are before it.
    pub(super) before: Option<u32>,
}

pub(super) fn id(found: &Document) -> Option<&str> {
    found.get_str("_id").ok()
}

/// Returns the server's time, in milliseconds.
pub(super) fn now(found: &Document) -> Option<i64> {
    time(found, "now")
}

/// Returns `true` if the document belongs to another program.
pub(super) fn is_foreign(found: &Document) -> bool {
    !found.get_i32("leasehold").is_ok_and(|version| version == VERSION)
}

/// Reads the holder, if an owner holds the lock. `None` if that is no document of a lock.
pub(super) fn holder(found: &Document, name: Name) -> Option<Option<Holder>> {
    let now = now(found)?;
    let Ok(owner) = found.get_str("owner") else { return Some(None) };
    let until = time(found, "until")?;
    if until <= now {
        return Some(None);
    }
    let token = u64::try_from(found.get_i64("token").ok()?).ok()?;
    // The lease lasts longer than its TTL if the server's clock was set back.
    let remaining = std::cmp::min(between(now, until), lease_ttl(found)?);
    Some(Some(Holder {
        label: found.get_str("label").ok().map(Arc::from),
        held_for: Some(between(time(found, "since")?, now)),
        ..Holder::new(name, owner.parse().ok()?, Token::new(token), remaining)
    }))
}

/// Reads how long the lease was when it was last written.
pub(super) fn lease_ttl(found: &Document) -> Option<Duration> {
    u64::try_from(found.get_i64("ttl").ok()?).ok().map(Duration::from_millis)
}

/// Reads the number of waiters.
pub(super) fn waiters(found: &Document) -> Option<u64> {
    u64::try_from(found.get_i32("waiters").ok()?).ok()
}

/// Reads the entry of an owner.
pub(super) fn entry(found: &Document, owner: Owner) -> Option<Entry> {
    let owner = owner.to_string();
    let entries = found.get_array("entries").ok()?.iter().filter_map(Bson::as_document);
    let entry = entries.into_iter().find(|entry| entry.get_str("owner").is_ok_and(|text| text == owner))?;
    let before = entry.get_i32("before").ok().and_then(|before| u32::try_from(before).ok());
    Some(Entry { since: time(entry, "since")?, asked: time(entry, "asked")?, before })
}

pub(super) fn between(from: i64, to: i64) -> Duration {
    Duration::from_millis(u64::try_from(to.saturating_sub(from)).unwrap_or(0))
}

/// Returns the TTL that the server grants: whole milliseconds.
pub(super) fn whole(ttl: Duration) -> Duration {
    Duration::from_millis(u64::try_from(millis(ttl)).unwrap_or(0))
}

pub(super) fn late(name: &Name) -> Error {
    unavailable("the claim came too late and was refused; ask again", name)
}

pub(super) fn locked(name: &Name) -> Error {
    unavailable(
        "the server did not finish in time; a transaction may have locked the lock's document; retry",
        name,
    )
}

pub(super) fn raced(name: &Name) -> Error {
    unavailable("other clients insert the lock's document at this moment; retry", name)
}

pub(super) fn foreign(name: &Name) -> Error {
    let text = "a document of another program has the lock's `_id`; use another collection or a prefix, by the URL \
                options `collection` and `prefix`";
    Error::new(ErrorKind::Unsupported, format!("{text} name=`{name}`"))
}

fn unavailable(text: &str, name: &Name) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{text} name=`{name}`"))
}

fn time(document: &Document, field: &str) -> Option<i64> {
    document.get_datetime(field).ok().map(|time| time.timestamp_millis())
}
