use mongodb::bson::{Bson, Document, doc};

use super::queue::{is_compacted, live, marked, queue, without};
use super::{
    LABEL, OWNER, Params, TTL, extended_ttl, extended_until, held, is_overlong, literal, next_token, or_null,
};

/// Grants the lock if it is free and no other owner is before, or renews the owner's lease, or leaves a waiter's entry.
///
/// 1. A claim that comes too late changes nothing (`timely`).
/// 2. Find the live entries of the queue, and whether an owner holds the lock (`held`), which may be this one (`again`).
///    It is this owner's turn (`turn`) if the queue has no live entry, or its own is the first.
/// 3. Grant the lock (`granted`); or renew the owner's lease (`again`); or end the lease of another owner a TTL from now,
///    if it ends so late that the server's clock was set back.
/// 4. Take the owner out of the queue if it was granted. Refresh or append its entry if it waits (`waits`).
/// 5. If it was granted or waits, leave the id of the call in the document.
pub(in crate::storage::mongodb) fn acquire(params: Params<'_>) -> Vec<Document> {
    let timely = doc! { "$lt": ["$$NOW", "$t.claim.not_after"] };
    let is_owner = doc! { "$eq": [or_null("$owner"), OWNER] };
    let again = doc! { "$and": [&timely, held(), is_owner] };
    let waits = doc! { "$and": [&timely, "$t.claim.wait", { "$not": [&again] }] };
    vec![
        doc! { "$set": { "t": {
            "live": live(), "timely": timely, "held": held(), "again": again, "waits": waits,
        } } },
        doc! { "$set": {
            "t.compact": is_compacted(),
            "t.turn": { "$eq": [{ "$ifNull": [{ "$first": "$t.live.owner" }, OWNER] }, OWNER] },
        } },
        doc! { "$set": {
            "t.kept": { "$cond": ["$t.compact", "$t.live", queue()] },
            "t.granted": { "$and": ["$t.timely", { "$not": ["$t.held"] }, "$t.turn"] },
        } },
        lease(params),
        doc! { "$set": { "call": { "$cond": [
            { "$or": ["$t.granted", "$t.again", "$t.waits"] },
            literal(params.call),
            "$call",
        ] }, "queue": { "$switch": { "branches": [
            { "case": "$t.granted", "then": left() },
            { "case": "$t.waits", "then": entered(params) },
        ], "default": queue() } } } },
        doc! { "$unset": "t" },
    ]
}

/// Makes the stage that writes the lease.
fn lease(params: Params<'_>) -> Document {
    let granted = |value: Bson, otherwise: &str| doc! { "$cond": ["$t.granted", value, otherwise] };
    doc! { "$set": {
        "owner": granted(OWNER.into(), "$owner"),
        "client": granted(literal(params.client).into(), "$client"),
        "label": granted(LABEL.into(), "$label"),
        "since": granted("$$NOW".into(), "$since"),
        "token": granted(next_token().into(), "$token"),
        "ttl": { "$switch": { "branches": [
            { "case": "$t.granted", "then": TTL },
            { "case": "$t.again", "then": extended_ttl() },
        ], "default": "$ttl" } },
        "until": { "$switch": { "branches": [
            { "case": "$t.granted", "then": { "$add": ["$$NOW", TTL] } },
            { "case": "$t.again", "then": extended_until() },
            { "case": { "$and": ["$t.timely", "$t.held", is_overlong()] }, "then": { "$add": ["$$NOW", "$ttl"] } },
        ], "default": "$until" } },
    } }
}

/// Returns the queue without the owner.
fn left() -> Document {
    doc! { "$cond": ["$t.compact", without("$t.live", OWNER), marked(vec![OWNER.into()])] }
}

/// Returns the queue with a fresh entry of the owner, which keeps its place while it is live.
fn entered(params: Params<'_>) -> Document {
    let entry = doc! {
        "owner": OWNER,
        "client": literal(params.listens.then(|| params.client.to_owned())),
        "asked": "$$NOW",
        "ttl": TTL,
        "label": LABEL,
    };
    let mut new = entry.clone();
    new.insert("since", "$$NOW");
    let mut entry = entry;
    entry.insert("asked", doc! { "$max": ["$$this.asked", "$$NOW"] });
    let refreshed = doc! { "$map": { "input": "$t.kept", "in": { "$cond": [
        { "$eq": ["$$this.owner", OWNER] },
        { "$mergeObjects": ["$$this", entry] },
        "$$this",
    ] } } };
    doc! { "$cond": [
        { "$in": [OWNER, "$t.live.owner"] },
        refreshed,
        { "$concatArrays": [without("$t.kept", OWNER), [new]] },
    ] }
}
