//! Three members: leaders that end, stop or hand over, and majorities that are lost.

use std::time::Duration;

use futures_util::future::join_all;
use leasehold::storage::{Storage, Tier};
use leasehold::{ErrorKind, Guard, Lost};
use leasehold_testbed::{Etcd, Setup};
use tokio::time::Instant;

use crate::tools::*;

fn three() -> Etcd {
    Etcd::options().start_three().expect("three servers")
}

#[test]
fn the_tier_is_lower_in_a_version_in_which_a_former_leader_revokes_leases() {
    run(async {
        let server = three();
        let storage = bare(&server.url()).await;
        let findings = storage.findings().await.expect("answered");
        let warned = findings.iter().any(|finding| finding.detail.contains("a former leader may revoke"));
        let tier = storage.guarantees().tier;
        assert_eq!(tier, if warned { Tier::RestartSafe } else { Tier::FailoverSafe }, "{findings:?}");
    });
}

#[test]
fn holds_survive_a_leader_that_is_killed_and_acquires_go_on() {
    run(async {
        let server = three();
        let locks = client(&own(&server.url())).await;
        let holds = join_all(
            (0..8).map(|i| hold(&locks, Box::leak(format!("held{i}").into_boxed_str()), time(10_000))),
        )
        .await;
        let leader = server.leader().expect("a leader");
        leader.kill9();
        let since = Instant::now();
        let next = within(LONG, locks.lock("next").acquire()).await.expect("granted");
        assert!(since.elapsed() < time(10_000), "{:?}", since.elapsed());
        next.release().await.expect("released");
        assert!(holds.iter().all(Guard::is_held));
        leader.restart().expect("restarted");
        for guard in holds {
            within(LONG, async { while guard.verify().await.is_err() {} }).await;
            guard.release().await.expect("released");
        }
    });
}

#[test]
fn a_claim_to_a_leader_that_stops_is_granted_by_the_next_one_and_leaves_nothing() {
    run(async {
        let server = three();
        let url = own(&server.url());
        let (locks, other) = (client(&url).await, client(&url).await);
        is_free(&locks, "job").await;
        let leader = server.leader().expect("a leader");
        leader.stop();
        let guards = join_all((0..8).map(|i| {
            let lock = locks.lock(format!("job{i}")).ttl(time(30_000)).wait(time(20_000));
            async move { lock.acquire().await.expect("granted by another leader") }
        }));
        let guards = within(LONG, guards).await;
        server.await_leader_other_than(leader).expect("another leader");
        leader.cont();
        for guard in guards {
            guard.verify().await.expect("held");
            guard.release().await.expect("released");
        }
        within(
            LONG,
            join_all((0..8).map(|i| {
                let lock = other.lock(format!("job{i}"));
                async move { lock.acquire().await.expect("free").release().await.expect("released") }
            })),
        )
        .await;
        until("all keys to be gone", || match keys(&server, &url) {
            none if none.is_empty() => Ok(()),
            left => Err(leasehold_testbed::Error::new(format!("{left:?}"))),
        });
    });
}

#[test]
fn a_leader_that_hands_over_is_not_noticed_by_holders_and_waiters() {
    run(async {
        let server = three();
        let url = own(&server.url());
        let (holder, waiter) = (client(&url).await, client(&url).await);
        let guard = hold(&holder, "job", time(10_000)).await;
        let waiting = waiting(waiter.lock("job"));
        waiters(&holder, "job", 1).await;
        server.failover().expect("another leader");
        guard.verify().await.expect("held");
        guard.release().await.expect("released");
        let next = within(soon(), waiting).await.expect("no panic").expect("granted");
        next.release().await.expect("released");
    });
}

#[test]
fn without_a_majority_a_hold_is_lost_at_its_deadline_and_nothing_is_granted() {
    run(async {
        let server = three();
        let locks = client(&own(&server.url())).await;
        let ttl = time(4_000);
        let since = Instant::now();
        let guard = hold(&locks, "job", ttl).await;
        let members = server.members();
        members[..2].iter().for_each(|member| member.kill9());
        let refused = locks.lock("other").wait(time(1_000)).acquire().await.expect_err("no majority");
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
        assert_eq!(within(ttl * 2, guard.lost()).await, Lost::Expired);
        assert!(since.elapsed() < ttl * 2, "{:?}", since.elapsed());
        for member in &members[..2] {
            member.launch().expect("started");
        }
        server.await_ready().expect("a majority");
        within(LONG, locks.lock("other").acquire())
            .await
            .expect("granted")
            .release()
            .await
            .expect("released");
    });
}

/// Until it notices that it has lost the others, a leader keeps leases alive that the next leader ends.
#[test]
fn a_lease_that_a_leader_without_a_majority_keeps_alive_is_kept_alive_again() {
    run(async {
        let server = three();
        let leader = server.leader().expect("a leader");
        let storage = bare(&own(&format!("etcd://127.0.0.1:{}", leader.port()))).await;
        let mut mine = claim("job");
        mine.ttl = time(4_000);
        take(&storage, &mine).await;
        // Then the lease needs to be kept alive for a renewal.
        tokio::time::sleep(time(1_600)).await;
        let followers = server.members().iter().filter(|member| member.port() != leader.port());
        followers.clone().for_each(|member| member.stop());
        let renewing = [mine.clone()];
        assert!(tokio::time::timeout(Duration::from_millis(300), storage.renew(&renewing)).await.is_err());
        followers.for_each(|member| member.cont());
        let kept = || leader.command_counts().expect("counted").get("LeaseKeepAlive").copied();
        let before = kept();
        assert!(before.is_some());
        answered(async || renew(&storage, &mine).await).await;
        assert!(kept() > before);
    });
}

#[test]
fn a_member_that_is_down_or_silent_holds_nobody_up() {
    run(async {
        let server = three();
        let leader = server.leader().expect("a leader").port();
        let followers: Vec<_> = server.members().iter().filter(|member| member.port() != leader).collect();
        followers[0].stop();
        for _ in 0..6 {
            let since = Instant::now();
            let locks = client(&own(&server.url())).await;
            is_free(&locks, "job").await;
            assert!(since.elapsed() < time(1_500), "{:?}", since.elapsed());
        }
        followers[0].cont();
    });
}

/// The client is connected to the member that stops: another one answers soon.
#[test]
fn a_member_that_stops_under_its_clients_is_left_within_seconds() {
    run(async {
        let server = three();
        let leader = server.leader().expect("a leader").port();
        let clients = join_all((0..6).map(|_| client(own_static(&server)))).await;
        for locks in &clients {
            is_free(locks, "job").await;
        }
        let follower = server.members().iter().find(|member| member.port() != leader).expect("two");
        follower.stop();
        let since = Instant::now();
        let turns = clients.iter().map(|locks| async {
            let guard = locks.lock("job").wait(Duration::from_secs(30)).acquire().await.expect("granted");
            guard.release().await.expect("released");
        });
        within(LONG, join_all(turns)).await;
        assert!(since.elapsed() < time(8_000), "{:?}", since.elapsed());
        follower.cont();
    });
}

fn own_static(server: &Etcd) -> &'static str {
    Box::leak(own(&server.url()).into_boxed_str())
}
