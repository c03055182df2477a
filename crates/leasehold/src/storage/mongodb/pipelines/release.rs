use mongodb::bson::{Bson, Document, doc};

use super::queue::{is_compacted, live, marked};
use super::{
    OWNER, Params, ended, held, is_of_another_client, literal, millis, next_token, now_text, or_null,
};
use crate::storage::WAITER_TTL;

/// The shortest lease that is handed over, in milliseconds. A waiter that wants less is told that it is its turn, because
/// the lease would end before its client has renewed it.
const SHORTEST_HANDOVER: i64 = 2_000;

/// How many calls a document names that have released its lock.
const MARKS_MAX: i32 = 4;

/// Ends the lease of a holder and its waiter's entry, hands the lock over, and leaves the id of the call in the document. The
/// next owners may write the document at once, and release the lock, too; so it is in a field of its own, which has the last ids.
pub(super) fn release(params: Params<'_>) -> Vec<Document> {
    std::iter::once(doc! { "$set": { "released": mark(params) } }).chain(withdraw(params)).collect()
}

/// Returns the ids of the last calls that have released the lock, with this one.
pub(super) fn mark(params: Params<'_>) -> Document {
    let released = doc! { "$concatArrays": [{ "$ifNull": ["$released", []] }, [literal(params.call)]] };
    doc! { "$slice": [released, -MARKS_MAX] }
}

/// Ends what is left of the owner: its lease, or its waiter's entry. A lock that is free then is handed over.
///
/// 1. Find the live entries of other owners, and whether the lock is free without this owner (`free`).
/// 2. Grant a free lock to the first entry (`handover`) if its client listens, its last claim is not older than half of
///    the lease that it gets, and it wants a lease of at least 2 s. The lease counts from that claim, because the new
///    owner does not know when the release is executed. It ends with the entry, or a TTL after the claim if that is sooner.
/// 3. Otherwise, leave the lock free.
/// 4. Tell the first waiter's client what happened: that the lock is its own, or that it is its turn. Tell the holder's
///    client if another client has ended its lease.
pub(super) fn withdraw(params: Params<'_>) -> Vec<Document> {
    let others = doc! { "$filter": { "input": live(), "cond": { "$ne": ["$$this.owner", OWNER] } } };
    let since_asked = doc! { "$subtract": ["$$NOW", "$t.first.asked"] };
    vec![
        doc! { "$set": { "t": { "live": others, "mine": { "$eq": [or_null("$owner"), OWNER] }, "held": held() } } },
        doc! { "$set": {
            "t.free": { "$or": ["$t.mine", { "$not": ["$t.held"] }] },
            "t.first": { "$first": "$t.live" },
            "t.compact": is_compacted(),
        } },
        doc! { "$set": { "t.span": { "$min": ["$t.first.ttl", millis(WAITER_TTL)] } } },
        doc! { "$set": {
            "t.ends": { "$add": ["$t.first.asked", "$t.span"] },
            "t.handover": { "$and": [
                "$t.free",
                listens("$t.first.client"),
                { "$gte": ["$t.first.ttl", SHORTEST_HANDOVER] },
                { "$lte": ["$t.first.asked", "$$NOW"] },
                { "$lte": [{ "$multiply": [2, since_asked] }, "$t.span"] },
            ] },
        } },
        lease(params),
        doc! { "$set": { "handover": message() } },
        doc! { "$unset": "t" },
    ]
}

/// Makes the stage that writes the lease and the queue.
fn lease(params: Params<'_>) -> Document {
    let next = |handed_over: Bson, free: Bson, otherwise: &str| {
        doc! { "$cond": ["$t.handover", handed_over, { "$cond": ["$t.free", free, otherwise] }] }
    };
    let is_ended_by_another = doc! { "$and": ["$t.mine", is_of_another_client(params)] };
    let behind_first = doc! { "$slice": ["$t.live", 1, { "$max": [1, { "$size": "$t.live" }] }] };
    let gone = vec![OWNER.into(), doc! { "$cond": ["$t.handover", "$t.first.owner", OWNER] }.into()];
    doc! { "$set": {
        "ended": { "$cond": [is_ended_by_another, ended(), "$ended"] },
        "owner": next("$t.first.owner".into(), Bson::Null, "$owner"),
        "client": next("$t.first.client".into(), Bson::Null, "$client"),
        "label": next("$t.first.label".into(), Bson::Null, "$label"),
        "since": { "$cond": ["$t.handover", "$$NOW", "$since"] },
        "token": { "$cond": ["$t.handover", next_token(), "$token"] },
        "ttl": { "$cond": ["$t.handover", { "$subtract": ["$t.ends", "$$NOW"] }, "$ttl"] },
        "until": next("$t.ends".into(), doc! { "$min": ["$until", "$$NOW"] }.into(), "$until"),
        "queue": { "$cond": [
            "$t.compact",
            { "$cond": ["$t.handover", behind_first, "$t.live"] },
            marked(gone),
        ] },
    } }
}

/// Makes the message to the first waiter's client: `<client> handover <owner> <token> <time of its last claim>`, or
/// `<client> turn <owner> <time>`.
fn message() -> Document {
    let handover = doc! { "$concat": [
        "$client", literal(" handover "), "$owner", " ", { "$toString": "$token" }, " ",
        { "$toString": { "$toLong": "$t.first.asked" } },
    ] };
    let turn = doc! { "$concat": ["$t.first.client", literal(" turn "), "$t.first.owner", " ", now_text()] };
    doc! { "$switch": { "branches": [
        { "case": "$t.handover", "then": handover },
        { "case": { "$and": ["$t.free", listens("$t.first.client")] }, "then": turn },
    ], "default": "$handover" } }
}

/// Returns the condition that an entry's client has an open change stream.
fn listens(client: &str) -> Document {
    doc! { "$ne": [or_null(client), Bson::Null] }
}
