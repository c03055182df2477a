//! The short pipelines: for a lock that no owner holds, or that this client holds, and for which no owner waits. On such a
//! document each does what the long one does, and the server reads it in half of the time.

use mongodb::bson::{Bson, Document, doc};

use super::release::mark;
use super::{Params, literal, next_token};

/// Returns the conditions under which [`grant`] does what an acquire does.
pub(super) fn is_free() -> Document {
    doc! { "owner": Bson::Null, "queue.0": { "$exists": false } }
}

/// Grants the lock.
pub(super) fn grant(params: Params<'_>, owner: Document, ttl: Document, label: Document) -> Vec<Document> {
    vec![doc! { "$set": {
        "owner": owner,
        "client": literal(params.client),
        "label": label,
        "since": "$$NOW",
        "token": next_token(),
        "ttl": &ttl,
        "until": { "$add": ["$$NOW", ttl] },
        "call": literal(params.call),
    } }]
}

/// Returns the conditions under which [`end`] does what a release does, if the owner holds the lock.
pub(super) fn is_last(params: Params<'_>) -> Document {
    doc! { "client": params.client, "queue.0": { "$exists": false } }
}

/// Ends the lease.
pub(super) fn end(params: Params<'_>) -> Vec<Document> {
    vec![doc! { "$set": {
        "owner": Bson::Null, "client": Bson::Null, "label": Bson::Null, "until": "$$NOW", "released": mark(params),
    } }]
}
