//! Paths of lock files: one file under two names, which would each have their own log, and paths that are too long.

use std::fs;

use leasehold::storage::{ReleaseReply, RenewReply};
use leasehold::{Error, ErrorKind};

use crate::tools::{Dir, claim, open, refusal, release, renew, run, take, try_acquire};

/// Checks that an error is a refusal for this reason.
fn is_refusal(error: &Error, why: &str) {
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains(why), "{error}");
}

#[test]
fn a_file_with_another_name_is_refused() {
    for part in ["locks.db", "locks.db-wal", "locks.db-shm"] {
        let dir = Dir::new();
        drop(run(open(&dir.file())));
        fs::hard_link(dir.path().join(part), dir.path().join("other")).expect("linked");
        is_refusal(&refusal(&dir.file()), "more than one name");
        fs::remove_file(dir.path().join("other")).expect("removed");
        run(open(&dir.file()));
    }
    let dir = Dir::new();
    drop(run(open(&dir.file())));
    fs::hard_link(dir.file(), dir.path().join("other.db")).expect("linked");
    let other = dir.path().join("other.db");
    is_refusal(&refusal(&other), "more than one name");
    assert!(!dir.path().join("other.db-wal").exists() && !dir.path().join("other.db-live").exists());
}

#[test]
fn leases_in_a_file_that_gets_another_name_are_lost() {
    for part in ["locks.db", "locks.db-wal", "locks.db-shm"] {
        let dir = Dir::new();
        run(async {
            let storage = open(&dir.file()).await;
            let mine = claim("job");
            take(&storage, &mine).await;
            fs::hard_link(dir.path().join(part), dir.path().join("other")).expect("linked");
            assert_eq!(renew(&storage, &mine).await, RenewReply::NotHeld);
            assert_eq!(release(&storage, &mine).await, ReleaseReply::NotHeld);
            let error = try_acquire(&storage, &claim("job")).await.expect_err("two names");
            is_refusal(&error, "more than one name");
            fs::remove_file(dir.path().join("other")).expect("removed");
            take(&storage, &claim("job")).await;
        });
    }
}

#[test]
fn a_path_that_is_too_long_is_reported_as_such() {
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
        is_refusal(&refusal(&path), "is too long; choose a shorter one");
        assert!(!path.exists(), "made");
    }
}
