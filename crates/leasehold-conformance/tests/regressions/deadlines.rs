//! Deadlines: a lease is shortened only on request, and never outlasts what its holder was told.

use leasehold::storage::Memory;
use leasehold::{ErrorKind, Lost, Renewal};
use leasehold_conformance::{Fault, Verb};
use tokio::time::{advance, sleep, timeout};

use crate::odd::{Odd, Oddity};
use crate::{broken, client, is_held_twice, left, ms, s, settle, take};

#[tokio::test(start_paused = true)]
async fn a_claim_that_is_executed_late_does_not_shorten_an_extended_lease() {
    let memory = Memory::new();
    let ((locks, controls), other) = (broken(&memory), client(memory));
    controls.next(Verb::Acquire, 1, Fault::Ghost(s(2)));
    let guard = take(&locks, "x", s(10)).await;
    guard.extend(s(3600)).await.expect("memory answers");
    sleep(s(15)).await;
    assert!(!is_held_twice(&guard, &other).await, "{:?} left", guard.remaining());
    assert!(guard.remaining() > s(1800), "{:?} left", guard.remaining());
}

/// Runs within the patience of the claim, and beyond it.
#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_before_a_shortening_that_is_executed_late_can_end_it() {
    for late in [ms(100), ms(300)] {
        let memory = Memory::new();
        let ((locks, controls), other) = (broken(&memory), client(memory));
        let guard = take(&locks, "x", s(60)).await;
        controls.next(Verb::Renew, 1, Fault::Ghost(late));
        guard.extend(ms(500)).await.expect_err("no answer comes");
        guard.extend(s(60)).await.expect("memory answers");
        sleep(s(2)).await;
        assert!(!is_held_twice(&guard, &other).await, "{late:?}: {:?} left", guard.remaining());
        assert!(guard.is_held(), "{late:?}: renewed before the shorter TTL was over");
        assert!(guard.remaining() > s(30), "{late:?}: {:?} left", guard.remaining());
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_shortenings_were_not_answered_is_renewed_in_time() {
    let (locks, controls) = broken(&Memory::new());
    let guard = take(&locks, "x", s(60)).await;
    controls.next(Verb::Renew, 2, Fault::Fail);
    for shorter in [s(8), ms(300)] {
        guard.extend(shorter).await.expect_err("no answer comes");
    }
    guard.extend(s(60)).await.expect("memory answers");
    sleep(s(10)).await;
    assert!(guard.remaining() > s(30), "{:?} left", guard.remaining());
}

#[tokio::test(start_paused = true)]
async fn an_extension_during_a_renewal_takes_effect() {
    let memory = Memory::new();
    let ((locks, controls), other) = (broken(&memory), client(memory));
    let guard = take(&locks, "x", s(10)).await;
    sleep(s(1)).await;
    controls.always(Verb::Renew, Fault::Delay(ms(50)));
    let (ensured, extended) = tokio::join!(guard.ensure(ms(9_500)), async {
        settle().await;
        guard.extend(s(60)).await
    });
    ensured.expect("memory answers");
    extended.expect("memory answers");
    assert!(guard.remaining() > s(50));
    assert!(left(&other, "x").await > s(50));
}

#[tokio::test(start_paused = true)]
async fn a_lease_whose_shortening_was_not_answered_is_released_after_the_outage() {
    let memory = Memory::new();
    let ((locks, controls), other) = (broken(&memory), client(memory));
    let guard = take(&locks, "x", s(3600)).await;
    controls.always(Verb::Renew, Fault::Fail);
    controls.always(Verb::Release, Fault::Fail);
    guard.extend(ms(500)).await.expect_err("no answer comes");
    drop(guard);
    sleep(s(2)).await;
    controls.heal();
    sleep(s(10)).await;
    assert_eq!(
        left(&other, "x").await,
        ms(0),
        "the release is repeated while the storage may have the lease"
    );
}

#[tokio::test(start_paused = true)]
async fn a_lease_granted_too_late_to_be_used_is_released() {
    let memory = Memory::new();
    let other = client(memory.clone());
    let locks = client(Odd::new(&memory, Oddity::AnswersLate(ms(1))));
    let waiting = tokio::spawn(async move { locks.lock("x").ttl(s(60)).wait(s(5)).acquire().await });
    pause_while_a_claim_is_in_flight().await;
    let error = waiting.await.expect("no panic").expect_err("half of the lease was over");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    sleep(s(5)).await;
    assert_eq!(left(&other, "x").await, ms(0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_granted_too_late_is_released_even_if_the_caller_has_left() {
    let memory = Memory::new();
    let other = client(memory.clone());
    let locks = client(Odd::new(&memory, Oddity::AnswersLate(ms(1))));
    let kept = locks.clone();
    let waiting =
        tokio::spawn(async move { timeout(s(5), locks.lock("x").ttl(s(60)).acquire()).await.is_ok() });
    pause_while_a_claim_is_in_flight().await;
    waiting.await.expect("no panic");
    sleep(s(5)).await;
    assert_eq!(left(&other, "x").await, ms(0));
    drop(kept);
}

#[tokio::test(start_paused = true)]
async fn max_hold_is_the_reason_even_if_the_holder_notices_first() {
    let locks = client(Memory::new());
    let guard = locks.lock("x").max_hold(s(1)).acquire().await.expect("free");
    let error = guard.ensure(s(5)).await.expect_err("more than it may be held for");
    assert_eq!(error.kind(), ErrorKind::Invalid);
    // The first poll moves the time before any other task runs.
    let mut later = Box::pin(advance(s(2)));
    assert!(futures_util::poll!(&mut later).is_pending());
    assert!(!guard.is_held());
    assert_eq!(guard.lost().await, Lost::MaxHold);
}

#[tokio::test(start_paused = true)]
async fn a_lease_without_renewal_is_not_renewed_after_a_failed_ensure() {
    let (locks, controls) = broken(&Memory::new());
    let guard = locks.lock("x").ttl(s(10)).renewal(Renewal::Never).acquire().await.expect("free");
    sleep(s(3)).await;
    controls.next(Verb::Renew, 1, Fault::Fail);
    guard.ensure(s(9)).await.expect_err("no answer comes");
    sleep(s(1)).await;
    assert!(guard.remaining() < s(7), "renewed by itself: {:?}", guard.remaining());
}

/// Pauses the process for half a minute while its claim is in flight.
async fn pause_while_a_claim_is_in_flight() {
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
    advance(s(31)).await;
}
