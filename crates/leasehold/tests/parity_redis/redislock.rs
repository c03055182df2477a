//! npm `redislock` 1.3.0.

use std::thread;
use std::time::Duration;

use leasehold::blocking::Locks;
use leasehold::{ErrorKind, Lost, Renewal};
use leasehold_testbed::redis::proxy::{Rule, states};
use leasehold_testbed::{Redis, RedisProxy};

use crate::{LONG, calls, client, left, place, redis, refusals, take, time, timed, until};

/// `createLock(client, {timeout, retries, delay})` and its defaults; `acquire`'s refusal.
#[test]
fn retries_are_further_tries_after_the_first() {
    let server = Redis::start().expect("a server");
    let (holder, other) = (client(&server.url()), client(&server.url()));
    let guard = holder.lock("job").ttl(LONG).renewal(Renewal::Never).acquire().expect("free");
    let (before, delay) = (refusals(&server), time(1_000));
    let (error, took) = timed(|| other.lock("job").retries(2).interval(delay).acquire().expect_err("held"));
    assert_eq!((error.kind(), refusals(&server) - before), (ErrorKind::Contended, 3));
    assert!(took >= 2 * delay, "{took:?}");
    // The default interval is 50 ms.
    let (_, took) = timed(|| other.lock("job").retries(4).acquire().expect_err("held"));
    assert!(took >= Duration::from_millis(200), "{took:?}");
    guard.release().expect("released");
}

/// `retries: -1`.
#[test]
fn waiting_without_end_is_the_default() {
    let (url, _) = place();
    let (holder, other) = (client(&url), client(&url));
    let guard = take(&holder, "job");
    let waiting = thread::spawn(move || other.lock("job").acquire());
    until(
        "the waiter",
        || matches!(holder.inspect("job"), Ok(seen) if seen.first().is_some_and(|seen| seen.waiters == Some(1))),
    );
    guard.release().expect("released");
    waiting.join().expect("no panic").expect("granted").release().expect("released");
}

/// `setDefaults(opts)`.
#[test]
fn defaults_are_set_per_client_and_checked() {
    let (url, prefix) = place();
    let locks = Locks::builder().ttl(LONG).wait(time(100)).connect(&url).expect("connected");
    let guard = locks.lock("job").acquire().expect("free");
    assert!(left(redis(), &format!("{prefix}job")) > 500_000);
    assert_eq!(locks.lock("job").acquire().expect_err("held").kind(), ErrorKind::Contended);
    guard.release().expect("released");
    let refused = Locks::builder().ttl(Duration::ZERO).connect(&url);
    assert_eq!(refused.expect_err("no TTL").kind(), ErrorKind::Invalid);
}

/// `getAcquiredLocks()`; bug 3.
#[test]
fn held_lists_the_live_locks_of_this_client_alone() {
    let (url, _) = place();
    let (locks, other) = (client(&url), client(&url));
    let guards = ["b", "a"].map(|name| take(&locks, name));
    let theirs = take(&other, "c");
    let brief = locks.lock("d").ttl(time(300)).renewal(Renewal::Never).acquire().expect("free");
    let names = || locks.held().iter().map(|held| held.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(), ["a", "b", "d"]);
    assert_eq!(brief.lost(), Lost::Expired);
    assert_eq!(names(), ["a", "b"]);
    for guard in guards {
        guard.release().expect("released");
    }
    assert!(names().is_empty());
    theirs.release().expect("released");
}

/// `acquire(key)`: `SET key id PX timeout NX`.
#[test]
fn a_held_lock_is_a_plain_string_with_an_end() {
    let (url, prefix) = place();
    let locks = client(&url);
    let guard = take(&locks, "job");
    let key = format!("{prefix}job");
    assert_eq!(redis().command(&["type", &key]).expect("answered"), "string");
    assert_eq!(redis().command(&["get", &key]).expect("answered"), guard.owner().to_string());
    assert!((500_000..=600_000).contains(&left(redis(), &key)));
    guard.release().expect("released");
}

