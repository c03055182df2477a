//! One file under two names: each would have a log of its own.

use std::fs;

use leasehold::storage::sqlite::{Config, Sqlite};
use leasehold::storage::{Acquire, Release, Renew, Storage};
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
            assert!(matches!(acquire(&storage, &mine).await, Acquire::Granted { .. }));
            fs::hard_link(dir.path().join(part), dir.path().join("other")).expect("linked");
            assert_eq!(renew(&storage, &mine).await, Renew::NotHeld);
            assert_eq!(release(&storage, &mine).await, Release::NotHeld);
            let answer = storage.acquire(&[claim("job")]).await.pop().expect("one answer");
            refused(&answer.expect_err("two names"), "more than one name");
            fs::remove_file(dir.path().join("other")).expect("removed");
            assert!(matches!(acquire(&storage, &claim("job")).await, Acquire::Granted { .. }));
        });
    }
}
