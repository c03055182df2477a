//! Helpers of these tests: servers, their documents and faults.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use leasehold::storage::mongodb::Config;
pub(crate) use leasehold::storage::mongodb::MongoDb as Bare;
use leasehold::storage::{AcquireReply, Claim, Hint, Storage, Token};
use leasehold::{ErrorKind, Guard};
use leasehold_testbed::mongodb::bson::{Bson, Document, doc};
use leasehold_testbed::mongodb::{MongoDbMember, Transaction};
use leasehold_testbed::{Faults as _, MongoDb};

pub(crate) use crate::calls::*;

/// Returns the limit for what happens within an election, or a few calls. It is shorter than half of a long TTL.
pub(crate) fn soon() -> Duration {
    time(12_000)
}

/// Returns a set of three, to one test after the other.
pub(crate) fn three() -> MutexGuard<'static, MongoDb> {
    static THREE: OnceLock<Mutex<MongoDb>> = OnceLock::new();
    healed(THREE.get_or_init(|| Mutex::new(MongoDb::options().start_three().expect("servers"))))
}

/// Returns a set of one, to one test after the other.
pub(crate) fn one() -> MutexGuard<'static, MongoDb> {
    static ONE: OnceLock<Mutex<MongoDb>> = OnceLock::new();
    healed(ONE.get_or_init(|| Mutex::new(MongoDb::start().expect("a server"))))
}

/// Ends the faults of the test before, which may have failed in between.
fn healed(set: &'static Mutex<MongoDb>) -> MutexGuard<'static, MongoDb> {
    let set = set.lock().unwrap_or_else(PoisonError::into_inner);
    for member in set.members() {
        member.cont();
        if !member.is_running() {
            member.restart().expect("started");
        }
        member.fail_commands("off", &[], doc! {}).expect("answered");
        hold_up_replication(member, false);
    }
    set.await_whole().expect("it recovers");
    set
}

/// Returns the URL with a collection of its own, and its name.
pub(crate) fn own(set: &MongoDb) -> (String, String) {
    static LAST: AtomicU64 = AtomicU64::new(0);
    let collection = format!("c{}", LAST.fetch_add(1, Ordering::Relaxed));
    (format!("{}&collection={collection}", set.url()), collection)
}

/// Sends a command to the database of the locks.
#[track_caller]
pub(crate) fn command(set: &MongoDb, command: Document) -> Document {
    match set.command("leasehold", command) {
        Ok(reply) => reply,
        Err(error) => panic!("{error}"),
    }
}

/// Deletes a lock's document, as an operator might.
pub(crate) fn delete(set: &MongoDb, collection: &str, lock: &str) {
    let deletes = vec![doc! { "q": { "_id": lock }, "limit": 1 }];
    let reply =
        command(set, doc! { "delete": collection, "deletes": deletes, "writeConcern": { "w": "majority" } });
    assert_eq!(reply.get_i32("n").ok(), Some(1));
}

/// Returns a lock's document as this member has it, whatever the others have.
pub(crate) fn document(
    member: &leasehold_testbed::mongodb::MongoDbMember,
    collection: &str,
    lock: &str,
) -> leasehold_testbed::Result<Document> {
    let find = doc! {
        "find": collection, "filter": { "_id": lock }, "$readPreference": { "mode": "primaryPreferred" },
    };
    let found = member.command("leasehold", find)?;
    let batch = found.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let first = batch.ok().and_then(|batch| batch.first()).and_then(Bson::as_document);
    first.cloned().ok_or_else(|| leasehold_testbed::Error::new("there is no such document"))
}

pub(crate) async fn bare(url: &str) -> Bare {
    match within(LONG, Bare::connect(Config::new(url).expect("valid"))).await {
        Ok(storage) => storage,
        Err(error) => panic!("{url}: {error}"),
    }
}

/// Returns a storage that listens. Its first hint has shown that.
pub(crate) async fn listening(url: &str) -> (Bare, Hints) {
    let storage = bare(url).await;
    let mut hints: Hints = Box::pin(storage.hints());
    awaited(&mut hints, &Hint::Any).await;
    (storage, hints)
}

/// Waits for a hint.
pub(crate) async fn awaited(hints: &mut Hints, wanted: &Hint) {
    let next = async { while hints.next().await.expect("a hint") != *wanted {} };
    within(LONG, next).await;
}

/// Acquires a free lock, once the server answers.
pub(crate) async fn take(storage: &impl Storage, claim: &Claim) -> Token {
    match answered(async || acquire(storage, claim).await).await {
        AcquireReply::Granted { token, .. } => token,
        other => panic!("not granted: {other:?}"),
    }
}

/// Sends a claim that must be refused, because another owner holds the lock.
pub(crate) async fn is_held(storage: &impl Storage, claim: &Claim) {
    let answer = answered(async || acquire(storage, claim).await).await;
    assert!(matches!(answer, AcquireReply::Held { .. }), "{answer:?}");
}

/// Waits until the server confirms that a guard holds its lock.
pub(crate) async fn verified(guard: &Guard) {
    let verifying = async {
        while let Err(error) = guard.verify().await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
    };
    within(LONG, verifying).await;
}

/// Returns the members besides the primary.
pub(crate) fn others<'a>(
    set: &'a MongoDb,
    primary: &MongoDbMember,
) -> impl Iterator<Item = &'a MongoDbMember> {
    let primary = primary.port();
    set.members().iter().filter(move |member| member.port() != primary)
}

/// Has a member fetch nothing from the primary until this is called with `false`. It votes and answers.
pub(crate) fn hold_up_replication(member: &MongoDbMember, is_held_up: bool) {
    let mode = if is_held_up { "alwaysOn" } else { "off" };
    let command = doc! { "configureFailPoint": "stopReplProducer", "mode": mode };
    member.command("admin", command).expect("set");
}

/// Begins a transaction that has written the documents of these locks.
pub(crate) fn pin(set: &MongoDb, collection: &str, locks: &[&str]) -> Transaction {
    let filter = doc! { "_id": { "$in": locks } };
    let found = command(set, doc! { "count": collection, "query": &filter }).get_i32("n").expect("a number");
    assert_eq!(usize::try_from(found), Ok(locks.len()));
    let write = doc! { "q": filter, "u": { "$inc": { "pins": 1 } }, "multi": true };
    set.transaction(collection, &[write]).expect("begun")
}
