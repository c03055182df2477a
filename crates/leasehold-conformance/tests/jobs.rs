//! Jobs that several machines start at about the same time, and that run once.

use std::time::Duration;

use futures_util::future::join_all;
use leasehold::storage::{Memory, Storage};
use leasehold::{ErrorKind, Event, Guard, Holder, Locks, Lost, Name};
use leasehold_conformance::{Chaos, Controls, Fault, Verb};
use tokio::time::{sleep, sleep_until, timeout};

const TTL: Duration = Duration::from_secs(10);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn client(memory: &Memory) -> Locks {
    faulty(memory).0
}

fn faulty(memory: &Memory) -> (Locks, Controls) {
    let chaos = Chaos::new(memory.clone());
    let controls = chaos.controls();
    (Locks::builder().ttl(TTL).on_current_runtime().build(chaos).expect("memory promises enough"), controls)
}

async fn holder(memory: &Memory) -> Option<Holder> {
    memory.inspect(&Name::new("job").expect("valid")).await.expect("memory answers").pop()
}

/// Checks that the lock is held for `rest` more, give or take a tenth of a second.
async fn is_kept_for(memory: &Memory, rest: Duration) {
    sleep(SECOND / 20).await;
    let remaining = holder(memory).await.expect("the lease is kept").remaining;
    assert!(remaining <= rest && remaining + SECOND / 10 >= rest, "{remaining:?} of {rest:?}");
}

/// Shorter than the TTL, as long, and longer.
const MINIMA: [Duration; 3] = [Duration::from_secs(5), TTL, MINUTE];

