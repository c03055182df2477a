//! Waiters are woken, in order, whatever happens to the connection that wakes them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use futures_util::stream::FuturesUnordered;
use leasehold::Locks;
use leasehold::storage::{Acquire, Hint, Release, WAITER_HEARTBEAT, WAITER_TTL};
use leasehold_faultproxy::{Flow, To, Trap, Which};
use tokio::time::Instant;

use crate::tools::*;

// 27
#[test]
fn a_release_that_races_an_entry_into_the_queue_is_not_missed() {
    run(async {
        let url = own(&common().url());
        let pairs = (0..4).map(|pair| {
            let url = url.clone();
            async move {
                let (mut a, mut b) = (listening(&url).await, listening(&url).await);
                let lock = format!("job{pair}");
                let mut holding = claim(&lock);
                take(&a.0, &holding).await;
                let mut random = Random(pair + 1_u64);
                for round in 0..250 {
                    let mine = claim(&lock).wait(true);
                    // Which comes first is what differs.
                    let pause = Duration::from_micros(random.below(2_500));
                    let releasing = async {
                        tokio::time::sleep(pause).await;
                        assert_eq!(release(&a.0, &holding).await.expect("answered"), Release::Released);
                    };
                    let (answer, ()) = join(acquire(&b.0, &mine), releasing).await;
                    let answer = answer.expect("answered");
                    if let Acquire::Held { .. } = answer {
                        // Without an engine that asks again by itself: either it is told, or this never ends. A hint may be
                        // for the try before, which was granted meanwhile.
                        let told = async { while b.1.next().await != Some(Hint::Owner(mine.owner)) {} };
                        if tokio::time::timeout(soon(), told).await.is_err() {
                            panic!("nobody is told in round {round}: {answer:?}");
                        }
                        take(&b.0, &mine).await;
                    }
                    holding = mine;
                    std::mem::swap(&mut a, &mut b);
                }
            }
        });
        within(LONG, join_all(pairs)).await;
    });
}

// 27
#[test]
fn a_handover_never_waits_for_a_heartbeat() {
    run(async {
        let url = own(&common().url());
        let (a, b) = (client(&url).await, client(&url).await);
        let mut holding = hold(&a, "job", LONG).await;
        let mut times = Vec::new();
        for round in 0..200_u64 {
            let locks = if round % 2 == 0 { &b } else { &a };
            let lock = locks.lock("job");
            let waiting = tokio::spawn(async move { lock.acquire().await.expect("granted") });
            tokio::time::sleep(Duration::from_micros((round * 7_919) % 4_000)).await;
            holding.release().await.expect("released");
            let since = Instant::now();
            holding = within(LONG, waiting).await.expect("no panic");
            times.push(since.elapsed());
        }
        times.sort_unstable();
        // One missed is one that takes two seconds; the machine may be slow for a moment.
        let longest = times[times.len() - 1];
        assert!(longest < WAITER_HEARTBEAT / 4 + time(400), "{longest:?}");
        holding.release().await.expect("released");
    });
}

// 27
#[test]
fn a_release_before_the_subscription_stands_is_not_missed() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let (holder, waiter) = (client(&direct).await, {
            let held_back = proxy.faults().arm(Trap::on_request("listen leasehold_").hold_reply());
            (client(&through).await, held_back)
        });
        let (waiter, held_back) = waiter;
        let guard = hold(&holder, "job", LONG).await;
        let waiting = waiting(waiter.lock("job"));
        waiters(&holder, "job", 1).await;
        let on = held_back.sprung().await.expect("it listens");
        guard.release().await.expect("released");
        proxy.faults().resume(Which::One(on));
        // Nobody could be told, and yet nobody waits for longer than it takes to look once more.
        let limit = WAITER_HEARTBEAT + time(1_000);
        let _ = within(limit, waiting).await.expect("no panic").expect("granted");
    });
}

// 28
#[test]
fn a_notification_connection_that_falls_silent_is_replaced() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let subscribed = proxy.faults().arm(Trap::on_request("listen leasehold_"));
        let (storage, mut hints) = listening(&through).await;
        let holder = client(&direct).await;
        let guard = hold(&holder, "job", LONG).await;
        let mine = claim("job").wait(true);
        is_held(&storage, &mine).await;

        let notifications = subscribed.passed().await.expect("it listens");
        proxy.faults().flow_both(Which::One(notifications), Flow::BlackHole);
        let since = Instant::now();
        // Its client is there, so it keeps its place; it hears nothing.
        guard.release().await.expect("released");
        assert_eq!(within(LONG, hints.next()).await, Some(Hint::Any));
        let noticed = since.elapsed();
        take(&storage, &mine).await;
        assert!(noticed < 3 * WAITER_HEARTBEAT + time(1_000), "{noticed:?}");
    });
}

