//! The keys of a lock, and keys of other programs in their place.

use leasehold::ErrorKind;
use leasehold::storage::{AcquireReply, ReleaseReply, Storage};
use leasehold_testbed::Redis;

use crate::tools::*;

#[test]
fn another_prefix_is_another_place() {
    run(async {
        let redis = common();
        let (a, b) = (prefix(), prefix());
        let [a, b] = [a, b].map(|prefix| with(&redis.url(), &format!("prefix={prefix}")));
        let (mine, theirs) = (bare(&a).await, bare(&b).await);
        take(&mine, &claim("job")).await;
        take(&theirs, &claim("job")).await;
        assert_eq!(mine.list("", None, 10).await.expect("answered").len(), 1);
    });
}

#[test]
fn prefix_and_name_are_not_confused() {
    run(async {
        let redis = Redis::start().expect("a server");
        // Both lead to the same key, and so to the same lock.
        let [a, ab] = ["a:", "a:b:"].map(|prefix| with(&redis.url(), &format!("prefix={prefix}")));
        let (outer, inner) = (bare(&a).await, bare(&ab).await);
        take(&outer, &claim("b:c")).await;
        is_held(&inner, &claim("c")).await;
        let seen = inner.list("", None, 10).await.expect("answered");
        assert_eq!(seen.iter().map(|holder| holder.name.as_str()).collect::<Vec<_>>(), ["c"]);
    });
}

#[test]
fn hostile_names_and_labels_make_no_keys_but_their_own() {
    run(async {
        let redis = Redis::start().expect("a server");
        let locks = client(&with(&redis.url(), "prefix=shop:")).await;
        let names = [
            "'",
            "\"",
            "\\",
            "\r\nFLUSHALL\r\n",
            "*1\r\n$8\r\nFLUSHALL\r\n",
            "]] redis.call('FLUSHALL') --",
            "' .. redis.call('FLUSHALL') .. '",
            "%s%n%d",
            "*",
            "?",
            "[a-z]",
            "{",
            "}",
            "{}",
            "}{",
            "a{b}c",
            "shop:job",
            "leasehold:0123456789abcdef",
            "\u{1}",
            "\u{7f}",
            "é",
            "日本",
            "🔒",
            "a b",
            "a\tb",
        ];
        tell(&redis, &["set", "canary", "1"]);
        let mut guards = Vec::new();
        for (i, name) in names.iter().enumerate() {
            let label = names[names.len() - 1 - i];
            let guard = within(LONG, locks.lock(name).label(label).acquire()).await.expect("granted");
            let holder = locks.inspect(name).await.expect("answered").pop().expect("held");
            assert_eq!((holder.name.as_str(), holder.label.as_deref()), (*name, Some(label)));
            guards.push(guard);
        }
        assert_eq!(locks.list("").await.expect("answered").len(), names.len());
        let count: usize = tell(&redis, &["dbsize"]).parse().expect("a number");
        assert_eq!(count, 1 + 2 * names.len(), "the lock and its record");
        for guard in guards {
            guard.release().await.expect("released");
        }
        assert_eq!(tell(&redis, &["dbsize"]), (1 + names.len()).to_string());
        assert_eq!(tell(&redis, &["get", "canary"]), "1");
    });
}

#[test]
fn a_key_of_another_type_is_named() {
    run(async {
        let redis = Redis::start().expect("a server");
        let storage = bare(&with(&redis.url(), "prefix=shop:")).await;
        for (command, kind) in [
            (&["hset", "shop:job", "id", "1"][..], "hash"),
            (&["rpush", "shop:job", "1"], "list"),
            (&["zadd", "shop:job", "1", "1"], "zset"),
        ] {
            tell(&redis, command);
            for error in [
                acquire(&storage, &claim("job")).await.expect_err("not a lock"),
                storage.inspect(&name("job")).await.expect_err("not a lock"),
            ] {
                assert_eq!(error.kind(), ErrorKind::Unsupported);
                assert!(error.to_string().contains(&format!("type=`{kind}`")), "{error}");
            }
            tell(&redis, &["del", "shop:job"]);
        }
        take(&storage, &claim("job")).await;
    });
}

#[test]
fn a_lock_of_another_library_is_respected_whatever_its_value_is() {
    run(async {
        let redis = Redis::start().expect("a server");
        let storage = bare(&with(&redis.url(), "prefix=shop:")).await;
        for value in ["", "0", "7", "a b", "00000000000000000000000000000000"] {
            tell(&redis, &["set", "shop:job", value, "px", "60000"]);
            let mine = claim("job").wait(true);
            // First without an entry of this waiter, then with one.
            for _ in 0..2 {
                is_held(&storage, &mine).await;
                let holder = storage.inspect(&mine.name).await.expect("answered").pop().expect("held");
                assert_eq!(holder.token, leasehold::Token::new(0), "{value}");
                assert_eq!(
                    renew(&storage, &mine).await.expect("answered"),
                    leasehold::storage::RenewReply::NotHeld
                );
            }
            let theirs = storage.inspect(&mine.name).await.expect("answered").pop().expect("held");
            let breaking = leasehold::storage::Claim::new(name("job"), theirs.owner, LONG);
            assert_eq!(release(&storage, &breaking).await.expect("answered"), ReleaseReply::Released);
            take(&storage, &mine).await;
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
        }
    });
}

#[test]
fn keys_of_another_type_beside_a_lock_do_not_fail_other_claims() {
    run(async {
        let redis = Redis::options().volatile().start().expect("a server");
        let storage = bare(&redis.url()).await;
        let keep = |key: &str, row: &str| {
            let set = format!("redis.call('set', '{{leasehold:bad}}\\0{key}', '{row}')");
            tell(&redis, &["eval", &set, "0"]);
        };
        let both = |wait| [claim("bad").wait(wait), claim("good").wait(wait)];
        // The queue and the waiters are strings, and the record says that there may be waiters.
        let held = both(false);
        for answer in storage.acquire(&held).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        for key in ["q", "w"] {
            keep(key, "foreign");
        }
        let answers = storage.acquire(&both(true)).await;
        let error = answers[0].as_ref().expect_err("it cannot wait");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(matches!(answers[1], Ok(AcquireReply::Held { .. })), "{:?}", answers[1]);
        let listed = storage.list("", None, 10).await.expect("listed");
        assert_eq!(listed.len(), 2);
        for answer in storage.release(&held).await {
            assert_eq!(answer.expect("released"), ReleaseReply::Released);
        }
        // The record is not one of ours.
        keep("t", "foreign");
        for answer in storage.acquire(&[claim("bad"), claim("other")]).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
    });
}
