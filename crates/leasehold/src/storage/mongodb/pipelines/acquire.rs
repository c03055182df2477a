use mongodb::bson::{Bson, DateTime, Document, doc};

use super::queue::{is_compacted, live, marked, queue, without};
use super::{Params, extended_ttl, extended_until, held, is_overlong, literal, next_token, only_if, or_null};

/// Grants the lock if it is free and no other owner is before, or renews the owner's lease, or leaves a waiter's entry.
///
/// 1. Refuse a claim that comes too late.
/// 2. Find the live entries of the queue, and whether an owner holds the lock (`held`), which may be this one (`again`).
///    It is this owner's turn (`turn`) if the queue has no live entry, or its own is the first.
/// 3. Grant the lock (`granted`); or renew the owner's lease (`again`); or end the lease of another owner a TTL from now,
///    if it ends so late that the server's clock was set back.
/// 4. Take the owner out of the queue if it was granted. Refresh or append its entry if it waits (`waits`).
pub(in crate::storage::mongodb) fn acquire(params: Params<'_>) -> Vec<Document> {
    let Params { claim, not_after, .. } = params;
    let timely = doc! { "$lt": ["$$NOW", DateTime::from_millis(not_after)] };
    let is_owner = doc! { "$eq": [or_null("$owner"), params.owner()] };
    let facts = doc! { "live": live(), "held": held(), "again": { "$and": [held(), is_owner] } };
    vec![
        only_if(timely, facts),
        doc! { "$set": {
            "t.compact": is_compacted(),
            "t.turn": { "$eq": [{ "$ifNull": [{ "$first": "$t.live.owner" }, params.owner()] }, params.owner()] },
        } },
        doc! { "$set": {
            "t.kept": { "$cond": ["$t.compact", "$t.live", queue()] },
            "t.granted": { "$and": [{ "$not": ["$t.held"] }, "$t.turn"] },
        } },
        lease(params),
        doc! { "$set": { "queue": { "$switch": { "branches": [
            { "case": "$t.granted", "then": left(params) },
            { "case": { "$and": [claim.wait, { "$not": ["$t.again"] }] }, "then": entered(params) },
        ], "default": queue() } } } },
        doc! { "$unset": "t" },
    ]
}

/// Makes the stage that writes the lease.
fn lease(params: Params<'_>) -> Document {
    let ttl = params.ttl();
    let granted = |value: Bson, otherwise: &str| doc! { "$cond": ["$t.granted", value, otherwise] };
    doc! { "$set": {
        "owner": granted(params.owner().into(), "$owner"),
        "client": granted(literal(params.client).into(), "$client"),
        "label": granted(literal(params.claim.label.as_deref()).into(), "$label"),
        "since": granted("$$NOW".into(), "$since"),
        "token": granted(next_token().into(), "$token"),
        "ttl": { "$switch": { "branches": [
            { "case": "$t.granted", "then": ttl },
            { "case": "$t.again", "then": extended_ttl(ttl) },
        ], "default": "$ttl" } },
        "until": { "$switch": { "branches": [
            { "case": "$t.granted", "then": { "$add": ["$$NOW", ttl] } },
            { "case": "$t.again", "then": extended_until(ttl) },
            { "case": { "$and": ["$t.held", is_overlong()] }, "then": { "$add": ["$$NOW", "$ttl"] } },
        ], "default": "$until" } },
    } }
}

/// Returns the queue without the owner.
fn left(params: Params<'_>) -> Document {
    let owner = params.owner();
    doc! { "$cond": ["$t.compact", without("$t.live", &owner), marked(vec![owner.into()])] }
}

/// Returns the queue with a fresh entry of the owner, which keeps its place while it is live.
fn entered(params: Params<'_>) -> Document {
    let owner = params.owner();
    let entry = doc! {
        "owner": &owner,
        "client": literal(params.listens.then(|| params.client.to_owned())),
        "asked": "$$NOW",
        "ttl": params.ttl(),
        "label": literal(params.claim.label.as_deref()),
    };
    let mut new = entry.clone();
    new.insert("since", "$$NOW");
    let mut entry = entry;
    entry.insert("asked", doc! { "$max": ["$$this.asked", "$$NOW"] });
    let refreshed = doc! { "$map": { "input": "$t.kept", "in": { "$cond": [
        { "$eq": ["$$this.owner", &owner] },
        { "$mergeObjects": ["$$this", entry] },
        "$$this",
    ] } } };
    doc! { "$cond": [
        { "$in": [&owner, "$t.live.owner"] },
        refreshed,
        { "$concatArrays": [without("$t.kept", &owner), [new]] },
    ] }
}
