//! The features of the original: its factory, its locks, and its MongoDB.

use std::thread;

use leasehold::Renewal;
use leasehold_testbed::MongoDb;
use leasehold_testbed::mongodb::bson::{Bson, doc};

use crate::databases;
use crate::parity::distributed_locks as scenario;
use crate::{DATABASE, LONG, claims, client, document, documents, id, left, mongodb, place, take, with};

/// Factory: `new LockFactory(storage, {machineId})`.
#[test]
fn a_client_says_which_machine_it_is() {
    scenario::labels(&place().0);
}

/// Factory: `init()`, without which the original grants every client (bug 8).
#[test]
fn nothing_needs_to_be_set_up_first() {
    // Many clients begin at once in a database that does not exist, so that some insert the document, and create the
    // collection, at the moment when others do.
    for i in 0..3 {
        let url = mongodb().url_of(&format!("fresh{i}"));
        let clients: Vec<_> = (0..8).map(|_| client(&url)).collect();
        let granted = thread::scope(|scope| {
            let threads: Vec<_> = clients
                .iter()
                .map(|locks| scope.spawn(|| locks.lock("job").ttl(LONG).try_acquire().expect("answered")))
                .collect();
            threads.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect::<Vec<_>>()
        });
        assert_eq!(granted.len(), 1, "granted to each client, or to none");
        granted.into_iter().for_each(|guard| guard.release().expect("released"));
        take(&clients[7], "job").release().expect("released");
    }
}

/// Factory: `createLock(key)`; bug 12.
#[test]
fn every_acquisition_of_a_lock_has_an_owner_and_a_larger_token() {
    scenario::owners_and_tokens(&place().0);
}

/// Factory: `close()`.
#[test]
fn closing_releases_what_is_held() {
    scenario::close(&place().0, |_| ());
}

/// Lock: `lock({ttl, retries, interval})`.
#[test]
fn ttl_attempts_and_interval_are_options_of_each_acquisition() {
    let (url, prefix) = place();
    scenario::options_of_each(&url, || left(&prefix));
}

/// Lock: `retries` counts all attempts, and there is no pause after the last one.
#[test]
fn three_attempts_are_three_claims_and_two_pauses() {
    let server = MongoDb::start().expect("a server");
    scenario::three_attempts(&server.url(), || claims(&server));
}

/// Lock: `unlock()`.
#[test]
fn a_release_says_whether_the_lock_was_held() {
    let (url, prefix) = place();
    scenario::release_of_a_deleted_lock(&url, || {
        let delete = doc! { "delete": "leasehold", "deletes": [{ "q": { "_id": id(&prefix) }, "limit": 1 }] };
        mongodb().command(DATABASE, delete).expect("deleted");
    });
}

/// Lock: features that the original lacks.
#[test]
fn there_is_renewing_trying_waiting_leaving_events_tokens_and_looking() {
    let (url, prefix) = place();
    let of_renewals = scenario::renewing_and_looking(&url, || left(&prefix));
    // The waiter is granted the lock next.
    databases::handover(of_renewals);
}

/// Error: `FailedToObtainKey`.
#[test]
fn a_refusal_names_the_lock_the_holder_and_the_wait() {
    scenario::refusal(&place().0);
}

/// Guarantee: no starvation, by the TTL.
#[test]
fn a_dead_holder_is_replaced_when_its_ttl_is_over() {
    databases::dead_holder(&place().0);
}

/// Mongo: `{url, database, collectionName}`.
#[test]
fn settings_of_the_original_map_one_to_one() {
    let secret = "p@ss:w/rd?&%#";
    let server = MongoDb::options().password("S3CRET").start().expect("a server");
    let role = doc! { "role": "readWrite", "db": "shop" };
    let user = doc! { "createUser": "shop-app", "pwd": secret, "roles": [role] };
    server.command("admin", user).expect("a user");
    let (database, collection_name) = ("shop", "locks");
    let url = format!(
        "mongodb://shop-app:p%40ss%3Aw%2Frd%3F%26%25%23@127.0.0.1:{}/?authSource=admin&replicaSet=leasehold",
        server.members()[0].port()
    );
    let ours = with(&url, &format!("database={database}&collection={collection_name}"));
    let guard = take(&client(&ours), "job");
    let find =
        doc! { "count": collection_name, "query": { "_id": "job", "owner": guard.owner().to_string() } };
    let found = server.command(database, find).expect("answered");
    assert_eq!(found.get_i32("n").ok(), Some(1));
    guard.release().expect("released");
}

