//! Waiters are woken, in order, whatever happens to the connection that wakes them.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use leasehold::Locks;
use leasehold::storage::{Hint, Release, Storage, WAITER_HEARTBEAT, WAITER_TTL};
use leasehold_faultproxy::{Flow, To, Trap, Which};
use leasehold_testbed::redis::proxy::Rule;
use leasehold_testbed::{Redis, RedisProxy};
use tokio::time::Instant;

use crate::tools::*;

// 27
#[test]
fn a_release_before_the_subscription_stands_is_not_missed() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let through = own(&proxy.url());
        let direct = through.replace(&proxy.port().to_string(), &common().port().to_string());
        let (holder, waiter) = (client(&direct).await, client(&through).await);
        let guard = hold(&holder, "job", LONG).await;
        let held_back = proxy.add(Rule::on("subscribe").hold_reply());
        let waiting = waiting(waiter.lock("job"));
        waiters(&holder, "job", 1).await;
        held_back.await_hits(1).expect("it subscribes");
        guard.release().await.expect("released");
        held_back.release();
        // Nobody could be told, and yet nobody waits for longer than it takes to look once more.
        let limit = WAITER_HEARTBEAT + time(1_000);
        let _ = within(limit, waiting).await.expect("no panic").expect("granted");
    });
}

// 27
#[test]
fn a_subscription_that_is_never_confirmed_is_tried_again() {
    run(async {
        let proxy = RedisProxy::before(common()).expect("a proxy");
        let silent = proxy.add(Rule::on("subscribe").silence());
        let storage = bare(&own(&proxy.url())).await;
        let mut hints: Hints = Box::pin(storage.hints());
        assert_eq!(within(time(15_000), hints.next()).await, Some(Hint::Any));
        assert_eq!(silent.hits(), 1);
    });
}

// 28
#[test]
fn a_notification_connection_that_falls_silent_is_replaced() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let (storage, mut hints) = listening(&through).await;
        let holder = client(&direct).await;
        let guard = hold(&holder, "job", LONG).await;
        let mine = claim("job").wait(true);
        is_held(&storage, &mine).await;

        let notifications = proxy.faults().connections().last().expect("it listens").id;
        proxy.faults().flow_both(Which::One(notifications), Flow::BlackHole);
        let since = Instant::now();
        // Its client is there, so it keeps its place; it hears nothing.
        guard.release().await.expect("released");
        assert_eq!(within(LONG, hints.next()).await, Some(Hint::Any));
        let noticed = since.elapsed();
        take(&storage, &mine).await;
        assert!(noticed < 3 * WAITER_HEARTBEAT + time(1_000), "{noticed:?}");
        drop(holder);
    });
}

// 28
#[test]
fn waiters_ask_by_themselves_while_the_notification_connection_is_silent() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let subscribed = proxy.faults().arm(Trap::on_request("SUBSCRIBE"));
        let (holder, waiter) = (client(&direct).await, client(&through).await);
        let guard = hold(&holder, "job", LONG).await;
        let waiting = waiting(waiter.lock("job"));
        let passed = subscribed.wait_for(|count| count.passed > 0).await.expect("it subscribes");
        waiters(&holder, "job", 1).await;
        let notifications = passed.passed_on.expect("a connection");
        proxy.faults().flow(Which::One(notifications), To::Client, Flow::BlackHole);
        guard.release().await.expect("released");
        let _ =
            within(2 * WAITER_HEARTBEAT + time(1_000), waiting).await.expect("no panic").expect("granted");
    });
}

