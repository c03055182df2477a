//! What the server is asked to do with a lock's document: pipelines, each of which is one atomic update.
//!
//! - `acquire`, `renew` and `release` have the pipelines of those calls, `queue` has what they share about the queue.
//!   `uncontended` has short ones, which are tried first if it is likely that no owner waits.
//! - A statement has the claims of a call as a table, and one pipeline for all of their documents (`claims`). The server
//!   takes several times as long to read a pipeline as to execute it. `t.claim` is the claim of the document.
//! - Every value of a caller stands in a `$literal`. Without it a text that begins with `$` would be read as a path.
//! - The field `t` holds the intermediate values of a pipeline, and its last stage removes it. So an update that changes
//!   nothing is not written to the oplog.
//! - All times are those of `$$NOW`, which is the moment at which the server *began* the command. It may execute it up to
//!   [`COMMAND_MAX`] later, if a transaction holds the document meanwhile. So a later end of a lease that the document
//!   already has is kept, and a time that is ahead of `$$NOW` by less than that does not mean that the clock was set.

mod acquire;
mod claims;
mod queue;
mod release;
mod renew;
mod uncontended;

use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};

pub(super) use self::acquire::acquire;
pub(super) use self::claims::{Claims, REFUSED};
use self::queue::{live_of, queue};

/// How long the server may take for a command. Then it interrupts the command, also while that waits for a transaction.
pub(super) const COMMAND_MAX: Duration = Duration::from_secs(4);

/// The version of the documents, in their field `leasehold`. A document without it belongs to another program, and is never
/// changed.
pub(super) const VERSION: i32 = 1;
/// By how much a lease may end later than it can, in milliseconds.
const OVERLONG: i64 = 100;

/// The owner, the TTL and the label of the claim.
const OWNER: &str = "$t.claim.owner";
const TTL: &str = "$t.claim.ttl";
const LABEL: &str = "$t.claim.label";

/// What a pipeline has to know besides the claims.
#[derive(Clone, Copy)]
pub(super) struct Params<'a> {
    /// The id of this client.
    pub(super) client: &'a str,
    /// The id of the call.
    pub(super) call: &'a str,
    /// Whether this client's change stream is open.
    pub(super) listens: bool,
}

/// Returns the fields that are read of a lock's document. `owners` are the waiters whose entries are wanted.
pub(super) fn projection(owners: &[String]) -> Document {
    // A document of another program may have anything in its fields, and must not fail the reads of others.
    let queue = doc! { "$cond": [{ "$eq": ["$leasehold", VERSION] }, queue(), []] };
    let live = live_of(&queue);
    let of_queue = doc! {
        "waiters": { "$size": &live },
        "entries": { "$map": {
            "input": { "$filter": { "input": queue, "cond": { "$in": ["$$this.owner", literal(owners.to_vec())] } } },
            "in": {
                "owner": "$$this.owner",
                "asked": "$$this.asked",
                "since": "$$this.since",
                "before": { "$indexOfArray": [{ "$map": { "input": live, "as": "l", "in": "$$l.owner" } }, "$$this.owner"] },
            },
        } },
    };
    projection_without_queue().into_iter().chain(of_queue).collect()
}

/// Returns the fields that are read of a document for whose lock no owner waits.
pub(super) fn projection_without_queue() -> Document {
    doc! {
        "_id": 1, "leasehold": 1, "owner": 1, "token": 1, "since": 1, "until": 1, "ttl": 1, "label": 1, "call": 1, "released": 1,
        "now": "$$NOW",
    }
}

/// Returns the whole milliseconds of a duration, in which the server counts.
pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Returns the condition that an owner holds the lock.
fn held() -> Document {
    doc! { "$and": [{ "$ne": [or_null("$owner"), Bson::Null] }, { "$gt": ["$until", "$$NOW"] }] }
}

/// Returns the condition that the lease ends later than it can, because the server's clock was set back.
fn is_overlong() -> Document {
    doc! { "$gt": ["$until", { "$add": ["$$NOW", "$ttl", millis(COMMAND_MAX), OVERLONG] }] }
}

/// Returns the condition that the lease lasts longer than the claim asks for anyway.
fn is_longer() -> Document {
    doc! { "$and": [{ "$not": [is_overlong()] }, { "$gt": ["$until", { "$add": ["$$NOW", TTL] }] }] }
}

/// Returns how long a lease is that is written anew.
fn written_ttl() -> Document {
    doc! { "$cond": [is_overlong(), { "$max": ["$ttl", TTL] }, TTL] }
}

/// Returns the end of a lease that is renewed.
fn extended_until() -> Document {
    doc! { "$cond": [is_longer(), "$until", { "$add": ["$$NOW", written_ttl()] }] }
}

/// Returns the length of a lease that is renewed.
fn extended_ttl() -> Document {
    doc! { "$cond": [is_longer(), "$ttl", written_ttl()] }
}

/// Returns a token that is larger than every earlier one: the last one and 1, or the clock in microseconds.
fn next_token() -> Document {
    doc! { "$max": [
        { "$add": [{ "$ifNull": ["$token", 0_i64] }, 1_i64] },
        { "$multiply": [{ "$toLong": "$$NOW" }, 1_000_i64] },
    ] }
}

/// Returns the condition that the lease belongs to another client than `params`, which has to be told of its end.
fn is_of_another_client(params: Params<'_>) -> Document {
    doc! { "$not": [{ "$in": [or_null("$client"), [Bson::Null, Bson::from(params.client)]] }] }
}

/// Makes the text that tells the holder's client that another client has ended or shortened its lease.
fn ended() -> Document {
    doc! { "$concat": ["$client", " ", OWNER, " ", now_text()] }
}

/// Returns the time as a text, which makes a message differ from the one before: the change stream reports what has changed.
fn now_text() -> Document {
    doc! { "$toString": { "$toLong": "$$NOW" } }
}

fn or_null(path: &str) -> Document {
    doc! { "$ifNull": [path, Bson::Null] }
}

fn literal(value: impl Into<Bson>) -> Document {
    doc! { "$literal": value.into() }
}
