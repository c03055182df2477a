//! A Cluster: the node of each lock is found, whatever moves or fails, and the locks of other nodes are not disturbed.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use futures_util::StreamExt;
use leasehold::storage::{AcquireReply, Claim, Hint, ReleaseReply, RenewReply, Storage};
use leasehold::{ErrorKind, Lost, Tier};
use leasehold_testbed::{Redis, RedisCluster, Server};
use tokio::time::Instant;

use crate::tools::*;

/// Returns a Cluster that is shared by the tests that neither break it nor move slots.
fn shared() -> &'static RedisCluster {
    static SHARED: OnceLock<RedisCluster> = OnceLock::new();
    SHARED.get_or_init(|| RedisCluster::start().expect("a Cluster"))
}

/// Returns a Cluster in which the nodes serve their slots when another one is down.
fn partial() -> RedisCluster {
    RedisCluster::start_with(Redis::options().setting("cluster-require-full-coverage", "no"))
        .expect("a Cluster")
}

fn key(lock: &str) -> String {
    format!("leasehold:{lock}")
}

fn slot(cluster: &RedisCluster, lock: &str) -> u16 {
    cluster.slot_of(&key(lock)).expect("a slot")
}

/// Returns the name of one lock at each node.
fn one_lock_each(cluster: &RedisCluster) -> Vec<String> {
    cluster.nodes().iter().map(|node| lock_at(cluster, node)).collect()
}

fn lock_at(cluster: &RedisCluster, node: &Redis) -> String {
    let mut locks = (0..).map(|n| format!("job-{n}"));
    let there = |lock: &String| cluster.node_of(&key(lock)).is_ok_and(|at| at.port() == node.port());
    locks.find(there).expect("endless")
}

fn other<'a>(cluster: &'a RedisCluster, lock: &str) -> &'a Redis {
    let node = cluster.node_of(&key(lock)).expect("a node");
    cluster.nodes().iter().find(|other| other.port() != node.port()).expect("three nodes")
}

fn claims(locks: &[String]) -> Vec<Claim> {
    locks.iter().map(|lock| claim(lock)).collect()
}

#[test]
fn names_with_braces_are_locks_like_others() {
    let names = ["{", "}", "{}", "}{", "a{b}c", "{a}", "{{a}}", "{}a{b}", "a{b}{c}", "a", "a:t"];
    run(async {
        for prefix in ["", "x:", "{x}", "{", "a}b{"] {
            let storage = bare(&with(&shared().url(), &format!("prefix=braces{prefix}"))).await;
            let claims: Vec<_> = names.iter().map(|lock| claim(lock)).collect();
            let rivals: Vec<_> = names.iter().map(|lock| claim(lock).wait(true)).collect();
            for answer in storage.acquire(&claims).await {
                assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{prefix}: {answer:?}");
            }
            for answer in storage.acquire(&rivals).await {
                assert!(matches!(answer, Ok(AcquireReply::Held { .. })), "{prefix}: {answer:?}");
            }
            for answer in storage.renew(&claims).await {
                assert!(matches!(answer, Ok(RenewReply::Renewed { .. })), "{prefix}: {answer:?}");
            }
            let listed = storage.list("", None, 100).await.expect("a list");
            let listed: BTreeSet<_> = listed.iter().map(|holder| holder.name.as_str()).collect();
            assert_eq!(listed, names.into_iter().collect(), "{prefix}");
            for answer in storage.release(&claims).await {
                assert_eq!(answer.expect("an answer"), ReleaseReply::Released, "{prefix}");
            }
            for answer in storage.acquire(&rivals).await {
                assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{prefix}: {answer:?}");
            }
            storage.release(&rivals).await;
        }
    });
}

