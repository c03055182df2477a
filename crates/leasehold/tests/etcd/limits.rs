//! Servers that are full, and TTLs at their bounds.

use std::time::Duration;

use leasehold::ErrorKind;
use leasehold::storage::{AcquireReply, ReleaseReply, RenewReply, Severity, Storage};
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
        let filling = "x".repeat(100_000);
        let full = (0..100).any(|i| server.command(&["put", &format!("filling{i}"), &filling]).is_err());
        assert!(full);
        // The server raises the alarm in the background.
        until("the alarm", || match server.command(&["alarm", "list"])? {
            alarms if alarms.contains("NOSPACE") => Ok(()),
            alarms => Err(leasehold_testbed::Error::new(alarms)),
        });
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
