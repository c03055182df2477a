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
async fn a_lease_that_is_shown_without_an_end_ends_nothing_else() {
    let locks = client(Odd::new(&Memory::new(), Oddity::RemainsForEver));
    let guard = take(&locks, "x", s(10)).await;
    let mut changes = locks.observe("x").expect("open");
    let change = changes.next().await.expect("the engine runs");
    assert!(matches!(change, Change::Locked { .. }), "{change:?}");
    sleep(s(60)).await;
    assert!(guard.is_held());
    take(&locks, "y", s(10)).await.release().await.expect("held");
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_panics_when_it_is_to_watch_ends_nothing_else() {
    let locks = client(Odd::new(&Memory::new(), Oddity::PanicsWhenItIsToWatch));
    let guard = take(&locks, "x", s(10)).await;
    let mut changes = locks.observe("x").expect("open");
    let change = changes.next().await.expect("observers look by themselves");
    assert!(matches!(change, Change::Locked { .. }), "{change:?}");
    sleep(s(60)).await;
    guard.release().await.expect("held");
}

#[tokio::test(start_paused = true)]
async fn a_storage_that_panics_when_it_is_to_hint_ends_nothing_else() {
    let memory = Memory::new();
    let (locks, other) = (client(Odd::new(&memory, Oddity::PanicsWhenItIsToHint)), client(memory));
    let (theirs, guard) = (take(&other, "x", s(10)).await, take(&locks, "y", s(10)).await);
    let lock = locks.lock("x").wait(s(10));
    let waiting = tokio::spawn(async move { lock.acquire().await.map(drop) });
    settle().await;
    theirs.release().await.expect("held");
    waiting.await.expect("no panic").expect("it asks again by itself");
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
async fn leases_of_nothing_are_refused_in_the_end() {
    let locks = client(Odd::new(&Memory::new(), Oddity::GrantsFor(Duration::ZERO)));
    let error = locks.lock("x").try_acquire().await.expect_err("over before it began");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
}

#[test]
fn leases_for_ever_are_taken_for_the_longest_there_are() {
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
async fn however_many_hints_there_are_the_holder_is_looked_at_once_at_a_time() {
    let odd = Odd::new(&Memory::new(), Oddity::LooksSlowly(ms(100)));
    let (looks, hint, locks) = (odd.looks(), odd.hint(), client(odd));
    let guard = take(&locks, "x", s(10)).await;
    let other = locks.observe("y").expect("open");
    for _ in 0..5_000 {
        hint.send(Hint::Owner(guard.owner())).expect("the engine listens");
    }
    sleep(s(1)).await;
    let most = looks.most();
    // One inspect call belongs to the observer of the other name, which is the reason that hints are
    // received at all.
    assert!((1..=2).contains(&most), "{most} looks at a time");
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn however_many_names_are_observed_a_few_are_looked_at_at_a_time() {
    let odd = Odd::new(&Memory::new(), Oddity::LooksSlowly(ms(100)));
    let (looks, hint, locks) = (odd.looks(), odd.hint(), client(odd));
    let observers: Vec<_> = (0..2_000).map(|i| locks.observe(i.to_string()).expect("open")).collect();
    sleep(s(1)).await;
    hint.send(Hint::Any).expect("the engine listens");
    sleep(s(1)).await;
    let most = looks.most();
    assert!((1..=16).contains(&most), "{most} looks at a time");
    drop(observers);
}
