//! A primary without a majority goes on writing, is killed, and is rolled back: none of that was ever told.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt as _, StreamExt as _};
use leasehold::storage::{AcquireReply, Claim, Hint, Owner, ReleaseReply, RenewReply, Storage as _};
use leasehold_testbed::mongodb::MongoDbMember;
use leasehold_testbed::mongodb::bson::doc;
use leasehold_testbed::{Error, Faults as _, MongoDb, until};

use crate::tools::*;

/// Returns how often a member has been rolled back.
fn rollbacks(member: &MongoDbMember) -> i32 {
    let reply = member.command("admin", doc! { "replSetGetRBID": 1 }).expect("answered");
    reply.get_i32("rbid").expect("a number")
}

/// Lets the others elect a primary that does not have what this one has written alone.
fn replace(set: &MongoDb, primary: &MongoDbMember) {
    // What it has written is in its journal then. If it has stepped down already, that was long ago.
    let note = doc! { "appendOplogNote": 1, "data": {}, "writeConcern": { "w": 1, "j": true } };
    drop(primary.command("admin", note));
    primary.kill9();
    others(set, primary).for_each(|member| member.restart().expect("started"));
    set.await_primary_other_than(primary).expect("another is elected");
}

#[test]
fn what_a_minority_has_written_is_rolled_back_and_was_never_told() {
    let set = three();
    run(async {
        let (url, collection) = own(&set);
        let (storage, (waiter, mut hints)) = (Arc::new(bare(&url).await), listening(&url).await);
        let (kept, given, theirs) = (claim("kept"), claim("given"), claim("given").wait(true));
        let kept_token = take(&*storage, &kept).await;
        let given_token = take(&*storage, &given).await;
        is_held(&waiter, &theirs).await;
        let primary = set.primary().expect("a primary");
        let before = rollbacks(primary);
        // One that was only stopped would find the writes in its sockets.
        others(&set, primary).for_each(|member| member.kill9());

        // The primary alone grants a lock, and hands another one over. Neither is confirmed.
        let ghost = claim("free");
        let sent = tokio::spawn({
            let (storage, ghost, given) = (Arc::clone(&storage), ghost.clone(), given.clone());
            async move { tokio::join!(acquire(&*storage, &ghost), release(&*storage, &given)) }
        });
        let written = until("both writes", || {
            let free = document(primary, &collection, "free")?;
            let given = document(primary, &collection, "given")?;
            match given.get_str("owner") {
                Ok(owner) if owner == theirs.owner.to_string() => Ok(free.get_i64("token").expect("a token")),
                other => Err(Error::new(format!("{other:?}"))),
            }
        });
        let ghost_token = written.expect("the primary executes them");
        replace(&set, primary);
        let (granted, released) = within(LONG, sent).await.expect("no panic");
        granted.expect_err("rolled back");
        released.expect_err("rolled back");
        while let Some(Some(hint)) = hints.next().now_or_never() {
            assert_ne!(hint, Hint::Owner(theirs.owner), "a handover that no majority has");
        }

        // The next primary knows nothing of it, and grants anew.
        let holders = answered(async || storage.inspect(&name("given")).await).await;
        assert_eq!((holders[0].owner, holders[0].token), (given.owner, given_token));
        let token = take(&waiter, &claim("free")).await;
        assert!(i64::try_from(token.get()).expect("small") > ghost_token);
        assert_eq!(answered(async || release(&*storage, &given).await).await, ReleaseReply::Released);
        assert!(take(&waiter, &theirs).await > given_token);
        assert_eq!(take(&*storage, &kept).await, kept_token, "what was confirmed is there");

        // The old primary returns, and gives up what it had written.
        primary.restart().expect("started");
        set.await_whole().expect("it catches up");
        assert!(rollbacks(primary) > before, "it was rolled back");
        is_held(&*storage, &ghost).await;
        assert_eq!(take(&*storage, &kept).await, kept_token);
    });
}

