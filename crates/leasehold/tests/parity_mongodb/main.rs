//! The features of the npm package `distributed-locks` over a real MongoDB, without its bugs, and locks of other programs
//! in the same collection. `docs/parity.md` lists which test covers which feature or bug.
#![cfg(all(unix, feature = "mongodb"))]

mod bugs;
#[path = "../common/parity/databases.rs"]
mod databases;
mod features;
mod foreign;
#[path = "../common/parity/mod.rs"]
mod parity;

use leasehold_testbed::mongodb::bson::{Document, doc};
use leasehold_testbed::{MongoDb, shared};

use self::parity::*;

/// The database of the testbed's URLs.
const DATABASE: &str = "leasehold";

/// Returns a server that is shared by the tests that do not break it.
fn mongodb() -> &'static MongoDb {
    shared::mongodb().expect("a server")
}

/// Returns the URL of a unique prefix on it, and the prefix.
fn place() -> (String, String) {
    place_at(&mongodb().url())
}

/// Returns the `_id` of the lock `job` with that prefix.
fn id(prefix: &str) -> String {
    format!("{prefix}\0job")
}

/// Returns the documents of a collection that match, with `left`, the rest of their leases in ms.
fn documents(server: &MongoDb, collection: &str, filter: Document) -> Vec<Document> {
    let left = doc! { "$addFields": { "left": { "$subtract": ["$until", "$$NOW"] } } };
    let find = doc! {
        "aggregate": collection,
        "pipeline": [{ "$match": filter }, left],
        "cursor": { "batchSize": 1_000 },
    };
    let answer = server.command(DATABASE, find).expect("answered");
    let batch = answer.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    batch.expect("a batch").iter().map(|found| found.as_document().expect("a document").clone()).collect()
}

/// Returns the document of the lock `job`.
fn document(prefix: &str) -> Document {
    documents(mongodb(), "leasehold", doc! { "_id": id(prefix) }).pop().expect("there is one")
}

/// Returns the remaining lease of the lock `job`, in ms, according to the server.
fn left(prefix: &str) -> i64 {
    document(prefix).get_i64("left").expect("held")
}

/// Returns how many claims the server received that were alone in their call.
fn claims(server: &MongoDb) -> u64 {
    let counts = server.members()[0].command_counts().expect("answered");
    counts.get("findAndModify").copied().unwrap_or(0)
}
