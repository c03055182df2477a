//! A silent storage: waits in one local queue end as early as the wait at its head, and silence is never
//! reported as contention.

use leasehold::storage::Memory;
use leasehold::{ErrorKind, Event};
use leasehold_conformance::{Fault, Verb};
use tokio::time::{Instant, sleep, timeout};

use crate::{broken, ms, s, settle, take};

#[tokio::test(start_paused = true)]
async fn waits_in_one_local_queue_end_together_when_the_storage_is_silent() {
    let (locks, controls) = broken(&Memory::new());
    controls.always(Verb::Acquire, Fault::Fail);
    let start = Instant::now();
    let mut waiting = Vec::new();
    for _ in 0..4 {
        let lock = locks.lock("x");
        waiting.push(tokio::spawn(async move { lock.acquire().await.map(drop) }));
        settle().await;
    }
    for waiting in waiting {
        let error = waiting.await.expect("no panic").expect_err("no answer comes");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
    assert!(start.elapsed() < s(45), "they ended one after the other, in {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_wait_without_a_limit_ends_in_time_even_behind_waits_with_a_limit() {
    let (locks, controls) = broken(&Memory::new());
    controls.always(Verb::Acquire, Fault::Fail);
    let start = Instant::now();
    let mut ahead = Vec::new();
    for _ in 0..4 {
        let lock = locks.lock("x").wait(s(3600));
        ahead.push(tokio::spawn(async move { lock.acquire().await.map(drop) }));
        settle().await;
    }
    let error = locks.lock("x").acquire().await.expect_err("no answer comes");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() < s(45), "it ended after the others, after {:?}", start.elapsed());
    ahead.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Starts many waits for one lock, with limits that end at about the same time and with different TTLs.
/// Returns the kinds of their errors.
async fn end_many_waits_together(locks: &leasehold::Locks) -> Vec<ErrorKind> {
    let mut waiting = Vec::new();
    for i in 0..400_u64 {
        let lock = locks
            .lock("x")
            .wait(s(2) + ms(i))
            .ttl([ms(200), s(1), s(10), s(60)][usize::try_from(i % 4).expect("small")]);
        waiting.push(tokio::spawn(
            async move { lock.acquire().await.map(drop).expect_err("not granted").kind() },
        ));
    }
    let mut kinds = Vec::new();
    for waiting in waiting {
        kinds.push(waiting.await.expect("no panic"));
    }
    kinds
}

#[tokio::test(start_paused = true)]
async fn waits_that_end_together_agree_whether_the_storage_answers() {
    let (locks, controls) = broken(&Memory::new());
    let guard = take(&locks, "x", s(60)).await;
    let kinds = end_many_waits_together(&locks).await;
    assert!(kinds.iter().all(|kind| *kind == ErrorKind::Contended), "{kinds:?}");
    for fault in [Fault::Fail, Fault::Hang] {
        controls.always(Verb::Acquire, fault);
        let kinds = end_many_waits_together(&locks).await;
        assert!(kinds.iter().all(|kind| *kind == ErrorKind::Unavailable), "{fault:?}: {kinds:?}");
    }
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_wait_behind_another_one_without_an_answer_ends_unavailable() {
    let (locks, controls) = broken(&Memory::new());
    controls.always(Verb::Acquire, Fault::Fail);
    let (longer, shorter) = (locks.lock("x").wait(s(5)), locks.lock("x").wait(s(4)));
    let (ahead, behind) = tokio::join!(longer.acquire(), shorter.acquire());
    let kinds = [ahead, behind].map(|answer| answer.expect_err("no answer comes").kind());
    assert_eq!(kinds, [ErrorKind::Unavailable; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_leave_its_lane_ends_unavailable() {
    let (locks, controls) = broken(&Memory::new());
    controls.always(Verb::Acquire, Fault::Hang);
    let other = locks.lock("x");
    let stuck = tokio::spawn(async move { other.acquire().await.map(drop) });
    settle().await;
    let error = locks.lock("y").wait(ms(100)).acquire().await.expect_err("the lane is taken");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    stuck.abort();
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_not_announced_as_waiting() {
    let (locks, controls) = broken(&Memory::new());
    controls.always(Verb::Acquire, Fault::Fail);
    let (mut events, lock) = (locks.events(), locks.lock("x"));
    let asking = tokio::spawn(async move { lock.acquire().await.map(drop) });
    let first = timeout(s(5), events.next()).await;
    assert!(matches!(first, Ok(Some(Event::ClaimFailed { .. }))), "{first:?}");
    let next = timeout(s(5), events.next()).await;
    assert!(next.is_err(), "told once, and no holder is known: {next:?}");
    asking.abort();
}

#[tokio::test(start_paused = true)]
async fn an_outage_causes_one_event_for_each_lock() {
    let (locks, controls) = broken(&Memory::new());
    let mut guards = Vec::new();
    for i in 0..100 {
        guards.push(take(&locks, &i.to_string(), s(30)).await);
    }
    let mut events = locks.events();
    controls.always(Verb::Renew, Fault::Fail);
    sleep(s(31)).await;
    let (mut failed, mut lost) = (0, 0);
    while lost < guards.len() {
        match events.next().await.expect("the engine runs") {
            Event::RenewFailed { .. } => failed += 1,
            Event::Lost { .. } => lost += 1,
            other => panic!("unexpected: {other:?}"),
        }
    }
    assert_eq!(failed, guards.len());
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_being_closed_accepts_no_observer() {
    let (locks, controls) = broken(&Memory::new());
    let guard = take(&locks, "x", s(10)).await;
    controls.always(Verb::Release, Fault::Hang);
    let closing = locks.clone();
    let closing = tokio::spawn(async move { closing.close().await });
    settle().await;
    assert_eq!(locks.observe("x").expect_err("the client is being closed").kind(), ErrorKind::Closed);
    assert!(!closing.is_finished(), "the release hangs");
    controls.heal();
    closing.await.expect("no panic").expect("every release was confirmed");
    drop(guard);
}
