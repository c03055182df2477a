//! What the server is asked to do with a lock's document: pipelines, each of which is one atomic update.
//!
//! Every value that comes from a caller stands in a `$literal`: without it a name that begins with `$` would be a path.
//! What a pipeline works out on its way stands in the field `t`, which the last stage removes: an update that changes
//! nothing is then no write at all.

use std::time::Duration;

use mongodb::bson::{Bson, DateTime, Document, doc};

use crate::storage::{Claim, WAITER_TTL};

/// The version of the documents, in their field `v`. A document without it is not one of ours, and is never changed.
pub(super) const VERSION: i32 = 1;
/// What the field `kind` says of an exclusive lock.
const KIND: &str = "mutex";
/// A waiter that wants less is told to ask instead of being granted: the lease would have ended before it was renewed.
const SHORTEST_HANDOVER: i64 = 2_000;
/// By how much the clocks of two members may differ before a waiter loses its place in a failover.
const SKEW: i64 = 1_000;
/// Up to this length a queue is written anew whenever an entry has died.
const SHORT_QUEUE: i32 = 16;
/// By how much a lease may be longer than it can be before it is shortened: the server's clock was set back.
const OVERLONG: i64 = 100;

/// Who asks, besides what the claim says.
#[derive(Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) claim: &'a Claim,
    /// The id of this client.
    pub(super) client: &'a str,
    /// Whether this client is told of handovers.
    pub(super) listens: bool,
    /// The last moment of the server's clock at which the claim may be executed, in milliseconds.
    pub(super) not_after: i64,
}

/// Grants the lock if it is free and its owner's turn, or makes the owner's lease whole, or leaves a waiter's entry.
///
/// 1. Works out which entries of the queue are alive, whether the lock is held, by this owner, and whether it is too late.
/// 2. It is this owner's turn if the queue is empty or it stands first.
/// 3. Writes the grant; or moves the end of the owner's own lease; or shortens a lease that is longer than it can be.
/// 4. Takes the owner out of the queue if it was granted; refreshes or appends its entry if it waits.
pub(super) fn acquire(asked: Asked<'_>) -> Vec<Document> {
    let claim = asked.claim;
    let (owner, ttl) = (literal(claim.owner.to_string()), millis(claim.ttl));
    let entry = doc! {
        "owner": &owner,
        "client": literal(asked.listens.then(|| asked.client.to_owned())),
        "asked": "$$NOW",
        "ttl": ttl,
        "kind": literal(KIND),
        "label": literal(claim.label.as_deref()),
    };
    let mut entered = entry.clone();
    entered.insert("since", "$$NOW");
    let is_mine = doc! { "$eq": ["$$this.owner", &owner] };
    let refreshed = doc! { "$map": { "input": "$t.kept", "in":
    { "$cond": [&is_mine, { "$mergeObjects": ["$$this", entry] }, "$$this"] } } };
    let without = |entries: &str| {
        doc! { "$filter": { "input": entries, "cond": { "$ne": ["$$this.owner", &owner] } } }
    };
    let queued = doc! { "$cond": [
        { "$in": [&owner, "$t.live.owner"] },
        refreshed,
        // Without an entry of its own that has died.
        { "$concatArrays": [without("$t.kept"), [entered]] },
    ] };
    let granted = doc! { "$cond": ["$t.compact", without("$t.live"), taken_out(vec![owner.clone().into()])] };
    let left = doc! { "$min": [{ "$subtract": ["$until", "$$NOW"] }, "$ttl"] };
    let won = |yes: Bson, no: &str| doc! { "$cond": ["$t.won", yes, no] };
    vec![
        doc! { "$set": { "t": {
            "live": live(),
            "held": held(),
            "mine": { "$eq": [{ "$ifNull": ["$owner", Bson::Null] }, &owner] },
            "timely": { "$lte": ["$$NOW", DateTime::from_millis(asked.not_after)] },
        } } },
        doc! { "$set": {
            "t.compact": is_compacted(),
            "t.kept": { "$cond": [is_compacted(), "$t.live", queue()] },
            "t.again": { "$and": ["$t.timely", "$t.held", "$t.mine"] },
            "t.turn": { "$eq": [{ "$ifNull": [{ "$first": "$t.live.owner" }, &owner] }, &owner] },
        } },
        doc! { "$set": {
            "t.won": { "$and": ["$t.timely", { "$not": ["$t.held"] }, "$t.turn"] },
            "t.overlong": { "$and": ["$t.timely", "$t.held", { "$not": ["$t.again"] },
                { "$gt": ["$until", { "$add": ["$$NOW", "$ttl", OVERLONG] }] }] },
        } },
        doc! { "$set": {
            "t.waits": { "$and": [claim.wait, "$t.timely", { "$not": ["$t.won"] }, { "$not": ["$t.again"] }] },
            "owner": won(owner.clone().into(), "$owner"),
            "client": won(literal(asked.client).into(), "$client"),
            "kind": won(literal(KIND).into(), "$kind"),
            "label": won(literal(claim.label.as_deref()).into(), "$label"),
            "since": won("$$NOW".into(), "$since"),
            "token": won(next_token().into(), "$token"),
            "ttl": { "$switch": { "branches": [
                { "case": "$t.won", "then": ttl },
                { "case": "$t.again", "then": { "$max": [&left, ttl] } },
            ], "default": "$ttl" } },
            "until": { "$switch": { "branches": [
                { "case": "$t.won", "then": { "$add": ["$$NOW", ttl] } },
                { "case": "$t.again", "then": { "$add": ["$$NOW", { "$max": [&left, ttl] }] } },
                { "case": "$t.overlong", "then": { "$add": ["$$NOW", "$ttl"] } },
            ], "default": "$until" } },
        } },
        doc! { "$set": { "queue": { "$switch": { "branches": [
            { "case": "$t.won", "then": granted },
            { "case": "$t.waits", "then": queued },
        ], "default": { "$ifNull": ["$queue", []] } } } } },
        doc! { "$unset": "t" },
    ]
}

