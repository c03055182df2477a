//! Leases of hours and of milliseconds in one client: neither delays or shortens the other.

use leasehold::storage::Memory;
use leasehold::{ErrorKind, Locks};
use leasehold_conformance::{Fault, Verb};
use tokio::time::{sleep, timeout};

use crate::{broken, ms, s, take};

#[tokio::test(start_paused = true)]
async fn a_hung_renewal_of_a_long_lease_does_not_cost_a_short_one() {
    let (locks, controls) = broken(&Memory::new());
    let (long, short) = (take(&locks, "long", s(3600)).await, take(&locks, "short", s(2)).await);
    controls.next(Verb::Renew, 1, Fault::Hang);
    let (extended, ()) = tokio::join!(long.extend(s(3600)), sleep(s(6)));
    assert_eq!(extended.expect_err("the renewal hangs").kind(), ErrorKind::Unavailable);
    assert!(long.is_held());
    assert!(short.is_held(), "its renewals waited for the one that hangs");
}

#[tokio::test(start_paused = true)]
async fn a_claim_for_a_short_ttl_does_not_limit_the_answer_to_one_for_a_long_ttl() {
    let (locks, controls) = broken(&Memory::new());
    controls.always(Verb::Acquire, Fault::Delay(ms(60)));
    let (long, short) = (locks.lock("long").ttl(s(10)), locks.lock("short").ttl(ms(100)));
    let (long, short) = tokio::join!(long.try_acquire(), short.try_acquire());
    assert!(long.expect("60 ms is soon enough for 10 s").is_some());
    assert_eq!(short.expect_err("60 ms is too late for 100 ms").kind(), ErrorKind::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn short_leases_do_not_starve_the_renewals_of_long_ones() {
    let (locks, controls) = broken(&Memory::new());
    controls.always(Verb::Renew, Fault::Delay(ms(60)));
    let long = take(&locks, "long", s(3)).await;
    let takers: Vec<_> = (0..20).map(|i| tokio::spawn(take_and_lose(locks.clone(), i))).collect();
    let lost = timeout(s(120), long.lost()).await;
    assert!(lost.is_err(), "a renewal takes 60 ms and the lease 3 s: {lost:?}");
    takers.iter().for_each(tokio::task::JoinHandle::abort);
}

/// Acquires a lock again and again, each time with a TTL too short to be renewed.
async fn take_and_lose(locks: Locks, i: u64) {
    sleep(ms(i * 7)).await;
    let lock = locks.lock(format!("short {i}")).ttl(ms(300));
    loop {
        if let Ok(guard) = lock.acquire().await {
            guard.lost().await;
        }
    }
}
