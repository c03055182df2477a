//! A Cluster: the node that serves each lock is found.

mod failures;
mod moving_slots;

use std::collections::BTreeSet;
use std::sync::OnceLock;

use futures_util::StreamExt;
use leasehold::storage::{AcquireReply, Claim, Hint, ReleaseReply, RenewReply, Storage};
use leasehold::{ErrorKind, Tier};
use leasehold_testbed::{Redis, RedisCluster};

use crate::tools::*;

/// Returns a Cluster that is shared by the tests that neither break it nor move slots.
fn shared() -> &'static RedisCluster {
    static SHARED: OnceLock<RedisCluster> = OnceLock::new();
    SHARED.get_or_init(|| RedisCluster::start().expect("a Cluster"))
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
