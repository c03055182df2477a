//! Claims that are sent again in a batch: what an earlier call or another client has written is not taken for theirs.

use std::time::Duration;

use leasehold::ErrorKind;
use leasehold::storage::{AcquireReply, Claim, Hint, Owner, ReleaseReply, RenewReply, Storage as _};
use leasehold_testbed::MongoDb;
use leasehold_testbed::mongodb::bson::doc;

use crate::tools::*;

fn several(prefix: &str, ttl: Duration) -> Vec<Claim> {
    (0..2).map(|i| Claim::new(name(&format!("{prefix}{i}")), Owner::random(), ttl)).collect()
}

/// Returns the server's time, in milliseconds.
fn server_time(set: &MongoDb) -> i64 {
    let hello = set.command("admin", doc! { "hello": 1 }).expect("answered");
    hello.get_datetime("localTime").expect("a time").timestamp_millis()
}

/// Checks that a lease that was granted for `ttl` after that time of the server lasts for as long.
fn lasts(set: &MongoDb, collection: &str, claim: &Claim, after: i64, ttl: Duration) {
    let document = document(&set.members()[0], collection, claim.name.as_str()).expect("there");
    let until = document.get_datetime("until").expect("a time").timestamp_millis();
    let ttl = i64::try_from(ttl.as_millis()).expect("short");
    assert!(until >= after + ttl, "{} ms too long", after + ttl - until);
}

/// Stops the server for a while during a call.
async fn stalled<T>(set: &MongoDb, time: Duration, call: impl Future<Output = T>) -> T {
    set.members()[0].stop();
    let (answer, ()) = tokio::join!(call, async {
        tokio::time::sleep(time).await;
        set.members()[0].cont();
    });
    answer
}

#[test]
fn a_late_batch_of_owners_that_hold_is_not_granted_more_than_they_have() {
    let set = one();
    run(async {
        let (url, collection) = own(&set);
        let storage = bare(&url).await;
        let claims = several("job", Duration::from_secs(6));
        for answer in storage.acquire(&claims).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        // The leases are older than the next claims.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = server_time(&set);
        let answers = stalled(&set, Duration::from_secs(2), storage.acquire(&claims)).await;
        for (claim, answer) in claims.iter().zip(answers) {
            match answer {
                Ok(AcquireReply::Granted { ttl, .. }) => lasts(&set, &collection, claim, before, ttl),
                Ok(other) => panic!("{other:?}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
        }
    });
}

#[test]
fn a_handover_after_a_late_batch_counts_from_the_claim_before() {
    let set = one();
    run(async {
        let (url, collection) = own(&set);
        let holder = bare(&url).await;
        let (storage, mut hints) = listening(&url).await;
        let held = several("job", LONG);
        for claim in &held {
            take(&holder, claim).await;
        }
        let waiting: Vec<_> =
            several("job", Duration::from_secs(2)).into_iter().map(|claim| claim.wait(true)).collect();
        storage.acquire(&waiting).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let late = stalled(&set, Duration::from_millis(700), storage.acquire(&waiting)).await;
        let is_granted = |answer: &_| matches!(answer, Ok(AcquireReply::Granted { .. }));
        assert!(!late.iter().any(is_granted), "{late:?}");
        answered(async || release(&holder, &held[0]).await).await;
        awaited(&mut hints, &Hint::Owner(waiting[0].owner)).await;
        let before = server_time(&set);
        if let AcquireReply::Granted { ttl, .. } =
            answered(async || acquire(&storage, &waiting[0]).await).await
        {
            lasts(&set, &collection, &waiting[0], before, ttl);
        }
    });
}

/// Releases a lock in a batch, beside one that is not held. Its next owner does something at once.
fn release_before(was_held: bool, next: impl AsyncFn(&Bare, &Claim)) {
    let set = one();
    run(async {
        let (url, _) = own(&set);
        let (storage, (other, mut hints)) = (bare(&url).await, listening(&url).await);
        for round in 0..40 {
            let (mine, lost) = (claim(&format!("job{round}")), claim(&format!("lost{round}")));
            take(&storage, &mine).await;
            if was_held {
                take(&storage, &lost).await;
                answered(async || release(&storage, &lost).await).await;
            }
            let theirs = claim(&format!("job{round}")).wait(true);
            is_held(&other, &theirs).await;
            let owning = async {
                awaited(&mut hints, &Hint::Owner(theirs.owner)).await;
                next(&other, &theirs).await;
            };
            let several = [mine.clone(), lost.clone()];
            let (released, ()) = tokio::join!(storage.release(&several), owning);
            assert_eq!(released[0].as_ref().expect("answered"), &ReleaseReply::Released, "{round}");
            assert_eq!(released[1].as_ref().expect("answered"), &ReleaseReply::NotHeld, "{round}");
        }
    });
}

#[test]
fn a_release_is_not_taken_for_a_loss_because_the_next_owner_has_renewed() {
    release_before(true, async |other, theirs| {
        let renewed = answered(async || renew(other, theirs).await).await;
        assert!(matches!(renewed, RenewReply::Renewed { .. }), "{renewed:?}");
    });
}

#[test]
fn a_release_is_not_taken_for_a_loss_because_the_next_owner_has_released() {
    release_before(false, async |other, theirs| {
        answered(async || release(other, theirs).await).await;
    });
}

/// A transaction of another program has inserted a document, and is still open.
#[test]
fn a_document_that_a_transaction_inserts_delays_no_claim_of_another_lock() {
    let set = one();
    run(async {
        let (url, collection) = own(&set);
        let storage = bare(&url).await;
        let old = claim("old");
        take(&storage, &old).await;
        answered(async || release(&storage, &old).await).await;
        let insert = doc! { "q": { "_id": "new1" }, "u": { "$set": { "a": 1 } }, "upsert": true };
        let open = set.transaction(&collection, &[insert]).expect("begun");
        let claims = ["old", "new0", "new1", "new2"].map(claim);
        let answers = within(soon(), storage.acquire(&claims)).await;
        for (i, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(AcquireReply::Granted { .. }) if i != 2 => {}
                Err(error) if i == 2 => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                other => panic!("{i}: {other:?}"),
            }
        }
        open.abort().expect("aborted");
    });
}
