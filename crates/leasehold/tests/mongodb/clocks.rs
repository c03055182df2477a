//! Clocks that jump, TTLs at their bounds, and documents that are deleted.

use std::time::Duration;

use futures_util::StreamExt;
use leasehold::storage::{AcquireReply, Hint, RenewReply, Storage};
use leasehold::{ErrorKind, Lost, Renewal};
use leasehold_testbed::{Error, MongoDb};
use tokio::time::Instant;

use crate::net::clocks as scenario;
use crate::tools::*;

/// Sets the clock of a server to so many seconds from ours, and waits until the server reports that.
#[cfg(target_os = "linux")]
fn set_clock(server: &MongoDb, seconds: i64) {
    server.members()[0].clock().expect("its own").set(seconds).expect("set");
    until("its clock to be set", || {
        let hello = server.command("admin", doc! { "hello": 1 })?;
        let shown = hello.get_datetime("localTime").expect("a time").timestamp_millis() / 1_000;
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec;
        if (shown - now - seconds).abs() <= 2 { Ok(()) } else { Err(Error::new(format!("{shown}"))) }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_clock_that_jumps_ahead_ends_leases_and_no_token_goes_back() {
    let server = MongoDb::options().own_clock().start().expect("a server");
    run(scenario::jump_ahead(&server.url(), |seconds| set_clock(&server, seconds)));
}

#[cfg(target_os = "linux")]
#[test]
fn a_server_clock_that_jumps_back_keeps_no_dead_holder_and_no_dead_waiter_alive() {
    let server = MongoDb::options().own_clock().start().expect("a server");
    run(scenario::jump_back(&server.url(), |seconds| set_clock(&server, seconds)));
}

#[test]
fn a_lease_that_lasts_longer_than_its_ttl_is_cut_back_by_a_claim() {
    run(async {
        let url = own(&common().url());
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let mut held = claim("job");
        held.ttl = time(2_000);
        take(&storage, &held).await;
        let later = doc! { "$set": { "until": { "$add": ["$until", 3_600_000] } } };
        change(common(), database_of(&url), doc! { "_id": "job" }, vec![later]);
        match acquire(&other, &claim("job")).await.expect("answered") {
            AcquireReply::Held { holder: Some(holder), .. } => {
                assert!(holder.remaining <= held.ttl, "{holder:?}");
            }
            granted => panic!("{granted:?}"),
        }
        let rest = doc! { "$project": { "rest": { "$subtract": ["$until", "$$NOW"] } } };
        let rest =
            rows(common(), database_of(&url), "leasehold", &[rest])[0].get_i64("rest").expect("a time");
        assert!(rest <= 2_000 * i64::try_from(held.ttl.as_millis() / 2_000).expect("few"), "{rest}");
        assert!(matches!(renew(&storage, &held).await, Ok(RenewReply::Renewed { .. })));
    });
}

#[test]
fn every_ttl_within_the_bounds_is_given_to_the_millisecond() {
    run(async {
        let url = own(&common().url());
        let storage = bare(&url).await;
        let bounds = storage.limits();
        assert_eq!(
            (bounds.ttl_min, bounds.ttl_max),
            (Duration::from_millis(100), Duration::from_secs(86_400))
        );
        let mut random = Random(5);
        let edges = [100, 101, 999, 1_000, 1_001, 86_399_999, 86_400_000];
        let others: Vec<_> = (0..40).map(|_| 100 + random.below(86_399_900)).collect();
        for (i, ttl) in edges.into_iter().chain(others).enumerate() {
            let mut mine = claim(&format!("job{i}"));
            // What is less than a millisecond is cut off.
            mine.ttl = Duration::from_millis(ttl) + Duration::from_micros(random.below(1_000));
            let whole = Duration::from_millis(ttl);
            match acquire(&storage, &mine).await.expect("answered") {
                AcquireReply::Granted { ttl, .. } => assert_eq!(ttl, whole),
                held => panic!("{held:?}"),
            }
            let lease = doc! { "$project": { "ttl": 1, "span": { "$subtract": ["$until", "$since"] } } };
            let found = doc! { "$match": { "_id": mine.name.as_str() } };
            let found = rows(common(), database_of(&url), "leasehold", &[found, lease]).remove(0);
            let wanted = i64::try_from(ttl).expect("a day");
            assert_eq!((found.get_i64("ttl").ok(), found.get_i64("span").ok()), (Some(wanted), Some(wanted)));
        }
    });
}

#[test]
fn ttls_out_of_bounds_are_refused_before_anything_is_sent() {
    run(async {
        let locks = client(&own(&common().url())).await;
        for ttl in [Duration::ZERO, Duration::from_millis(99), Duration::from_secs(86_401), Duration::MAX] {
            let error = locks.lock("job").ttl(ttl).try_acquire().await.expect_err("out of bounds");
            assert_eq!(error.kind(), ErrorKind::Invalid, "{ttl:?}");
        }
        assert!(locks.inspect("job").await.expect("answered").is_empty());
    });
}

#[test]
fn tokens_grow_when_the_document_is_deleted() {
    let url = own(&common().url());
    let delete = || {
        let all = doc! { "q": { "_id": "job" }, "limit": 0 };
        let reply = tell(common(), database_of(&url), doc! { "delete": "leasehold", "deletes": [all] });
        assert_eq!(reply.get_i32("n").ok(), Some(1));
    };
    run(scenario::deleted_record(&url, delete));
}

#[test]
fn a_dropped_collection_ends_holds_at_once_for_a_client_that_listens() {
    run(async {
        let url = own(&common().url());
        let (locks, other) = (client(&url).await, client(&url).await);
        let first = hold(&other, "first", LONG).await;
        let waiting = waiting(locks.lock("first"));
        waiters(&other, "first", 1).await;
        let guard = hold(&locks, "job", LONG).await;
        until("it to listen", || match streams(common(), database_of(&url)).len() {
            0 => Err(Error::new("not yet")),
            _ => Ok(()),
        });
        tell(common(), database_of(&url), doc! { "drop": "leasehold" });
        // The next renewal is due much later.
        assert_eq!(within(soon(), guard.lost()).await, Lost::Taken);
        drop(first);
        let waiter = within(LONG, waiting).await.expect("no panic").expect("granted");
        assert!(waiter.token() > guard.token());
    });
}

#[test]
fn a_dropped_collection_ends_holds_at_the_next_renewal_for_a_client_that_does_not_listen() {
    run(async {
        let url = own(&common().url());
        let locks = client(&url).await;
        let ttl = time(3_000);
        let guard = hold(&locks, "job", ttl).await;
        let never =
            locks.lock("unrenewed").ttl(LONG).renewal(Renewal::Never).acquire().await.expect("granted");
        tell(common(), database_of(&url), doc! { "drop": "leasehold" });
        let since = Instant::now();
        assert_eq!(within(LONG, guard.lost()).await, Lost::Taken);
        assert!(since.elapsed() < ttl / 3 + time(500), "{:?}", since.elapsed());
        never.verify().await.expect_err("gone");
    });
}

#[test]
fn a_stream_listens_before_the_collection_exists_and_after_it_was_dropped() {
    run(async {
        let url = own(&common().url());
        let (storage, mut hints) = listening(&url).await;
        storage.watch(&[name("job")], &[]);
        assert_eq!(within(soon(), hints.next()).await, Some(Hint::Name(name("job"))));
        take(&storage, &claim("job")).await;
        assert_eq!(within(soon(), hints.next()).await, Some(Hint::Name(name("job"))));
        tell(common(), database_of(&url), doc! { "drop": "leasehold" });
        assert_eq!(within(soon(), hints.next()).await, Some(Hint::Restarted));
        // It listens again: then it hints at everything, and at the names that it observes.
        assert_eq!(within(soon(), hints.next()).await, Some(Hint::Any));
        take(&storage, &claim("job")).await;
        assert_eq!(within(soon(), hints.next()).await, Some(Hint::Name(name("job"))));
    });
}
