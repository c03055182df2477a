//! What a caller observes when answers get lost, come late or never come. Time is paused, and faults are
//! injected.

use std::time::Duration;

use leasehold::storage::{Claim, Memory, Storage};
use leasehold::{ErrorKind, Event, Locks, Lost, Name, Owner, Renewal};
use leasehold_conformance::{Chaos, Controls, Fault, Verb};
use tokio::time::{Instant, sleep};

const TTL: Duration = Duration::from_secs(10);

fn client(memory: &Memory) -> (Locks, Controls) {
    let chaos = Chaos::new(memory.clone());
    let controls = chaos.controls();
    let locks = Locks::builder().ttl(TTL).on_current_runtime().build(chaos).expect("memory promises enough");
    (locks, controls)
}

#[tokio::test(start_paused = true)]
async fn a_release_whose_answer_was_lost_is_repeated_and_ok() {
    let (locks, controls) = client(&Memory::new());
    let guard = locks.lock("x").acquire().await.expect("free");
    controls.next(Verb::Release, 1, Fault::LoseReply);
    guard.release().await.expect("it was held until then");
    assert_eq!(controls.calls(Verb::Release), 2);
}

#[tokio::test(start_paused = true)]
async fn a_release_without_an_answer_is_unavailable_in_time_and_goes_on() {
    let memory = Memory::new();
    let (locks, controls) = client(&memory);
    let guard = locks.lock("x").acquire().await.expect("free");
    controls.always(Verb::Release, Fault::Fail);
    let start = Instant::now();
    let error = guard.release().await.expect_err("the storage does not answer");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() <= Duration::from_millis(5_100), "{:?}", start.elapsed());
    assert!(!locks.inspect("x").await.expect("memory answers").is_empty(), "not released yet");
    controls.heal();
    sleep(Duration::from_secs(1)).await;
    assert!(locks.inspect("x").await.expect("memory answers").is_empty(), "released in the background");
}

#[tokio::test(start_paused = true)]
async fn a_release_after_a_break_is_lost() {
    let memory = Memory::new();
    let (locks, _) = client(&memory);
    let (other, _) = client(&memory);
    let guard = locks.lock("x").acquire().await.expect("free");
    other.break_lock("x").await.expect("memory answers").pop().expect("held");
    let error = guard.release().await.expect_err("broken");
    assert_eq!((error.kind(), error.lost()), (ErrorKind::Lost, Some(Lost::Taken)));
}

#[tokio::test(start_paused = true)]
async fn a_silent_storage_loses_the_lock_at_the_deadline_and_not_before() {
    let (locks, controls) = client(&Memory::new());
    let mut events = locks.events();
    let guard = locks.lock("x").acquire().await.expect("free");
    controls.always(Verb::Renew, Fault::Hang);
    let start = Instant::now();
    assert_eq!(guard.lost().await, Lost::Expired);
    let held = start.elapsed();
    assert!(held > TTL - Duration::from_millis(150) && held < TTL, "{held:?}");
    let mut at_risk = 0;
    while let Some(event) = events.next().await {
        match event {
            Event::RenewFailed { .. } => at_risk += 1,
            Event::Lost { .. } => break,
            _ => {}
        }
    }
    assert_eq!(at_risk, 1, "one event for the whole outage");
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_loses_nothing() {
    let (locks, controls) = client(&Memory::new());
    let guard = locks.lock("x").acquire().await.expect("free");
    controls.always(Verb::Renew, Fault::Fail);
    sleep(TTL * 4 / 5).await;
    assert!(guard.is_held());
    controls.heal();
    sleep(TTL * 3).await;
    guard.release().await.expect("held without a gap");
}

#[tokio::test(start_paused = true)]
async fn a_frozen_waiter_at_the_queue_head_delays_the_next_only_until_its_entry_expires() {
    let memory = Memory::new();
    let (locks, _) = client(&memory);
    let name = Name::new("x").expect("valid");
    let holder = [Claim::new(name.clone(), Owner::random(), TTL)];
    let frozen = [Claim::new(name, Owner::random(), TTL).wait(true)];
    memory.acquire(&holder).await;
    // Sends one claim, and never another.
    memory.acquire(&frozen).await;
    memory.release(&holder).await;
    let start = Instant::now();
    let _guard = locks.lock("x").acquire().await.expect("granted when the entry has expired");
    let waited = start.elapsed();
    assert!(waited > Duration::from_secs(4) && waited <= Duration::from_millis(8_100), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_hangs_ends_when_the_wait_does() {
    let (locks, controls) = client(&Memory::new());
    controls.always(Verb::Acquire, Fault::Hang);
    let start = Instant::now();
    let error = locks.lock("x").try_acquire().await.expect_err("the storage does not answer");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() <= Duration::from_millis(4_100), "{:?}", start.elapsed());
    let start = Instant::now();
    let error = locks
        .lock("x")
        .wait(Duration::from_secs(2))
        .acquire()
        .await
        .expect_err("the storage does not answer");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(start.elapsed() <= Duration::from_millis(2_100), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn without_renewal_a_hint_renews_nothing() {
    let memory = Memory::new();
    let (locks, controls) = client(&memory);
    let guard = locks.lock("x").renewal(Renewal::Never).acquire().await.expect("free");
    let mut changes = locks.observe("x").expect("valid");
    changes.next().await.expect("seen");
    // A release of this owner's queue entry by another client sends the owner a hint without cause.
    memory.release(&[Claim::new(Name::new("y").expect("valid"), guard.owner(), TTL)]).await;
    sleep(TTL / 2).await;
    assert_eq!(controls.calls(Verb::Renew), 0);
    assert!(guard.is_held());
}
