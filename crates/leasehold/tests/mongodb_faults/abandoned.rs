//! Callers that leave in the middle of an election: what they asked for is undone, and what they ended stays ended.

use std::sync::atomic::{AtomicBool, Ordering};

use leasehold::Locks;
use leasehold_testbed::Faults as _;
use leasehold_testbed::mongodb::bson::{Bson, doc};

use crate::tools::*;

/// Drops acquires between their polls until there is enough of it. Returns how many.
async fn drop_acquires(locks: &Locks, is_over: impl Fn() -> bool) -> u64 {
    let mut dropped = 0;
    while !is_over() {
        let lock = locks.lock(if dropped % 2 == 0 { "free" } else { "held" }).ttl(LONG);
        let mut taking = Box::pin(lock.acquire());
        for _ in 0..dropped % 7 {
            if futures_util::future::poll_immediate(&mut taking).await.is_some() {
                break;
            }
            // The acquires get to different points before they are dropped.
            tokio::time::sleep(std::time::Duration::from_micros(dropped % 61 * 50)).await;
        }
        dropped += 1;
    }
    dropped
}

#[test]
fn acquires_that_are_dropped_during_elections_leave_nothing() {
    let set = three();
    let (url, collection) = own(&set);
    let over = AtomicBool::new(false);
    let (begin, begun) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let (set, over) = (&*set, &over);
        let elections = scope.spawn(move || {
            begun.recv().expect("it begins");
            let elected = (0..5).try_for_each(|_| set.failover().map(drop));
            over.store(true, Ordering::Relaxed);
            elected.expect("another is elected, each time");
        });
        run(async {
            let (locks, other) = (client(&url).await, client(&url).await);
            let held = hold(&other, "held", LONG).await;
            hold(&locks, "free", LONG).await.release().await.expect("released");
            begin.send(()).expect("it is received");
            let dropped = drop_acquires(&locks, || over.load(Ordering::Relaxed)).await;
            assert!(dropped > 100, "{dropped}");
            assert!(held.is_held());
            locks.close().await.expect("closed");
            held.release().await.expect("released");
            other.close().await.expect("closed");
        });
        elections.join().expect("no panic");
    });
    for lock in ["free", "held"] {
        let found = document(set.primary().expect("a primary"), &collection, lock).expect("a document");
        assert_eq!(found.get("owner"), Some(&Bson::Null), "{found}");
        let queue = found.get_array("queue").map(Vec::as_slice).unwrap_or_default();
        // An entry without a time is only marked, and is removed later.
        let is_live = |entry: &&Bson| {
            let asked = entry.as_document().and_then(|entry| entry.get_datetime("asked").ok());
            asked.is_some_and(|time| time.timestamp_millis() > 0)
        };
        assert_eq!(queue.iter().filter(is_live).count(), 0, "{found}");
    }
}

/// A release is executed, and rolled back after its caller has left.
#[test]
fn a_release_that_is_rolled_back_is_made_again_although_its_caller_has_left() {
    let set = three();
    run(async {
        let (url, collection) = own(&set);
        let locks = client(&url).await;
        let (canceled, dropped) = (hold(&locks, "canceled", LONG).await, hold(&locks, "dropped", LONG).await);
        let panicked = hold(&locks, "panicked", LONG).await;
        let tokens = [canceled.token(), dropped.token(), panicked.token()];
        let primary = set.primary().expect("a primary");
        let others = || set.members().iter().filter(|member| member.port() != primary.port());
        // A member that was only stopped would find the writes in its sockets.
        others().for_each(|member| member.kill9());
        let release = tokio::spawn(canceled.release());
        let written = leasehold_testbed::until("the release", || {
            let found = document(primary, &collection, "canceled")?;
            match found.get("owner") {
                Some(Bson::Null) => Ok(()),
                _ => Err(leasehold_testbed::Error::new(found.to_string())),
            }
        });
        written.expect("the primary executes it");
        release.abort();
        drop(dropped);
        let panicking = tokio::spawn(async move {
            let _held = panicked;
            std::panic::resume_unwind(Box::new("as a task would"));
        });
        assert!(panicking.await.expect_err("it panics").is_panic());
        let note = doc! { "appendOplogNote": 1, "data": {}, "writeConcern": { "w": 1, "j": true } };
        // If it has stepped down already, what it has written is in its journal.
        drop(primary.command("admin", note));
        primary.kill9();
        others().for_each(|member| member.restart().expect("started"));
        set.await_primary_other_than(primary).expect("another is elected");
        // The leases would last for a minute.
        let other = client(&url).await;
        for (lock, token) in ["canceled", "dropped", "panicked"].into_iter().zip(tokens) {
            let guard = within(soon(), other.lock(lock).acquire()).await.expect("granted");
            assert!(guard.token() > token, "{lock}");
            guard.release().await.expect("released");
        }
        primary.restart().expect("started");
        set.await_whole().expect("it catches up");
    });
}
