//! Waiters, and the connection through which they are woken.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use leasehold::Locks;
use leasehold::storage::{Claim, Hint, ReleaseReply, WAITER_HEARTBEAT};
use leasehold_faultproxy::{Flow, To, Trap, Which};
use tokio::time::Instant;

use crate::tools::*;

/// Releases a lock before the waiter's subscription is answered.
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
    // No hint could reach the waiter. It asks again on its heartbeat.
    let limit = WAITER_HEARTBEAT + time(1_000);
    let _ = within(limit, waiting).await.expect("no panic").expect("granted");
}

/// Silences the connection for notifications of a storage. It must notice, and hint everything.
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
    // The waiter's entry stays, but the hint does not reach it.
    guard.release().await.expect("released");
    assert_eq!(within(LONG, hints.next()).await, Some(Hint::Any));
    let noticed = since.elapsed();
    take(&storage, &mine).await;
    assert!(noticed < 3 * WAITER_HEARTBEAT + time(1_000), "{noticed:?}");
}

/// Silences the connection for notifications of an engine. Its waiter must be granted the lock within the limit.
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

/// Has clients acquire a lock in turns while their notifications are disturbed, each until `is_enough` of its turns.
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
    // A client that gets no hint asks on its heartbeat, and so does each one before it.
    let limit = clients * WAITER_HEARTBEAT + time(1_000);
    assert!(longest < limit, "{longest:?}");
}

/// A waiter without an engine: its storage, its hints and its claim.
pub(crate) type Waiter = (Bare, Hints, Claim);

/// Returns so many waiters for the lock `job`, in the order of the queue.
pub(crate) async fn crowd(url: &str, waiting: usize) -> Vec<Waiter> {
    // Each waiter has a client of its own, as many processes would have.
    let mut crowd = Vec::new();
    for _ in 0..waiting {
        let (storage, hints) = listening(url).await;
        let mine = claim("job").wait(true);
        is_held(&storage, &mine).await;
        crowd.push((storage, hints, mine));
    }
    crowd
}

/// Checks that each waiter is hinted. It then acquires and releases the lock.
pub(crate) async fn have_their_turns(waiters: &mut [Waiter]) {
    for (storage, hints, mine) in waiters {
        assert_eq!(within(LONG, hints.next()).await, Some(Hint::Owner(mine.owner)));
        take(storage, mine).await;
        assert_eq!(release(storage, mine).await.expect("answered"), ReleaseReply::Released);
    }
}

/// Checks that no waiter was woken: no hint is ready.
pub(crate) async fn were_not_woken(waiters: &mut [Waiter]) {
    for (_, hints, _) in waiters {
        assert_eq!(futures_util::future::poll_immediate(hints.next()).await, None);
    }
}

/// Has a crowd of engines acquire a lock in turns. Limits the number of claims that the server receives.
///
/// `asked` returns that number. Each engine may send two claims for its turn, one for each heartbeat, and `more` others.
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
    // Each engine asks after a hint, and on its heartbeat.
    let beats = waiting * (more + took.as_secs() / WAITER_HEARTBEAT.as_secs());
    assert!(asked <= 2 * waiting + beats, "{asked} claims for {waiting} handovers in {took:?}");
    drop(clients);
}

/// Drops a holder without a release. Another client must be granted the lock within the limit after its TTL.
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

/// Has clients give up waiting after at most `longest` microseconds, until each was granted the lock `grants` times.
/// Then closes them.
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
                // One of three acquires is not given up.
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

/// Has two clients acquire a lock in turns, so often each. Then closes them.
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
