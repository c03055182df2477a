//! Servers that are full, and TTLs at their bounds.

use std::time::Duration;

use futures_util::future::join_all;
use leasehold::ErrorKind;
use leasehold::storage::{
    AcquireReply, ReleaseReply, RenewReply, Severity, Storage, WAITER_HEARTBEAT, WAITER_TTL,
};
use leasehold_testbed::Etcd;

use crate::net::limits as scenario;
use crate::tools::*;

#[test]
fn a_full_server_refuses_claims_and_neither_renewals_nor_releases() {
    run(async {
        let server = Etcd::options().arg("--quota-backend-bytes=1048576").start().expect("a server");
        let storage = bare(&server.url()).await;
        let (one, two) = (claim("one"), claim("two"));
        take(&storage, &one).await;
        take(&storage, &two).await;
        fill(&server);
        let refused = acquire(&storage, &claim("three")).await.expect_err("full");
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
        assert!(refused.to_string().contains("full"), "{refused}");
        assert!(matches!(renew(&storage, &one).await, Ok(RenewReply::Renewed { .. })));
        assert_eq!(release(&storage, &one).await.expect("answered"), ReleaseReply::Released);
        let findings = storage.findings().await.expect("answered");
        let space = findings.iter().find(|finding| finding.about == "space").expect("a line");
        assert!(space.severity == Severity::Warning && space.detail.contains("full"), "{space:?}");
        assert_eq!(release(&storage, &two).await.expect("answered"), ReleaseReply::Released);
    });
}

#[test]
fn a_lock_of_a_full_server_that_needs_a_shorter_lease_stays_on_its_own() {
    run(async {
        let server = Etcd::options().arg("--quota-backend-bytes=1048576").start().expect("a server");
        let url = own(&server.url());
        let (locks, storage) = (client(&url).await, bare(&url).await);
        let shortened = hold(&locks, "shortened", Duration::from_secs(30)).await;
        let (renewed, left) =
            (with_ttl("renewed", Duration::from_secs(10)), with_ttl("left", Duration::from_secs(30)));
        take(&storage, &renewed).await;
        take(&storage, &left).await;
        fill(&server);
        shortened.extend(Duration::from_secs(4)).await.expect("it stays on the longer lease");
        let mut short = left.shorten(true);
        short.ttl = Duration::from_secs(3);
        assert!(matches!(renew(&storage, &short).await, Ok(RenewReply::Renewed { .. })));
        let mut less = renewed;
        less.ttl = Duration::from_secs(4);
        for _ in 0..12 {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let answer = renew(&storage, &less).await;
            assert!(matches!(answer, Ok(RenewReply::Renewed { .. })), "{answer:?}");
        }
        shortened.release().await.expect("held without interruption");
        assert!(locks.inspect("left").await.expect("answered").is_empty(), "its client ends it");
        assert_eq!(keys(&server, &url).len(), 1);
    });
}

#[test]
fn a_lock_that_a_full_server_hands_over_is_renewed() {
    run(async {
        let server = Etcd::options().arg("--quota-backend-bytes=1048576").start().expect("a server");
        let url = own(&server.url());
        let (holder, waiter) = (bare(&url).await, bare(&url).await);
        let (held, mine) = (claim("job"), with_ttl("job", Duration::from_secs(8)).wait(true));
        take(&holder, &held).await;
        is_held(&waiter, &mine).await;
        // The waiter asks for longer than its TTL. So a lease for that TTL has ended that it got with its first claim.
        let filling = tokio::task::spawn_blocking(move || {
            fill(&server);
            server
        });
        for i in 0.. {
            tokio::time::sleep(WAITER_HEARTBEAT).await;
            is_held(&waiter, &mine).await;
            if i >= 4 && filling.is_finished() {
                break;
            }
        }
        let _server = filling.await.expect("no panic");
        assert_eq!(release(&holder, &held).await.expect("answered"), ReleaseReply::Released);
        let granted = acquire(&waiter, &mine).await;
        assert!(matches!(granted, Ok(AcquireReply::Granted { .. })), "{granted:?}");
        let renewed = renew(&waiter, &mine).await;
        assert!(matches!(renewed, Ok(RenewReply::Renewed { .. })), "{renewed:?}");
        assert_eq!(release(&waiter, &mine).await.expect("answered"), ReleaseReply::Released);
    });
}

#[test]
fn a_server_that_takes_only_short_requests_gets_them_in_parts() {
    run(async {
        let server = Etcd::options().arg("--max-request-bytes=8192").start().expect("a server");
        let url = own(&server.url());
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let ttl = time(4_000);
        let of = |kind: &str| -> Vec<_> {
            let lock = |i| format!("{kind}-{i}-{}", "x".repeat(400));
            (0..storage.limits().batch_max).map(|i| with_ttl(&lock(i), ttl)).collect()
        };
        let (released, left) = (of("released"), of("left"));
        for claims in [&released, &left] {
            for answer in storage.acquire(claims).await {
                assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
            }
            for answer in storage.renew(claims).await {
                assert!(matches!(answer, Ok(RenewReply::Renewed { .. })), "{answer:?}");
            }
        }
        for answer in storage.release(&released).await {
            assert_eq!(answer.expect("answered"), ReleaseReply::Released);
        }
        // The others are deleted at their end, while another lock keeps their lease alive.
        let kept = with_ttl("kept", ttl);
        take(&storage, &kept).await;
        is_left_alone(&server, &url, &storage, &kept, ttl + soon()).await;
        assert_eq!(other.list("", None, 2).await.expect("answered").len(), 1);
    });
}

