//! Slots that move from one node to another.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use leasehold::ErrorKind;
use leasehold::storage::{AcquireReply, ReleaseReply, RenewReply, Storage};
use leasehold_testbed::RedisCluster;
use tokio::time::Instant;

use super::{claims, one_lock_each, other, slot};
use crate::tools::*;

#[test]
fn at_most_one_client_holds_a_lock_while_its_slot_moves() {
    let cluster = RedisCluster::start().expect("a Cluster");
    run(async {
        let (inside, stop) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (tokens, mut granted) = tokio::sync::watch::channel(None);
        let mut workers = Vec::new();
        for _ in 0..4 {
            let locks = client(&cluster.url()).await;
            let (inside, stop, tokens) = (Arc::clone(&inside), Arc::clone(&stop), tokens.clone());
            workers.push(tokio::spawn(async move {
                let mut grants = 0;
                while !stop.load(Ordering::SeqCst) {
                    let guard = locks.lock("job").ttl(LONG).acquire().await.expect("granted");
                    assert!(!inside.swap(true, Ordering::SeqCst), "two hold it");
                    let token = Some(guard.token());
                    assert!(tokens.send_replace(token) < token, "a token did not grow");
                    tokio::task::yield_now().await;
                    inside.store(false, Ordering::SeqCst);
                    guard.release().await.expect("held until now");
                    grants += 1;
                }
                grants
            }));
        }
        for _ in 0..10 {
            cluster.migrate_slot(slot(&cluster, "job"), other(&cluster, "job")).expect("moved");
            granted.mark_unchanged();
            within(LONG, granted.changed()).await.expect("a client is granted the lock");
        }
        stop.store(true, Ordering::SeqCst);
        for worker in workers {
            let grants = within(LONG, worker).await.expect("no panic");
            assert!(grants > 0);
        }
    });
}

#[test]
fn waiters_are_served_in_order_while_their_slot_moves() {
    let cluster = RedisCluster::start().expect("a Cluster");
    run(async {
        let clients =
            [client(&cluster.url()).await, client(&cluster.url()).await, client(&cluster.url()).await];
        for _ in 0..3 {
            let [holder, first, second] = &clients;
            let guard = hold(holder, "job", LONG).await;
            let one = waiting(first.lock("job").ttl(LONG));
            waiters(holder, "job", 1).await;
            let two = waiting(second.lock("job").ttl(LONG));
            waiters(holder, "job", 2).await;

            let (slot, to) = (slot(&cluster, "job"), other(&cluster, "job"));
            cluster.migrate_slot(slot, to).expect("moved");

            let token = guard.token();
            assert!(guard.is_held());
            guard.release().await.expect("held until now");
            let one = within(soon(), one).await.expect("no panic").expect("granted");
            assert!(one.token() > token && !two.is_finished());
            let token = one.token();
            one.release().await.expect("held until now");
            let two = within(soon(), two).await.expect("no panic").expect("granted");
            assert!(two.token() > token);
            two.release().await.expect("held until now");
        }
    });
}

#[test]
fn a_claim_follows_a_slot_that_has_moved_at_once() {
    let cluster = RedisCluster::start().expect("a Cluster");
    run(async {
        let storage = bare(&cluster.url()).await;
        let locks = one_lock_each(&cluster);
        let mine = claims(&locks);
        storage.acquire(&mine).await;
        let to = other(&cluster, &locks[0]);
        cluster.migrate_slot(slot(&cluster, &locks[0]), to).expect("moved");
        // It is the first call after the move. The locks at other nodes are not disturbed.
        for answer in storage.renew(&mine).await {
            assert!(matches!(answer, Ok(RenewReply::Renewed { .. })), "{answer:?}");
        }
        let moved = storage.inspect(&mine[0].name).await.expect("an answer").pop().expect("a holder");
        assert_eq!(moved.owner, mine[0].owner);
    });
}

#[test]
fn a_claim_follows_a_slot_that_is_between_two_nodes() {
    let cluster = RedisCluster::start().expect("a Cluster");
    run(async {
        let storage = bare(&cluster.url()).await;
        let mine = claim("job");
        let token = take(&storage, &mine).await;
        let (slot, to) = (slot(&cluster, "job"), other(&cluster, "job"));
        let migration = cluster.begin_migration(slot, to).expect("begun");
        assert!(
            matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })),
            "all keys are where they were"
        );

        let keys = migration.keys().expect("keys");
        assert_eq!(keys.len(), 2, "{keys:?}");
        migration.move_key(&keys[0]).expect("moved");
        let error = renew(&storage, &mine).await.expect_err("one key here, one there");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("TRYAGAIN"), "{error}");

        migration.move_key(&keys[1]).expect("moved");
        for _ in 0..3 {
            // The node replies ASK each time, because it still owns the slot.
            assert!(
                matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })),
                "both keys are there"
            );
        }
        migration.finish().expect("the slot is the new node's");
        match acquire(&storage, &mine).await.expect("an answer") {
            AcquireReply::Granted { token: again, .. } => assert_eq!(again, token),
            other => panic!("{other:?}"),
        }
        assert_eq!(release(&storage, &mine).await.expect("an answer"), ReleaseReply::Released);
    });
}

#[test]
fn a_lock_is_held_through_a_migration_that_takes_its_time() {
    let cluster = RedisCluster::start().expect("a Cluster");
    run(async {
        let locks = client(&cluster.url()).await;
        let ttl = time(3_000);
        let guard = hold(&locks, "job", ttl).await;
        let (slot, to) = (slot(&cluster, "job"), other(&cluster, "job"));
        let migration = cluster.begin_migration(slot, to).expect("begun");
        for key in migration.keys().expect("keys") {
            migration.move_key(&key).expect("moved");
        }
        // The lease is renewed during the migration, so it outlives its TTL.
        let end = Instant::now() + 2 * ttl;
        let lost = tokio::time::timeout_at(end, guard.lost()).await;
        assert!(lost.is_err(), "{lost:?}");
        migration.finish().expect("finished");
        guard.ensure(ttl / 2).await.expect("renewed at the new node");
        guard.release().await.expect("held until now");
    });
}

/// While a slot moves, a node refuses a request if it has only some of its keys. The keys of the queue may be missing.
#[test]
fn a_release_while_a_slot_moves_needs_only_the_keys_that_are_there() {
    let cluster = RedisCluster::start().expect("a Cluster");
    run(async {
        let storage = bare(&cluster.url()).await;
        let (slot, to) = (slot(&cluster, "job"), other(&cluster, "job"));
        for moved in [false, true] {
            let mine = claim("job");
            take(&storage, &mine).await;
            let migration = cluster.begin_migration(slot, to).expect("begun");
            if moved {
                migration.move_all().expect("moved");
            }
            let seen = storage.inspect(&mine.name).await.expect("answered").pop().expect("held");
            assert_eq!(seen.owner, mine.owner);
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released, "{moved}");
            assert_eq!(storage.inspect(&mine.name).await.unwrap_or_default(), []);
            if moved {
                migration.finish().expect("finished");
            } else {
                migration.abort().expect("given up");
            }
        }
    });
}
