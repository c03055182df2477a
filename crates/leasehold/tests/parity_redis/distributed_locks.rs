//! npm `distributed-locks` 1.0.5, its factory, its locks, and its Redis.

use std::thread;
use std::time::Duration;

use leasehold::blocking::Locks;
use leasehold::{ErrorKind, Event, Lost, Renewal, Wait};
use leasehold_testbed::Redis;

use crate::{LONG, client, left, place, redis, refusals, take, time, timed, until};

/// Factory: `new LockFactory(storage, {machineId})`.
#[test]
fn a_client_says_which_machine_it_is() {
    let (url, _) = place();
    let named = Locks::builder().label("machine-7").connect(&url).expect("connected");
    let guard = take(&named, "named");
    let unnamed = client(&url);
    let seen = unnamed.inspect("named").expect("answered").expect("held");
    assert_eq!(seen.label.as_deref(), Some("machine-7"));
    let other = take(&unnamed, "unnamed");
    let seen = named.inspect("unnamed").expect("answered").expect("held");
    let label = seen.label.expect("a default");
    assert!(label.contains('@') && label.ends_with(&format!(":{}", std::process::id())), "{label}");
    drop((guard, other));
}

/// Factory: `init()`.
#[test]
fn nothing_needs_to_be_set_up_first() {
    let fresh = Redis::start().expect("a server");
    let (one, two) = (client(&fresh.url()), client(&fresh.url()));
    let guard = take(&one, "job");
    assert!(two.lock("job").try_acquire().expect("answered").is_none());
    guard.release().expect("released");
    take(&two, "job").release().expect("released");
}

/// Factory: `createLock(key)`; bug 12, redislock's bug 1.
#[test]
fn every_acquisition_of_a_lock_has_an_owner_and_a_larger_token() {
    let (url, _) = place();
    let lock = client(&url).lock("job").ttl(LONG);
    let mut seen = Vec::new();
    for _ in 0..20 {
        let guard = lock.acquire().expect("free");
        assert!(seen.iter().all(|(owner, token)| *owner != guard.owner() && *token < guard.token()));
        seen.push((guard.owner(), guard.token()));
        guard.release().expect("released");
    }
}

/// Factory: `close()`.
#[test]
fn closing_releases_what_is_held() {
    let (url, prefix) = place();
    let (locks, other) = (client(&url), client(&url));
    let guards = ["a", "b", "c"].map(|name| take(&locks, name));
    locks.close().expect("closed");
    for guard in &guards {
        assert!(!guard.is_held());
        assert_eq!(
            redis().command(&["exists", &format!("{prefix}{}", guard.name())]).expect("answered"),
            "0"
        );
        take(&other, guard.name().as_str()).release().expect("released");
    }
    assert_eq!(locks.lock("a").try_acquire().expect_err("closed").kind(), ErrorKind::Closed);
}

/// Lock: `lock({ttl, retries, interval})`.
#[test]
fn ttl_attempts_and_interval_are_options_of_each_acquisition() {
    let (url, prefix) = place();
    let (locks, other) = (client(&url), client(&url));
    let guard = locks.lock("job").acquire().expect("free");
    assert!((1..=10_000).contains(&left(redis(), &format!("{prefix}job"))), "10 s unless told otherwise");
    let wait = Wait::Attempts { attempts: 3, interval: time(50) };
    let error = other.lock("job").ttl(LONG).wait(wait).acquire().expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Contended);
    guard.release().expect("released");
    let guard = other.lock("job").ttl(LONG).wait(wait).acquire().expect("free");
    assert!(left(redis(), &format!("{prefix}job")) > 500_000);
    guard.release().expect("released");
}

/// Lock: `retries` counts all attempts, and nothing is slept after the last.
#[test]
fn three_attempts_are_three_claims_and_two_pauses() {
    let server = Redis::start().expect("a server");
    let (holder, other) = (client(&server.url()), client(&server.url()));
    let guard = holder.lock("job").ttl(LONG).renewal(Renewal::Never).acquire().expect("free");
    let (before, interval) = (refusals(&server), time(2_000));
    let lock = other.lock("job").wait(Wait::Attempts { attempts: 3, interval });
    let (error, took) = timed(|| lock.acquire().expect_err("held"));
    assert_eq!((error.kind(), refusals(&server) - before), (ErrorKind::Contended, 3));
    assert!(took >= 2 * interval && took < 3 * interval, "{took:?}");
    guard.release().expect("released");
}