// 28
#[test]
fn waiters_ask_by_themselves_while_the_notification_connection_is_silent() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let subscribed = proxy.faults().arm(Trap::on_request("listen leasehold_"));
        let (holder, waiter) = (client(&direct).await, client(&through).await);
        let guard = hold(&holder, "job", LONG).await;
        let waiting = waiting(waiter.lock("job"));
        let notifications = subscribed.passed().await.expect("it listens");
        waiters(&holder, "job", 1).await;
        proxy.faults().flow(Which::One(notifications), To::Client, Flow::BlackHole);
        guard.release().await.expect("released");
        let limit = WAITER_HEARTBEAT + time(1_500);
        let _ = within(limit, waiting).await.expect("no panic").expect("granted");
    });
}

// 28, 29
#[test]
fn terminated_listeners_miss_nothing() {
    run(async {
        let application = table();
        let url = own(&with(&common().url(), &format!("application_name={application}")));
        let (clients, handovers) = (4, 30);
        let (ended, end) = tokio::sync::watch::channel(false);
        let hit = Arc::new(AtomicU32::new(0));
        let killer = std::thread::spawn({
            let kill = format!(
                "select count(pg_terminate_backend(pid)) from pg_stat_activity \
                 where application_name = '{application}' and query ~ 'pg_listening_channels|^listen'"
            );
            let hit = Arc::clone(&hit);
            move || {
                while !*end.borrow() {
                    let killed = sql(common(), &kill).parse::<u32>().expect("a number");
                    hit.fetch_add(killed, Ordering::Relaxed);
                    sql(common(), "select pg_sleep(0.1)");
                }
            }
        });
        let mut workers = FuturesUnordered::new();
        for _ in 0..clients {
            let (locks, hit) = (client(&url).await, Arc::clone(&hit));
            workers.push(async move {
                let (mut longest, mut turns) = (Duration::ZERO, 0);
                while turns < handovers || hit.load(Ordering::Relaxed) < 3 * clients {
                    turns += 1;
                    let since = Instant::now();
                    let guard = locks.lock("job").acquire().await.expect("granted");
                    longest = std::cmp::max(longest, since.elapsed());
                    guard.release().await.expect("released");
                }
                longest
            });
        }
        let all = async {
            let mut longest = Duration::ZERO;
            while let Some(worker) = workers.next().await {
                longest = std::cmp::max(longest, worker);
            }
            longest
        };
        let longest = within(LONG, all).await;
        ended.send(true).expect("somebody listens");
        killer.join().expect("no panic");
        // Whoever is not told looks by itself, each of those before it too.
        let limit = clients * WAITER_HEARTBEAT + time(1_000);
        assert!(longest < limit, "{longest:?}");
    });
}

// 31
#[test]
fn a_handover_wakes_one_of_many() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let waiting = 24;
        let holder = client(&url).await;
        let guard = hold(&holder, "job", LONG).await;
        let mut storages = Vec::new();
        for _ in 0..waiting {
            let (storage, hints) = listening(&url).await;
            let mine = claim("job").wait(true);
            is_held(&storage, &mine).await;
            storages.push((storage, hints, mine));
        }
        let [_, before, _] = done(common(), table, PASS);
        guard.release().await.expect("released");
        let handovers = 12;
        for (storage, hints, mine) in &mut storages[..handovers] {
            assert_eq!(within(LONG, hints.next()).await, Some(Hint::Owner(mine.owner)));
            take(storage, mine).await;
            assert_eq!(release(storage, mine).await.expect("answered"), Release::Released);
        }
        let [_, notified, _] = done(common(), table, PASS);
        assert_eq!(notified - before, u64::try_from(handovers).expect("few") + 1);
        // Nobody else was woken: not one message waits anywhere.
        for (_, hints, _) in &mut storages[handovers + 1..] {
            assert_eq!(futures_util::future::poll_immediate(hints.next()).await, None);
        }
    });
}

// 31
#[test]
fn waiters_with_engines_ask_twice_per_handover_at_most() {
    run(async {
        let url = own(&common().url());
        let (waiting, holder) = (20, client(&url).await);
        let guard = hold(&holder, "job", LONG).await;
        let mut clients = Vec::new();
        let mut turns = FuturesUnordered::new();
        for _ in 0..waiting {
            let locks = client(&url).await;
            let lock = locks.lock("job");
            turns.push(async move { lock.acquire().await.expect("granted").release().await });
            clients.push(locks);
        }
        let all = async move {
            while let Some(turn) = turns.next().await {
                turn.expect("released")
            }
        };
        let all = tokio::spawn(all);
        waiters(&holder, "job", waiting).await;
        let [before, ..] = done(common(), table_of(&url), ACQUIRE);
        let since = Instant::now();
        guard.release().await.expect("released");
        within(LONG, all).await.expect("no panic");
        let took = since.elapsed();
        let [after, ..] = done(common(), table_of(&url), ACQUIRE);
        // Each asks when it is told, and every so often by itself; and once more when its listener begins to listen.
        let beats = waiting * (2 + took.as_secs() / WAITER_HEARTBEAT.as_secs());
        let asked = after - before;
        assert!(asked <= 2 * waiting + beats, "{asked} claims for {waiting} handovers in {took:?}");
        drop(clients);
    });
}

