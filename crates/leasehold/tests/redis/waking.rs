//! Waiters are woken up in order, whatever happens to their connections.

use std::time::Duration;

use futures_util::StreamExt;
use leasehold::storage::{Hint, Storage, WAITER_HEARTBEAT, WAITER_TTL};
use leasehold_testbed::redis::proxy::Rule;
use leasehold_testbed::{Redis, RedisProxy};
use tokio::time::Instant;

use crate::net::waking as scenario;
use crate::tools::*;

#[test]
fn a_release_before_the_subscription_stands_is_not_missed() {
    run(scenario::release_before_the_subscription());
}

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

#[test]
fn a_notification_connection_that_falls_silent_is_replaced() {
    run(scenario::silent_notifications());
}

#[test]
fn waiters_ask_by_themselves_while_the_notification_connection_is_silent() {
    run(scenario::waiter_behind_silent_notifications(2 * WAITER_HEARTBEAT + time(1_000)));
}

#[test]
fn killed_subscribers_miss_nothing() {
    run(async {
        let redis = Redis::start().expect("a server");
        let killer = {
            let port = redis.port().to_string();
            tokio::spawn(async move {
                // The pace of the disturbances.
                let mut beat = tokio::time::interval(Duration::from_millis(100));
                loop {
                    beat.tick().await;
                    let kill = ["-p", &port, "client", "kill", "type", "pubsub"];
                    let _ = tokio::process::Command::new("redis-cli").args(kill).output().await;
                }
            })
        };
        scenario::disturbed_handovers(&redis.url(), 6, |turns| turns >= 40).await;
        killer.abort();
    });
}

#[test]
fn a_handover_wakes_one_of_hundreds() {
    run(async {
        let redis = Redis::start().expect("a server");
        let holder = client(&redis.url()).await;
        let guard = hold(&holder, "job", LONG).await;
        let mut crowd = scenario::crowd(&redis.url(), 500).await;
        let published = || redis.command_counts().expect("answered").get("publish").copied().unwrap_or(0);
        let before = published();
        guard.release().await.expect("released");
        scenario::have_their_turns(&mut crowd[..100]).await;
        assert_eq!(published() - before, 101);
        scenario::were_not_woken(&mut crowd[101..]).await;
    });
}

#[test]
fn waiters_with_engines_ask_twice_per_handover_at_most() {
    let redis = Redis::start().expect("a server");
    run(scenario::engines_in_a_crowd(&redis.url(), 100, 1, || acquires(&redis)));
}

/// Returns how many acquires the server has executed. For each there is one release.
fn acquires(redis: &Redis) -> u64 {
    let counts = redis.command_counts().expect("answered");
    counts.get("evalsha").copied().unwrap_or(0) / 2
}

#[test]
fn dead_waiters_at_the_queue_head_delay_no_other_waiter() {
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
        // As after a kill, the kernel closes the connections, and the entries remain.
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
        // The release skips waiters without a connection. Otherwise their entries would have to expire first.
        assert_eq!(within(soon(), hints.next()).await, Some(Hint::Owner(mine.owner)));
        take(&live, &mine).await;
    });
}

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

#[test]
fn a_dead_holder_is_replaced_when_its_ttl_is_over() {
    run(scenario::dead_holder(time(500)));
}

#[test]
fn waiters_that_leave_at_random_stall_no_other_waiter_and_leave_nothing() {
    let redis = Redis::start().expect("a server");
    run(scenario::leaving_waiters(&redis.url(), 8, 25, 6_000));
    let left = keys(&redis);
    assert!(left.len() == 1 && left[0].contains("leasehold:job}"), "{left:?}");
}

#[test]
fn a_thousand_handovers_leave_one_key_that_expires_and_block_no_connection() {
    let redis = Redis::start().expect("a server");
    run(scenario::handovers_of_two(&redis.url(), 500));
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
}

fn run_script(redis: &Redis, script: &str) -> String {
    tell(redis, &["eval", script, "0"])
}