/// Lock: `unlock()`.
#[test]
fn a_release_says_whether_the_lock_was_held() {
    let (url, prefix) = place();
    let locks = client(&url);
    take(&locks, "job").release().expect("it was held");
    let guard = take(&locks, "job");
    redis().command(&["del", &format!("{prefix}job")]).expect("deleted");
    assert_eq!(guard.release().expect_err("it was not").kind(), ErrorKind::Lost);
}

/// Lock: what it does not have.
#[test]
fn there_is_renewing_trying_waiting_leaving_events_tokens_and_looking() {
    let (url, prefix) = place();
    let (locks, other) = (client(&url), client(&url));
    let mut events = locks.events();
    // Renewed by itself, several times over.
    let often = Renewal::Every(time(200));
    let guard = locks.lock("job").ttl(time(10_000)).renewal(often).acquire().expect("free");
    let mut renewals = 0;
    while renewals < 4 {
        match events.next().expect("an event") {
            Event::Renewed { token, .. } if token == guard.token() => renewals += 1,
            Event::Lost { lost, .. } => panic!("{lost}"),
            _ => {}
        }
    }
    guard.extend(LONG).expect("held");
    assert!(left(redis(), &format!("{prefix}job")) > 500_000);
    assert!(other.lock("job").try_acquire().expect("answered").is_none());
    assert_eq!(other.lock("job").wait(time(100)).acquire().expect_err("held").kind(), ErrorKind::Contended);
    let seen = other.inspect("job").expect("answered").expect("held");
    assert_eq!((seen.owner, seen.token), (guard.owner(), guard.token()));

    // Whoever stops waiting gets nothing later.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let waiter = leasehold::Locks::connect(&url).await.expect("connected");
        let lock = waiter.lock("job");
        assert!(tokio::time::timeout(time(300), lock.acquire()).await.is_err());
        waiter.close().await.expect("closed");
    });
    guard.release().expect("released");
    assert_eq!(other.inspect("job").expect("answered"), None);
}

/// Error: `FailedToObtainKey`.
#[test]
fn a_refusal_names_the_lock_the_holder_and_the_wait() {
    let (url, _) = place();
    let holder = Locks::builder().label("nightly report").connect(&url).expect("connected");
    let guard = take(&holder, "job");
    let error = client(&url).lock("job").wait(time(100)).acquire().expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Contended);
    let seen = error.holder().expect("somebody holds");
    assert_eq!((seen.name.as_str(), seen.owner, seen.token), ("job", guard.owner(), guard.token()));
    assert!(error.waited().is_some_and(|waited| waited >= time(100)));
    let text = error.to_string();
    assert!(text.contains("name=`job`") && text.contains("nightly report"), "{text}");
    guard.release().expect("released");
}

/// Redis: `{url, keyPrefix}`.
#[test]
fn the_prefix_is_an_option_and_the_key_is_prefix_and_name() {
    let server = Redis::start().expect("a server");
    for (option, key) in [("", "leasehold:job"), ("?prefix=shop:", "shop:job"), ("?prefix=", "job")] {
        let locks = client(&format!("{}{option}", server.url()));
        let guard = take(&locks, "job");
        assert_eq!(server.command(&["get", key]).expect("answered"), guard.owner().to_string());
        guard.release().expect("released");
        assert_eq!(server.command(&["exists", key]).expect("answered"), "0");
    }
}

#[test]
fn distributed_locks_04_an_error_of_the_storage_ends_every_attempt() {
    let server = Redis::start().expect("a server");
    let (holder, locks) = (client(&server.url()), client(&server.url()));
    let guard = take(&holder, "job");
    let patient = locks.lock("job").wait(time(4_000));
    let trying = locks.lock("job").wait(Wait::Attempts { attempts: 3, interval: time(1_000) });
    let threads = [patient, trying].map(|lock| thread::spawn(move || lock.acquire().map(drop)));
    // In the midst of their attempts.
    until("the waiter", || matches!(holder.inspect("job"), Ok(Some(seen)) if seen.waiters == Some(1)));
    server.kill9();
    for thread in threads {
        let error = thread.join().expect("no panic").expect_err("nobody answers");
        // Or that it was held, if that was the last that was heard.
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Contended), "{error}");
    }
    let error = locks.lock("other").wait(time(500)).acquire().expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    drop(guard);
}

#[test]
fn distributed_locks_07_a_fraction_of_a_second_is_a_ttl() {
    let (url, prefix) = place();
    let locks = client(&url);
    for ttl in [Duration::from_micros(90_500_500), Duration::from_millis(90_999)] {
        let guard = locks.lock("job").ttl(ttl).renewal(Renewal::Never).acquire().expect("free");
        let left = left(redis(), &format!("{prefix}job"));
        assert!(left > 60_000 && left <= 91_000, "{left}");
        assert!(guard.remaining() <= ttl);
        guard.release().expect("released");
    }
    let guard = locks.lock("job").ttl(Duration::from_millis(1_500)).acquire().expect("free");
    assert!(left(redis(), &format!("{prefix}job")) <= 1_500);
    guard.release().expect("released");
}

