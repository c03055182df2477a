//! Documents of other programs in the same collection: npm `distributed-locks-mongodb` 1.0.3, which runs, and crate
//! `distributed-lock-mongo` 0.2.0, whose commands are sent as its source sends them.

use std::time::Duration;

use leasehold::storage::mongodb::{Config, MongoDb as Bare};
use leasehold::storage::{AcquireReply, Claim, Name, Owner, ReleaseReply, RenewReply, Storage};
use leasehold::{ErrorKind, Lost};
use leasehold_testbed::Interop;
use leasehold_testbed::mongodb::bson::{DateTime, Document, doc};

use crate::{DATABASE, LONG, client, documents, mongodb, take, time, until, with};

/// A client of the original, over that collection.
fn original(collection: &str) -> Interop {
    let args = [&mongodb().url(), DATABASE, collection];
    Interop::node("distributed-locks-mongodb.js", &args).expect("started")
}

/// The URL of Leasehold over that collection.
fn ours(collection: &str) -> String {
    with(&mongodb().url(), &format!("collection={collection}"))
}

/// The only document of a collection, as it is stored.
fn stored(collection: &str) -> Document {
    let mut all = documents(mongodb(), collection, doc! {});
    assert_eq!(all.len(), 1, "{all:?}");
    let mut stored = all.remove(0);
    stored.remove("left");
    stored
}

/// Checks that no call of Leasehold is granted the lock `job`, or changes its document.
fn is_refused_and_left_alone(collection: &str) {
    let before = stored(collection);
    let locks = client(&ours(collection));
    for attempt in [
        locks.lock("job").try_acquire().map(drop),
        locks.lock("job").retries(2).acquire().map(drop),
        locks.lock("job").acquire().map(drop),
    ] {
        let error = attempt.expect_err("another program's");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let text = error.to_string();
        assert!(text.contains("name=`job`") && text.contains("another program"), "{text}");
        assert!(text.contains("`collection`") && text.contains("`prefix`"), "{text}");
    }
    assert_eq!(locks.inspect("job").expect("answered"), []);
    assert_eq!(locks.list("").expect("answered"), []);
    assert_eq!(locks.break_lock("job").expect("answered"), []);
    locks.close().expect("closed");
    assert_eq!(stored(collection), before);
}

#[test]
fn a_document_of_the_original_is_refused_and_left_alone() {
    let its = original("theirs");
    assert!(its.acquire("job", LONG).expect("it answers"));
    let document = stored("theirs");
    let fields: Vec<_> = document.keys().map(String::as_str).collect();
    assert_eq!(fields, ["_id", "value", "obtained_at", "ttl"]);
    is_refused_and_left_alone("theirs");
    // Its own release finds what it has written, and only then the lock is free.
    assert!(its.release().expect("it answers"));
    take(&client(&ours("theirs")), "job").release().expect("released");
}

#[test]
fn an_expired_document_of_the_original_is_refused_too() {
    // Nothing removes it: the original takes it over when it acquires the same lock again.
    let (its, again) = (original("expired"), original("expired"));
    assert!(its.acquire("job", time(1_000)).expect("it answers"));
    is_refused_and_left_alone("expired");
    until("the lease to end", || again.acquire("job", LONG).expect("it answers"));
    is_refused_and_left_alone("expired");
}

#[test]
fn a_foreign_document_fails_its_own_claim_only() {
    let its = original("batch");
    assert!(its.acquire("job", LONG).expect("it answers"));
    let before = stored("batch");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let storage = Bare::connect(Config::new(&ours("batch")).expect("valid")).await.expect("connected");
        let claims = ["a", "job", "b"]
            .map(|name| Claim::new(Name::new(name).expect("valid"), Owner::random(), LONG).wait(true));
        let replies = storage.acquire(&claims).await;
        assert!(matches!(replies[0], Ok(AcquireReply::Granted { .. })), "{replies:?}");
        assert_eq!(replies[1].as_ref().expect_err("foreign").kind(), ErrorKind::Unsupported);
        assert!(matches!(replies[2], Ok(AcquireReply::Granted { .. })), "{replies:?}");
        let renewed = storage.renew(&claims).await;
        assert!(matches!(renewed[0], Ok(RenewReply::Renewed { .. })), "{renewed:?}");
        assert!(!matches!(renewed[1], Ok(RenewReply::Renewed { .. })), "{renewed:?}");
        let released = storage.release(&claims).await;
        assert!(matches!(released[0], Ok(ReleaseReply::Released)), "{released:?}");
        assert!(!matches!(released[1], Ok(ReleaseReply::Released)), "{released:?}");
    });
    let mut job = documents(mongodb(), "batch", doc! { "_id": "job" }).pop().expect("there");
    job.remove("left");
    assert_eq!(job, before);
}

#[test]
fn our_document_keeps_the_original_out_even_after_the_release() {
    let its = original("mine");
    let locks = client(&ours("mine"));
    let guard = take(&locks, "job");
    assert!(!its.acquire("job", LONG).expect("it answers"));
    // Its `finally { unlock() }` removes nothing of ours.
    assert!(its.release().expect("it answers"));
    guard.verify().expect("held");
    guard.release().expect("released");
    // The document stays, and the original never understands it.
    assert!(!its.acquire("job", LONG).expect("it answers"));
    assert_eq!(stored("mine").get_i32("leasehold").ok(), Some(1));
    take(&locks, "job").release().expect("released");
}

/// What crate distributed-lock-mongo 0.2.0 sends to acquire: `findAndModify` with this pipeline. Returns whether it
/// considers itself granted.
fn rust_crate_acquires(collection: &str, lock_id: &str, ttl: Duration) -> bool {
    let is_free = doc! { "$lte": [{ "$ifNull": ["$expiresAt", DateTime::from_millis(0)] }, "$$NOW"] };
    let ms = i64::try_from(ttl.as_millis()).expect("short");
    let end = doc! { "$dateAdd": { "startDate": "$$NOW", "unit": "millisecond", "amount": ms } };
    let set = doc! { "$set": {
        "lockId": { "$cond": [&is_free, lock_id, "$lockId"] },
        "expiresAt": { "$cond": [&is_free, end, "$expiresAt"] },
        "acquiredAt": { "$cond": [&is_free, "$$NOW", "$acquiredAt"] },
    } };
    let command = doc! {
        "findAndModify": collection, "query": { "_id": "job" }, "update": [set], "upsert": true, "new": true,
    };
    let answer = mongodb().command(DATABASE, command).expect("answered");
    answer.get_document("value").expect("a document").get_str("lockId").ok() == Some(lock_id)
}

#[test]
fn a_document_of_the_rust_crate_is_refused_and_left_alone() {
    assert!(rust_crate_acquires("rust", "one", LONG));
    is_refused_and_left_alone("rust");
}

#[test]
fn the_rust_crate_does_not_see_our_lock_and_its_release_is_noticed() {
    // It asks for fields of its own only. So it must not be given a collection of Leasehold.
    let locks = client(&ours("shared"));
    let guard = locks.lock("job").ttl(time(3_000)).acquire().expect("free");
    assert!(rust_crate_acquires("shared", "one", LONG));
    guard.verify().expect("its update leaves our fields alone");
    let delete =
        doc! { "delete": "shared", "deletes": [{ "q": { "_id": "job", "lockId": "one" }, "limit": 1 }] };
    mongodb().command(DATABASE, delete).expect("deleted");
    assert_eq!(guard.verify().expect_err("deleted").kind(), ErrorKind::Lost);
    assert_eq!(guard.lost(), Lost::Taken);
}
