//! The check of a token in the MongoDB transaction that it protects, by the official driver.
#![cfg(all(unix, feature = "mongodb"))]

mod delays;
mod tools;

use std::time::Duration;

use leasehold::storage::mongodb::{Config, Fence, MongoDb as Bare};
use leasehold::storage::{AcquireReply, Claim, ReleaseReply, RenewReply, Storage, Token};
use leasehold::{ErrorKind, Event, Locks, Renewal};
use leasehold_testbed::MongoDb;
use mongodb::error::TRANSIENT_TRANSACTION_ERROR;

use self::tools::*;

/// How late a claim may be executed.
const PATIENCE: Duration = Duration::from_millis(200);

/// Releases a lock. A slow machine may commit later than the server waits for a transaction.
async fn released(storage: &Bare, claim: &Claim) -> ReleaseReply {
    loop {
        match release(storage, claim).await {
            Ok(reply) => return reply,
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        }
    }
}

#[test]
fn a_pinned_lock_is_granted_to_no_other_owner_even_if_its_lease_ends() {
    run(async {
        for commits in [true, false] {
            let place = Place::new().await;
            let (storage, other) = (place.storage().await, place.storage().await);
            let mine = claim("job", time(2_000));
            let token = take(&storage, &mine).await;
            let mut session = place.transaction().await;
            assert_eq!(place.pin(&mut session, "job", token).await.expect("answered"), 1);
            // The holder is paused for longer than its lease, with its transaction open.
            ended(&storage, "job").await;
            let theirs = claim("job", LONG);
            // No owner holds it, so it is not called held, but the server is.
            let refused = acquire(&other, &theirs).await.expect_err("pinned");
            assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
            assert!(
                storage.inspect(&mine.name).await.expect("answered").is_empty(),
                "no other owner holds it"
            );
            place.write(&mut session, "paid").await;
            if commits {
                session.commit_transaction().await.expect("no other owner came between");
            } else {
                session.abort_transaction().await.expect("aborted");
            }
            assert_eq!(place.written().await, if commits { vec!["paid"] } else { Vec::new() });
            assert!(take(&other, &theirs).await > token);
        }
    });
}

#[test]
fn the_holders_renewal_waits_for_the_transaction_and_succeeds() {
    run(async {
        for commits in [true, false] {
            let place = Place::new().await;
            let storage = place.storage().await;
            let mine = claim("job", LONG);
            let token = take(&storage, &mine).await;
            let mut session = place.transaction().await;
            assert_eq!(place.pin(&mut session, "job", token).await.expect("answered"), 1);
            let renewal = renew(&storage, &mine);
            tokio::pin!(renewal);
            let waits = tokio::select! {
                _ = &mut renewal => false,
                () = place.until_blocked() => true,
            };
            assert!(waits, "renewed beside the transaction");
            if commits {
                session.commit_transaction().await.expect("committed");
            } else {
                session.abort_transaction().await.expect("aborted");
            }
            assert!(matches!(renewal.await, Ok(RenewReply::Renewed { .. })));
            assert_eq!(storage.inspect(&mine.name).await.expect("answered")[0].token, token);
        }
    });
}

#[test]
fn a_guard_outlives_a_transaction_that_is_shorter_than_its_lease() {
    run(async {
        let place = Place::new().await;
        let locks = Locks::connect(&place.url).await.expect("connected");
        let ttl = time(6_000);
        let lock = locks.lock("job").ttl(ttl).renewal(Renewal::Every(time(200)));
        let guard = lock.acquire().await.expect("free");
        let mut session = place.transaction().await;
        let pinned = place.pin(&mut session, "job", guard.token()).await;
        assert_eq!(pinned.expect("answered"), 1);
        place.until_blocked().await;
        let mut events = locks.events();
        place.write(&mut session, "paid").await;
        session.commit_transaction().await.expect("committed");
        loop {
            match events.next().await.expect("an event") {
                Event::Renewed { token, .. } if token == guard.token() => break,
                Event::Lost { lost, .. } => panic!("{lost}"),
                _ => {}
            }
        }
        guard.release().await.expect("held without interruption");
        assert_eq!(place.written().await, ["paid"]);
    });
}

#[test]
fn a_claim_that_waited_for_a_transaction_beyond_its_patience_leaves_nothing() {
    run(async {
        let place = Place::new().await;
        let (storage, other) = (place.storage().await, place.storage().await);
        let mine = claim("job", LONG);
        let token = take(&storage, &mine).await;
        let mut session = place.transaction().await;
        assert_eq!(place.pin(&mut session, "job", token).await.expect("answered"), 1);
        let theirs = claim("job", LONG).patience(PATIENCE).wait(true);
        let (released, answer, ()) =
            tokio::join!(released(&storage, &mine), acquire(&other, &theirs), async {
                place.until_blocked().await;
                // The claim is older than its patience then.
                tokio::time::sleep(PATIENCE * 2).await;
                session.commit_transaction().await.expect("committed");
            });
        assert_eq!(released, ReleaseReply::Released);
        match answer {
            Ok(AcquireReply::Held { .. }) => {}
            // The read that tells who holds the lock has had no time left.
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            Ok(other) => panic!("{other:?}"),
        }
        let left = place.lock("job").await;
        let owner = left.get_str("owner").unwrap_or_default();
        assert_ne!(owner, theirs.owner.to_string(), "granted to a caller that has gone");
        assert!(left.get_array("queue").is_ok_and(Vec::is_empty), "{left}");
    });
}

