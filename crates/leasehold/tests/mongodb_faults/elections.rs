//! Elections: the primary steps down, or is killed. The next one has what a majority has confirmed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use leasehold::storage::{Hint, Holder, Storage as _, Token};
use leasehold::{ErrorKind, Locks, Lost};
use leasehold_testbed::Faults as _;
use leasehold_testbed::mongodb::bson::doc;
use tokio::task::JoinHandle;

use crate::tools::*;

#[test]
fn ten_elections_end_no_hold_and_each_is_told() {
    let set = three();
    run(async {
        let (url, _) = own(&set);
        let (locks, (watcher, mut hints)) = (client(&url).await, listening(&url).await);
        let guard = hold(&locks, "job", time(10_000)).await;
        for round in 0..10 {
            set.failover().expect("another is elected");
            within(soon(), awaited(&mut hints, &Hint::Restarted)).await;
            within(soon(), verified(&guard)).await;
            assert!(guard.is_held(), "round {round}");
        }
        let holders = answered(async || watcher.inspect(&name("job")).await).await;
        assert_eq!((holders[0].owner, holders[0].token), (guard.owner(), guard.token()));
        guard.release().await.expect("released");
    });
}

#[test]
fn an_election_has_every_hold_verified() {
    let set = three();
    run(async {
        let (url, collection) = own(&set);
        let locks = client(&url).await;
        // The next renewal of each is due in twenty seconds.
        let (gone, kept) = (hold(&locks, "gone", LONG).await, hold(&locks, "kept", LONG).await);
        delete(&set, &collection, "gone");
        set.failover().expect("another is elected");
        assert_eq!(within(soon(), gone.lost()).await, Lost::Taken);
        assert!(kept.is_held());
        verified(&kept).await;
    });
}

/// A member that is no longer the primary keeps its change streams, and answers them also when it hears nothing more.
#[test]
fn after_an_election_a_handover_does_not_depend_on_the_member_that_was_the_primary() {
    let set = three();
    run(async {
        let (url, _) = own(&set);
        let (holder, (waiter, mut hints)) = (bare(&url).await, listening(&url).await);
        let (held, mine) = (claim("job"), claim("job").wait(true));
        take(&holder, &held).await;
        let old = set.primary().expect("a primary");
        set.failover().expect("another is elected");
        within(soon(), awaited(&mut hints, &Hint::Restarted)).await;
        let deafen = |mode: &str| {
            let apply = doc! { "configureFailPoint": "rsSyncApplyStop", "mode": mode };
            old.command("admin", apply).expect("set");
        };
        deafen("alwaysOn");
        is_held(&waiter, &mine).await;
        answered(async || release(&holder, &held).await).await;
        let told = tokio::time::timeout(soon(), awaited(&mut hints, &Hint::Owner(mine.owner))).await;
        deafen("off");
        told.expect("it is told");
        take(&waiter, &mine).await;
    });
}

/// Acquires and releases a lock again and again, and checks that no other task holds it, and that its tokens grow.
fn contend(
    locks: Locks,
    last: &Arc<Mutex<Token>>,
    held: &Arc<AtomicBool>,
    over: &Arc<AtomicBool>,
) -> JoinHandle<u32> {
    let (last, held, over) = (Arc::clone(last), Arc::clone(held), Arc::clone(over));
    tokio::spawn(async move {
        let mut grants = 0;
        while !over.load(Ordering::Relaxed) {
            let Ok(guard) = locks.lock("busy").ttl(LONG).acquire().await else { continue };
            assert!(!held.swap(true, Ordering::SeqCst), "two holders");
            {
                let mut last = last.lock().expect("no holder has failed");
                assert!(guard.token() > *last, "{} after {last}", guard.token());
                *last = guard.token();
            }
            tokio::task::yield_now().await;
            assert!(guard.is_held());
            held.store(false, Ordering::SeqCst);
            grants += 1;
            // What cannot be released now is released by the engine as soon as a server answers.
            drop(guard.release().await);
        }
        grants
    })
}

