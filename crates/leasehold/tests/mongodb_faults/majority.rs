//! A primary without a majority: it grants nothing, and ends nothing.

use std::time::Duration;

use leasehold::storage::{AcquireReply, Claim, Owner, ReleaseReply, RenewReply, Storage as _};
use leasehold::{ErrorKind, Lost};
use leasehold_testbed::mongodb::MongoDbMember;
use leasehold_testbed::mongodb::bson::doc;
use leasehold_testbed::{Error, Faults as _, MongoDb, until};
use tokio::time::Instant;

use crate::tools::*;

/// Stops the other members, and returns the primary and them.
fn stop_secondaries(set: &MongoDb) -> (&MongoDbMember, Vec<&MongoDbMember>) {
    let primary = set.primary().expect("a primary");
    let others: Vec<_> = others(set, primary).collect();
    others.iter().for_each(|member| member.stop());
    (primary, others)
}

fn go_on(set: &MongoDb, stopped: &[&MongoDbMember]) {
    stopped.iter().for_each(|member| member.cont());
    set.await_whole().expect("a majority");
}

#[test]
fn without_a_majority_nothing_is_granted_and_what_was_written_is_cleaned_up() {
    let set = three();
    run(async {
        let (url, collection) = own(&set);
        let (locks, other) = (client(&url).await, client(&url).await);
        hold(&locks, "first", LONG).await.release().await.expect("released");
        let (primary, stopped) = stop_secondaries(&set);
        let lock = locks.lock("job").ttl(LONG);
        let trying = tokio::spawn(async move { lock.try_acquire().await });
        // The primary executes the claim, and no majority has it.
        until("the claim", || {
            document(primary, &collection, "job").and_then(|found| match found.get_str("owner") {
                Ok(_) => Ok(()),
                Err(error) => Err(Error::new(error.to_string())),
            })
        })
        .expect("executed");
        let error = within(LONG, trying).await.expect("no panic").expect_err("no majority");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        go_on(&set, &stopped);
        // Its lease would last for a minute.
        let next = within(soon(), other.lock("job").acquire()).await.expect("granted");
        next.release().await.expect("released");
    });
}

#[test]
fn a_claim_that_was_unknown_without_a_majority_is_granted_once_with_its_token() {
    let set = three();
    run(async {
        let (url, collection) = own(&set);
        let storage = bare(&url).await;
        take(&storage, &claim("first")).await;
        let (primary, stopped) = stop_secondaries(&set);
        let mine = claim("job");
        let error = acquire(&storage, &mine).await.expect_err("no majority");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        let written = document(primary, &collection, "job").expect("executed").get_i64("token");
        go_on(&set, &stopped);
        let token = take(&storage, &mine).await;
        assert_eq!(i64::try_from(token.get()).ok(), written.ok());
        is_held(&storage, &claim("job")).await;
        assert_eq!(answered(async || release(&storage, &mine).await).await, ReleaseReply::Released);
    });
}

/// A batch has no second chance that would be faster.
#[test]
fn a_majority_that_takes_longer_than_half_of_a_batchs_time_renews_all_of_it() {
    let set = three();
    run(async {
        let storage = bare(&own(&set).0).await;
        // The server has a seventh of that for a batch, which is 700 ms, and half of it for the statement.
        let (ttl, slow) = (Duration::from_millis(4_900), Duration::from_millis(500));
        let claims: Vec<_> =
            (0..24).map(|i| Claim::new(name(&format!("job{i}")), Owner::random(), ttl)).collect();
        for answer in storage.acquire(&claims).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        let (_, stopped) = stop_secondaries(&set);
        let (answers, ()) = tokio::join!(storage.renew(&claims), async {
            tokio::time::sleep(slow).await;
            go_on(&set, &stopped);
        });
        for answer in answers {
            assert!(matches!(answer, Ok(RenewReply::Renewed { .. })), "{answer:?}");
        }
    });
}