#[test]
fn a_release_waits_for_the_transaction() {
    run(async {
        let place = Place::new().await;
        let (storage, other) = (place.storage().await, place.storage().await);
        let mine = claim("job", LONG);
        let token = take(&storage, &mine).await;
        let mut session = place.transaction().await;
        assert_eq!(place.pin(&mut session, "job", token).await.expect("answered"), 1);
        let (released, ()) = tokio::join!(released(&storage, &mine), async {
            place.until_blocked().await;
            place.write(&mut session, "paid").await;
            session.commit_transaction().await.expect("committed");
        });
        assert_eq!(released, ReleaseReply::Released);
        assert!(take(&other, &claim("job", LONG)).await > token);
        assert_eq!(place.written().await, ["paid"]);
        // From now on that token pins nothing.
        let mut session = place.transaction().await;
        assert_eq!(place.pin(&mut session, "job", token).await.expect("answered"), 0);
    });
}

#[test]
fn a_stale_token_an_ended_lease_and_another_prefix_match_nothing() {
    run(async {
        let place = Place::new().await;
        let storage = place.storage().await;
        let (first, second) = (claim("job", LONG), claim("job", time(1_000)));
        let pinned = async |fence: &Fence, name: &str, token: Token| {
            let mut session = place.transaction().await;
            let pinned = place.pin_by(fence, &mut session, name, token).await.expect("answered");
            session.abort_transaction().await.expect("aborted");
            pinned
        };
        let fence = &place.fence;
        let old = take(&storage, &first).await;
        assert_eq!(pinned(fence, "job", old).await, 1);
        assert_eq!(release(&storage, &first).await.expect("answered"), ReleaseReply::Released);
        assert_eq!(pinned(fence, "job", old).await, 0, "released");
        let new = take(&storage, &second).await;
        assert_eq!(pinned(fence, "job", old).await, 0, "of another owner");
        assert_eq!(pinned(fence, "job", new).await, 1);
        assert_eq!(pinned(fence, "jo", new).await, 0, "another name");
        assert_eq!(pinned(fence, "job", Token::new(u64::MAX)).await, 0);
        let without = Fence::new(&Config::new(&common().url()).expect("valid"));
        assert_eq!(pinned(&without, "job", new).await, 0, "another prefix");
        ended(&storage, "job").await;
        assert_eq!(pinned(fence, "job", new).await, 0, "its lease is over");
    });
}

#[test]
fn of_two_transactions_one_pins_and_the_other_is_to_be_retried() {
    run(async {
        let place = Place::new().await;
        let storage = place.storage().await;
        let token = take(&storage, &claim("job", LONG)).await;
        let (mut one, mut two) = (place.transaction().await, place.transaction().await);
        assert_eq!(place.pin(&mut one, "job", token).await.expect("answered"), 1);
        let error = place.pin(&mut two, "job", token).await.expect_err("pinned by the other");
        assert_eq!(code(&error), Some(WRITE_CONFLICT), "{error}");
        assert!(error.contains_label(TRANSIENT_TRANSACTION_ERROR), "{error}");
        two.abort_transaction().await.expect("aborted");
        one.commit_transaction().await.expect("committed");
        // Tried again, it pins, since the lock is still held.
        let mut two = place.transaction().await;
        assert_eq!(place.pin(&mut two, "job", token).await.expect("answered"), 1);
    });
}

#[test]
fn a_transaction_that_still_sees_the_earlier_lease_cannot_pin_it() {
    run(async {
        let place = Place::new().await;
        let (storage, other) = (place.storage().await, place.storage().await);
        let mine = claim("job", LONG);
        let token = take(&storage, &mine).await;
        // The first read takes the snapshot, in which the token is the last one for ever.
        let mut session = place.transaction().await;
        place.read(&mut session).await;
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
        assert!(take(&other, &claim("job", LONG)).await > token);
        let error = place.pin(&mut session, "job", token).await.expect_err("pinned beside the new holder");
        assert_eq!(code(&error), Some(WRITE_CONFLICT), "{error}");
    });
}

#[test]
fn a_standalone_server_refuses_the_transaction() {
    run(async {
        let server = MongoDb::options().start_standalone().expect("a server");
        let place = Place::on(&server).await;
        let storage = place.storage().await;
        let mine = claim("job", LONG);
        let token = take(&storage, &mine).await;
        let mut session = place.transaction().await;
        let error = place.pin(&mut session, "job", token).await.expect_err("no replica set");
        // The driver says it in words of its own.
        assert_eq!(code(&error), Some(ILLEGAL_OPERATION), "{error}");
        assert!(!place.lock("job").await.contains_key("pins"), "nothing was written");
        assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })));
    });
}

#[test]
fn money_that_is_written_behind_the_fence_is_written_once() {
    run(async {
        let place = Place::new().await;
        let (paused, other) = (place.storage().await, place.storage().await);
        let token = take(&paused, &claim("job", time(500))).await;
        // The holder sleeps through its lease, and another one pays.
        ended(&paused, "job").await;
        let new = take(&other, &claim("job", LONG)).await;
        for (token, what) in [(new, "new"), (token, "old")] {
            let mut session = place.transaction().await;
            if place.pin(&mut session, "job", token).await.expect("answered") == 1 {
                place.write(&mut session, what).await;
                session.commit_transaction().await.expect("committed");
            }
        }
        assert_eq!(place.written().await, ["new"]);
    });
}
