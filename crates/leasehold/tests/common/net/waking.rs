//! Waiters, and the connection that wakes them.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use leasehold::Locks;
use leasehold::storage::{Claim, Hint, ReleaseReply, WAITER_HEARTBEAT};
use leasehold_faultproxy::{Flow, To, Trap, Which};
use tokio::time::Instant;

use crate::tools::*;

/// A release while the subscription of whoever waits has no answer yet.
pub(crate) async fn release_before_the_subscription() {
    let (proxy, through, direct) = proxied(common()).await;
    let held_back = proxy.faults().arm(Trap::on_request(SUBSCRIBE).hold_reply());
    let (holder, waiter) = (client(&direct).await, client(&through).await);
    let guard = hold(&holder, "job", LONG).await;
    let waiting = waiting(waiter.lock("job"));
    waiters(&holder, "job", 1).await;
    let on = within(LONG, held_back.sprung()).await.expect("it listens");
    guard.release().await.expect("released");
    proxy.faults().resume(Which::One(on));
    // Nobody could be told, and yet nobody waits for longer than it takes to look once more.
    let limit = WAITER_HEARTBEAT + time(1_000);
    let _ = within(limit, waiting).await.expect("no panic").expect("granted");
}

/// A connection that says nothing any more, to a storage that listens to it.
pub(crate) async fn silent_notifications() {
    let (proxy, through, direct) = proxied(common()).await;
    let subscribed = proxy.faults().arm(Trap::on_request(SUBSCRIBE));
    let (storage, mut hints) = listening(&through).await;
    let holder = client(&direct).await;
    let guard = hold(&holder, "job", LONG).await;
    let mine = claim("job").wait(true);
    is_held(&storage, &mine).await;

    let notifications = within(LONG, subscribed.passed()).await.expect("it listens");
    proxy.faults().flow_both(Which::One(notifications), Flow::BlackHole);
    let since = Instant::now();
    // Its client is there, so it keeps its place; it hears nothing.
    guard.release().await.expect("released");
    assert_eq!(within(LONG, hints.next()).await, Some(Hint::Any));
    let noticed = since.elapsed();
    take(&storage, &mine).await;
    assert!(noticed < 3 * WAITER_HEARTBEAT + time(1_000), "{noticed:?}");
}

/// A connection that says nothing any more, to an engine that must not wait for it for longer than that.
pub(crate) async fn waiter_behind_silent_notifications(limit: Duration) {
    let (proxy, through, direct) = proxied(common()).await;
    let subscribed = proxy.faults().arm(Trap::on_request(SUBSCRIBE));
    let (holder, waiter) = (client(&direct).await, client(&through).await);
    let guard = hold(&holder, "job", LONG).await;
    let waiting = waiting(waiter.lock("job"));
    let notifications = within(LONG, subscribed.passed()).await.expect("it listens");
    waiters(&holder, "job", 1).await;
    proxy.faults().flow(Which::One(notifications), To::Client, Flow::BlackHole);
    guard.release().await.expect("released");
    let _ = within(limit, waiting).await.expect("no panic").expect("granted");
}

/// Clients that take a lock in turns while those who wake them are disturbed, each until `is_enough` of its turns.
pub(crate) async fn disturbed_handovers(url: &str, clients: u32, is_enough: impl Fn(u32) -> bool) {
    let mut workers = Vec::new();
    for _ in 0..clients {
        let (locks, is_enough) = (client(url).await, &is_enough);
        workers.push(async move {
            let (mut longest, mut turns) = (Duration::ZERO, 0);
            while !is_enough(turns) {
                turns += 1;
                let since = Instant::now();
                let guard = locks.lock("job").acquire().await.expect("granted");
                longest = std::cmp::max(longest, since.elapsed());
                guard.release().await.expect("released");
            }
            longest
        });
    }
    let longest = within(LONG, join_all(workers)).await.into_iter().max().expect("some");
    // Whoever is not told looks by itself, each of those before it too.
    let limit = clients * WAITER_HEARTBEAT + time(1_000);
    assert!(longest < limit, "{longest:?}");
}

/// Who waits without an engine: what it hears, and its claim.
pub(crate) type Waiter = (Bare, Hints, Claim);

/// So many that wait for the lock `job`, in this order.
pub(crate) async fn crowd(url: &str, waiting: usize) -> Vec<Waiter> {
    // One connection would do for all of them; a client each is what many processes are.
    let mut crowd = Vec::new();
    for _ in 0..waiting {
        let (storage, hints) = listening(url).await;
        let mine = claim("job").wait(true);
        is_held(&storage, &mine).await;
        crowd.push((storage, hints, mine));
    }
    crowd
}

