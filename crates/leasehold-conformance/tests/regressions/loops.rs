//! The engine never polls in a busy loop, however short an interval is or however fast the storage answers.

use std::time::Duration;

use leasehold::storage::Memory;
use leasehold::{Renewal, blocking};
use leasehold_conformance::{Chaos, Fault, Verb};
use tokio::time::sleep;

use crate::{broken, client, ends, in_the_end, ms, s, take};

#[tokio::test(start_paused = true)]
async fn a_lease_is_renewed_as_often_as_its_interval_says() {
    let (locks, controls) = broken(&Memory::new());
    controls.always(Verb::Renew, Fault::Delay(ms(1)));
    let lock = locks.lock("x").ttl(s(3600)).renewal(Renewal::Every(s(1)));
    let guard = lock.acquire().await.expect("free");
    sleep(s(36)).await;
    let renewals = controls.calls(Verb::Renew);
    assert!((30..50).contains(&renewals), "36 s at one per second took {renewals} renewals");
    assert!(guard.is_held());
}

#[test]
fn renewals_over_a_storage_that_answers_at_once_are_not_a_busy_loop() {
    in_the_end(async {
        let locks = client(Memory::new());
        let lock = locks.lock("x").ttl(s(86_400)).renewal(Renewal::Every(s(10)));
        let guard = lock.acquire().await.expect("free");
        sleep(s(60)).await;
        assert!(guard.is_held());
    });
}

#[test]
fn an_engine_on_its_own_thread_is_idle_between_renewals() {
    ends(|| {
        let chaos = Chaos::new(Memory::new());
        let controls = chaos.controls();
        let locks = blocking::Locks::new(chaos);
        let lock = locks.lock("x").ttl(s(86_400)).renewal(Renewal::Every(s(60)));
        let guard = lock.acquire().expect("free");
        locks.lock("x").wait(ms(300)).acquire().expect_err("it is held");
        assert!(controls.calls(Verb::Renew) < 3, "a minute has not passed");
        guard.release().expect("held");
    });
}

#[test]
fn polling_with_an_interval_of_zero_lets_the_holder_release() {
    in_the_end(async {
        let memory = Memory::new();
        let (locks, other) = (client(memory.clone()), client(memory));
        let guard = take(&locks, "x", s(10)).await;
        let asking = tokio::spawn(async move {
            other.lock("x").retries(u32::MAX).interval(Duration::ZERO).acquire().await.is_ok()
        });
        sleep(ms(10)).await;
        guard.release().await.expect("held");
        assert!(asking.await.expect("no panic"));
    });
}

#[test]
fn polling_with_an_interval_of_zero_does_not_delay_other_locks_of_the_client() {
    ends(|| {
        let memory = Memory::new();
        let locks = blocking::Locks::new(memory.clone());
        let chaos = Chaos::new(memory);
        let controls = chaos.controls();
        let asking = blocking::Locks::new(chaos);
        let guard = locks.lock("x").acquire().expect("free");
        let busy = asking.clone();
        let thread = std::thread::spawn(move || {
            busy.lock("x").retries(u32::MAX).interval(Duration::ZERO).acquire().is_ok()
        });
        while controls.calls(Verb::Acquire) < 10 {
            std::thread::yield_now();
        }
        asking.lock("other").acquire().expect("free").release().expect("held");
        guard.release().expect("held");
        assert!(thread.join().expect("no panic"), "granted once it was free");
    });
}

#[test]
fn polling_with_an_interval_of_zero_is_not_a_busy_loop() {
    in_the_end(async {
        let memory = Memory::new();
        let ((locks, controls), holder) = (broken(&memory), client(memory));
        let guard = take(&holder, "x", s(10)).await;
        let lock = locks.lock("x").retries(u32::MAX).interval(Duration::ZERO);
        let asking = tokio::spawn(async move { lock.acquire().await.is_ok() });
        sleep(ms(100)).await;
        let asked = controls.calls(Verb::Acquire);
        assert!((50..=102).contains(&asked), "{asked} claims in 100 ms");
        guard.release().await.expect("held");
        assert!(asking.await.expect("no panic"));
    });
}