#[tokio::test(start_paused = true)]
async fn a_release_before_the_minimum_is_over_leaves_the_lease_until_then() {
    for minimum in MINIMA {
        let memory = Memory::new();
        let (locks, other) = (client(&memory), client(&memory));
        let mut events = locks.events();
        let guard = locks.lock("job").at_least(minimum).acquire().await.expect("free");
        let token = guard.token();
        sleep(SECOND).await;
        guard.release().await.expect("it was held until now");
        is_kept_for(&memory, minimum - SECOND).await;
        assert!(locks.held().is_empty(), "no guard is left");
        let next = other.lock("job").wait(minimum).acquire().await.expect("it ends with the minimum");
        assert!(next.token() > token);
        let released = |event: &Event| matches!(event, Event::Released { held, .. } if *held >= SECOND && *held < SECOND * 2);
        while !released(&events.next().await.expect("the release is told")) {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_minimum_counts_when_the_guard_is_dropped_and_when_the_client_is_closed() {
    for minimum in MINIMA {
        let memory = Memory::new();
        let locks = client(&memory);
        drop(locks.lock("job").at_least(minimum).acquire().await.expect("free"));
        locks.close().await.expect("memory answers");
        is_kept_for(&memory, minimum).await;

        let memory = Memory::new();
        let locks = client(&memory);
        let guard = locks.lock("job").at_least(minimum).acquire().await.expect("free");
        locks.close().await.expect("memory answers");
        assert_eq!(guard.lost().await, Lost::Closed);
        is_kept_for(&memory, minimum).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_left_to_its_ticket_lasts_until_the_minimum_is_over() {
    for minimum in MINIMA {
        for leave in [Guard::forget, |guard: Guard| drop(guard.into_ticket())] {
            let memory = Memory::new();
            let locks = client(&memory);
            let guard = locks.lock("job").at_least(minimum).acquire().await.expect("free");
            sleep(SECOND).await;
            leave(guard);
            is_kept_for(&memory, std::cmp::max(minimum - SECOND, TTL)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_release_after_the_minimum_frees_the_lock_at_once() {
    let memory = Memory::new();
    let (locks, controls) = faulty(&memory);
    let guard = locks.lock("job").at_least(SECOND).acquire().await.expect("free");
    sleep(SECOND).await;
    guard.release().await.expect("held");
    assert!(holder(&memory).await.is_none());
    assert_eq!((controls.calls(Verb::Renew), controls.calls(Verb::Release)), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn what_no_caller_got_is_given_back_at_once() {
    let memory = Memory::new();
    let ((locks, controls), other) = (faulty(&memory), client(&memory));
    let lock = locks.lock("job").at_least(MINUTE);
    controls.next(Verb::Acquire, 1, Fault::DelayReply(SECOND));
    assert!(timeout(SECOND / 2, lock.acquire()).await.is_err(), "the caller leaves while it is granted");
    sleep(SECOND).await;
    assert!(holder(&memory).await.is_none(), "no work has run");

    let blocked = other.lock("later").acquire().await.expect("free");
    let all = locks.all([lock, locks.lock("later")]);
    assert!(all.try_acquire().await.expect("memory answers").is_none());
    assert!(timeout(SECOND, all.acquire()).await.is_err(), "the other one is held");
    sleep(SECOND).await;
    assert!(holder(&memory).await.is_none(), "no work has run");
    drop(blocked);
    drop(all.acquire().await.expect("free"));
    is_kept_for(&memory, MINUTE).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_is_to_be_kept_is_asked_for_until_the_storage_answers() {
    let memory = Memory::new();
    let (locks, controls) = faulty(&memory);
    let guard = locks.lock("job").at_least(MINUTE).acquire().await.expect("free");
    controls.next(Verb::Renew, 3, Fault::LoseReply);
    let start = tokio::time::Instant::now();
    guard.release().await.expect("held until now");
    is_kept_for(&memory, MINUTE - start.elapsed()).await;

    let memory = Memory::new();
    let (locks, controls) = faulty(&memory);
    let guard = locks.lock("job").at_least(MINUTE).acquire().await.expect("free");
    controls.always(Verb::Renew, Fault::Hang);
    let error = guard.release().await.expect_err("no answer comes");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // A request that is executed late keeps it for longer.
    controls.heal();
    sleep(SECOND).await;
    let remaining = holder(&memory).await.expect("the lease is kept").remaining;
    assert!((MINUTE - SECOND * 7..=MINUTE).contains(&remaining), "{remaining:?}");
}

#[tokio::test(start_paused = true)]
async fn a_renewal_in_flight_is_not_taken_for_the_one_that_keeps_the_lease() {
    let memory = Memory::new();
    let (locks, controls) = faulty(&memory);
    let guard = locks.lock("job").at_least(MINUTE).acquire().await.expect("free");
    controls.next(Verb::Renew, 1, Fault::DelayReply(SECOND / 2));
    controls.next(Verb::Renew, 1, Fault::Delay(SECOND));
    let renewing = timeout(SECOND / 10, guard.ensure(TTL - SECOND / 2)).await;
    drop(renewing);
    sleep(TTL / 3).await;
    let start = tokio::time::Instant::now();
    guard.release().await.expect("held");
    assert!(start.elapsed() >= SECOND, "answered by the other renewal after {:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_shorter_ttl_ends_no_lease_before_the_minimum_is_over() {
    let memory = Memory::new();
    let locks = client(&memory);
    let guard = locks.lock("job").at_least(MINUTE).acquire().await.expect("free");
    guard.extend(SECOND / 2).await.expect("held");
    guard.release().await.expect("held");
    is_kept_for(&memory, MINUTE).await;

    // The request for the shorter TTL is executed after the one that keeps the lease.
    let memory = Memory::new();
    let (locks, controls) = faulty(&memory);
    let guard = locks.lock("job").at_least(MINUTE).acquire().await.expect("free");
    controls.next(Verb::Renew, 1, Fault::Delay(SECOND * 2));
    assert!(timeout(SECOND / 10, guard.extend(SECOND * 3)).await.is_err(), "not answered yet");
    guard.release().await.expect("held");
    sleep(SECOND * 10).await;
    assert!(holder(&memory).await.is_some(), "kept, whatever was executed late");

    // A process that dies before a release leaves the lease of its former TTL.
    let memory = Memory::new();
    let locks = client(&memory);
    let guard = locks.lock("job").ttl(MINUTE).at_least(MINUTE).acquire().await.expect("free");
    guard.extend(SECOND / 2).await.expect("held");
    sleep(SECOND / 20).await;
    let remaining = holder(&memory).await.expect("held").remaining;
    assert!(remaining > MINUTE - SECOND, "{remaining:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_was_broken_is_lost_and_not_kept() {
    let memory = Memory::new();
    let (locks, other) = (client(&memory), client(&memory));
    let guard = locks.lock("job").at_least(MINUTE).acquire().await.expect("free");
    other.break_lock("job").await.expect("memory answers");
    let error = guard.release().await.expect_err("it was broken");
    assert_eq!(error.kind(), ErrorKind::Lost);
    sleep(SECOND).await;
    assert!(holder(&memory).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_hangs_ends_with_the_maximum() {
    let memory = Memory::new();
    let locks = client(&memory);
    let job = locks.lock("job").at_least(SECOND).max_hold(MINUTE);
    let start = tokio::time::Instant::now();
    let error = job.try_run(async |_| std::future::pending::<()>().await).await.expect_err("it hangs");
    assert_eq!((error.kind(), error.lost()), (ErrorKind::Lost, Some(Lost::MaxHold)));
    assert!(start.elapsed() <= MINUTE && start.elapsed() > MINUTE - SECOND, "{:?}", start.elapsed());
    sleep(SECOND / 10).await;
    assert!(holder(&memory).await.is_none(), "the next one may run");
}

/// Five machines, whose clocks differ by a minute, start a job that takes a second, every ten minutes by their clocks.
#[tokio::test(start_paused = true)]
async fn machines_whose_clocks_differ_run_each_tick_once() {
    const MACHINES: u32 = 5;
    const TICKS: u32 = 20;
    let memory = Memory::new();
    let begin = tokio::time::Instant::now() + MINUTE;
    let machines = (0..MACHINES).map(|machine| {
        let locks = client(&memory);
        async move {
            let mut ran = Vec::new();
            for tick in 0..TICKS {
                // Each tick another machine is the first.
                let off = MINUTE / (MACHINES - 1) * ((machine + tick) % MACHINES);
                sleep_until(begin + MINUTE * 10 * tick + off).await;
                let job = locks.lock("job").at_least(MINUTE * 2);
                let done = job.try_run(async |_| sleep(SECOND).await).await.expect("memory answers");
                ran.extend(done.map(|()| tick));
            }
            ran
        }
    });
    let mut ran = join_all(machines).await.concat();
    ran.sort_unstable();
    assert_eq!(ran, (0..TICKS).collect::<Vec<_>>(), "each tick runs once");
}
