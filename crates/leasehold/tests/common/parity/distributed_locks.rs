//! Scenarios of npm `distributed-locks`. `left` returns the remaining lease of the lock `job`, in ms,
//! according to the server.

use std::thread;
use std::time::Duration;

use leasehold::blocking::{Guard, Locks};
use leasehold::{ErrorKind, Event, Lost, Renewal, Wait};
use leasehold_testbed::Server;

use super::{LONG, client, take, time, timed, until};

/// Gives the clients labels: one of its own, and the default.
pub(crate) fn labels(url: &str) {
    let named = Locks::builder().label("machine-7").connect(url).expect("connected");
    let guard = take(&named, "named");
    let unnamed = client(url);
    let seen = unnamed.inspect("named").expect("answered").pop().expect("held");
    assert_eq!(seen.label.as_deref(), Some("machine-7"));
    let other = take(&unnamed, "unnamed");
    let seen = named.inspect("unnamed").expect("answered").pop().expect("held");
    let label = seen.label.expect("a default");
    assert!(label.contains('@') && label.ends_with(&format!(":{}", std::process::id())), "{label}");
    drop((guard, other));
}

/// Is refused by a holder that has a label.
pub(crate) fn refusal(url: &str) {
    let holder = Locks::builder().label("nightly report").connect(url).expect("connected");
    let guard = take(&holder, "job");
    let error = client(url).lock("job").wait(time(100)).acquire().expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Contended);
    let seen = error.holder().expect("a holder was seen");
    assert_eq!((seen.name.as_str(), seen.owner, seen.token), ("job", guard.owner(), guard.token()));
    assert_eq!(seen.label.as_deref(), Some("nightly report"));
    assert!(error.waited().is_some_and(|waited| waited >= time(100)));
    let text = error.to_string();
    assert!(text.contains("name=`job`") && text.contains("nightly report"), "{text}");
    guard.release().expect("released");
}

/// Acquires one lock many times.
pub(crate) fn owners_and_tokens(url: &str) {
    let lock = client(url).lock("job").ttl(LONG);
    let mut seen = Vec::new();
    for _ in 0..20 {
        let guard = lock.acquire().expect("free");
        assert!(seen.iter().all(|(owner, token)| *owner != guard.owner() && *token < guard.token()));
        seen.push((guard.owner(), guard.token()));
        guard.release().expect("released");
    }
}

/// Closes a client that holds locks. `is_gone` checks each of them.
pub(crate) fn close(url: &str, is_gone: impl Fn(&Guard)) {
    let (locks, other) = (client(url), client(url));
    let guards = ["a", "b", "c"].map(|name| take(&locks, name));
    locks.close().expect("closed");
    for guard in &guards {
        assert!(!guard.is_held());
        is_gone(guard);
        take(&other, guard.name().as_str()).release().expect("released");
    }
    assert_eq!(locks.lock("a").try_acquire().expect_err("closed").kind(), ErrorKind::Closed);
}

/// Acquires once with the defaults, then with a TTL, attempts and an interval.
pub(crate) fn options_of_each(url: &str, left: impl Fn() -> i64) {
    let (locks, other) = (client(url), client(url));
    let guard = locks.lock("job").acquire().expect("free");
    assert!((1..=10_000).contains(&left()), "10 s unless told otherwise");
    let wait = Wait::Attempts { attempts: 3, interval: time(50) };
    let error = other.lock("job").ttl(LONG).wait(wait).acquire().expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Contended);
    guard.release().expect("released");
    let guard = other.lock("job").ttl(LONG).wait(wait).acquire().expect("free");
    assert!(left() > 500_000);
    guard.release().expect("released");
}

/// Makes three attempts at a held lock. `refusals` returns how many the server has counted.
pub(crate) fn three_attempts(url: &str, refusals: impl Fn() -> u64) {
    let (holder, other) = (client(url), client(url));
    let guard = holder.lock("job").ttl(LONG).renewal(Renewal::Never).acquire().expect("free");
    let (before, interval) = (refusals(), time(2_000));
    let lock = other.lock("job").wait(Wait::Attempts { attempts: 3, interval });
    let (error, took) = timed(|| lock.acquire().expect_err("held"));
    assert_eq!((error.kind(), refusals() - before), (ErrorKind::Contended, 3));
    assert!(took >= 2 * interval && took < 3 * interval, "{took:?}");
    guard.release().expect("released");
}

/// Releases a held lock, and one that another program has deleted.
pub(crate) fn release_of_a_deleted_lock(url: &str, delete: impl FnOnce()) {
    let locks = client(url);
    take(&locks, "job").release().expect("it was held");
    let guard = take(&locks, "job");
    delete();
    assert_eq!(guard.release().expect_err("it was not").kind(), ErrorKind::Lost);
}

/// Renews, tries, waits and inspects. Returns the holder's client, the other client, and the guard.
pub(crate) fn renewing_and_looking(url: &str, left: impl Fn() -> i64) -> (Locks, Locks, Guard) {
    let (locks, other) = (client(url), client(url));
    let mut events = locks.events();
    // The lease is renewed automatically several times.
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
    assert!(left() > 500_000);
    assert!(other.lock("job").try_acquire().expect("answered").is_none());
    assert_eq!(other.lock("job").wait(time(100)).acquire().expect_err("held").kind(), ErrorKind::Contended);
    let seen = other.inspect("job").expect("answered").pop().expect("held");
    assert_eq!((seen.owner, seen.token), (guard.owner(), guard.token()));
    (locks, other, guard)
}