/// Moves the end of the owner's lease to a TTL from now, and never brings it forward unless the claim says so. Fails, as
/// [`NOT_HELD`] tells, if the lease has ended; of a claim that shortens also if it is too late.
pub(super) fn renew(asked: Asked<'_>) -> Vec<Document> {
    let claim = asked.claim;
    let ttl = millis(claim.ttl);
    let alive = doc! { "$gt": ["$until", "$$NOW"] };
    let left = doc! { "$min": [{ "$subtract": ["$until", "$$NOW"] }, "$ttl"] };
    if !claim.shorten {
        let ttl = doc! { "$max": ["$t", ttl] };
        return vec![
            only_if(alive, left),
            doc! { "$set": { "ttl": &ttl, "until": { "$add": ["$$NOW", &ttl] } } },
            doc! { "$unset": "t" },
        ];
    }
    let timely = doc! { "$lte": ["$$NOW", DateTime::from_millis(asked.not_after)] };
    vec![
        only_if(doc! { "$and": [alive, timely] }, left),
        doc! { "$set": {
            "ttl": ttl,
            "until": { "$add": ["$$NOW", ttl] },
            "ended": { "$cond": [
                { "$and": [{ "$lt": [ttl, "$t"] }, is_of_another(asked.client)] },
                ended(asked),
                "$ended",
            ] },
        } },
        doc! { "$unset": "t" },
    ]
}