/// `release()`: `Lock on "K" had expired`.
#[test]
fn releasing_an_expired_lock_says_so() {
    let (url, _) = place();
    let locks = client(&url);
    let guard = locks.lock("job").ttl(time(300)).renewal(Renewal::Never).acquire().expect("free");
    assert_eq!(guard.lost(), Lost::Expired);
    let error = guard.release().expect_err("expired");
    assert_eq!((error.kind(), error.lost()), (ErrorKind::Lost, Some(Lost::Expired)));
}

/// `extend(ms)` replaces the TTL.
#[test]
fn extend_replaces_the_ttl_up_and_down() {
    let (url, prefix) = place();
    let locks = client(&url);
    let guard = take(&locks, "job");
    guard.extend(2 * LONG).expect("held");
    assert!(left(redis(), &format!("{prefix}job")) > 1_100_000);
    guard.extend(LONG / 10).expect("held");
    let left = left(redis(), &format!("{prefix}job"));
    assert!((1..=60_000).contains(&left), "{left}");
    assert!(guard.remaining() <= LONG / 10);
    guard.release().expect("released");
}

/// Promises and callbacks: asynchronous and blocking.
#[test]
fn asynchronous_and_blocking_clients_exclude_each_other() {
    let (url, _) = place();
    let blocking = client(&url);
    let guard = take(&blocking, "job");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let other = runtime.block_on(leasehold::Locks::connect(&url)).expect("connected");
    assert!(runtime.block_on(other.lock("job").try_acquire()).expect("answered").is_none());
    guard.release().expect("released");
    let guard = runtime.block_on(other.lock("job").acquire()).expect("granted");
    assert!(blocking.lock("job").try_acquire().expect("answered").is_none());
    runtime.block_on(guard.release()).expect("released");
}

#[test]
fn redislock_01_owners_are_random_and_used_once() {
    let (url, _) = place();
    let lock = client(&url).lock("job").ttl(LONG);
    let mut owners = Vec::new();
    for _ in 0..50 {
        let guard = lock.acquire().expect("free");
        owners.push(guard.owner().to_bytes());
        guard.release().expect("released");
    }
    // No byte is the same in all owners, as the bytes of a time or a machine id would be.
    for i in 0..owners[0].len() {
        assert!(owners.iter().any(|owner| owner[i] != owners[0][i]), "byte {i}");
    }
}

#[test]
fn redislock_02_two_acquires_of_one_lock_exclude_each_other() {
    let (url, prefix) = place();
    let lock = client(&url).lock("job").ttl(LONG);
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let lock = lock.clone();
            thread::spawn(move || lock.try_acquire().expect("answered"))
        })
        .collect();
    let granted: Vec<_> = threads.into_iter().filter_map(|thread| thread.join().expect("no panic")).collect();
    assert_eq!(granted.len(), 1);
    let key = format!("{prefix}job");
    assert_eq!(redis().command(&["get", &key]).expect("answered"), granted[0].owner().to_string());
    for guard in granted {
        guard.release().expect("released");
    }
    assert_eq!(redis().command(&["exists", &key]).expect("answered"), "0");
}

#[test]
fn redislock_03_an_expired_lock_is_not_held_and_can_be_acquired_again() {
    let (url, _) = place();
    let locks = client(&url);
    let lock = locks.lock("job").ttl(time(300)).renewal(Renewal::Never);
    let first = lock.acquire().expect("free");
    assert_eq!(first.lost(), Lost::Expired);
    assert!(!first.is_held() && first.remaining() == Duration::ZERO && locks.held().is_empty());
    let second = lock.ttl(LONG).acquire().expect("free again");
    assert!(second.is_held() && second.token() > first.token());
    second.release().expect("released");
}

#[test]
fn redislock_04_negative_extend_does_not_delete() {
    let (url, prefix) = place();
    let locks = client(&url);
    let guard = take(&locks, "job");
    // A duration cannot be negative. The shortest one and one that overflows are refused and change
    // nothing.
    for ttl in [Duration::ZERO, Duration::from_nanos(1), Duration::from_millis(99), Duration::MAX] {
        assert_eq!(guard.extend(ttl).expect_err("out of bounds").kind(), ErrorKind::Invalid, "{ttl:?}");
    }
    assert!(left(redis(), &format!("{prefix}job")) > 500_000);
    guard.verify().expect("held");
    guard.release().expect("released");
}