// 29
#[test]
fn killed_subscribers_miss_nothing() {
    run(async {
        let redis = Redis::start().expect("a server");
        let (clients, handovers) = (6, 40);
        let killer = {
            let port = redis.port().to_string();
            tokio::spawn(async move {
                let mut beat = tokio::time::interval(Duration::from_millis(100));
                loop {
                    beat.tick().await;
                    let kill = ["-p", &port, "client", "kill", "type", "pubsub"];
                    let _ = tokio::process::Command::new("redis-cli").args(kill).output().await;
                }
            })
        };
        let mut workers = FuturesUnordered::new();
        for _ in 0..clients {
            let locks = client(&redis.url()).await;
            workers.push(async move {
                let mut longest = Duration::ZERO;
                for _ in 0..handovers {
                    let since = Instant::now();
                    let guard = locks.lock("job").acquire().await.expect("granted");
                    longest = std::cmp::max(longest, since.elapsed());
                    guard.release().await.expect("released");
                }
                longest
            });
        }
        let ended = async {
            let mut longest = Duration::ZERO;
            while let Some(worker) = workers.next().await {
                longest = std::cmp::max(longest, worker);
            }
            longest
        };
        let longest = within(LONG, ended).await;
        killer.abort();
        // Whoever is not told looks by itself, each of those before it too.
        let limit = u32::try_from(clients).expect("few") * WAITER_HEARTBEAT + time(1_000);
        assert!(longest < limit, "{longest:?}");
    });
}

// 31
#[test]
fn a_handover_wakes_one_of_hundreds() {
    run(async {
        let redis = Redis::start().expect("a server");
        let url = redis.url();
        let waiting = 500;
        let holder = client(&url).await;
        let guard = hold(&holder, "job", LONG).await;
        // One connection would do for all of them; a client each is what many processes are.
        let mut storages = Vec::new();
        for _ in 0..waiting {
            let (storage, hints) = listening(&url).await;
            let mine = claim("job").wait(true);
            is_held(&storage, &mine).await;
            storages.push((storage, hints, mine));
        }
        let before = redis.command_counts().expect("answered");
        guard.release().await.expect("released");
        let handovers = 100;
        for (storage, hints, mine) in &mut storages[..handovers] {
            assert_eq!(within(LONG, hints.next()).await, Some(Hint::Owner(mine.owner)));
            take(storage, mine).await;
            assert_eq!(release(storage, mine).await.expect("answered"), Release::Released);
        }
        let calls = since(&redis, &before);
        let published = calls.get("publish").copied().unwrap_or(0);
        let handovers = u64::try_from(handovers).expect("few");
        assert_eq!(published, handovers + 1, "{calls:?}");
        // Nobody else was woken: not one message waits anywhere.
        for (_, hints, _) in &mut storages[101..] {
            assert_eq!(futures_util::future::poll_immediate(hints.next()).await, None);
        }
    });
}

// 31
#[test]
fn waiters_with_engines_ask_twice_per_handover_at_most() {
    run(async {
        let redis = Redis::start().expect("a server");
        let url = redis.url();
        let (waiting, holder) = (100, client(&url).await);
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
        let before = acquires(&redis);
        let since = Instant::now();
        guard.release().await.expect("released");
        within(LONG, all).await.expect("no panic");
        let (took, asked) = (since.elapsed(), acquires(&redis) - before);
        // Each asks when it is told, and every so often by itself.
        let beats = waiting * (1 + took.as_secs() / WAITER_HEARTBEAT.as_secs());
        assert!(asked <= 2 * waiting + beats, "{asked} claims for {waiting} handovers in {took:?}");
        drop(clients);
    });
}

/// How many claims the server has seen: each asks for the time once, as releases do.
fn acquires(redis: &Redis) -> u64 {
    let counts = redis.command_counts().expect("answered");
    counts.get("evalsha").copied().unwrap_or(0) / 2
}