/// Ends the owner's lease, and its waiter's entry. A lock that is free then is handed over to the first in the queue.
///
/// 1. Works out which other waiters are alive, and whether the lock is free once this owner has gone.
/// 2. The first of them is granted the lock if it is told of that, asked not long ago and wants a lease of 2 s at least.
///    Its lease counts from when it last asked, since it does not know when this is executed.
/// 3. Otherwise the lock is free, and the first in the queue is told that it is its turn.
///
/// With `only_if_held` it leaves alone a lease that is over, and fails then, as [`NOT_HELD`] tells.
pub(super) fn release(asked: Asked<'_>, only_if_held: bool) -> Vec<Document> {
    let owner = literal(asked.claim.owner.to_string());
    let waiter_ttl = millis(WAITER_TTL);
    let free = |yes: Bson, free: Bson, no: &str| doc! { "$cond": ["$t.hand", yes, { "$cond": ["$t.free", free, no] }] };
    let mut stages = Vec::new();
    if only_if_held {
        stages.push(only_if(doc! { "$gt": ["$until", "$$NOW"] }, true));
    }
    stages.extend([
        doc! { "$set": { "t": {
            "live": { "$filter": { "input": live(), "cond": { "$ne": ["$$this.owner", &owner] } } },
            "mine": { "$eq": ["$owner", &owner] },
            "held": held(),
        } } },
        doc! { "$set": {
            "t.free": { "$or": ["$t.mine", { "$not": ["$t.held"] }] },
            "t.first": { "$first": "$t.live" },
            "t.compact": is_compacted(),
        } },
        doc! { "$set": { "t.span": { "$min": ["$t.first.ttl", waiter_ttl] } } },
        doc! { "$set": {
            "t.ends": { "$add": ["$t.first.asked", "$t.span"] },
            "t.hand": { "$and": [
                "$t.free",
                { "$ne": [{ "$ifNull": ["$t.first.client", Bson::Null] }, Bson::Null] },
                { "$gte": ["$t.first.ttl", SHORTEST_HANDOVER] },
                { "$lte": ["$t.first.asked", "$$NOW"] },
                { "$lte": [{ "$multiply": [2, { "$subtract": ["$$NOW", "$t.first.asked"] }] }, "$t.span"] },
            ] },
        } },
        doc! { "$set": {
            "ended": { "$cond": [{ "$and": ["$t.mine", is_of_another(asked.client)] }, ended(asked), "$ended"] },
            "owner": free("$t.first.owner".into(), Bson::Null, "$owner"),
            "client": free("$t.first.client".into(), Bson::Null, "$client"),
            "label": free("$t.first.label".into(), Bson::Null, "$label"),
            "kind": { "$cond": ["$t.hand", "$t.first.kind", "$kind"] },
            "since": { "$cond": ["$t.hand", "$$NOW", "$since"] },
            "token": { "$cond": ["$t.hand", next_token(), "$token"] },
            "ttl": { "$cond": ["$t.hand", { "$subtract": ["$t.ends", "$$NOW"] }, "$ttl"] },
            "until": free("$t.ends".into(), doc! { "$min": ["$until", "$$NOW"] }.into(), "$until"),
            "queue": { "$cond": [
                "$t.compact",
                { "$cond": ["$t.hand", { "$slice": ["$t.live", 1, { "$max": [1, { "$size": "$t.live" }] }] }, "$t.live"] },
                taken_out(vec![
                    owner.clone().into(),
                    doc! { "$cond": ["$t.hand", "$t.first.owner", &owner] }.into(),
                ]),
            ] },
        } },
        doc! { "$set": { "heir": { "$switch": { "branches": [
            { "case": "$t.hand", "then": { "$concat": ["$client", " h ", "$owner", " ", { "$toString": "$token" }, " ",
                { "$toString": { "$toLong": "$t.first.asked" } }] } },
            { "case": { "$and": ["$t.free", { "$ne": [{ "$ifNull": ["$t.first.client", Bson::Null] }, Bson::Null] }] },
              "then": { "$concat": ["$t.first.client", " t ", "$t.first.owner", " ", now_text()] } },
        ], "default": "$heir" } } } },
        doc! { "$unset": "t" },
    ]);
    stages
}

/// The code of the error by which a statement says that the lease is not held, since a stage that [`only_if`] makes failed.
/// Where no document has that owner, the pipeline is run over an empty one, of which no lease is alive either. So each
/// statement of a batch has an answer of its own, which the count of matched documents would not give.
pub(super) const NOT_HELD: i32 = 241;
/// The code of the error of a document that another client inserts at the same moment, or that is not one of ours.
pub(super) const DUPLICATE_KEY: i32 = 11_000;