/// Runs a call whose write the primary executes and no other member has. Then another one is elected without it, and the old
/// one goes on after it has given up to wait for a majority. Returns the reply, and the time of the server before the call.
async fn elected_without<T>(set: &MongoDb, collection: &str, call: impl Future<Output = T>) -> (T, i64) {
    let old = set.primary().expect("a primary");
    others(set, old).for_each(|member| hold_up_replication(member, true));
    let before = document(old, collection, "job0").expect("there");
    let hello = old.command("admin", doc! { "hello": 1 }).expect("answered");
    let time = hello.get_datetime("localTime").expect("a time").timestamp_millis();
    let electing = async {
        while document(old, collection, "job0").expect("there") == before {
            tokio::task::yield_now().await;
        }
        old.stop();
        elect_one_of_the_others(set, old);
        others(set, old).for_each(|member| hold_up_replication(member, false));
        // It has less time than that for a call.
        tokio::time::sleep(Duration::from_millis(2_400)).await;
        old.cont();
    };
    let (reply, ()) = tokio::join!(call, electing);
    set.await_whole().expect("it catches up");
    (reply, time)
}

/// Has another member elected while the old primary is stopped and replication is held up.
fn elect_one_of_the_others(set: &MongoDb, old: &MongoDbMember) {
    // It fails if the other one has a later entry, or still hears of the old primary.
    let step_up = doc! { "replSetStepUp": 1, "skipDryRun": true };
    let elected = until("an election", || {
        let elect = |member: &MongoDbMember| member.command("admin", step_up.clone());
        let elected = others(set, old).find(|member| elect(member).is_ok());
        elected.ok_or_else(|| Error::new("not yet"))
    });
    let elected = elected.expect("elected");
    // Another election would depose it, so the other one is not asked meanwhile.
    let writable = until("the new primary", || {
        drop(elected.command("admin", doc! { "replSetAbortPrimaryCatchUp": 1 }));
        let hello = elected.command("admin", doc! { "hello": 1 })?;
        match hello.get_bool("isWritablePrimary") {
            Ok(true) => Ok(()),
            other => Err(Error::new(format!("it catches up: {other:?}"))),
        }
    });
    writable.expect("a primary");
}

/// Returns the owner of a lock at the primary, and when its lease ends.
fn lease(set: &MongoDb, collection: &str, lock: &str) -> (Option<String>, i64) {
    let document = document(set.primary().expect("a primary"), collection, lock).expect("there");
    let until = document.get_datetime("until").expect("a time").timestamp_millis();
    (document.get_str("owner").ok().map(str::to_owned), until)
}

#[test]
fn what_the_next_primary_does_not_have_is_not_taken_for_confirmed() {
    let set = three();
    run(async {
        let ttl = Duration::from_secs(24);
        for round in 0..6 {
            let (url, collection) = own(&set);
            // The driver learns of the election while the old primary is stopped.
            let storage = bare(&format!("{url}&heartbeatFrequencyMS=500&connectTimeoutMS=20000")).await;
            let claims = ["job0", "job1"].map(|lock| Claim::new(name(lock), Owner::random(), ttl));
            for claim in &claims {
                take(&storage, claim).await;
            }
            // The leases are older than what follows.
            tokio::time::sleep(Duration::from_millis(1_500)).await;
            let several = if round < 3 { &claims[..] } else { &claims[..1] };
            let lasts = |replied: Option<Duration>, time: i64| {
                let Some(ttl) = replied.and_then(|ttl| i64::try_from(ttl.as_millis()).ok()) else { return };
                let (owner, until) = lease(&set, &collection, "job0");
                assert_eq!(owner, Some(claims[0].owner.to_string()), "{round}");
                assert!(until >= time + ttl, "{round}: {} ms too long", time + ttl - until);
            };
            match round % 3 {
                0 => {
                    let (replies, time) = elected_without(&set, &collection, storage.renew(several)).await;
                    lasts(
                        replies[0].as_ref().ok().map(|reply| match reply {
                            RenewReply::Renewed { ttl } => *ttl,
                            other => panic!("{round}: {other:?}"),
                        }),
                        time,
                    );
                }
                1 => {
                    let (replies, _) = elected_without(&set, &collection, storage.release(several)).await;
                    let (owner, _) = lease(&set, &collection, "job0");
                    if let Ok(reply) = &replies[0] {
                        assert!(owner.is_none(), "{round}: {reply:?}, and it is held");
                    }
                }
                _ => {
                    let (replies, time) = elected_without(&set, &collection, storage.acquire(several)).await;
                    lasts(
                        replies[0].as_ref().ok().map(|reply| match reply {
                            AcquireReply::Granted { ttl, .. } => *ttl,
                            other => panic!("{round}: {other:?}"),
                        }),
                        time,
                    );
                }
            }
        }
    });
}