#[test]
fn distributed_locks_09_an_outage_is_no_contention() {
    let server = Redis::start().expect("a server");
    let locks = client(&server.url());
    server.kill9();
    let error = locks.lock("job").wait(time(500)).acquire().expect_err("nobody answers");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.holder().is_none());
    let once = Wait::Attempts { attempts: 1, interval: Duration::ZERO };
    assert_eq!(locks.lock("job").wait(once).acquire().expect_err("down").kind(), ErrorKind::Unavailable);
    assert_eq!(locks.lock("job").try_acquire().expect_err("down").kind(), ErrorKind::Unavailable);
    assert_eq!(locks.inspect("job").expect_err("down").kind(), ErrorKind::Unavailable);
}

#[test]
fn distributed_locks_10_no_number_of_attempts_hangs() {
    let (url, _) = place();
    let (holder, locks) = (client(&url), client(&url));
    let guard = take(&holder, "job");
    let attempts =
        |attempts| locks.lock("job").wait(Wait::Attempts { attempts, interval: time(1) }).acquire();
    // None at all is refused as what it is, and not as a lock that somebody else has.
    assert_eq!(attempts(0).expect_err("none").kind(), ErrorKind::Invalid);
    assert_eq!(attempts(1).expect_err("held").kind(), ErrorKind::Contended);
    assert_eq!(locks.lock("job").retries(0).acquire().expect_err("held").kind(), ErrorKind::Contended);
    // The most there are can be left.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let waiter = leasehold::Locks::connect(&url).await.expect("connected");
        let lock = waiter.lock("job").retries(u32::MAX);
        assert!(tokio::time::timeout(time(300), lock.acquire()).await.is_err());
    });
    guard.release().expect("released");
}

#[test]
fn distributed_locks_12_a_stale_release_does_not_free_the_next_run_of_the_same_lock() {
    let (url, _) = place();
    let locks = client(&url);
    let lock = locks.lock("job");
    let first = lock.clone().ttl(time(300)).renewal(Renewal::Never).acquire().expect("free");
    let ticket = first.ticket();
    assert_eq!(first.lost(), Lost::Expired);
    let second = lock.ttl(LONG).acquire().expect("the first has ended");
    assert_eq!(first.release().expect_err("stale").kind(), ErrorKind::Lost);
    assert_eq!(locks.resume(ticket).expect_err("stale").kind(), ErrorKind::Lost);
    second.verify().expect("held");
    second.release().expect("released");
}

#[test]
fn distributed_locks_13_whoever_was_refused_has_nothing_to_release() {
    let (url, _) = place();
    let locks = client(&url);
    let lock = locks.lock("job").ttl(LONG);
    let guard = lock.acquire().expect("free");
    {
        // What `finally { unlock() }` would do: there is no guard, and nothing else that releases.
        let refused = lock.try_acquire().expect("answered");
        assert!(refused.is_none());
        let refused = lock.clone().wait(time(100)).acquire();
        assert_eq!(refused.expect_err("held").kind(), ErrorKind::Contended);
    }
    guard.verify().expect("held");
    guard.release().expect("released");
}

#[test]
fn distributed_locks_14_a_server_that_goes_away_ends_no_process() {
    let server = Redis::start().expect("a server");
    let locks = client(&server.url());
    let guard = locks.lock("job").ttl(time(2_000)).acquire().expect("free");
    server.kill9();
    assert_eq!(Locks::connect(&server.url()).expect_err("down").kind(), ErrorKind::Unavailable);
    assert_eq!(guard.lost(), Lost::Expired);
    drop(guard);
    server.restart().expect("restarted");
    // The same client, without being made anew.
    let guard = locks.lock("job").ttl(LONG).wait(time(10_000)).acquire().expect("it is back");
    guard.release().expect("released");
}

#[test]
fn distributed_locks_15_closing_waits_for_the_releases() {
    let (url, prefix) = place();
    let locks = client(&url);
    let guards: Vec<_> = (0..200).map(|i| take(&locks, &format!("job-{i}"))).collect();
    // None of them is waited for by itself.
    drop(guards);
    locks.close().expect("closed");
    let left: Vec<_> = (0..200).map(|i| format!("{prefix}job-{i}")).collect();
    let command: Vec<_> = std::iter::once("exists").chain(left.iter().map(String::as_str)).collect();
    assert_eq!(redis().command(&command).expect("answered"), "0");
}