/// What is read of a lock's document; `owners` are those whose waiters' entries are wanted.
pub(super) fn shown(owners: &[String]) -> Document {
    doc! {
        "_id": 1, "v": 1, "kind": 1, "owner": 1, "token": 1, "until": 1, "ttl": 1, "since": 1, "label": 1,
        "now": "$$NOW",
        "waiters": { "$size": live() },
        "head": { "$first": { "$map": { "input": live(), "in": "$$this.owner" } } },
        "entries": { "$map": {
            "input": { "$filter": { "input": queue(), "cond": { "$in": ["$$this.owner", literal(owners.to_vec())] } } },
            "in": { "owner": "$$this.owner", "asked": "$$this.asked", "since": "$$this.since" },
        } },
    }
}

/// The whole milliseconds of a duration, in which the server counts.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// A stage that puts `value` into `t`, and fails if `condition` does not hold. The text depends on the document, since the
/// server works out at once, and fails for all, what depends on none.
fn only_if(condition: Document, value: impl Into<Bson>) -> Document {
    let fails = doc! { "$toLong": { "$concat": ["not held: ", "$_id"] } };
    doc! { "$set": { "t": { "$cond": [condition, value.into(), fails] } } }
}

/// Whether the entries of the dead are removed, which writes the whole queue anew. Entries of a long queue are only marked
/// until there are more dead than living: so a handover writes one entry, however many wait.
fn is_compacted() -> Document {
    let dead = doc! { "$subtract": [{ "$size": queue() }, { "$size": "$t.live" }] };
    doc! { "$or": [
        { "$lte": [{ "$size": queue() }, SHORT_QUEUE] },
        { "$gt": [{ "$multiply": [2, dead] }, { "$size": queue() }] },
    ] }
}

/// The queue in which the entries of these owners have died.
fn taken_out(owners: Vec<Bson>) -> Document {
    doc! { "$map": { "input": queue(), "in": { "$cond": [
        { "$in": ["$$this.owner", owners] },
        { "$mergeObjects": ["$$this", { "asked": DateTime::from_millis(0) }] },
        "$$this",
    ] } } }
}

fn queue() -> Document {
    doc! { "$ifNull": ["$queue", []] }
}

/// The waiters that have asked within [`WAITER_TTL`], in their order.
fn live() -> Document {
    doc! { "$filter": { "input": queue(), "cond": { "$and": [
        { "$lte": ["$$this.asked", { "$add": ["$$NOW", SKEW] }] },
        { "$gt": [{ "$add": ["$$this.asked", millis(WAITER_TTL)] }, "$$NOW"] },
    ] } } }
}

fn held() -> Document {
    doc! { "$and": [{ "$ne": [{ "$ifNull": ["$owner", Bson::Null] }, Bson::Null] }, { "$gt": ["$until", "$$NOW"] }] }
}

/// Larger than every earlier one: the last and one, or the clock in microseconds.
fn next_token() -> Document {
    doc! { "$max": [
        { "$add": [{ "$ifNull": ["$token", 0_i64] }, 1_i64] },
        { "$multiply": [{ "$toLong": "$$NOW" }, 1_000_i64] },
    ] }
}

fn is_of_another(client: &str) -> Document {
    doc! { "$not": [{ "$in": [{ "$ifNull": ["$client", Bson::Null] }, [Bson::Null, Bson::from(client)]] }] }
}

/// What tells the client that holds that another one has ended or shortened its lease.
fn ended(asked: Asked<'_>) -> Document {
    doc! { "$concat": ["$client", " e ", literal(asked.claim.owner.to_string()), " ", now_text()] }
}

fn now_text() -> Document {
    doc! { "$toString": { "$toLong": "$$NOW" } }
}

fn literal(value: impl Into<Bson>) -> Document {
    doc! { "$literal": value.into() }
}
