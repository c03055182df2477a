//! The permissions that a user needs.

use leasehold::storage::{ReleaseReply, Storage};
use leasehold::{ErrorKind, Tier};
use leasehold_testbed::Redis;

use crate::tools::*;

/// Returns the rights that a user needs according to the README of the storage, for the prefix `shop:`, and those
/// without which less is promised.
fn rights() -> (String, String) {
    let page = include_str!("../../src/storage/redis/README.md");
    let rule = page.split_once("ACL SETUSER locks on >password ").expect("a rule").1;
    let rule = rule.split_once("```").expect("its end").0;
    let optional = ["+info", "+config|get", "+client|tracking"];
    let (more, needed): (Vec<_>, Vec<_>) =
        rule.split_whitespace().partition(|right| optional.contains(right));
    (needed.join(" "), more.join(" "))
}

#[test]
fn a_user_with_the_rights_of_the_readme_can_do_everything() {
    run(async {
        let (needed, more) = rights();
        let rights = format!("{needed} {more}");
        for options in [Redis::options(), Redis::options().valkey()] {
            let redis = options.acl("shop", "pw", &rights).start().expect("a server");
            everything_works(&redis).await;
        }
    });
}

async fn everything_works(redis: &Redis) {
    let url = with(&redis.url_as("shop", "pw"), "prefix=shop:");
    let (locks, other) = (client(&url).await, client(&url).await);
    assert_eq!(locks.guarantees().tier, Tier::RestartSafe);
    for lock in ["job", "a{b}c", "}{", "*?[x]"] {
        let mut changes = other.observe(lock).expect("a name");
        assert_eq!(within(soon(), changes.next()).await, Some(leasehold::Change::Unlocked));
        let guard = locks.lock(lock).label("label").acquire().await.expect("granted");
        assert!(matches!(within(soon(), changes.next()).await, Some(leasehold::Change::Locked { .. })));
        guard.extend(LONG * 2).await.expect("extended");
        let waiting = waiting(other.lock(lock));
        waiters(&locks, lock, 1).await;
        assert_eq!(locks.list("").await.expect("answered").len(), 1);
        guard.release().await.expect("released");
        let guard = within(soon(), waiting).await.expect("no panic").expect("granted");
        assert!(!locks.break_lock(lock).await.expect("answered").is_empty());
        assert_eq!(within(soon(), guard.lost()).await, leasehold::Lost::Taken);
    }
    let denied = tell(redis, &["acl", "log"]);
    // The driver's `CLIENT SETINFO` is not needed.
    assert!(!denied.contains("evalsha") && !denied.contains("subscribe"), "{denied}");
}

#[test]
fn a_user_without_info_gets_the_advisory_tier() {
    run(async {
        let redis = Redis::options().acl("shop", "pw", &rights().0).start().expect("a server");
        let url = with(&redis.url_as("shop", "pw"), "prefix=shop:");
        let storage = bare(&url).await;
        assert_eq!(storage.guarantees().tier, Tier::Advisory);
        let mine = claim("job");
        take(&storage, &mine).await;
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
        // The user has no rights for another prefix.
        let error = acquire(&bare(&redis.url_as("shop", "pw")).await, &mine).await.expect_err("forbidden");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("may not"), "{error}");
    });
}

#[test]
fn every_right_of_the_readme_is_needed() {
    let scripts = [
        include_str!("../../src/storage/redis/common.lua"),
        include_str!("../../src/storage/redis/acquire.lua"),
        include_str!("../../src/storage/redis/renew.lua"),
        include_str!("../../src/storage/redis/release.lua"),
        include_str!("../../src/storage/redis/inspect.lua"),
    ]
    .concat();
    let outside = ["hello", "auth", "select", "ping", "time", "eval", "evalsha", "subscribe", "scan"];
    let rights = rights().0;
    let commands: Vec<_> = rights.split(' ').filter_map(|right| right.strip_prefix('+')).collect();
    for command in &commands {
        let called = scripts.contains(&format!("'{}'", command.to_uppercase()));
        assert!(outside.contains(command) || called, "no script calls {command}");
    }
}

#[test]
fn a_command_that_is_forbidden_within_a_script_is_no_reason_to_retry() {
    run(async {
        let redis = Redis::options().volatile().start().expect("a server");
        for command in ["mget", "set", "del", "pexpire", "pttl"] {
            tell(&redis, &["acl", "setuser", "app", "reset", "on", ">word", "~*", "&*", "+@all"]);
            let storage = bare(&redis.url_as("app", "word")).await;
            let first = claim(&format!("held-{command}"));
            acquire(&storage, &first).await.expect("granted");
            tell(&redis, &["acl", "setuser", "app", &format!("-{command}")]);
            let mut errors = vec![acquire(&storage, &claim(command)).await.err()];
            errors.push(storage.renew(std::slice::from_ref(&first)).await.remove(0).err());
            errors.push(storage.release(std::slice::from_ref(&first)).await.remove(0).err());
            let errors: Vec<_> = errors.into_iter().flatten().collect();
            assert!(!errors.is_empty(), "{command} is not needed");
            for error in errors {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{command}: {error}");
                assert!(error.to_string().contains("the user may not do that"), "{command}: {error}");
            }
        }
    });
}
