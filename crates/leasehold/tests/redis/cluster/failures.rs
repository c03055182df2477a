//! Nodes that fail, and replicas that take over.

use futures_util::StreamExt;
use leasehold::storage::{AcquireReply, Hint, Storage};
use leasehold::{ErrorKind, Lost, Tier};
use leasehold_testbed::{Redis, RedisCluster, Server};
use tokio::time::Instant;

use super::{claims, key, lock_at, one_lock_each};
use crate::tools::*;

/// Returns a Cluster in which the nodes serve their slots when another one is down.
fn partial() -> RedisCluster {
    RedisCluster::start_with(Redis::options().setting("cluster-require-full-coverage", "no"))
        .expect("a Cluster")
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