// 33
#[test]
fn dead_waiters_at_the_head_hold_up_nobody() {
    run(async {
        let url = own(&common().url());
        let holder = bare(&url).await;
        let held = claim("job");
        take(&holder, &held).await;
        let mut dead = Vec::new();
        for _ in 0..20 {
            let (storage, hints) = listening(&url).await;
            is_held(&storage, &claim("job").wait(true)).await;
            dead.push((storage, hints));
        }
        let (live, mut hints) = listening(&url).await;
        let mine = claim("job").wait(true);
        is_held(&live, &mine).await;
        // As a kill does: the kernel closes their connections, and nobody takes their entries back.
        drop(dead);
        until("the server to notice", || {
            let channels = common().command(&["pubsub", "channels", "*"])?;
            let prefix = url.rsplit('=').next().expect("a prefix");
            match channels.lines().filter(|channel| channel.starts_with(prefix)).count() {
                1 => Ok(()),
                n => Err(leasehold_testbed::Error::new(format!("{n} listen"))),
            }
        });
        release(&holder, &held).await.expect("released");
        // The release passes over whoever has no connection; without it, their entries would end by themselves.
        assert_eq!(within(soon(), hints.next()).await, Some(Hint::Owner(mine.owner)));
        take(&live, &mine).await;
    });
}

// 33, 42
#[test]
fn a_dead_holder_and_dead_waiters_end_with_their_ttls() {
    run(async {
        let url = own(&common().url());
        let ttl = time(1_000);
        let dead = bare(&url).await;
        let mut held = claim("job");
        held.ttl = ttl;
        take(&dead, &held).await;
        let since = Instant::now();
        for _ in 0..3 {
            is_held(&dead, &claim("job").wait(true)).await;
        }
        drop(dead);
        let live = client(&url).await;
        let guard = live.lock("job").acquire().await.expect("granted");
        let took = since.elapsed();
        assert!(took >= ttl && took < ttl + WAITER_TTL + WAITER_HEARTBEAT + time(1_000), "{took:?}");
        guard.release().await.expect("released");
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
        assert!(took >= ttl && took < ttl + time(500), "{took:?}");
        guard.release().await.expect("released");
    });
}

// 34
#[test]
fn waiters_that_leave_at_random_stall_nobody_and_leave_nothing() {
    run(async {
        let redis = Redis::start().expect("a server");
        let mut workers = FuturesUnordered::new();
        let mut clients: Vec<Locks> = Vec::new();
        for worker in 0..8_u64 {
            let locks = client(&redis.url()).await;
            clients.push(locks.clone());
            workers.push(tokio::spawn(async move {
                let mut random = Random(worker);
                let mut granted = 0;
                while granted < 25 {
                    let patience = Duration::from_micros(random.below(6_000));
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
        let left = keys(&redis);
        assert!(left.len() == 1 && left[0].contains("leasehold:job}"), "{left:?}");
    });
}

// 35, 36, 57
#[test]
fn a_thousand_handovers_leave_one_key_that_expires_and_block_no_connection() {
    run(async {
        let redis = Redis::start().expect("a server");
        let (a, b) = (client(&redis.url()).await, client(&redis.url()).await);
        let turns = |locks: Locks| async move {
            for _ in 0..500 {
                locks.lock("job").acquire().await.expect("granted").release().await.expect("released");
            }
        };
        within(LONG, futures_util::future::join(turns(a.clone()), turns(b.clone()))).await;
        a.close().await.expect("closed");
        b.close().await.expect("closed");
        let left = keys(&redis);
        assert_eq!(left.len(), 1, "{left:?}");
        let counts = redis.command_counts().expect("answered");
        let blocking = counts.keys().filter(|name| {
            name.starts_with('b')
                && ["lpop", "rpop", "lmove", "zpopmin", "zpopmax", "lmpop"].contains(&&name[1..])
        });
        assert_eq!(blocking.count(), 0, "{counts:?}");
        assert!(!counts.contains_key("xread"), "{counts:?}");
        let ttl: i64 =
            run_script(&redis, "return redis.call('PTTL', redis.call('KEYS', '*')[1])").parse().expect("ms");
        assert!(ttl > 0 && ttl <= 48 * 60 * 60 * 1000, "{ttl}");
    });
}

fn run_script(redis: &Redis, script: &str) -> String {
    tell(redis, &["eval", script, "0"])
}