#[test]
fn a_batch_is_answered_in_order_whichever_nodes_serve_its_locks() {
    run(async {
        let storage = bare(&own(&shared().url())).await;
        let locks: Vec<_> = (0..256).map(|n| format!("lock-{n:03}")).collect();
        let (held, free) = locks.split_at(100);
        let theirs = claims(held);
        storage.acquire(&theirs).await;
        let mixed: Vec<_> = free.iter().chain(held).map(|lock| claim(lock)).collect();
        let answers = storage.acquire(&mixed).await;
        for (claim, answer) in mixed.iter().zip(answers) {
            match answer.expect("an answer") {
                AcquireReply::Granted { .. } => {
                    assert!(free.contains(&claim.name.to_string()), "{}", claim.name)
                }
                AcquireReply::Held { holder, .. } => {
                    let holder = holder.expect("a holder");
                    let owner = theirs.iter().find(|other| other.name == claim.name).expect("held").owner;
                    assert_eq!((holder.name, holder.owner), (claim.name.clone(), owner));
                }
                other => panic!("{other:?}"),
            }
        }
        // A page contains holders of all nodes.
        let page = storage.list("lock-", None, 200).await.expect("a list");
        let rest = storage
            .list("lock-", page.last().map(leasehold::storage::Holder::cursor).as_ref(), 200)
            .await
            .expect("a list");
        let listed: Vec<_> = page.iter().chain(&rest).map(|holder| holder.name.to_string()).collect();
        assert_eq!(listed, locks);
        storage.release(&mixed).await;
        storage.release(&theirs).await;
    });
}

#[test]
fn a_single_server_and_a_cluster_node_are_distinguished() {
    run(async {
        let plain = common().url().replace("redis://", "redis+cluster://");
        let error = refusal(plain.strip_suffix("/0").expect("a database")).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("write `redis:`"), "{error}");
        let error = refusal(&shared().nodes()[0].url()).await;
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("write `redis+cluster:`"), "{error}");
    });
}

#[test]
fn any_node_leads_to_the_others() {
    run(async {
        for node in shared().nodes() {
            let url = format!("redis+cluster://127.0.0.1:1,127.0.0.1:{}", node.port());
            let storage = bare(&own(&url)).await;
            for lock in one_lock_each(shared()) {
                let mine = claim(&lock);
                take(&storage, &mine).await;
                assert_eq!(release(&storage, &mine).await.expect("an answer"), ReleaseReply::Released);
            }
        }
    });
}

#[test]
fn nodes_that_evict_are_refused() {
    let cluster =
        RedisCluster::start_with(Redis::options().evicting(100_000_000, "allkeys-lru")).expect("a Cluster");
    run(async {
        assert_eq!(refusal(&cluster.url()).await.kind(), ErrorKind::Unsupported);
        let storage = bare(&with(&cluster.url(), "allow_eviction=true")).await;
        assert_eq!(storage.guarantees().tier, Tier::Advisory);
    });
}

#[test]
fn nodes_are_reached_with_the_password_and_certificates_of_the_url() {
    let cluster = RedisCluster::start_with(Redis::options().tls().user("app", "s3cret")).expect("a Cluster");
    let ca = cluster.nodes()[0].tls().expect("certificates").ca().display().to_string();
    run(async {
        let storage = bare(&with(&cluster.url(), &format!("ca={ca}"))).await;
        assert_eq!(storage.guarantees().tier, Tier::RestartSafe);
        for answer in storage.acquire(&claims(&one_lock_each(&cluster))).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        assert!(!format!("{storage} {storage:?}").contains("s3cret"));
    });
}

#[test]
fn nodes_are_found_by_the_endpoints_that_they_announce() {
    for kind in ["unknown-endpoint", "hostname"] {
        let options = Redis::options()
            .setting("cluster-preferred-endpoint-type", kind)
            .setting("cluster-announce-hostname", "localhost");
        let cluster = RedisCluster::start_with(options).expect("a Cluster");
        run(async {
            let storage = bare(&cluster.url()).await;
            let mine = claims(&one_lock_each(&cluster));
            storage.acquire(&mine).await;
            let lock = mine[0].name.as_str();
            cluster.migrate_slot(slot(&cluster, lock), other(&cluster, lock)).expect("moved");
            for answer in storage.release(&mine).await {
                assert_eq!(answer.expect("an answer"), ReleaseReply::Released, "{kind}");
            }
        });
    }
}

#[test]
fn a_cluster_that_is_down_is_asked_again_until_it_is_whole() {
    let cluster = RedisCluster::start().expect("a Cluster");
    run(async {
        let (storage, locks) = (bare(&cluster.url()).await, client(&cluster.url()).await);
        let names = one_lock_each(&cluster);
        cluster.nodes()[0].kill9();
        // By default no node serves its slots while one is missing.
        within(LONG, async {
            loop {
                match acquire(&storage, &claim(&names[1])).await {
                    Err(error) if error.to_string().contains("CLUSTERDOWN") => {
                        assert_eq!(error.kind(), ErrorKind::Unavailable);
                        break;
                    }
                    _ => tokio::task::yield_now().await,
                }
            }
        })
        .await;
        let waiting = waiting(locks.lock("job").wait(LONG));
        cluster.nodes()[0].restart().expect("it starts");
        let guard = within(LONG, waiting).await.expect("no panic").expect("granted");
        guard.release().await.expect("held until now");
    });
}

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

