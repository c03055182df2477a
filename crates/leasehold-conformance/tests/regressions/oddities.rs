//! Storages with unusual behavior: the engine keeps working, and does not flood them with requests.

use std::error::Error as _;
use std::time::Duration;

use futures_util::future::join_all;
use leasehold::storage::{Hint, Memory};
use leasehold::{Change, ErrorKind, Renewal};
use tokio::time::{Instant, sleep};

use crate::odd::{Odd, Oddity};
use crate::{client, in_the_end, ms, s, settle, take};

#[tokio::test(start_paused = true)]
async fn a_holder_without_an_end_does_not_stop_the_engine() {
    let locks = client(Odd::new(&Memory::new(), Oddity::NeverExpires));
    let guard = take(&locks, "x", s(10)).await;
    let mut changes = locks.observe("x").expect("open");
    let change = changes.next().await.expect("the engine runs");
    assert!(matches!(change, Change::Locked { .. }), "{change:?}");
    sleep(s(60)).await;
    assert!(guard.is_held());
    take(&locks, "y", s(10)).await.release().await.expect("held");
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_panics_in_watch_does_not_stop_the_engine() {
    let locks = client(Odd::new(&Memory::new(), Oddity::PanicsInWatch));
    let guard = take(&locks, "x", s(10)).await;
    let mut changes = locks.observe("x").expect("open");
    let change = changes.next().await.expect("observed names are inspected all the same");
    assert!(matches!(change, Change::Locked { .. }), "{change:?}");
    sleep(s(60)).await;
    guard.release().await.expect("held");
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_panics_in_hints_does_not_stop_the_engine() {
    let memory = Memory::new();
    let (locks, other) = (client(Odd::new(&memory, Oddity::PanicsInHints)), client(memory));
    let (theirs, guard) = (take(&other, "x", s(10)).await, take(&locks, "y", s(10)).await);
    let lock = locks.lock("x").wait(s(10));
    let waiting = tokio::spawn(async move { lock.acquire().await.map(drop) });
    settle().await;
    theirs.release().await.expect("held");
    waiting.await.expect("no panic").expect("the waiter polls");
    guard.release().await.expect("held");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_refused_for_good_fails_at_once_with_the_reason() {
    for kind in [ErrorKind::Invalid, ErrorKind::Unsupported] {
        let locks = client(Odd::new(&Memory::new(), Oddity::FailsToRelease(kind)));
        let (guard, start) = (take(&locks, "x", s(10)).await, Instant::now());
        let error = guard.release().await.expect_err("refused");
        assert_eq!((error.kind(), error.to_string()), (kind, "the reason".to_owned()));
        assert!(start.elapsed() < ms(10), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_refused_for_good_fails_at_once_with_the_reason() {
    for kind in [ErrorKind::Invalid, ErrorKind::Unsupported] {
        let locks = client(Odd::new(&Memory::new(), Oddity::FailsToRenew(kind)));
        let (guard, start) = (take(&locks, "x", s(10)).await, Instant::now());
        let refused = |answer: leasehold::Result<()>| {
            let error = answer.expect_err("refused");
            assert_eq!((error.kind(), error.to_string()), (kind, "the reason".to_owned()));
        };
        refused(guard.extend(s(20)).await);
        assert!(start.elapsed() < ms(10) && guard.is_held(), "{:?}", start.elapsed());
        sleep(s(2)).await;
        refused(guard.ensure(s(9)).await);
        assert!(start.elapsed() < s(2) + ms(10) && guard.is_held(), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_names_its_wait_and_the_reason() {
    for kind in [ErrorKind::Unavailable, ErrorKind::Internal] {
        let locks = client(Odd::new(&Memory::new(), Oddity::FailsToRenew(kind)));
        let guard = take(&locks, "x", s(10)).await;
        let error = guard.extend(s(20)).await.expect_err("not renewed");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.waited().is_some_and(|waited| waited < ms(10)), "{error:?}");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("the reason"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_until_its_limit_names_the_wait_and_the_last_reason() {
    for kind in [ErrorKind::Unavailable, ErrorKind::Internal] {
        let locks = client(Odd::new(&Memory::new(), Oddity::FailsToRelease(kind)));
        // The lease is shorter than the 5 s that a release takes at most.
        let guard = take(&locks, "x", s(2)).await;
        let error = guard.release().await.expect_err("never released");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.waited().is_some_and(|waited| waited > s(1) && waited < s(2)), "{error:?}");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("the reason"));
    }
}

#[tokio::test(start_paused = true)]
async fn grants_with_a_ttl_of_zero_end_unavailable() {
    let locks = client(Odd::new(&Memory::new(), Oddity::GrantsFor(Duration::ZERO)));
    let error = locks.lock("x").try_acquire().await.expect_err("the lease is over at once");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn a_grant_without_an_end_counts_as_one_with_the_longest_ttl() {
    in_the_end(async {
        let locks = client(Odd::new(&Memory::new(), Oddity::GrantsFor(Duration::MAX)));
        let lock = locks.lock("x").renewal(Renewal::Every(s(1)));
        let guard = lock.try_acquire().await.expect("granted").expect("free");
        assert!(guard.remaining() <= s(24 * 60 * 60));
        sleep(s(60)).await;
        guard.release().await.expect("held, and renewed");
    });
}

#[test]
fn a_list_that_repeats_its_pages_ends_with_an_error() {
    in_the_end(async {
        let locks = client(Odd::new(&Memory::new(), Oddity::ListsTheSamePage));
        let guards = join_all((0..1_000).map(|i| {
            let locks = locks.clone();
            async move { take(&locks, &i.to_string(), s(10)).await }
        }));
        let guards = guards.await;
        let error = locks.list("").await.expect_err("it would never end");
        assert_eq!(error.kind(), ErrorKind::Internal);
        drop(guards);
    });
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_hints_causes_one_inspection_of_the_holder_at_a_time() {
    let odd = Odd::new(&Memory::new(), Oddity::InspectsSlowly(ms(100)));
    let (inspections, hint, locks) = (odd.inspections(), odd.hint(), client(odd));
    let guard = take(&locks, "x", s(10)).await;
    let other = locks.observe("y").expect("open");
    for _ in 0..5_000 {
        hint.send(Hint::Owner(guard.owner())).expect("the engine listens");
    }
    sleep(s(1)).await;
    let most = inspections.most();
    // One inspect call belongs to the observer of the other name, which is the reason that hints are
    // received at all.
    assert!((1..=2).contains(&most), "{most} inspections at a time");
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn of_many_observed_names_at_most_sixteen_are_inspected_at_a_time() {
    let odd = Odd::new(&Memory::new(), Oddity::InspectsSlowly(ms(100)));
    let (inspections, hint, locks) = (odd.inspections(), odd.hint(), client(odd));
    let observers: Vec<_> = (0..2_000).map(|i| locks.observe(i.to_string()).expect("open")).collect();
    sleep(s(1)).await;
    hint.send(Hint::Any).expect("the engine listens");
    sleep(s(1)).await;
    let most = inspections.most();
    assert!((1..=16).contains(&most), "{most} inspections at a time");
    drop(observers);
}
