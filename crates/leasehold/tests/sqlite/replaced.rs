//! Lock files of which a part is replaced or removed while they are in use.

use std::fs;
#[cfg(target_os = "linux")]
use std::path::Path;

#[cfg(target_os = "linux")]
use futures_util::StreamExt;
use leasehold::ErrorKind;
use leasehold::storage::sqlite::{Config, Sqlite};
#[cfg(target_os = "linux")]
use leasehold::storage::{Hint, Storage};
use leasehold::storage::{ReleaseReply, RenewReply};
use tokio::time::Instant;

#[cfg(target_os = "linux")]
use crate::tools::Hints;
use crate::tools::{Dir, check_intact, claim, is_held, open, release, renew, run, take, time, try_acquire};
use crate::worker::Worker;

#[test]
fn leases_in_a_replaced_file_are_lost() {
    let dir = Dir::new();
    let (mut other, others) = Worker::holding(&dir.file(), "other");
    run(async {
        let storage = open(&dir.file()).await;
        let mine = claim("job");
        take(&storage, &mine).await;
        fs::rename(dir.file(), dir.path().join("moved.db")).expect("moved");
        let error = try_acquire(&storage, &claim("third")).await.expect_err("replaced");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("replaced"), "{error}");
        // A new file is not opened while another process still uses the old one.
        let error = try_acquire(&storage, &claim("third")).await.expect_err("replaced");
        assert!(error.to_string().contains("another process still uses the old one"), "{error}");
        assert_eq!(other.renew("other", others.owner), "not held");
        assert_eq!(renew(&storage, &mine).await, RenewReply::NotHeld);
        take(&storage, &claim("third")).await;
    });
}

#[test]
fn a_removed_part_ends_leases_and_keeps_newcomers_out() {
    for parts in [&["-wal"][..], &["-shm"], &["-wal", "-shm"], &["", "-wal", "-shm"]] {
        let dir = Dir::new();
        let (mut other, others) = Worker::holding(&dir.file(), "other");
        run(async {
            let storage = open(&dir.file()).await;
            let mine = claim("job");
            take(&storage, &mine).await;
            for gone in parts {
                fs::remove_file(dir.part(gone)).expect("removed");
            }
            // A newcomer is kept out while another process uses the removed part.
            let error = Sqlite::open(Config::new(dir.file())).await.expect_err("in use");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("another process still uses the old one"), "{error}");
            assert_eq!(release(&storage, &mine).await, ReleaseReply::NotHeld, "{parts:?}");
            assert_eq!(other.renew("other", others.owner), "not held", "{parts:?}");
            let newcomer = open(&dir.file()).await;
            take(&newcomer, &claim("job")).await;
            is_held(&storage, &claim("job")).await;
        });
        check_intact(&dir.file());
    }
}

#[test]
fn closing_an_old_log_leaves_the_new_one_alone() {
    let dir = Dir::new();
    run(async {
        let storage = open(&dir.file()).await;
        take(&storage, &claim("job")).await;
        let files = ["-wal", "-shm"].map(|part| dir.part(part));
        for file in &files {
            fs::remove_file(file).expect("removed");
            fs::write(file, "").expect("made");
        }
        drop(storage);
        assert!(files.iter().all(|file| file.exists()));
        let storage = open(&dir.file()).await;
        take(&storage, &claim("job")).await;
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_holder_is_hinted_at_once_when_a_part_is_removed() {
    let remove_dir: fn(&Path) = |dir| fs::remove_dir_all(dir.join("locks.db-live")).expect("removed");
    let move_dir: fn(&Path) = |dir| fs::rename(dir.join("locks.db-live"), dir.join("moved")).expect("moved");
    let remove_log: fn(&Path) = |dir| fs::remove_file(dir.join("locks.db-wal")).expect("removed");
    let remove_index: fn(&Path) = |dir| fs::remove_file(dir.join("locks.db-shm")).expect("removed");
    let remove_all: fn(&Path) = |dir| {
        fs::remove_dir_all(dir).expect("removed");
        fs::create_dir(dir).expect("made");
    };
    for remove in [remove_dir, move_dir, remove_log, remove_index, remove_all] {
        let dir = Dir::new();
        let inner = dir.path().join("inner");
        let _keeper = Worker::holding(&inner.join("locks.db"), "other");
        run(async {
            let storage = open(&inner.join("locks.db")).await;
            let mut hints: Hints = Box::pin(storage.hints());
            let mine = claim("job");
            take(&storage, &mine).await;
            // The first hint shows that the storage listens.
            while hints.next().await != Some(Hint::Any) {}
            remove(&inner);
            let hinted = async { while hints.next().await != Some(Hint::Owner(mine.owner)) {} };
            tokio::time::timeout(time(5_000), hinted).await.expect("hinted");
            // These answers are definite, even while another process keeps the new file from being opened.
            assert_eq!(storage.inspect(&mine.name).await.expect("known"), []);
            assert_eq!(renew(&storage, &mine).await, RenewReply::NotHeld);
            assert_eq!(release(&storage, &mine).await, ReleaseReply::NotHeld);
        });
    }
}

#[test]
fn a_holder_without_a_liveness_file_holds_nothing() {
    let dir = Dir::new();
    let (mut holder, granted) = Worker::holding(&dir.file(), "job");
    fs::remove_dir_all(dir.part("-live")).expect("removed");
    assert_eq!(holder.release("job", granted.owner), "not held");
}

#[test]
fn a_log_without_its_database_is_harmless() {
    let dir = Dir::new();
    run(async {
        let mine = claim("job").detached(true);
        take(&open(&dir.file()).await, &mine).await;
        fs::remove_file(dir.file()).expect("removed");
        let storage = open(&dir.file()).await;
        assert_eq!(renew(&storage, &mine).await, RenewReply::NotHeld);
        take(&storage, &claim("job")).await;
    });
    check_intact(&dir.file());
}

#[test]
fn an_idle_process_closes_a_replaced_file() {
    let dir = Dir::new();
    let mut idle = Worker::start(&dir.file());
    // The process only listens.
    idle.say("hinted");
    run(async {
        let storage = open(&dir.file()).await;
        fs::remove_file(dir.file()).expect("removed");
        let limit = Instant::now() + time(5_000);
        while try_acquire(&storage, &claim("job")).await.is_err() {
            assert!(Instant::now() < limit, "the idle process kept the old file");
            tokio::task::yield_now().await;
        }
    });
}
