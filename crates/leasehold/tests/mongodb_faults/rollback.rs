//! A primary without a majority goes on writing, is killed, and is rolled back: none of that was ever told.

use std::sync::Arc;

use futures_util::{FutureExt as _, StreamExt as _};
use leasehold::storage::{Hint, ReleaseReply, Storage as _};
use leasehold_testbed::mongodb::MongoDbMember;
use leasehold_testbed::mongodb::bson::doc;
use leasehold_testbed::{Error, Faults as _, MongoDb, until};

use crate::tools::*;

/// Returns how often a member has been rolled back.
fn rollbacks(member: &MongoDbMember) -> i32 {
    let reply = member.command("admin", doc! { "replSetGetRBID": 1 }).expect("answered");
    reply.get_i32("rbid").expect("a number")
}

fn others<'a>(set: &'a MongoDb, primary: &MongoDbMember) -> impl Iterator<Item = &'a MongoDbMember> {
    let primary = primary.port();
    set.members().iter().filter(move |member| member.port() != primary)
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