#[test]
fn a_dead_node_fails_only_its_own_locks() {
    for dies in [Server::kill9 as fn(&Server), Server::stop] {
        let cluster = partial();
        run(async {
            let storage = bare(&cluster.url()).await;
            let names = one_lock_each(&cluster);
            let mine: Vec<_> = claims(&names).into_iter().map(|claim| claim.patience(time(2_000))).collect();
            for answer in storage.acquire(&mine).await {
                assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
            }
            dies(&cluster.nodes()[0]);
            // The first call finds out that the node is down.
            within(time(5_000), storage.acquire(&mine)).await;
            for _ in 0..20 {
                let asked = Instant::now();
                let answers = storage.acquire(&mine).await;
                let error = answers[0].as_ref().expect_err("it is dead");
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                for answer in &answers[1..] {
                    assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
                }
                let answered = asked.elapsed();
                assert!(answered < time(500), "{answered:?}");
            }
        });
    }
}

#[test]
fn a_dead_node_does_not_disturb_holders_at_other_nodes() {
    let cluster = partial();
    run(async {
        let locks = client(&cluster.url()).await;
        let (ttl, names) = (time(3_000), one_lock_each(&cluster));
        let mut guards = Vec::new();
        for lock in &names {
            guards.push(hold(&locks, lock, ttl).await);
        }
        cluster.nodes()[0].stop();
        within(2 * ttl, guards[0].lost()).await;
        assert!(guards[1].is_held() && guards[2].is_held());
        // New claims are not disturbed, either.
        guards.remove(1).release().await.expect("held until now");
        let next = within(soon(), locks.lock(&names[1]).acquire()).await.expect("granted");
        assert!(next.is_held() && guards[1].is_held());
        cluster.nodes()[0].cont();
        // When the node is back, its locks can be acquired again.
        let again = within(LONG, locks.lock(&names[0]).acquire()).await.expect("granted");
        assert!(again.token() > guards[0].token());
    });
}

#[test]
fn a_restarted_node_is_noticed_by_a_client_that_only_listens() {
    let cluster = RedisCluster::start().expect("a Cluster");
    run(async {
        for node in cluster.nodes() {
            let (storage, mut hints) = listening(&cluster.url()).await;
            node.restart().expect("it starts");
            within(LONG, async { while hints.next().await != Some(Hint::Restarted) {} }).await;
            drop(storage);
            cluster.await_ready().expect("it is whole");
        }
    });
}

#[test]
fn another_node_is_listened_to_when_one_dies() {
    let cluster = partial();
    run(async {
        let (storage, mut hints) = listening(&cluster.url()).await;
        let hears = |node: &Redis| {
            let channels = node.is_running().then(|| node.command(&["pubsub", "channels"]));
            channels.is_some_and(|channels| channels.is_ok_and(|channels| channels.contains("leasehold:")))
        };
        let dies = cluster.nodes().iter().find(|node| hears(node)).expect("one is listened to");
        dies.kill9();
        within(LONG, async { while hints.next().await != Some(Hint::Any) {} }).await;
        let next = cluster.nodes().iter().find(|node| hears(node)).expect("one is listened to");
        assert_ne!(next.port(), dies.port());
        // The new node notifies waiters of locks that another node serves.
        let far = cluster.nodes().iter().find(|node| ![next.port(), dies.port()].contains(&node.port()));
        let far = far.expect("a third");
        let lock = lock_at(&cluster, far);
        let (theirs, mine) = (claim(&lock), claim(&lock).wait(true));
        take(&storage, &theirs).await;
        is_held(&storage, &mine).await;
        release(&storage, &theirs).await.expect("released");
        let hinted = async { while hints.next().await != Some(Hint::Owner(mine.owner)) {} };
        if tokio::time::timeout(soon(), hinted).await.is_err() {
            let known = [far, next].map(|node| node.command(&["cluster", "nodes"]));
            panic!("no hint from {} over {}: {known:#?}", far.port(), next.port());
        }
    });
}