#[test]
fn without_a_majority_a_hold_lasts_until_its_own_deadline() {
    let set = three();
    run(async {
        let (url, _) = own(&set);
        let (locks, other) = (client(&url).await, bare(&url).await);
        let ttl = time(8_000);
        let guard = hold(&locks, "job", ttl).await;
        let (since, remaining) = (Instant::now(), guard.remaining());
        let (_, stopped) = stop_secondaries(&set);
        assert_eq!(within(LONG, guard.lost()).await, Lost::Expired);
        let lasted = since.elapsed();
        // A look at the lease may have brought its deadline forward, by as long as it took.
        assert!(remaining <= lasted + ttl / 100 && lasted <= ttl, "{remaining:?} {lasted:?}");
        // The lease may be over at the primary, but no other client can be granted the lock.
        let theirs = claim("job");
        acquire(&other, &theirs).await.expect_err("no majority");
        go_on(&set, &stopped);
        assert!(take(&other, &theirs).await > guard.token());
    });
}

/// What a primary says that is no longer one may be wrong.
#[test]
fn without_a_majority_a_refusal_is_no_answer() {
    let set = three();
    run(async {
        let (url, _) = own(&set);
        let storage = bare(&url).await;
        let (mine, theirs) = (claim("job"), claim("job"));
        take(&storage, &mine).await;
        let (_, stopped) = stop_secondaries(&set);
        let (held, renewed, released) =
            tokio::join!(acquire(&storage, &mine), renew(&storage, &mine), release(&storage, &theirs),);
        for error in [held.expect_err("held"), renewed.expect_err("renewed"), released.expect_err("released")]
        {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        go_on(&set, &stopped);
        assert!(matches!(
            answered(async || acquire(&storage, &theirs).await).await,
            AcquireReply::Held { holder: Some(_), .. }
        ));
        let renewed = answered(async || renew(&storage, &mine).await).await;
        assert!(matches!(renewed, RenewReply::Renewed { .. }), "{renewed:?}");
        assert!(storage.inspect(&name("job")).await.expect("answered")[0].owner == mine.owner);
    });
}

/// A statement that was interrupted has written all the same, and no majority has that yet.
#[test]
fn what_a_majority_had_before_an_interrupted_batch_is_no_answer_to_it() {
    let set = three();
    run(async {
        for guesses in [false, true] {
            let (url, collection) = own(&set);
            let (storage, other) = (bare(&url).await, bare(&url).await);
            let (theirs, filler) = (claim("a"), if guesses { &storage } else { &other });
            for lock in ["a", "b"].map(claim) {
                take(filler, &lock).await;
                answered(async || release(filler, &lock).await).await;
            }
            take(&other, &theirs).await;
            let primary = set.primary().expect("a primary");
            others(&set, primary).for_each(|member| hold_up_replication(member, true));
            // The primary frees the first lock, and then a transaction pins the second one.
            let releasing = release(&other, &theirs);
            let mine = ["a", "b"].map(claim);
            let acquiring = async {
                while document(primary, &collection, "a").expect("there").get_str("owner").is_ok() {
                    tokio::task::yield_now().await;
                }
                let open = pin(&set, &collection, &["b"]);
                let slow = doc! { "blockConnection": true, "blockTimeMS": 600 };
                primary.fail_commands("alwaysOn", &["findAndModify"], slow).expect("set");
                let answers = storage.acquire(&mine).await;
                primary.fail_commands("off", &[], doc! {}).expect("set");
                open.abort().expect("ended");
                answers
            };
            let (_, answers) = tokio::join!(releasing, acquiring);
            let written = document(primary, &collection, "a").expect("there");
            assert_eq!(written.get_str("owner").ok(), Some(&*mine[0].owner.to_string()), "it is executed");
            assert!(!matches!(answers[0], Ok(AcquireReply::Held { .. })), "{:?}", answers[0]);
            others(&set, primary).for_each(|member| hold_up_replication(member, false));
            set.await_whole().expect("a majority");
        }
    });
}
