//! The values that may be stored under the key of a lock.

use leasehold::{Change, ErrorKind, Token};

use crate::{LONG, ours, redis, time};

/// Keys that are not strings, as other libraries write them.
const OTHERS: &[(&str, &[&str])] = &[
    ("hash", &["hset", "KEY", "8743c9c0-0795-4907-87fd-6c719a6b4586:1", "1"]),
    ("list", &["rpush", "KEY", "waiter"]),
    ("set", &["sadd", "KEY", "holder"]),
    ("zset", &["zadd", "KEY", "1700000000000", "holder"]),
    ("stream", &["xadd", "KEY", "*", "holder", "one"]),
];

#[test]
fn a_key_of_another_type_is_refused_by_name_and_left_alone() {
    let ours = ours("types:");
    for (kind, command) in OTHERS {
        let key = format!("types:{kind}");
        let command: Vec<_> =
            command.iter().map(|word| if *word == "KEY" { key.as_str() } else { word }).collect();
        redis().command(&command).expect("written");
        let errors = [
            ours.lock(kind).try_acquire().expect_err("no lock"),
            ours.lock(kind).acquire().expect_err("no lock"),
            ours.inspect(kind).expect_err("no lock"),
            ours.break_lock(kind).expect_err("no lock"),
        ];
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            let text = error.to_string();
            assert!(
                text.contains(&format!("type=`{kind}`")) && text.contains(&format!("name=`{kind}`")),
                "{text}"
            );
        }
        assert_eq!(redis().command(&["type", &key]).expect("answered"), *kind);
    }
    // A key of another type does not hide the lock.
    let guard = ours.lock("lock").acquire().expect("it is free");
    let listed = ours.list("").expect("answered");
    assert_eq!(listed.iter().map(|holder| holder.name.as_str()).collect::<Vec<_>>(), ["lock"]);
    guard.release().expect("released");
}

#[test]
fn a_key_of_another_type_leaves_the_others_of_a_batch_alone() {
    let ours = ours("batch:");
    redis().command(&["hset", "batch:hash", "holder", "1"]).expect("written");
    let threads: Vec<_> = ["hash", "a", "b", "c", "hash", "d"]
        .map(|name| {
            let lock = ours.lock(name);
            std::thread::spawn(move || (name, lock.acquire()))
        })
        .into();
    for thread in threads {
        match thread.join().expect("no panic") {
            ("hash", outcome) => {
                assert_eq!(outcome.expect_err("no lock").kind(), ErrorKind::Unsupported);
            }
            (_, outcome) => outcome.expect("granted").release().expect("released"),
        }
    }
}

#[test]
fn a_value_of_any_bytes_is_a_holder() {
    let ours = ours("values:");
    let long = "x".repeat(100_000);
    let values = [r#""""#, r#""\xff\xfe\x00\x80""#, "\"0\"", "\"1 2 3\"", "\"'; DROP TABLE locks\"", &long];
    for (i, value) in values.iter().enumerate() {
        let (name, key) = (format!("{i}"), format!("values:{i}"));
        let ms = LONG.as_millis().to_string();
        redis().quoted(&["set", &key, value, "px", &ms]).expect("written");
        assert!(ours.lock(&name).try_acquire().expect("answered").is_none());
        let seen = ours.inspect(&name).expect("answered").pop().expect("held");
        // An equal value is the same owner, and a different one is another owner.
        assert_eq!(ours.inspect(&name).expect("answered").pop().expect("held").owner, seen.owner);
        redis().quoted(&["set", &key, "\"another\"", "px", &ms]).expect("written");
        assert_ne!(ours.inspect(&name).expect("answered").pop().expect("held").owner, seen.owner);
        assert!(!ours.break_lock(&name).expect("answered").is_empty());
        ours.lock(&name).try_acquire().expect("answered").expect("free").release().expect("released");
    }
}

#[test]
fn an_owner_of_ours_that_somebody_else_wrote_is_not_ours() {
    let ours = ours("forged:");
    let guard = ours.lock("lock").ttl(LONG).acquire().expect("free");
    // A value as node-redlock writes it: 32 hexadecimal digits.
    let other = "0123456789abcdef0123456789abcdef";
    redis().command(&["set", "forged:lock", other, "px", "600000"]).expect("written");
    assert_eq!(guard.verify().expect_err("gone").kind(), ErrorKind::Lost);
    drop(guard);
    assert!(ours.lock("lock").try_acquire().expect("answered").is_none());
    let seen = ours.inspect("lock").expect("answered").pop().expect("held");
    assert_ne!(seen.owner.to_string(), other);
    assert_eq!(seen.label, None);
}

#[test]
fn a_lock_without_an_end_is_waited_for() {
    let ours = ours("endless:");
    // A value as redis-py writes it without a timeout.
    redis().command(&["set", "endless:lock", "holder"]).expect("written");
    let error = ours.lock("lock").wait(time(100)).acquire().expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Contended);
    assert!(error.to_string().len() < 400, "{error}");
    let lock = ours.lock("lock");
    let waiting = std::thread::spawn(move || lock.acquire().expect("granted"));
    leasehold_testbed::until("the waiter", || match ours.inspect("lock") {
        Ok(holders) if holders.first().is_some_and(|holder| holder.waiters == Some(1)) => Ok(()),
        other => Err(leasehold_testbed::Error::new(format!("{other:?}"))),
    })
    .expect("it waits");
    redis().command(&["del", "endless:lock"]).expect("deleted");
    waiting.join().expect("no panic").release().expect("released");
}

#[test]
fn a_lock_of_somebody_else_is_observed_at_once() {
    let ours = ours("observed:");
    let mut changes = ours.observe("lock").expect("observed");
    assert_eq!(changes.next(), Some(Change::Unlocked));
    redis().command(&["set", "observed:lock", "holder", "px", "600000"]).expect("written");
    let locked = changes.next();
    assert!(
        matches!(&locked, Some(Change::Locked { holder }) if holder.token == Token::new(0)),
        "{locked:?}"
    );
    redis().command(&["del", "observed:lock"]).expect("deleted");
    assert_eq!(changes.next(), Some(Change::Unlocked));
}

#[test]
fn a_foreign_lock_is_listed_once_ours_has_held_it() {
    let ours = ours("listed:");
    for name in ["known", "unknown"] {
        redis().command(&["set", &format!("listed:{name}"), "holder", "px", "600000"]).expect("written");
    }
    assert!(ours.list("").expect("answered").is_empty());
    assert!(!ours.break_lock("known").expect("answered").is_empty());
    ours.lock("known").acquire().expect("free").release().expect("released");
    redis().command(&["set", "listed:known", "holder", "px", "600000"]).expect("written");
    let listed = ours.list("").expect("answered");
    assert_eq!(listed.iter().map(|holder| holder.name.as_str()).collect::<Vec<_>>(), ["known"]);
}