/// The lease of a waiter is shorter than the interval at which a lock of that TTL is renewed.
#[test]
fn a_lock_that_a_full_server_hands_over_is_held_for_longer_than_the_lease_of_a_waiter() {
    run(async {
        let server = Etcd::options().arg("--quota-backend-bytes=1048576").start().expect("a server");
        let (holder, waiter) = (client(&server.url()).await, client(&server.url()).await);
        let held = hold(&holder, "job", LONG).await;
        let waiting = waiting(waiter.lock("job").ttl(Duration::from_secs(40)));
        waiters(&holder, "job", 1).await;
        let filling = tokio::task::spawn_blocking(move || {
            // The waiter has a lease for its TTL already. The server grants no other one from now on.
            revoke(&server, 42);
            fill(&server);
            server
        });
        let server = filling.await.expect("no panic");
        held.release().await.expect("released");
        let guard = within(soon(), waiting).await.expect("no panic").expect("granted");
        // Nothing happens when its first lease ends.
        tokio::time::sleep(2 * WAITER_TTL).await;
        assert!(guard.is_held());
        guard.verify().await.expect("held");
        guard.release().await.expect("released");
        drop(server);
    });
}

/// Revokes the leases that were granted for so many seconds.
fn revoke(server: &Etcd, seconds: u64) {
    let leases = tell(server, &["lease", "list"]);
    let granted = format!("\"GrantedTTL\" : {seconds}");
    let mut revoked = 0;
    for lease in leases.lines().skip(1).filter(|lease| !lease.is_empty()) {
        if tell(server, &["lease", "timetolive", lease, "--write-out=fields"]).contains(&granted) {
            tell(server, &["lease", "revoke", lease]);
            revoked += 1;
        }
    }
    assert_ne!(revoked, 0, "{leases}");
}

#[test]
fn a_lock_stays_renewed_beside_more_overdue_keys_than_the_server_deletes_at_once() {
    run(async {
        let server = Etcd::options().arg("--max-txn-ops=16").start().expect("a server");
        let url = own(&server.url());
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let ttl = time(4_000);
        let kept = with_ttl("kept", ttl);
        take(&storage, &kept).await;
        let others: Vec<_> = (0..40).map(|i| with_ttl(&format!("job{i}"), ttl)).collect();
        join_all(others.iter().map(|other| take(&storage, other))).await;
        let renewing = async {
            while other.list("", None, 2).await.expect("answered").len() > 1 {
                let renewed = renew(&storage, &kept).await;
                assert!(matches!(renewed, Ok(RenewReply::Renewed { .. })), "{renewed:?}");
                // No hint is sent for keys that end.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        within(ttl + soon(), renewing).await;
    });
}

#[test]
fn every_ttl_within_the_bounds_is_given() {
    run(async {
        let url = own(&common().url());
        let storage = bare(&url).await;
        let bounds = storage.limits();
        assert_eq!((bounds.ttl_min, bounds.ttl_max), (Duration::from_secs(2), Duration::from_secs(86_400)));
        let mut random = Random(5);
        let edges = [2_000, 2_001, 2_999, 3_000, 86_399_999, 86_400_000];
        let others: Vec<_> = (0..20).map(|_| 2_000 + random.below(86_398_000)).collect();
        for (i, ms) in edges.into_iter().chain(others).enumerate() {
            let mut mine = claim(&format!("job{i}"));
            mine.ttl = Duration::from_millis(ms);
            match acquire(&storage, &mine).await.expect("answered") {
                AcquireReply::Granted { ttl, .. } => assert_eq!(ttl, mine.ttl),
                held => panic!("{held:?}"),
            }
            let lease = lease_of(common(), &format!("{}job{i}/{}", prefix_of(&url), mine.owner));
            let said = tell(common(), &["lease", "timetolive", &lease, "--write-out=fields"]);
            let granted = said.lines().find_map(|line| line.strip_prefix("\"GrantedTTL\" : "));
            let granted = granted.expect("told").trim().parse().map(Duration::from_secs).expect("seconds");
            assert!(
                granted >= mine.ttl && granted <= mine.ttl + mine.ttl / 8 + time(1_500),
                "{ms} {granted:?}"
            );
        }
        for ttl in [Duration::from_millis(1_999), Duration::from_secs(86_401)] {
            let locks = client(&url).await;
            let error = locks.lock("job").ttl(ttl).try_acquire().await.expect_err("out of bounds");
            assert_eq!(error.kind(), ErrorKind::Invalid, "{ttl:?}");
        }
    });
}

#[test]
fn a_patience_without_end_is_one() {
    run(async {
        let url = own(&common().url());
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let mine = claim("job").patience(Duration::MAX);
        take(&storage, &mine).await;
        for storage in [&storage, &other] {
            let renewed = renew(storage, &mine).await;
            assert!(matches!(renewed, Ok(RenewReply::Renewed { .. })), "{renewed:?}");
        }
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
    });
}

#[test]
fn a_flood_of_claims_loses_no_hold() {
    run(scenario::flood(time(3_000), 20, 20, |_| true));
}

#[test]
fn a_waiting_process_uses_little_of_the_processor_with_a_server_and_without() {
    let server = Etcd::start().expect("a server");
    scenario::processor_of_a_waiter(&server, &own(&server.url()));
}

#[test]
fn a_process_that_waits() {
    scenario::a_waiter();
}

#[test]
fn clients_that_wait_try_a_few_connections_a_second_while_the_server_refuses_them() {
    run(scenario::tries_to_connect("job"));
}