#[test]
fn observers_are_notified_by_the_node_that_serves_the_lock() {
    let cluster = RedisCluster::start().expect("a Cluster");
    run(async {
        let (storage, mut hints) = listening(&cluster.url()).await;
        let locks = one_lock_each(&cluster);
        let names: Vec<_> = locks.iter().map(|lock| name(lock)).collect();
        storage.watch(&names, &[]);
        let mut left: BTreeSet<_> = names.iter().cloned().collect();
        within(soon(), async {
            while !left.is_empty() {
                if let Some(Hint::Name(lock)) = hints.next().await {
                    left.remove(&lock);
                }
            }
        })
        .await;
        let mut hinted = async |lock: &leasehold::storage::Name| {
            within(soon(), async { while hints.next().await != Some(Hint::Name(lock.clone())) {} }).await;
        };
        for mine in claims(&locks) {
            take(&storage, &mine).await;
            hinted(&mine.name).await;
            release(&storage, &mine).await.expect("released");
            hinted(&mine.name).await;
        }
        // A slot that moves to another node does not end the observation.
        cluster.migrate_slot(slot(&cluster, &locks[0]), other(&cluster, &locks[0])).expect("moved");
        let mine = claim(&locks[0]);
        take(&storage, &mine).await;
        hinted(&mine.name).await;
        storage.watch(&[], &names);
    });
}

#[test]
fn a_planned_failover_loses_nothing() {
    let cluster = RedisCluster::options().replicas(1).start().expect("a Cluster");
    run(async {
        let (locks, rival) = (client(&cluster.url()).await, client(&cluster.url()).await);
        assert_eq!(locks.guarantees().tier, Tier::CrashSafe);
        let guard = hold(&locks, "job", LONG).await;
        cluster.failover(&key("job")).expect("another primary");
        within(LONG, async { while guard.verify().await.is_err() {} }).await;
        assert!(guard.is_held());
        let denied = within(LONG, async {
            loop {
                if let Ok(answer) = rival.lock("job").try_acquire().await {
                    break answer;
                }
            }
        });
        assert!(denied.await.is_none());
        guard.release().await.expect("held until now");
        let next = within(LONG, rival.lock("job").acquire()).await;
        next.expect("granted").release().await.expect("held until now");
    });
}

#[test]
fn a_failover_that_forgets_a_lease_is_noticed_at_once() {
    let cluster = RedisCluster::options().replicas(1).start().expect("a Cluster");
    run(async {
        let (locks, rival) = (client(&cluster.url()).await, client(&cluster.url()).await);
        let primary = cluster.node_of(&key("job")).expect("a node");
        let replica = cluster.replica_of(primary).expect("a replica");
        // From now on the replica receives nothing.
        replica.stop();
        primary.command(&["client", "kill", "type", "replica"]).expect("cut off");
        let guard = hold(&locks, "job", LONG).await;
        let token = guard.token();
        primary.kill9();
        replica.cont();
        until("the replica to take over", || match cluster.node_of(&key("job"))?.port() {
            port if port == replica.port() => Ok(()),
            port => Err(leasehold_testbed::Error::new(format!("it is at port=`{port}`"))),
        });
        // A client that only listens checks every two seconds, and then verifies its lease.
        assert_eq!(within(soon(), guard.lost()).await, Lost::Taken);
        let next = within(LONG, rival.lock("job").ttl(LONG).acquire()).await.expect("granted");
        assert!(next.token() > token);
        next.release().await.expect("held until now");
    });
}

#[test]
fn a_grant_counts_when_replicas_have_it_at_every_node() {
    let cluster = RedisCluster::options().replicas(1).start().expect("a Cluster");
    run(async {
        let storage = bare(&with(&cluster.url(), "wait_replicas=1")).await;
        let names: Vec<_> = cluster.nodes()[..3].iter().map(|node| lock_at(&cluster, node)).collect();
        let mine: Vec<_> = claims(&names).into_iter().map(|claim| claim.patience(time(1_000))).collect();
        for answer in storage.acquire(&mine).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        let replica = cluster.replica_of(&cluster.nodes()[0]).expect("a replica");
        replica.stop();
        let more: Vec<_> = claims(&names).into_iter().map(|claim| claim.patience(time(1_000))).collect();
        storage.release(&mine).await;
        let answers = storage.acquire(&more).await;
        replica.cont();
        let error = answers[0].as_ref().expect_err("its replica does not answer");
        assert!(
            error.kind() == ErrorKind::Unavailable && error.to_string().contains("answered=`0`"),
            "{error}"
        );
        for answer in &answers[1..] {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
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