/// Bug 4: kills a server in the middle of attempts.
pub(crate) fn outage_among_attempts(server: &Server, url: &str) {
    let (holder, locks) = (client(url), client(url));
    let guard = take(&holder, "job");
    let patient = locks.lock("job").wait(time(4_000));
    let trying = locks.lock("job").wait(Wait::Attempts { attempts: 3, interval: time(1_000) });
    let threads = [patient, trying].map(|lock| thread::spawn(move || lock.acquire().map(drop)));
    // The client is in the middle of its attempts.
    until(
        "the waiter",
        || matches!(holder.inspect("job"), Ok(seen) if seen.first().is_some_and(|seen| seen.waiters == Some(1))),
    );
    server.kill9();
    for thread in threads {
        let error = thread.join().expect("no panic").expect_err("the storage does not answer");
        // If the last answer said that the lock is held, the error says so, too.
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Contended), "{error}");
    }
    let error = locks.lock("other").wait(time(500)).acquire().expect_err("the storage does not answer");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    drop(guard);
}

/// Bug 7: uses TTLs that are not whole seconds. `is_kept` checks that the server keeps them exactly.
pub(crate) fn fractions_of_a_second(url: &str, left: impl Fn() -> i64, is_kept: impl Fn(Duration)) {
    let locks = client(url);
    for ttl in [Duration::from_micros(90_500_500), Duration::from_millis(90_999)] {
        let guard = locks.lock("job").ttl(ttl).renewal(Renewal::Never).acquire().expect("free");
        let left = left();
        assert!(left > 60_000 && left <= 91_000, "{left}");
        assert!(guard.remaining() <= ttl);
        is_kept(ttl);
        guard.release().expect("released");
    }
}

/// Bug 9: acquires while the server is down.
pub(crate) fn outage(server: &Server, url: &str) {
    let locks = client(url);
    server.kill9();
    let error = locks.lock("job").wait(time(500)).acquire().expect_err("the storage does not answer");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.holder().is_none());
    let once = Wait::Attempts { attempts: 1, interval: Duration::ZERO };
    assert_eq!(locks.lock("job").wait(once).acquire().expect_err("down").kind(), ErrorKind::Unavailable);
    assert_eq!(locks.lock("job").try_acquire().expect_err("down").kind(), ErrorKind::Unavailable);
    assert_eq!(locks.inspect("job").expect_err("down").kind(), ErrorKind::Unavailable);
}

/// Bug 10: makes no attempt and one attempt; then runs `more` while the lock is held.
pub(crate) fn numbers_of_attempts(url: &str, more: impl FnOnce()) {
    let (holder, locks) = (client(url), client(url));
    let guard = take(&holder, "job");
    let attempts =
        |attempts| locks.lock("job").wait(Wait::Attempts { attempts, interval: time(1) }).acquire();
    // Zero attempts are an invalid option, not contention.
    assert_eq!(attempts(0).expect_err("none").kind(), ErrorKind::Invalid);
    assert_eq!(attempts(1).expect_err("held").kind(), ErrorKind::Contended);
    assert_eq!(locks.lock("job").retries(0).acquire().expect_err("held").kind(), ErrorKind::Contended);
    more();
    guard.release().expect("released");
}

/// Bug 12: releases a guard of an earlier run.
pub(crate) fn stale_release(url: &str) {
    let locks = client(url);
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

/// Bug 13: gets refusals beside a guard.
pub(crate) fn refusals_beside_a_guard(url: &str) {
    let locks = client(url);
    let lock = locks.lock("job").ttl(LONG);
    let guard = lock.acquire().expect("free");
    {
        // A caller with `finally { unlock() }` has nothing to call here: without a guard, there is no
        // release.
        let refused = lock.try_acquire().expect("answered");
        assert!(refused.is_none());
        let refused = lock.clone().wait(time(100)).acquire();
        assert_eq!(refused.expect_err("held").kind(), ErrorKind::Contended);
    }
    guard.verify().expect("held");
    guard.release().expect("released");
}

/// Bug 14: stops a server and starts it again.
pub(crate) fn outage_and_return(server: &Server, url: &str) {
    let locks = client(url);
    let guard = locks.lock("job").ttl(time(2_000)).acquire().expect("free");
    server.kill9();
    assert_eq!(Locks::connect(url).expect_err("down").kind(), ErrorKind::Unavailable);
    assert_eq!(guard.lost(), Lost::Expired);
    drop(guard);
    server.restart().expect("restarted");
    // The same client works again, without being recreated.
    let guard = locks.lock("job").ttl(LONG).wait(time(10_000)).acquire().expect("it is back");
    guard.release().expect("released");
}

/// Bug 15: drops guards without waiting, and closes the client.
pub(crate) fn dropped_guards(url: &str) {
    let locks = client(url);
    let guards: Vec<_> = (0..200).map(|i| take(&locks, &format!("job-{i}"))).collect();
    // The releases are in the background.
    drop(guards);
    locks.close().expect("closed");
}