#[test]
fn nobody_is_notified_while_nobody_waits() {
    run(async {
        let url = own(&common().url());
        let (a, b) = (client(&url).await, client(&url).await);
        for locks in [&a, &b, &a] {
            for _ in 0..10 {
                hold(locks, "job", LONG).await.release().await.expect("released");
            }
        }
        let [asked, notified, _] = done(common(), table_of(&url), PASS);
        assert_eq!((asked, notified), (30, 0));
        let guard = hold(&a, "job", LONG).await;
        let (waiter, mut hints) = listening(&url).await;
        let mine = claim("job").wait(true);
        is_held(&waiter, &mine).await;
        guard.release().await.expect("released");
        assert_eq!(within(LONG, hints.next()).await, Some(Hint::Owner(mine.owner)));
        assert_eq!(done(common(), table_of(&url), PASS)[1], 1);
        // The queue of all databases, which nobody fills.
        assert!(sql(common(), "select pg_notification_queue_usage() < 0.01") == "t");
    });
}

// 33, 42
#[test]
fn a_dead_holder_and_dead_waiters_end_with_their_ttls() {
    run(async {
        let url = own(&common().url());
        let ttl = time(1_000);
        let (dead, mut dead_hints) = listening(&url).await;
        let mut held = claim("job");
        held.ttl = ttl;
        take(&dead, &held).await;
        let since = Instant::now();
        for _ in 0..20 {
            is_held(&dead, &claim("job").wait(true)).await;
        }
        assert_eq!(futures_util::future::poll_immediate(dead_hints.next()).await, None);
        drop((dead, dead_hints));
        let live = client(&url).await;
        let guard = live.lock("job").acquire().await.expect("granted");
        let took = since.elapsed();
        assert!(took >= ttl && took < ttl + WAITER_TTL + WAITER_HEARTBEAT + time(1_000), "{took:?}");
        guard.release().await.expect("released");
        // Whoever is granted a lock buries those before it.
        assert_eq!(sql(common(), &format!("select count(*) from {}_waiters", table_of(&url))), "0");
    });
}

// 42
#[test]
fn a_dead_holder_is_replaced_when_its_ttl_is_over() {
    run(async {
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
        assert!(took >= ttl && took < ttl + time(700), "{took:?}");
        guard.release().await.expect("released");
    });
}

// 34
#[test]
fn waiters_that_leave_at_random_stall_nobody_and_leave_nothing() {
    run(async {
        let url = own(&common().url());
        let mut workers = FuturesUnordered::new();
        let mut clients: Vec<Locks> = Vec::new();
        for worker in 0..6_u64 {
            let locks = client(&url).await;
            clients.push(locks.clone());
            workers.push(tokio::spawn(async move {
                let mut random = Random(worker);
                let mut granted = 0;
                while granted < 20 {
                    let patience = Duration::from_micros(random.below(12_000));
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
        let all = async {
            while let Some(worker) = workers.next().await {
                worker.expect("no panic")
            }
        };
        within(LONG, all).await;
        for locks in clients {
            locks.close().await.expect("closed");
        }
        let table = table_of(&url);
        assert_eq!(sql(common(), &format!("select count(*), count(owner) from {table}")), "1|0");
        assert_eq!(sql(common(), &format!("select count(*) from {table}_waiters")), "0");
    });
}

// 35, 36
#[test]
fn hundreds_of_handovers_leave_one_row() {
    run(async {
        let url = own(&common().url());
        let (a, b) = (client(&url).await, client(&url).await);
        let turns = |locks: Locks| async move {
            for _ in 0..200 {
                locks.lock("job").acquire().await.expect("granted").release().await.expect("released");
            }
        };
        within(LONG, join(turns(a.clone()), turns(b.clone()))).await;
        a.close().await.expect("closed");
        b.close().await.expect("closed");
        let table = table_of(&url);
        assert_eq!(sql(common(), &format!("select count(*), count(owner) from {table}")), "1|0");
        assert_eq!(sql(common(), &format!("select count(*) from {table}_waiters")), "0");
    });
}
