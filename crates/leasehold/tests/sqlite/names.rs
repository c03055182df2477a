//! One file under two names: each would have a log of its own.

use std::fs;

use leasehold::storage::sqlite::{Config, Sqlite};
use leasehold::storage::{AcquireReply, ReleaseReply, RenewReply, Storage};
use leasehold::{Error, ErrorKind};

use super::{Dir, acquire, claim, open, release, renew, run};

fn refused(error: &Error, why: &str) {
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

#[test]
fn a_file_with_another_name_is_refused() {
    for part in ["locks.db", "locks.db-wal", "locks.db-shm"] {
        let dir = Dir::new();
        drop(run(open(&dir.file())));
        fs::hard_link(dir.path().join(part), dir.path().join("other")).expect("linked");
        refused(&run(Sqlite::open(Config::new(dir.file()))).expect_err("two names"), "more than one name");
        fs::remove_file(dir.path().join("other")).expect("removed");
        run(open(&dir.file()));
    }
    let dir = Dir::new();
    drop(run(open(&dir.file())));
    fs::hard_link(dir.file(), dir.path().join("other.db")).expect("linked");
    let other = dir.path().join("other.db");
    refused(&run(Sqlite::open(Config::new(other))).expect_err("two names"), "more than one name");
    assert!(!dir.path().join("other.db-wal").exists() && !dir.path().join("other.db-live").exists());
}

#[test]
fn a_file_that_gets_another_name_binds_nobody_and_is_noticed() {
    for part in ["locks.db", "locks.db-wal", "locks.db-shm"] {
        let dir = Dir::new();
        run(async {
            let storage = open(&dir.file()).await;
            let mine = claim("job");
            assert!(matches!(acquire(&storage, &mine).await, AcquireReply::Granted { .. }));
            fs::hard_link(dir.path().join(part), dir.path().join("other")).expect("linked");
            assert_eq!(renew(&storage, &mine).await, RenewReply::NotHeld);
            assert_eq!(release(&storage, &mine).await, ReleaseReply::NotHeld);
            let answer = storage.acquire(&[claim("job")]).await.pop().expect("one answer");
            refused(&answer.expect_err("two names"), "more than one name");
            fs::remove_file(dir.path().join("other")).expect("removed");
            assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Granted { .. }));
        });
    }
}

#[test]
fn a_path_that_is_too_long_is_said_to_be_that() {
    let dir = Dir::new();
    let below = |length: usize| {
        let name = "x".repeat(100);
        let mut path = dir.path().to_owned();
        while path.as_os_str().len() + 200 < length {
            path.push(&name);
        }
        path.push("y".repeat(length - path.as_os_str().len() - 1));
        path
    };
    drop(run(open(&below(504))));
    drop(run(open(&dir.path().join("z".repeat(247)))));
    for path in [below(505), below(600), dir.path().join("z".repeat(248)), dir.path().join("z".repeat(255))] {
        refused(
            &run(Sqlite::open(Config::new(&path))).expect_err("too long"),
            "is too long; choose a shorter one",
        );
        assert!(!path.exists(), "made");
    }
}
