//! The features of the original: its constructor, its methods, and its events.

use leasehold::{ErrorKind, Renewal};

use crate::{LONG, client, etcd, locked, place, take, take_for_2_s, time, timed, unlocked};

/// `new Microlock(etcd, key, node_id, ttl)`.
#[test]
fn a_lock_has_a_key_a_node_and_a_ttl() {
    let url = place();
    let locks = client(&url);
    let guard = locks.lock("job").label("node-7").ttl(time(5_000)).acquire().expect("free");
    let seen = client(&url).inspect("job").expect("answered").pop().expect("held");
    assert_eq!((seen.name.as_str(), seen.label.as_deref()), ("job", Some("node-7")));
    assert!(seen.remaining <= time(5_000));
    guard.release().expect("released");
}

/// `EtcdClientRequiredError`, `KeyRequiredError`, `NodeIdRequiredError`, `InvalidTtlError`.
#[test]
fn wrong_arguments_are_errors_before_anything_is_sent() {
    for url in ["", "etcd:", "etcd://"] {
        assert_eq!(leasehold::blocking::Locks::connect(url).expect_err(url).kind(), ErrorKind::Invalid);
    }
    let locks = client(&place());
    let long = "n".repeat(4_097);
    for (what, lock) in [
        ("no key", locks.lock("")),
        ("a label that is too long", locks.lock("job").label(&*long)),
        ("no TTL", locks.lock("job").ttl(time(0))),
        ("a TTL below the bound", locks.lock("job").ttl(std::time::Duration::from_secs(1))),
    ] {
        let error = lock.try_acquire().expect_err(what);
        assert_eq!(error.kind(), ErrorKind::Invalid, "{what}");
    }
}

/// `lock()`, and `AlreadyLockedError`.
#[test]
fn a_second_lock_is_refused_and_told_by_whom() {
    let url = place();
    let (locks, other) = (client(&url), client(&url));
    let guard = locks.lock("job").label("node-7").ttl(LONG).acquire().expect("free");
    assert!(other.lock("job").try_acquire().expect("answered").is_none());
    let error = other.lock("job").wait(time(100)).acquire().expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Contended);
    assert_eq!(error.holder().and_then(|holder| holder.label.as_deref()), Some("node-7"));
    guard.release().expect("released");
}

/// `node.modifiedIndex`, which the original does not document.
#[test]
fn the_token_is_the_revision_that_created_the_key() {
    let url = place();
    let locks = client(&url);
    let first = take(&locks, "job");
    let (_, prefix) = url.split_once("prefix=").expect("it has one");
    let key = format!("{prefix}job/{}", first.owner());
    let fields = etcd().command(&["get", &key, "--write-out=fields"]).expect("answered");
    let created = fields.lines().find_map(|line| line.strip_prefix("\"CreateRevision\" : "));
    assert_eq!(created.map(str::to_owned), Some(first.token().to_string()));
    let token = first.token();
    first.release().expect("released");
    assert!(take(&locks, "job").token() > token);
}

/// `unlock()`, and `LockNotOwnedError`.
#[test]
fn an_unlock_of_what_is_not_owned_says_so() {
    let url = place();
    let (locks, operator) = (client(&url), client(&url));
    let guard = take(&locks, "job");
    assert_eq!(operator.break_lock("job").expect("answered").len(), 1);
    assert_eq!(guard.release().expect_err("broken").kind(), ErrorKind::Lost);
    take(&operator, "job").release().expect("released");
}

/// `renew()`, and `LockNotOwnedError`.
#[test]
fn a_renewal_gives_a_full_ttl_and_says_if_it_is_not_owned() {
    let url = place();
    let (locks, operator) = (client(&url), client(&url));
    let guard = locks.lock("job").ttl(time(3_000)).renewal(Renewal::Never).acquire().expect("free");
    let before = guard.remaining();
    guard.extend(time(10_000)).expect("held");
    assert!(guard.remaining() > before + time(5_000));
    operator.break_lock("job").expect("answered");
    assert_eq!(guard.extend(time(10_000)).expect_err("broken").kind(), ErrorKind::Lost);
}

/// `destroy()`, which stops to watch and unlocks nothing.
#[test]
fn an_observer_that_is_dropped_unlocks_nothing() {
    let url = place();
    let (locks, other) = (client(&url), client(&url));
    let guard = take(&locks, "job");
    let mut changes = other.observe("job").expect("valid");
    locked(&mut changes);
    drop(changes);
    other.close().expect("closed");
    guard.verify().expect("held");
    guard.release().expect("released");
}

/// The events `locked` and `unlocked`, by any node.
#[test]
fn changes_by_any_client_are_observed() {
    let url = place();
    let (a, b, observer) = (client(&url), client(&url), client(&url));
    let mut changes = observer.observe("job").expect("valid");
    unlocked(&mut changes);
    for (locks, label) in [(&a, "a"), (&b, "b"), (&a, "again")] {
        let guard = locks.lock("job").label(label).ttl(LONG).acquire().expect("free");
        assert_eq!(locked(&mut changes).as_deref(), Some(label));
        guard.release().expect("released");
        unlocked(&mut changes);
    }
}

/// A lock that ends by itself is an unlock, too.
#[test]
fn an_expiry_is_observed() {
    let url = place();
    let (locks, observer) = (client(&url), client(&url));
    let mut changes = observer.observe("job").expect("valid");
    unlocked(&mut changes);
    let guard = take_for_2_s(&locks, "job");
    locked(&mut changes);
    let ((), took) = timed(|| unlocked(&mut changes));
    assert!(took < time(4_000), "{took:?}");
    assert!(!guard.is_held());
}