#[test]
fn redislock_05_options_that_make_no_sense_are_refused_before_anything_is_sent() {
    let server = Redis::start().expect("a server");
    let locks = client(&server.url());
    let before = calls(&server);
    let lock = || locks.lock("job");
    let refused = [
        lock().ttl(Duration::ZERO),
        lock().ttl(Duration::from_millis(99)),
        lock().ttl(Duration::MAX),
        lock().max_hold(Duration::ZERO),
        lock().renewal(Renewal::Every(Duration::ZERO)),
        lock().label("x".repeat(4_097)),
        locks.lock(""),
        locks.lock("x".repeat(513)),
    ];
    for lock in refused {
        let error = lock.try_acquire().expect_err("out of bounds");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }
    assert_eq!(calls(&server), before);
    for option in ["timeout=10s", "wait_replicas=abc", "wait_replicas=-1", "failover_grace=10", "db=x"] {
        let error = Locks::connect(&format!("{}?{option}", server.url())).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Invalid, "{option}: {error}");
    }
}

#[test]
fn redislock_06_two_clients_of_one_process_do_not_mix() {
    let servers = [Redis::start().expect("a server"), Redis::start().expect("a server")];
    let clients = [client(&servers[0].url()), client(&servers[1].url())];
    let guards = [take(&clients[0], "job"), take(&clients[1], "job")];
    for (server, guard) in servers.iter().zip(&guards) {
        assert_eq!(server.command(&["get", "leasehold:job"]).expect("answered"), guard.owner().to_string());
    }
    let [first, second] = guards;
    first.release().expect("released");
    second.verify().expect("held");
    assert_eq!(servers[0].command(&["exists", "leasehold:job"]).expect("answered"), "0");
    second.release().expect("released");
}

#[test]
fn redislock_07_an_error_of_redis_is_tried_again_and_never_called_contention() {
    let proxy = RedisProxy::before(redis()).expect("a proxy");
    let (_, prefix) = place();
    let locks = client(&format!("{}?prefix={prefix}", proxy.url()));
    let failing = proxy.add(Rule::on("evalsha").times(3).error(states::LOADING));
    let guard = locks.lock("job").ttl(LONG).wait(time(20_000)).acquire().expect("granted in the end");
    assert_eq!(failing.hits(), 3);
    guard.release().expect("released");
    let _failing = proxy.add(Rule::on("evalsha").always().error(states::OOM));
    let error = locks.lock("job").wait(time(500)).acquire().expect_err("it fails on");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(next) = cause {
        text += &format!(": {next}");
        cause = next.source();
    }
    assert!(text.contains("memory is full") && text.contains("OOM"), "{text}");
}

#[test]
fn redislock_08_a_grant_whose_answer_is_lost_is_not_left_to_its_ttl() {
    let proxy = RedisProxy::before(redis()).expect("a proxy");
    let (_, prefix) = place();
    let through = client(&format!("{}?prefix={prefix}", proxy.url()));
    // From now on the server has the scripts in its cache.
    take(&through, "first").release().expect("released");
    let lost = proxy.add(Rule::on("evalsha").times(1).cut().after_effect());
    // The claim is retried, and its owner is still the holder.
    let guard = through.lock("job").ttl(LONG).wait(time(20_000)).acquire().expect("granted");
    assert_eq!(lost.hits(), 1);
    guard.verify().expect("held");
    guard.release().expect("released");

    // The same for a caller that is gone by then.
    let lost = proxy.add(Rule::on("evalsha").times(1).cut().after_effect());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    runtime.block_on(async {
        let locks = leasehold::Locks::connect(&format!("{}?prefix={prefix}", proxy.url())).await;
        let locks = locks.expect("connected");
        let lock = locks.lock("other").ttl(LONG);
        let taking = tokio::spawn(async move { lock.acquire().await.map(drop) });
        lost.await_hits(1).expect("it is sent");
        taking.abort();
        let _ = taking.await;
        until("the lock to be free", || {
            redis().command(&["exists", &format!("{prefix}other")]).is_ok_and(|answer| answer == "0")
        });
    });
}
