//! A silent storage: waiters behind another waiter get the error as early, and silence is never taken for
//! contention.

use leasehold::storage::Memory;
use leasehold::{ErrorKind, Event};
use leasehold_conformance::{Fault, Verb};
use tokio::time::{Instant, sleep, timeout};

use crate::{broken, ms, s, settle, take};

#[tokio::test(start_paused = true)]
async fn those_who_wait_behind_one_another_learn_together_that_the_storage_is_silent() {
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
    assert!(start.elapsed() < s(45), "one after the other, for {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_wait_without_a_limit_ends_with_the_silence_also_behind_waits_with_one() {
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
    assert!(start.elapsed() < s(45), "behind the others, after {:?}", start.elapsed());
    ahead.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Many waits of one lock whose limits end at about the same time, over several TTLs. Returns the kinds of their errors.
async fn limits_that_end_together(locks: &leasehold::Locks) -> Vec<ErrorKind> {
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
async fn limits_that_end_together_say_alike_whether_the_storage_answers() {
    let (locks, controls) = broken(&Memory::new());
    let guard = take(&locks, "x", s(60)).await;
    let kinds = limits_that_end_together(&locks).await;
    assert!(kinds.iter().all(|kind| *kind == ErrorKind::Contended), "{kinds:?}");
    for fault in [Fault::Fail, Fault::Hang] {
        controls.always(Verb::Acquire, fault);
        let kinds = limits_that_end_together(&locks).await;
        assert!(kinds.iter().all(|kind| *kind == ErrorKind::Unavailable), "{fault:?}: {kinds:?}");
    }
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn waiting_behind_one_who_gets_no_answer_ends_unavailable() {
    let (locks, controls) = broken(&Memory::new());
    controls.always(Verb::Acquire, Fault::Fail);
    let (longer, shorter) = (locks.lock("x").wait(s(5)), locks.lock("x").wait(s(4)));
    let (ahead, behind) = tokio::join!(longer.acquire(), shorter.acquire());
    let kinds = [ahead, behind].map(|answer| answer.expect_err("no answer comes").kind());
    assert_eq!(kinds, [ErrorKind::Unavailable; 2]);
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_never_left_ends_unavailable() {
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
    let event = timeout(s(5), events.next()).await;
    assert!(event.is_err(), "no holder is known: {event:?}");
    asking.abort();
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_news_once_for_each_lock() {
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
async fn a_client_that_closes_cannot_be_observed_any_more() {
    let (locks, controls) = broken(&Memory::new());
    let guard = take(&locks, "x", s(10)).await;
    controls.always(Verb::Release, Fault::Hang);
    let closing = locks.clone();
    let closing = tokio::spawn(async move { closing.close().await });
    settle().await;
    assert_eq!(locks.observe("x").expect_err("it closes").kind(), ErrorKind::Closed);
    assert!(!closing.is_finished(), "the release hangs");
    controls.heal();
    closing.await.expect("no panic").expect("every release was confirmed");
    drop(guard);
}
