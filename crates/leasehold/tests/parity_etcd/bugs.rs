//! The bugs of the original, each with its number in `docs/parity.md`.

use std::error::Error as _;

use leasehold::ErrorKind;
use leasehold_testbed::Etcd;

use crate::{LONG, client, etcd, locked, place, take, take_for_2_s, time, timed, unlocked};

#[test]
fn microlock_01_errors_have_a_text_and_a_kind() {
    let url = place();
    let (locks, other) = (client(&url), client(&url));
    let guard = take(&locks, "job");
    let error = other.lock("job").wait(time(50)).acquire().expect_err("held");
    assert!(error.to_string().contains("another client has the lock"), "{error}");
    assert!(error.to_string().contains("name=`job`"), "{error}");
    assert_eq!(error.kind(), ErrorKind::Contended);
    assert!(error.source().is_none_or(|source| !source.to_string().is_empty()));
    guard.release().expect("released");
}

#[test]
fn microlock_02_waiters_and_observers_learn_that_a_lock_ended_in_any_way() {
    let url = place();
    let (locks, operator, observer) = (client(&url), client(&url), client(&url));
    let mut changes = observer.observe("job").expect("valid");
    unlocked(&mut changes);
    // By a release, by an operator, by a deletion, and by itself.
    for way in 0..4 {
        let guard = take_for_2_s(&locks, "job");
        locked(&mut changes);
        match way {
            0 => guard.release().expect("released"),
            1 => drop(operator.break_lock("job").expect("answered")),
            2 => {
                let (_, prefix) = url.split_once("prefix=").expect("it has one");
                etcd().command(&["del", "--prefix", &format!("{prefix}job/")]).expect("deleted");
            }
            _ => guard.forget(),
        }
        unlocked(&mut changes);
    }
}

#[test]
fn microlock_03_a_renewal_is_no_lock() {
    let url = place();
    let (locks, observer) = (client(&url), client(&url));
    let mut changes = observer.observe("job").expect("valid");
    unlocked(&mut changes);
    let guard = locks.lock("job").ttl(time(3_000)).label("first").acquire().expect("free");
    assert_eq!(locked(&mut changes).as_deref(), Some("first"));
    for _ in 0..3 {
        guard.extend(time(3_000)).expect("held");
        guard.extend(time(30_000)).expect("held");
    }
    guard.release().expect("released");
    // A change that a renewal had caused would come first.
    unlocked(&mut changes);
}

#[test]
fn microlock_04_a_lock_that_is_not_acquired_costs_the_server_nothing() {
    let server = Etcd::start().expect("a server");
    let locks = client(&server.url());
    let before = (server.watchers().expect("counted"), server.connections().expect("counted"));
    let all: Vec<_> = (0..100).map(|i| locks.lock(format!("job{i}"))).collect();
    assert_eq!((server.watchers().expect("counted"), server.connections().expect("counted")), before);
    drop(all);
}

#[test]
fn microlock_05_a_server_that_goes_away_ends_no_process() {
    let server = Etcd::start().expect("a server");
    let locks = client(&server.url());
    let mut changes = locks.observe("job").expect("valid");
    unlocked(&mut changes);
    server.kill9();
    let error = locks.lock("job").wait(time(300)).acquire().expect_err("no server");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    server.restart().expect("restarted");
    let guard = locks.lock("job").wait(LONG).acquire().expect("it is back");
    locked(&mut changes);
    guard.release().expect("released");
}

#[test]
fn microlock_06_two_processes_of_one_host_are_two_owners() {
    let url = place();
    let (locks, other) = (client(&url), client(&url));
    let guard = locks.lock("job").label("host").ttl(LONG).acquire().expect("free");
    assert!(other.lock("job").label("host").try_acquire().expect("answered").is_none());
    assert!(locks.lock("job").label("host").try_acquire().expect("answered").is_none());
    guard.verify().expect("held");
    guard.release().expect("released");
}

#[test]
fn microlock_07_a_ttl_is_a_duration_within_bounds() {
    let locks = client(&place());
    for millis in [0, 1, 1_999, 86_400_001] {
        let lock = locks.lock("job").ttl(std::time::Duration::from_millis(millis));
        assert_eq!(lock.try_acquire().expect_err("out of bounds").kind(), ErrorKind::Invalid, "{millis}");
    }
}

#[test]
fn microlock_08_there_is_waiting_retrying_and_renewing() {
    let url = place();
    let (locks, other) = (client(&url), client(&url));
    let guard = locks.lock("job").ttl(time(2_000)).acquire().expect("free");
    let (refused, took) = timed(|| other.lock("job").wait(time(3_500)).acquire());
    assert_eq!(refused.expect_err("it is renewed").kind(), ErrorKind::Contended);
    assert!(took >= time(3_400), "{took:?}");
    assert_eq!(other.lock("job").retries(2).acquire().expect_err("held").kind(), ErrorKind::Contended);
    guard.release().expect("released");
    take(&other, "job").release().expect("released");
}

#[test]
fn microlock_09_an_error_is_returned_and_needs_no_listener() {
    let server = Etcd::start().expect("a server");
    let locks = client(&server.url());
    server.kill9();
    let error = locks.lock("job").wait(time(200)).acquire().expect_err("no server");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert_eq!(locks.inspect("job").expect_err("no server").kind(), ErrorKind::Unavailable);
}

#[test]
fn microlock_10_the_api_is_that_of_etcd_3() {
    let url = place();
    let guard = take(&client(&url), "job");
    let (_, prefix) = url.split_once("prefix=").expect("it has one");
    let found =
        etcd().command(&["get", "--prefix", "--keys-only", &format!("{prefix}job/")]).expect("answered");
    assert_eq!(found.trim(), format!("{prefix}job/{}", guard.owner()));
}

#[test]
fn microlock_11_a_renewal_keeps_the_value() {
    let url = place();
    let (locks, observer) = (client(&url), client(&url));
    let guard = locks.lock("job").label("node-7").ttl(time(2_000)).acquire().expect("free");
    // The second one moves the key to another lease.
    for ttl in [2_000, 60_000, 2_000] {
        guard.extend(time(ttl)).expect("held");
        let seen = observer.inspect("job").expect("answered").pop().expect("held");
        assert_eq!((seen.label.as_deref(), seen.token), (Some("node-7"), guard.token()));
    }
}
