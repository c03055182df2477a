//! The queue inside a lock's document.
//!
//! An entry is live for [`WAITER_TTL`] after its owner's last claim. In a short queue, entries that are not live are removed
//! with the next change. In a long one they are only marked, because a removal moves all entries behind it, and the
//! oplog then has them all. They are removed together once they are more than the live ones.

use std::time::Duration;

use mongodb::bson::{Bson, DateTime, Document, doc};

use super::{COMMAND_MAX, millis};
use crate::storage::WAITER_TTL;

/// Up to this length, entries are removed and not marked.
const SHORT_QUEUE: i32 = 16;
/// By how much the clocks of two members may differ before a waiter loses its place in a failover.
const SKEW: Duration = Duration::from_secs(1);

/// Returns the whole queue.
pub(super) fn queue() -> Document {
    doc! { "$ifNull": ["$queue", []] }
}

/// Returns the live entries, in their order.
pub(super) fn live() -> Document {
    live_of(&queue())
}

/// Returns the live ones of these entries.
pub(super) fn live_of(entries: &Document) -> Document {
    doc! { "$filter": { "input": entries, "cond": { "$and": [
        { "$lte": ["$$this.asked", { "$add": ["$$NOW", millis(SKEW + COMMAND_MAX)] }] },
        { "$gt": [{ "$add": ["$$this.asked", millis(WAITER_TTL)] }, "$$NOW"] },
    ] } } }
}

/// Returns the condition under which entries are removed. Needs `t.live`.
pub(super) fn is_compacted() -> Document {
    let dead = doc! { "$subtract": [{ "$size": queue() }, { "$size": "$t.live" }] };
    doc! { "$or": [
        { "$lte": [{ "$size": queue() }, SHORT_QUEUE] },
        { "$gt": [{ "$multiply": [2, dead] }, { "$size": queue() }] },
    ] }
}

/// Returns the queue in which the entries of these owners are marked.
pub(super) fn marked(owners: Vec<Bson>) -> Document {
    doc! { "$map": { "input": queue(), "in": { "$cond": [
        { "$in": ["$$this.owner", owners] },
        { "$mergeObjects": ["$$this", { "asked": DateTime::from_millis(0) }] },
        "$$this",
    ] } } }
}

/// Returns these entries without those of the owner.
pub(super) fn without(entries: &str, owner: &str) -> Document {
    doc! { "$filter": { "input": entries, "cond": { "$ne": ["$$this.owner", owner] } } }
}