#[test]
fn a_primary_that_is_killed_ends_no_hold_and_makes_no_second_holder() {
    let set = three();
    run(async {
        let (url, _) = own(&set);
        let (locks, other) = (client(&url).await, client(&url).await);
        let kept = hold(&locks, "kept", time(15_000)).await;
        let last = Arc::new(Mutex::new(Token::new(0)));
        let (held, over) = (Arc::default(), Arc::default());
        let busy = [contend(locks.clone(), &last, &held, &over), contend(other.clone(), &last, &held, &over)];
        for round in 0..3 {
            let guard = hold(&locks, "job", LONG).await;
            let token = guard.token();
            let next = waiting(other.lock("job").ttl(LONG));
            waiters(&locks, "job", 1).await;
            let primary = set.primary().expect("a primary");
            let release = tokio::spawn(guard.release());
            primary.kill9();
            set.await_primary_other_than(primary).expect("another is elected");
            // Much sooner than the lease would end.
            let next = within(time(20_000), next).await.expect("no panic").expect("granted");
            assert!(next.token() > token, "round {round}");
            drop(release.await);
            verified(&kept).await;
            assert!(kept.is_held(), "round {round}");
            primary.restart().expect("started");
            set.await_whole().expect("it catches up");
            next.release().await.expect("released");
        }
        over.store(true, Ordering::Relaxed);
        for task in busy {
            assert!(within(LONG, task).await.expect("no panic") > 0);
        }
    });
}

#[test]
fn what_a_killed_primary_has_confirmed_the_next_one_knows() {
    let set = three();
    run(async {
        let (url, _) = own(&set);
        let (storage, (waiter, mut hints)) = (bare(&url).await, listening(&url).await);
        let (mine, before, given, theirs) =
            (claim("job"), claim("before"), claim("given"), claim("given").wait(true));
        take(&storage, &before).await;
        answered(async || release(&storage, &before).await).await;
        take(&storage, &given).await;
        is_held(&waiter, &theirs).await;
        let token = take(&storage, &mine).await;
        answered(async || release(&storage, &given).await).await;
        awaited(&mut hints, &Hint::Owner(theirs.owner)).await;
        let primary = set.primary().expect("a primary");
        primary.kill9();
        set.await_primary_other_than(primary).expect("another is elected");
        let holders = answered(async || storage.inspect(&name("given")).await).await;
        assert_eq!(holders.first().map(|holder| holder.owner), Some(theirs.owner), "the handover");
        assert_eq!(take(&waiter, &theirs).await, holders[0].token);
        assert_eq!(take(&storage, &mine).await, token, "the grant");
        is_held(&storage, &claim("job")).await;
        take(&storage, &claim("before")).await;
        primary.restart().expect("started");
    });
}

#[test]
fn a_new_primary_that_does_not_know_yet_what_a_majority_has_is_not_believed() {
    let set = three();
    run(async {
        let (url, collection) = own(&set);
        let storage = bare(&url).await;
        take(&storage, &claim("before")).await;
        let primary = set.primary().expect("a primary");
        let [one, other] = others(&set, primary).collect::<Vec<_>>()[..] else { panic!("three members") };
        hold_up_replication(other, true);
        let mine = claim("job");
        // The member has the lock. The primary learns of it and confirms the lock, and cannot tell the member so.
        let cutting_off = async {
            while document(one, &collection, "job").is_err() {
                tokio::task::yield_now().await;
            }
            primary.stop();
            hold_up_replication(one, true);
            primary.cont();
        };
        let (token, ()) = tokio::join!(take(&storage, &mine), cutting_off);
        primary.kill9();
        let next = set.await_primary_other_than(primary).expect("another is elected");
        document(next, &collection, "job").expect("there");

        let is_there = |shown: leasehold::Result<Vec<Holder>>| match shown {
            Ok(holders) => assert!(holders.iter().any(|holder| holder.token == token), "{holders:?}"),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
        };
        is_there(storage.inspect(&name("job")).await);
        is_there(storage.list("", None, 10).await);
        hold_up_replication(one, false);
        hold_up_replication(other, false);
        let shown = answered(async || storage.inspect(&name("job")).await).await;
        assert_eq!((shown[0].owner, shown[0].token), (mine.owner, token));
        primary.restart().expect("started");
    });
}