/// Each of these is told, takes the lock and releases it.
pub(crate) async fn have_their_turns(waiters: &mut [Waiter]) {
    for (storage, hints, mine) in waiters {
        assert_eq!(within(LONG, hints.next()).await, Some(Hint::Owner(mine.owner)));
        take(storage, mine).await;
        assert_eq!(release(storage, mine).await.expect("answered"), ReleaseReply::Released);
    }
}

/// None of these was woken: not one message waits anywhere.
pub(crate) async fn were_not_woken(waiters: &mut [Waiter]) {
    for (_, hints, _) in waiters {
        assert_eq!(futures_util::future::poll_immediate(hints.next()).await, None);
    }
}

/// A crowd of engines, of which each gets its turn; `asked` counts the claims that the server has seen. Each may ask
/// so much more often than twice.
pub(crate) async fn engines_in_a_crowd(url: &str, waiting: u64, more: u64, asked: impl Fn() -> u64) {
    let holder = client(url).await;
    let guard = hold(&holder, "job", LONG).await;
    let mut clients = Vec::new();
    let mut turns = Vec::new();
    for _ in 0..waiting {
        let locks = client(url).await;
        let lock = locks.lock("job");
        turns.push(async move { lock.acquire().await.expect("granted").release().await });
        clients.push(locks);
    }
    let all = tokio::spawn(join_all(turns));
    waiters(&holder, "job", waiting).await;
    let before = asked();
    let since = Instant::now();
    guard.release().await.expect("released");
    for turn in within(LONG, all).await.expect("no panic") {
        turn.expect("released");
    }
    let (took, asked) = (since.elapsed(), asked() - before);
    // Each asks when it is told, and every so often by itself.
    let beats = waiting * (more + took.as_secs() / WAITER_HEARTBEAT.as_secs());
    assert!(asked <= 2 * waiting + beats, "{asked} claims for {waiting} handovers in {took:?}");
    drop(clients);
}

/// A holder that is gone, and whose lease is over; somebody else has it so soon after that.
pub(crate) async fn dead_holder(limit: Duration) {
    let url = own(&common().url());
    let ttl = time(1_000);
    let dead = bare(&url).await;
    let mut held = claim("job");
    held.ttl = ttl;
    let since = Instant::now();
    take(&dead, &held).await;
    drop(dead);
    let live = client(&url).await;
    let guard = live.lock("job").acquire().await.expect("granted");
    let took = since.elapsed();
    assert!(took >= ttl && took < ttl + limit, "{took:?}");
    guard.release().await.expect("released");
}

/// Clients that give up waiting after so many microseconds at the most, until each was granted so often; then they are
/// closed.
pub(crate) async fn leaving_waiters(url: &str, clients: u64, grants: u32, longest: u64) {
    let mut workers = Vec::new();
    let mut all: Vec<Locks> = Vec::new();
    for worker in 0..clients {
        let locks = client(url).await;
        all.push(locks.clone());
        workers.push(tokio::spawn(async move {
            let mut random = Random(worker);
            let mut granted = 0;
            while granted < grants {
                let patience = Duration::from_micros(random.below(longest));
                let lock = locks.lock("job");
                let taking = lock.acquire();
                // Left alone in one of three cases.
                let guard = if random.below(3) == 0 {
                    Some(taking.await.expect("granted"))
                } else {
                    tokio::time::timeout(patience, taking).await.ok().map(|guard| guard.expect("granted"))
                };
                if let Some(guard) = guard {
                    granted += 1;
                    guard.release().await.expect("released");
                }
            }
        }));
    }
    for worker in within(LONG, join_all(workers)).await {
        worker.expect("no panic");
    }
    for locks in all {
        locks.close().await.expect("closed");
    }
}

/// Two clients that take a lock in turns, so often each; then they are closed.
pub(crate) async fn handovers_of_two(url: &str, turns: u32) {
    let (a, b) = (client(url).await, client(url).await);
    let take_turns = |locks: Locks| async move {
        for _ in 0..turns {
            locks.lock("job").acquire().await.expect("granted").release().await.expect("released");
        }
    };
    within(LONG, join(take_turns(a.clone()), take_turns(b.clone()))).await;
    a.close().await.expect("closed");
    b.close().await.expect("closed");
}
