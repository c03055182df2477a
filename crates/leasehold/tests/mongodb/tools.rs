//! Helpers of the tests of this storage: servers, documents, and counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use leasehold::storage::Owner;
pub(crate) use leasehold::storage::mongodb::Config;
pub(crate) use leasehold_testbed::mongodb::bson::{self, Bson, Document, doc};
use leasehold_testbed::{MongoDb, shared};

pub(crate) use crate::net::tools::*;

/// The storage without an engine.
pub(crate) type Bare = leasehold::storage::mongodb::MongoDb;
pub(crate) type Server = MongoDb;

/// Returns a server that is shared by the tests that do not break it.
pub(crate) fn common() -> &'static MongoDb {
    shared::mongodb().expect("a server")
}

/// Returns the URL with a unique database. The connections are direct, because the driver would otherwise go to the hosts
/// that the replica set names, and not through a proxy.
pub(crate) fn own(url: &str) -> String {
    with(&url.replace("replicaSet=leasehold", "directConnection=true"), &format!("database={}", unique()))
}

/// Returns a unique name: of a database, a prefix, an application.
pub(crate) fn unique() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("t{}", LAST.fetch_add(1, Ordering::Relaxed))
}

/// Returns the database of a URL that [`own`] returned.
pub(crate) fn database_of(url: &str) -> &str {
    let (_, rest) = url.split_once("&database=").expect("a database of its own");
    rest.split('&').next().expect("its value")
}

/// The words of the request that opens a change stream.
pub(crate) const SUBSCRIBE: &str = "$changeStream";

/// The word of the request of a single acquire.
pub(crate) const ACQUIRE: &str = "findAndModify";

/// Returns the form of an owner in requests.
pub(crate) fn marker(owner: Owner) -> String {
    owner.to_string()
}

/// Sends a command to the primary.
#[track_caller]
pub(crate) fn tell(server: &MongoDb, database: &str, command: Document) -> Document {
    match server.command(database, command.clone()) {
        Ok(reply) => reply,
        Err(error) => panic!("{command}: {error}"),
    }
}

/// Has a server record every command for a database, from now on.
pub(crate) fn record(server: &MongoDb, database: &str) {
    tell(server, database, doc! { "create": "system.profile", "capped": true, "size": 256 << 20 });
    tell(server, database, doc! { "profile": 2 });
}

/// Returns the recorded reads of the locks by clients.
pub(crate) fn reads(server: &MongoDb, database: &str) -> u64 {
    let ours = doc! { "$match": { "appName": "leasehold", "command.find": "leasehold" } };
    let counted = rows(server, database, "system.profile", &[ours, doc! { "$count": "reads" }]);
    counted.first().map_or(0, |row| row.get_i32("reads").expect("a number").unsigned_abs().into())
}

/// Runs an aggregation and returns its documents.
#[track_caller]
pub(crate) fn rows(
    server: &MongoDb,
    database: &str,
    source: impl Into<Bson>,
    stages: &[Document],
) -> Vec<Document> {
    let cursor = doc! { "batchSize": 100_000 };
    let reply = tell(server, database, doc! { "aggregate": source, "pipeline": stages, "cursor": cursor });
    let batch = reply.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    batch.expect("documents").iter().filter_map(Bson::as_document).cloned().collect()
}

/// Returns the documents of the locks of a database.
pub(crate) fn locks_of(server: &MongoDb, database: &str) -> Vec<Document> {
    rows(server, database, "leasehold", &[])
}

/// Changes the documents of locks by a pipeline, or by operators.
#[track_caller]
pub(crate) fn change(server: &MongoDb, database: &str, filter: Document, by: impl Into<Bson>) {
    let update = doc! { "q": filter, "u": by.into(), "multi": true };
    let reply = tell(server, database, doc! { "update": "leasehold", "updates": [update] });
    assert!(reply.get_i32("nModified").is_ok_and(|count| count > 0), "{reply}");
}

/// Returns the sizes of the entries that a database has in the oplog, in bytes and in their order.
pub(crate) fn oplog(server: &MongoDb, database: &str) -> Vec<i32> {
    let stages = [
        doc! { "$match": { "ns": format!("{database}.leasehold"), "op": { "$in": ["i", "u", "d"] } } },
        doc! { "$project": { "size": { "$bsonSize": "$$ROOT" } } },
    ];
    rows(server, "local", "oplog.rs", &stages)
        .iter()
        .map(|row| row.get_i32("size").expect("a size"))
        .collect()
}

/// Returns how often each command was called since `before`.
pub(crate) fn since(server: &MongoDb, before: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    let more = counts(server).into_iter().map(|(name, count)| {
        let was = before.get(&name).copied().unwrap_or(0);
        (name, count - was)
    });
    more.filter(|(_, count)| *count > 0).collect()
}

/// Returns how often each command was called on the primary of a server of one's own.
pub(crate) fn counts(server: &MongoDb) -> BTreeMap<String, u64> {
    server.primary().and_then(|primary| primary.command_counts()).expect("answered")
}

/// Returns the number of connections of an application.
pub(crate) fn connections(server: &MongoDb, application: &str) -> usize {
    let stages = [
        doc! { "$currentOp": { "allUsers": true, "idleConnections": true } },
        doc! { "$match": { "appName": application } },
        doc! { "$group": { "_id": "$connectionId" } },
    ];
    rows(server, "admin", 1, &stages).len()
}

/// Waits until an application has so many connections.
pub(crate) fn until_connections(server: &MongoDb, application: &str, wanted: usize) {
    until("its connections", || match connections(server, application) {
        found if found == wanted => Ok(()),
        found => Err(leasehold_testbed::Error::new(format!("{found}, not {wanted}"))),
    });
}

/// Returns the open change streams over the locks of a database: the ids of their cursors.
pub(crate) fn streams(server: &MongoDb, database: &str) -> Vec<i64> {
    let stages = [
        doc! { "$currentOp": { "allUsers": true, "idleCursors": true } },
        doc! { "$match": { "ns": format!("{database}.leasehold"), "cursor.cursorId": { "$exists": true } } },
    ];
    let rows = rows(server, "admin", 1, &stages);
    let cursor =
        |row: &Document| row.get_document("cursor").and_then(|cursor| cursor.get_i64("cursorId")).ok();
    rows.iter().filter_map(cursor).collect()
}

/// Acquires, verifies and releases a lock.
pub(crate) async fn works(url: &str) {
    let locks = client(url).await;
    let guard = hold(&locks, "works", LONG).await;
    guard.verify().await.expect("held");
    guard.release().await.expect("released");
}