/// Mongo: its documentation requires `w: majority` and reads from the primary, and its code sets neither.
#[test]
fn concerns_do_not_depend_on_the_url() {
    let server = MongoDb::start().expect("a server");
    server.command(DATABASE, doc! { "profile": 2 }).expect("profiled");
    let weak = "w=0&journal=false&readConcernLevel=local&readPreference=secondaryPreferred&retryWrites=false";
    let (locks, other) = (client(&with(&server.url(), weak)), client(&server.url()));
    let guard = take(&locks, "job");
    assert!(other.lock("job").try_acquire().expect("answered").is_none());
    guard.extend(LONG).expect("held");
    assert_eq!(locks.inspect("job").expect("answered").len(), 1);
    guard.release().expect("released");
    let seen = |filter| documents(&server, "system.profile", filter).len();
    let writes = doc! { "$or": [{ "command.findAndModify": "leasehold" }, { "op": "update" }] };
    assert!(seen(writes.clone()) >= 4, "the profile has no writes");
    let is_weak =
        doc! { "command.findAndModify": "leasehold", "command.writeConcern.w": { "$ne": "majority" } };
    assert_eq!(seen(is_weak), 0);
    let is_weak = doc! { "command.findAndModify": "leasehold", "command.writeConcern.j": { "$ne": true } };
    assert_eq!(seen(is_weak), 0);
    let reads = doc! { "command.find": "leasehold" };
    let is_weak = doc! { "command.find": "leasehold", "command.readConcern.level": { "$ne": "majority" } };
    assert!(seen(reads) >= 1, "the profile has no reads");
    assert_eq!(seen(is_weak), 0);
}

/// Mongo: the document `{_id, value, ttl, obtained_at}` by the server's clock, and no index.
#[test]
fn times_are_those_of_the_server_and_the_document_stays() {
    let (url, prefix) = place();
    let guard = take(&client(&url), "job");
    let held = document(&prefix);
    let (since, until) = (held.get_datetime("since").expect("set"), held.get_datetime("until").expect("set"));
    let lasts = until.timestamp_millis() - since.timestamp_millis();
    assert_eq!(u128::try_from(lasts).ok(), Some(LONG.as_millis()));
    guard.release().expect("released");
    let released = document(&prefix);
    assert_eq!(
        released.get_i64("token").ok(),
        held.get_i64("token").ok(),
        "the token stays, so that the next is larger"
    );
    assert_eq!(released.get("owner"), Some(&Bson::Null));
    let indexes = mongodb().command(DATABASE, doc! { "listIndexes": "leasehold" }).expect("answered");
    let indexes = indexes.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    assert_eq!(indexes.expect("a batch").len(), 1, "no TTL index, which would remove what is held");
}

/// Mongo: a find, then an upsert.
#[test]
fn a_grant_is_one_statement_and_a_refusal_writes_nothing() {
    let server = MongoDb::start().expect("a server");
    let (locks, other) = (client(&server.url()), client(&server.url()));
    take(&locks, "job").release().expect("released");
    // Those of a change stream are not counted.
    let commands = || {
        let counts = server.members()[0].command_counts().expect("answered");
        let names = ["findAndModify", "update", "insert", "delete", "find"];
        names.iter().filter_map(|name| counts.get(*name)).sum::<u64>()
    };
    let before = commands();
    let guard = locks.lock("job").ttl(LONG).renewal(Renewal::Never).acquire().expect("free");
    assert_eq!(commands() - before, 1);
    let written = || {
        let ours = doc! { "count": "oplog.rs", "query": { "ns": "leasehold.leasehold" } };
        server.command("local", ours).expect("answered").get_i32("n").expect("a number")
    };
    let (entries, before) = (written(), claims(&server));
    assert!(entries >= 3, "a grant, a release, a grant: {entries}");
    for _ in 0..10 {
        assert!(other.lock("job").try_acquire().expect("answered").is_none());
    }
    assert_eq!((claims(&server) - before, written() - entries), (10, 0));
    guard.release().expect("released");
}
