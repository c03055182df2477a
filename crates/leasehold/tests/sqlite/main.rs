//! The SQLite storage among processes: each worker is this test's own executable, driven through its pipes.
#![cfg(all(unix, feature = "sqlite"))]

mod accounts;
#[cfg(target_os = "linux")]
mod containers;
mod copies;
#[cfg(target_os = "linux")]
mod limits;
mod names;

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use leasehold::storage::sqlite::{Config, Sqlite};
use leasehold::storage::{
    AcquireReply, Claim, Hint, Name, Owner, ReleaseReply, RenewReply, Storage, Token, WAITER_HEARTBEAT,
};
use leasehold::{ErrorKind, Locks};
use tokio::time::Instant;

const ROLE: &str = "LEASEHOLD_TEST_SQLITE_FILE";
/// How many descriptors a worker has left when it opens the file.
const STARVED: &str = "LEASEHOLD_TEST_SQLITE_DESCRIPTORS";
const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(200);

// ---------------------------------------------------------------- among processes

#[test]
fn processes_exclude_each_other_and_tokens_grow() {
    let dir = Dir::new();
    let (processes, cycles) = (6, 100);
    let mut workers: Vec<_> = (0..processes).map(|_| Worker::start(&dir.file())).collect();
    for worker in &mut workers {
        worker.say(&format!("cycles counter {cycles}"));
    }
    let mut holds: Vec<(u64, u64, u64)> = Vec::new();
    for worker in &mut workers {
        for _ in 0..cycles {
            let numbers: Vec<u64> = worker.hear().split(' ').map(|n| n.parse().expect("a number")).collect();
            holds.push((numbers[0], numbers[1], numbers[2]));
        }
    }
    holds.sort_unstable();
    for pair in holds.windows(2) {
        assert!(pair[0].1 <= pair[1].0, "two held at once: {pair:?}");
        assert!(pair[0].2 < pair[1].2, "a token did not grow: {pair:?}");
    }
}

#[test]
fn a_killed_holder_is_replaced_long_before_its_ttl() {
    let dir = Dir::new();
    for _ in 0..5 {
        let (mut holder, mut waiter) = (Worker::start(&dir.file()), Worker::start(&dir.file()));
        holder.take("job");
        waiter.queue("job");
        let killed = Instant::now();
        holder.kill();
        assert!(waiter.hear().starts_with("granted"));
        let took = killed.elapsed();
        assert!(took < time(50), "{took:?}");
    }
}

#[test]
fn a_killed_waiter_holds_nobody_up() {
    let dir = Dir::new();
    let [mut holder, mut head, mut next] = [(); 3].map(|()| Worker::start(&dir.file()));
    let granted = holder.take("job");
    head.queue("job");
    next.queue("job");
    head.kill();
    let released = Instant::now();
    holder.say(&format!("release job {}", granted.owner));
    assert_eq!(holder.hear(), "released");
    assert!(next.hear().starts_with("granted"));
    assert!(released.elapsed() < time(50), "{:?}", released.elapsed());
}

#[test]
fn a_killed_waiter_is_forgotten_while_the_lock_is_held() {
    let dir = Dir::new();
    let [mut holder, mut head] = [(); 2].map(|()| Worker::start(&dir.file()));
    holder.take("job");
    head.queue("job");
    run(async {
        let storage = open(&dir.file()).await;
        let mut hints: Hints = Box::pin(storage.hints());
        let mine = claim("job").wait(true);
        assert_eq!(waiters(&acquire(&storage, &mine).await), Some(2));
        head.kill();
        while hints.next().await != Some(Hint::Owner(mine.owner)) {}
        // Else its death would be hinted again, and again.
        assert_eq!(waiters(&acquire(&storage, &mine).await), Some(1));
    });
}

#[test]
fn holder_and_head_killed_together_hold_nobody_up() {
    let dir = Dir::new();
    let [mut holder, mut head, mut next] = [(); 3].map(|()| Worker::start(&dir.file()));
    holder.take("job");
    head.queue("job");
    next.queue("job");
    let killed = Instant::now();
    head.kill();
    holder.kill();
    assert!(next.hear().starts_with("granted"));
    assert!(killed.elapsed() < time(100), "{:?}", killed.elapsed());
}

#[test]
fn the_queue_is_served_in_order() {
    let dir = Dir::new();
    let mut workers: Vec<_> = (0..6).map(|_| Worker::start(&dir.file())).collect();
    let mut granted = workers[0].take("job");
    for worker in &mut workers[1..] {
        worker.queue("job");
    }
    for i in 0..5 {
        workers[i].say(&format!("release job {}", granted.owner));
        assert_eq!(workers[i].hear(), "released");
        let next = workers[i + 1].hear_granted();
        assert!(next.token > granted.token);
        granted = next;
    }
}

#[test]
fn a_detached_lease_outlives_its_process() {
    let dir = Dir::new();
    let mut holder = Worker::start(&dir.file());
    holder.say("detach job");
    let granted = holder.hear_granted();
    holder.kill();
    run(async {
        let storage = open(&dir.file()).await;
        let seen = storage.inspect(&name("job")).await.expect("looked").pop().expect("held");
        assert_eq!((seen.owner, seen.token), (granted.owner, granted.token));
        assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Held { .. }));
        let mine = Claim::new(name("job"), granted.owner, LONG).detached(true);
        assert!(matches!(renew(&storage, &mine).await, RenewReply::Renewed { .. }));
        assert_eq!(release(&storage, &mine).await, ReleaseReply::Released);
    });
}

#[test]
fn a_guard_may_outlive_its_process_and_is_released_by_its_ticket() {
    let dir = Dir::new();
    let mut holder = Worker::start(&dir.file());
    holder.say("guard kept outlives");
    let kept = holder.hear();
    holder.say("guard freed ends");
    let freed = holder.hear();
    holder.kill();
    run(async {
        let locks = Locks::connect(&format!("sqlite:{}", dir.file().display())).await.expect("opened");
        let resume = async |ticket: &str| locks.resume(ticket.parse().expect("a ticket")).await;
        assert_eq!(resume(&freed).await.expect_err("its process has ended").kind(), ErrorKind::Lost);
        assert!(locks.lock("kept").try_acquire().await.expect("looked").is_none());
        resume(&kept).await.expect("still there").release().await.expect("still held");
        assert!(locks.lock("kept").try_acquire().await.expect("looked").is_some());
    });
}

#[test]
fn a_renewal_may_detach_a_lease_and_never_binds_it_again() {
    let dir = Dir::new();
    let [mut first, mut second] = [(); 2].map(|()| Worker::start(&dir.file()));
    let granted = first.take("job");
    run(async {
        let storage = open(&dir.file()).await;
        // A resumed ticket is renewed so; a renewal of the former holder that comes late does not undo it.
        let resumed = Claim::new(name("job"), granted.owner, LONG).detached(true);
        assert!(matches!(renew(&storage, &resumed).await, RenewReply::Renewed { .. }));
    });
    for renewing in [&mut first, &mut second] {
        renewing.say(&format!("renew job {}", granted.owner));
        assert_eq!(renewing.hear(), "renewed");
        renewing.kill();
    }
    run(async {
        let storage = open(&dir.file()).await;
        assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Held { .. }));
    });
}

#[test]
fn a_child_that_was_started_keeps_no_lease_alive() {
    let dir = Dir::new();
    let mut holder = Worker::start(&dir.file());
    holder.take("job");
    holder.say("child");
    let child = holder.hear().parse().expect("a pid");
    holder.kill();
    run(async {
        let storage = open(&dir.file()).await;
        assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Granted { .. }));
    });
    let child = rustix::process::Pid::from_raw(child).expect("a pid");
    rustix::process::test_kill_process(child).expect("the child outlived its parent");
    rustix::process::kill_process(child, rustix::process::Signal::KILL).expect("killed");
}

#[test]
fn a_holder_that_is_broken_is_told() {
    let dir = Dir::new();
    let mut holder = Worker::start(&dir.file());
    let granted = holder.take("job");
    holder.say("hinted");
    run(async {
        let storage = open(&dir.file()).await;
        let broken = Claim::new(name("job"), granted.owner, LONG);
        assert_eq!(release(&storage, &broken).await, ReleaseReply::Released);
    });
    assert_eq!(holder.hear(), granted.owner.to_string());
}

#[test]
fn a_new_file_is_opened_by_many_at_once() {
    let dir = Dir::new();
    for round in 0..3 {
        let file = dir.path().join(format!("{round}.db"));
        let mut workers: Vec<_> = (0..20).map(|_| Worker::spawn(&file)).collect();
        for worker in &mut workers {
            assert_eq!(worker.hear(), "open");
        }
    }
}

#[test]
fn killed_anywhere_the_file_stays_whole() {
    let dir = Dir::new();
    let (mut random, mut last) = (0x9e37_79b9_7f4a_7c15_u64, Token::new(0));
    run(async {
        let storage = open(&dir.file()).await;
        for round in 0..110 {
            let [mut one, mut other] = [(); 2].map(|()| Worker::start(&dir.file()));
            one.say("cycles job 1000000");
            other.say("cycles job 1000000");
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            for _ in 0..=(random >> 60) {
                one.hear();
            }
            other.kill();
            one.kill();
            let mine = claim("job");
            let AcquireReply::Granted { token, .. } = acquire(&storage, &mine).await else {
                panic!("the dead hold the lock in round {round}");
            };
            assert!(token > last, "a token did not grow in round {round}");
            last = token;
            assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Held { .. }));
            assert_eq!(release(&storage, &mine).await, ReleaseReply::Released);
        }
    });
    assert_eq!(query::<String>(&dir.file(), "PRAGMA integrity_check"), "ok");
    drop(run(open(&dir.file())));
    let left = fs::read_dir(dir.path().join("locks.db-live")).expect("listed").count();
    assert_eq!(left, 0, "liveness files were left behind");
}

// ---------------------------------------------------------------- the file

#[test]
fn everything_is_private_and_cleaned_up() {
    let dir = Dir::new();
    let live = dir.path().join("new/locks.db-live");
    run(async {
        let storage = open(&dir.path().join("new/locks.db")).await;
        assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Granted { .. }));
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        for path in ["new/locks.db", "new/locks.db-wal", "new/locks.db-shm"] {
            assert_eq!(mode(&dir.path().join(path)), 0o600, "{path}");
        }
        for path in ["new", "new/locks.db-live"] {
            assert_eq!(mode(&dir.path().join(path)), 0o700, "{path}");
        }
        for file in fs::read_dir(&live).expect("listed") {
            assert_eq!(mode(&file.expect("a file").path()), 0o600);
        }
    });
    assert_eq!(fs::read_dir(live).expect("listed").count(), 0);
}

#[test]
fn what_is_not_ours_is_refused_untouched() {
    let dir = Dir::new();
    let [text, foreign, newer] = ["text", "foreign", "newer"].map(|file| dir.path().join(file));
    fs::write(&text, "more than the hundred bytes that a header of SQLite has ".repeat(20)).expect("written");
    execute(&foreign, "CREATE TABLE t (a); INSERT INTO t VALUES (1)");
    drop(run(open(&newer)));
    execute(&newer, "PRAGMA user_version = 2");
    for file in [&text, &foreign, &newer] {
        let before = fs::read(file).expect("read");
        let error = run(Sqlite::open(Config::new(file))).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains("choose another path"), "{error}");
        assert!(fs::read(file).expect("read") == before, "{} was changed", file.display());
    }
}

#[test]
fn a_link_is_refused() {
    let dir = Dir::new();
    drop(run(open(&dir.file())));
    let link = dir.path().join("link.db");
    std::os::unix::fs::symlink(dir.file(), &link).expect("linked");
    let error = run(Sqlite::open(Config::new(&link))).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("not a link"), "{error}");

    let trap = dir.path().join("trap.db-live");
    std::os::unix::fs::symlink(dir.path(), trap).expect("linked");
    let error = run(Sqlite::open(Config::new(dir.path().join("trap.db")))).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn a_replaced_file_binds_nobody_and_is_noticed() {
    let dir = Dir::new();
    let mut other = Worker::start(&dir.file());
    let others = other.take("other");
    run(async {
        let storage = open(&dir.file()).await;
        let mine = claim("job");
        assert!(matches!(acquire(&storage, &mine).await, AcquireReply::Granted { .. }));
        fs::rename(dir.file(), dir.path().join("moved.db")).expect("moved");
        let error =
            storage.acquire(&[claim("third")]).await.pop().expect("one answer").expect_err("replaced");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("replaced"), "{error}");
        // A new file is not opened while another process is still bound to the old one.
        let error =
            storage.acquire(&[claim("third")]).await.pop().expect("one answer").expect_err("replaced");
        assert!(error.to_string().contains("another process still uses the old one"), "{error}");
        other.say(&format!("renew other {}", others.owner));
        assert_eq!(other.hear(), "not held");
        assert_eq!(renew(&storage, &mine).await, RenewReply::NotHeld);
        assert!(matches!(acquire(&storage, &claim("third")).await, AcquireReply::Granted { .. }));
    });
}

#[test]
fn no_part_may_be_taken_away_unnoticed() {
    for parts in [&["-wal"][..], &["-shm"], &["-wal", "-shm"], &["", "-wal", "-shm"]] {
        let dir = Dir::new();
        let part = |part: &str| dir.path().join(format!("locks.db{part}"));
        let mut other = Worker::start(&dir.file());
        let others = other.take("other");
        run(async {
            let storage = open(&dir.file()).await;
            let mine = claim("job");
            assert!(matches!(acquire(&storage, &mine).await, AcquireReply::Granted { .. }));
            for gone in parts {
                fs::remove_file(part(gone)).expect("removed");
            }
            // A newcomer is kept out while another process uses what is gone.
            let error = Sqlite::open(Config::new(dir.file())).await.expect_err("in use");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("another process still uses the old one"), "{error}");
            assert_eq!(release(&storage, &mine).await, ReleaseReply::NotHeld, "{parts:?}");
            other.say(&format!("renew other {}", others.owner));
            assert_eq!(other.hear(), "not held", "{parts:?}");
            let newcomer = open(&dir.file()).await;
            assert!(matches!(acquire(&newcomer, &claim("job")).await, AcquireReply::Granted { .. }));
            assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Held { .. }));
        });
        assert_eq!(query::<String>(&dir.file(), "PRAGMA integrity_check"), "ok");
    }
}

#[test]
fn whoever_lets_go_of_an_old_log_leaves_the_new_one_alone() {
    let dir = Dir::new();
    run(async {
        let storage = open(&dir.file()).await;
        assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Granted { .. }));
        let files = ["locks.db-wal", "locks.db-shm"].map(|file| dir.path().join(file));
        for file in &files {
            fs::remove_file(file).expect("removed");
            fs::write(file, "").expect("made");
        }
        drop(storage);
        assert!(files.iter().all(|file| file.exists()));
        let storage = open(&dir.file()).await;
        assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Granted { .. }));
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_holder_is_told_at_once_when_a_part_is_taken_away() {
    let remove_dir: fn(&Path) = |dir| fs::remove_dir_all(dir.join("locks.db-live")).expect("removed");
    let move_dir: fn(&Path) = |dir| fs::rename(dir.join("locks.db-live"), dir.join("moved")).expect("moved");
    let remove_log: fn(&Path) = |dir| fs::remove_file(dir.join("locks.db-wal")).expect("removed");
    let remove_index: fn(&Path) = |dir| fs::remove_file(dir.join("locks.db-shm")).expect("removed");
    let remove_all: fn(&Path) = |dir| {
        fs::remove_dir_all(dir).expect("removed");
        fs::create_dir(dir).expect("made");
    };
    for take_away in [remove_dir, move_dir, remove_log, remove_index, remove_all] {
        let dir = Dir::new();
        let inner = dir.path().join("inner");
        let mut keeper = Worker::start(&inner.join("locks.db"));
        keeper.take("other");
        run(async {
            let storage = open(&inner.join("locks.db")).await;
            let mut hints: Hints = Box::pin(storage.hints());
            let mine = claim("job");
            assert!(matches!(acquire(&storage, &mine).await, AcquireReply::Granted { .. }));
            // It stands once it has said so.
            while hints.next().await != Some(Hint::Any) {}
            take_away(&inner);
            let told = async { while hints.next().await != Some(Hint::Owner(mine.owner)) {} };
            tokio::time::timeout(time(5_000), told).await.expect("told");
            // Also while another process has not let go, and nothing can be opened.
            assert_eq!(storage.inspect(&mine.name).await.expect("known"), []);
            assert_eq!(renew(&storage, &mine).await, RenewReply::NotHeld);
            assert_eq!(release(&storage, &mine).await, ReleaseReply::NotHeld);
        });
    }
}

#[test]
fn whoever_is_not_seen_to_live_holds_nothing() {
    let dir = Dir::new();
    let mut other = Worker::start(&dir.file());
    let others = other.take("job");
    fs::remove_dir_all(dir.path().join("locks.db-live")).expect("removed");
    other.say(&format!("release job {}", others.owner));
    assert_eq!(other.hear(), "not held");
}

#[test]
fn what_is_refused_gets_no_company() {
    let dir = Dir::new();
    let [garbage, foreign, logged, pipe, link] =
        ["garbage", "foreign", "logged", "pipe", "link"].map(|file| dir.path().join(file));
    fs::write(&garbage, "garbage\n").expect("written");
    execute(&foreign, "CREATE TABLE t (a)");
    execute(&logged, "PRAGMA journal_mode = WAL; CREATE TABLE t (a)");
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).expect("made");
    std::os::unix::fs::symlink("/nowhere", &link).expect("linked");
    let entries = || {
        let entries = fs::read_dir(dir.path()).expect("listed");
        entries.map(|entry| entry.expect("an entry").file_name()).collect::<HashSet<_>>()
    };
    let before = entries();
    for file in [&garbage, &foreign, &logged, &pipe, &link] {
        let error = run(Sqlite::open(Config::new(file))).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert_eq!(entries(), before, "{}", file.display());
    }
}

#[test]
fn an_empty_file_is_made_private() {
    let dir = Dir::new();
    fs::write(dir.file(), "").expect("made");
    fs::set_permissions(dir.file(), fs::Permissions::from_mode(0o644)).expect("chmod");
    drop(run(open(&dir.file())));
    for part in ["", "-wal", "-shm"] {
        let mode =
            fs::metadata(dir.path().join(format!("locks.db{part}"))).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{part}");
    }
    // A file in use is shared on purpose.
    fs::set_permissions(dir.file(), fs::Permissions::from_mode(0o640)).expect("chmod");
    drop(run(open(&dir.file())));
    assert_eq!(fs::metadata(dir.file()).expect("there").permissions().mode() & 0o777, 0o640);
}

#[test]
fn an_error_says_everything_once() {
    let dir = Dir::new();
    fs::write(dir.file(), "garbage\n").expect("written");
    let error = run(Sqlite::open(Config::new(dir.file()))).expect_err("refused");
    let source = std::error::Error::source(&error).expect("SQLite's own words");
    assert_eq!(source.to_string(), "file is not a database");
    assert!(source.source().is_none(), "{source:?}");
}

#[test]
fn a_log_without_its_file_is_harmless() {
    let dir = Dir::new();
    run(async {
        let mine = claim("job").detached(true);
        assert!(matches!(acquire(&open(&dir.file()).await, &mine).await, AcquireReply::Granted { .. }));
        fs::remove_file(dir.file()).expect("removed");
        let storage = open(&dir.file()).await;
        assert_eq!(renew(&storage, &mine).await, RenewReply::NotHeld);
        assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Granted { .. }));
    });
    assert_eq!(query::<String>(&dir.file(), "PRAGMA integrity_check"), "ok");
}

#[test]
fn a_careless_descriptor_costs_no_lease() {
    let dir = Dir::new();
    let mut holder = Worker::start(&dir.file());
    let granted = holder.take("job");
    holder.say("touch");
    assert_eq!(holder.hear(), "touched");
    let mut other = Worker::start(&dir.file());
    assert!(other.remaining("job") > LONG / 2);
    run(async {
        let storage = open(&dir.file()).await;
        assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Held { .. }));
    });
    holder.say(&format!("release job {}", granted.owner));
    assert_eq!(holder.hear(), "released");
}

#[test]
fn careless_descriptors_damage_nothing() {
    let dir = Dir::new();
    let (processes, cycles) = (4, 200);
    let mut workers: Vec<_> = (0..processes).map(|_| Worker::start(&dir.file())).collect();
    for worker in &mut workers {
        worker.say("careless");
        assert_eq!(worker.hear(), "careless");
        worker.say(&format!("cycles job {cycles}"));
    }
    let mut tokens = HashSet::new();
    for worker in &mut workers {
        for _ in 0..cycles {
            let heard = worker.hear();
            let token = heard.rsplit_once(' ').expect("three numbers").1;
            assert!(tokens.insert(token.to_owned()), "one token was granted twice");
        }
    }
    drop(workers);
    assert_eq!(query::<String>(&dir.file(), "PRAGMA integrity_check"), "ok");
}

/// A forked child has what its parent had open, and lives on.
#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_keeps_no_lease_alive() {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let dir = Dir::new();
    let mut holder = Worker::start(&dir.file());
    holder.take("job");
    let fds = format!("/proc/{}/fd", holder.child.id());
    let live = fs::read_dir(fds).expect("listed").map(|fd| fd.expect("a descriptor").path()).find(|fd| {
        let to = fs::read_link(fd).expect("read");
        to.starts_with(dir.path().join("locks.db-live")) && to.is_file() && to.extension().is_none()
    });
    let live = live.expect("its liveness file is open");
    let fd = live.file_name().and_then(|fd| fd.to_str()).and_then(|fd| fd.parse().ok()).expect("a number");
    let pid = i32::try_from(holder.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("opened");
    // What a child gets by forking: the same open file, not one of its own.
    let kept = pidfd_getfd(process, fd, PidfdGetfdFlags::empty()).expect("got");
    holder.kill();
    let mut other = Worker::start(&dir.file());
    other.take("job");
    drop(kept);
}

#[test]
fn an_idle_process_lets_go_of_a_replaced_file() {
    let dir = Dir::new();
    let mut idle = Worker::start(&dir.file());
    // It listens, and does nothing else.
    idle.say("hinted");
    run(async {
        let storage = open(&dir.file()).await;
        fs::remove_file(dir.file()).expect("removed");
        let limit = Instant::now() + time(5_000);
        while storage.acquire(&[claim("job")]).await.pop().expect("one answer").is_err() {
            assert!(Instant::now() < limit, "the idle process kept the old file");
            tokio::task::yield_now().await;
        }
    });
}

#[test]
fn a_lease_of_another_boot_is_over() {
    let dir = Dir::new();
    run(async {
        let storage = open(&dir.file()).await;
        // Of a process that is seen to live, nothing is of another boot.
        let mine = claim("job").detached(true);
        let AcquireReply::Granted { token, .. } = acquire(&storage, &mine).await else { panic!("held") };
        assert!(matches!(acquire(&storage, &claim("job").wait(true)).await, AcquireReply::Held { .. }));
        execute(&dir.file(), "UPDATE lock SET boot = 'another'; UPDATE waiter SET boot = 'another'");
        assert_eq!(renew(&storage, &mine).await, RenewReply::NotHeld);
        assert_eq!(storage.inspect(&name("job")).await.expect("looked"), []);
        match acquire(&storage, &claim("job")).await {
            AcquireReply::Granted { token: next, .. } => assert!(next > token),
            held => panic!("{held:?}"),
        }
    });
}

#[test]
fn a_lease_whose_holder_is_seen_to_live_is_of_this_boot() {
    let dir = Dir::new();
    let mut holder = Worker::start(&dir.file());
    let granted = holder.take("job");
    // As a process wrote it that was told of another boot.
    execute(&dir.file(), "UPDATE lock SET boot = 'another'");
    run(async {
        let storage = open(&dir.file()).await;
        assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Held { .. }));
    });
    holder.say(&format!("renew job {}", granted.owner));
    assert_eq!(holder.hear(), "renewed");
    holder.kill();
    run(async {
        let storage = open(&dir.file()).await;
        assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Granted { .. }));
    });
}

#[test]
fn where_the_boot_is_not_known_the_clock_tells() {
    let dir = Dir::new();
    let far = 1_000_000_000_000_000_i64;
    let day = 24 * 60 * 60 * 1_000_000_i64;
    for (change, over) in [
        ("".to_owned(), false),
        (format!(", granted_us = granted_us + {far}, expires_us = expires_us + {far}"), true),
        // No lease is that long: the clock began anew.
        (format!(", expires_us = expires_us + {day}"), true),
        (", expires_us = granted_us".to_owned(), true),
    ] {
        run(async {
            let storage = open(&dir.file()).await;
            let mine = claim("job").detached(true);
            assert!(matches!(acquire(&storage, &mine).await, AcquireReply::Granted { .. }));
            execute(&dir.file(), &format!("UPDATE lock SET boot = ''{change}"));
            let renewed = matches!(renew(&storage, &mine).await, RenewReply::Renewed { .. });
            assert_eq!(renewed, !over, "{change}");
            let granted = matches!(acquire(&storage, &claim("job")).await, AcquireReply::Granted { .. });
            assert_eq!(granted, over, "{change}");
        });
        fs::remove_file(dir.file()).expect("removed");
    }
}

#[test]
fn whoever_holds_is_told_of_its_new_end() {
    let dir = Dir::new();
    let (mut holder, mut other) = (Worker::start(&dir.file()), Worker::start(&dir.file()));
    for detached in [false, true] {
        let lock = if detached { "detached" } else { "bound" };
        let granted = holder.take(lock);
        run(async {
            let storage = open(&dir.file()).await;
            if detached {
                // As resuming a ticket does; then no record says where the holder is.
                let resumed = Claim::new(name(lock), granted.owner, LONG).detached(true);
                assert!(matches!(renew(&storage, &resumed).await, RenewReply::Renewed { .. }));
            }
        });
        holder.say("hinted");
        other.say(&format!("shorten {lock} {}", granted.owner));
        assert_eq!(other.hear(), "shortened");
        assert_eq!(holder.hear(), granted.owner.to_string(), "{lock}");

        let granted = holder.take("released");
        run(async {
            let storage = open(&dir.file()).await;
            let resumed = Claim::new(name("released"), granted.owner, LONG).detached(detached);
            assert!(matches!(renew(&storage, &resumed).await, RenewReply::Renewed { .. }));
        });
        holder.say("hinted");
        other.say(&format!("release released {}", granted.owner));
        assert_eq!(other.hear(), "released");
        assert_eq!(holder.hear(), granted.owner.to_string(), "{lock}");
    }
}

#[test]
fn the_end_of_a_detached_lease_wakes_no_other_process_if_its_holder_ends_it() {
    let dir = Dir::new();
    run(async {
        let (holder, listener, other) =
            (open(&dir.file()).await, open(&dir.file()).await, open(&dir.file()).await);
        let (own, ended) = (claim("own").detached(true), claim("ended by another").detached(true));
        for mine in [&own, &ended] {
            assert!(matches!(acquire(&holder, mine).await, AcquireReply::Granted { .. }));
        }
        assert!(matches!(renew(&holder, &own).await, RenewReply::Renewed { .. }));
        assert_eq!(release(&holder, &own).await, ReleaseReply::Released);
        assert_eq!(release(&other, &ended).await, ReleaseReply::Released);
        // The first that is heard of is the one that was ended by another client.
        let mut hints: Hints = Box::pin(listener.hints());
        let owner = loop {
            if let Some(Hint::Owner(owner)) = hints.next().await {
                break owner;
            }
        };
        assert_eq!(owner, ended.owner);
    });
}

#[test]
fn names_and_labels_are_data() {
    let long = "x".repeat(512);
    let corpus = [
        "a",
        "A",
        "a%",
        "a_",
        "a__",
        "%",
        "_",
        "'",
        "\"",
        "'; DROP TABLE lock; --",
        "a'||'b",
        "\\",
        "a\nb",
        "a\tb",
        " ",
        "ä",
        "a\u{308}",
        "ß",
        "SS",
        "☃",
        "𝔘",
        "../../etc/passwd",
        "?1",
        ":name",
        "a*",
        "a?",
        "[a]",
        "null",
        "0",
        "00",
        &long,
    ];
    let dir = Dir::new();
    run(async {
        let storage = open(&dir.file()).await;
        let claims: Vec<_> = corpus.iter().map(|text| claim(text).label(*text)).collect();
        for answer in storage.acquire(&claims).await {
            assert!(matches!(answer.expect("answered"), AcquireReply::Granted { .. }));
        }
        for text in corpus {
            let seen = storage.inspect(&name(text)).await.expect("looked").pop().expect("held");
            assert_eq!((seen.name.as_str(), seen.label.as_deref()), (text, Some(text)));
            let mut expected: Vec<_> =
                corpus.iter().filter(|other| other.starts_with(text)).copied().collect();
            expected.sort_unstable();
            assert_eq!(list(&storage, text).await, expected, "prefix {text}");
        }
        assert_eq!(list(&storage, "").await.len(), corpus.len());
        for answer in storage.release(&claims).await {
            assert_eq!(answer.expect("answered"), ReleaseReply::Released);
        }
        assert_eq!(list(&storage, "").await, Vec::<String>::new());
    });
}

#[test]
fn forgotten_names_keep_their_tokens_growing() {
    let dir = Dir::new();
    run(async {
        let storage = open(&dir.file()).await;
        for i in 0..300 {
            let mine = claim(&format!("name/{i}"));
            assert!(matches!(acquire(&storage, &mine).await, AcquireReply::Granted { .. }));
            release(&storage, &mine).await;
        }
        let far = i64::MAX / 4;
        execute(&dir.file(), &format!("UPDATE lock SET boot = 'another', token = {far}"));
        // Each write prunes a little.
        for _ in 0..500 {
            let mine = claim("name/0");
            assert!(matches!(acquire(&storage, &mine).await, AcquireReply::Granted { .. }));
            release(&storage, &mine).await;
        }
        assert_eq!(query::<i64>(&dir.file(), "SELECT count(*) FROM lock"), 1);
        match acquire(&storage, &claim("name/7")).await {
            AcquireReply::Granted { token, .. } => assert_eq!(i64::try_from(token.get()), Ok(far + 1)),
            held => panic!("{held:?}"),
        }
    });
}

// ---------------------------------------------------------------- one process

#[test]
fn verbs_follow_the_contract() {
    let dir = Dir::new();
    run(async {
        let storage = open(&dir.file()).await;
        let (a, b) = (claim("job").label("a"), claim("job").wait(true));
        let AcquireReply::Granted { token, ttl, .. } = acquire(&storage, &a).await else { panic!("held") };
        assert_eq!(ttl, a.ttl);
        assert!(
            matches!(acquire(&storage, &a).await, AcquireReply::Granted { token: again, .. } if again == token)
        );
        match acquire(&storage, &b).await {
            AcquireReply::Held { holder: Some(holder), retry_after, .. } => {
                assert_eq!(
                    (holder.owner, holder.label.as_deref(), holder.token),
                    (a.owner, Some("a"), token)
                );
                assert_eq!((holder.waiters, retry_after), (Some(1), Some(holder.remaining)));
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(renew(&storage, &b).await, RenewReply::NotHeld);
        assert_eq!(release(&storage, &a).await, ReleaseReply::Released);
        assert_eq!(release(&storage, &a).await, ReleaseReply::NotHeld);
        assert_eq!(renew(&storage, &a).await, RenewReply::NotHeld);
        // The queue's head comes before a newcomer, and a late claim gets and leaves nothing.
        assert!(matches!(acquire(&storage, &claim("job")).await, AcquireReply::Held { holder: None, .. }));
        let late = storage.acquire(&[b.clone().patience(Duration::ZERO)]).await.pop().expect("one answer");
        assert_eq!(late.expect_err("late").kind(), ErrorKind::Unavailable);
        assert!(
            matches!(acquire(&storage, &b).await, AcquireReply::Granted { token: next, .. } if next > token)
        );
        assert_eq!(
            storage.inspect(&name("job")).await.expect("looked").pop().expect("held").waiters,
            Some(0)
        );
        assert_eq!(release(&storage, &b).await, ReleaseReply::Released);
        assert_eq!(storage.inspect(&name("job")).await.expect("looked"), []);
    });
}

#[test]
fn a_closed_storage_frees_its_locks_in_its_own_process() {
    let dir = Dir::new();
    run(async {
        let (first, second) = (open(&dir.file()).await, open(&dir.file()).await);
        let mut hints: Hints = Box::pin(second.hints());
        assert!(matches!(acquire(&first, &claim("job")).await, AcquireReply::Granted { .. }));
        let mine = claim("job").wait(true);
        assert!(matches!(acquire(&second, &mine).await, AcquireReply::Held { .. }));
        drop(first);
        let closed = Instant::now();
        wait_for(&second, &mut hints, &mine, || ()).await;
        assert!(closed.elapsed() < time(200), "{:?}", closed.elapsed());
    });
}

#[cfg(target_os = "linux")]
#[test]
fn watched_names_are_hinted() {
    let dir = Dir::new();
    let mut other = Worker::start(&dir.file());
    run(async {
        let storage = open(&dir.file()).await;
        let mut hints: Hints = Box::pin(storage.hints());
        storage.watch(&[name("job"), name("another")], &[]);
        other.say("cycles job 1000000");
        let mut hinted = HashSet::new();
        while hinted.len() < 2 {
            match tokio::time::timeout(time(5_000), hints.next()).await {
                Ok(Some(Hint::Name(name))) => drop(hinted.insert(name)),
                Ok(Some(_)) => {}
                end => panic!("{end:?}"),
            }
        }
    });
}

// ---------------------------------------------------------------- the worker

/// Not a test: what a worker process runs. It obeys lines on its input and answers with lines.
#[test]
fn worker() {
    let Some(file) = std::env::var_os(ROLE).map(PathBuf::from) else {
        return;
    };
    run(async {
        let _starved = std::env::var(STARVED).ok().map(|left| starve(left.parse().expect("a number")));
        let storage = match Sqlite::open(Config::new(&file)).await {
            Ok(storage) => storage,
            Err(error) => return answer(&format!("{:?}: {error}", error.kind())),
        };
        let (mut hints, mut starved): (Hints, _) = (Box::pin(storage.hints()), Vec::new());
        let mut guards = Vec::new();
        answer("open");
        for line in std::io::stdin().lines() {
            let line = line.expect("a line");
            let words: Vec<_> = line.split(' ').collect();
            let named = |lock, owner: &str| Claim::new(name(lock), owner.parse().expect("an owner"), LONG);
            match words.as_slice() {
                ["wait", lock] => {
                    let mine = claim(lock).wait(true);
                    let token = wait_for(&storage, &mut hints, &mine, || answer("waiting")).await;
                    answer(&format!("granted {token} {}", mine.owner));
                }
                ["guard", lock, outlives] => {
                    let locks = Locks::connect(&format!("sqlite:{}", file.display())).await.expect("opened");
                    let guard = locks.lock(*lock).ttl(LONG).acquire().await.expect("free");
                    if *outlives == "outlives" {
                        guard.outlive_process().await.expect("held");
                        guard.verify().await.expect("still held");
                    }
                    answer(&guard.ticket().to_string());
                    guards.push((locks, guard));
                }
                ["detach", lock] => {
                    let mine = claim(lock).detached(true);
                    let token = wait_for(&storage, &mut hints, &mine, || ()).await;
                    answer(&format!("granted {token} {}", mine.owner));
                }
                ["renew", lock, owner] => match renew(&storage, &named(lock, owner)).await {
                    RenewReply::NotHeld => answer("not held"),
                    _ => answer("renewed"),
                },
                ["release", lock, owner] => match release(&storage, &named(lock, owner)).await {
                    ReleaseReply::NotHeld => answer("not held"),
                    _ => answer("released"),
                },
                ["hinted"] => {
                    let hinted = async {
                        loop {
                            if let Some(Hint::Owner(owner)) = hints.next().await {
                                break owner.to_string();
                            }
                        }
                    };
                    let heard = tokio::time::timeout(time(10_000), hinted).await;
                    answer(&heard.unwrap_or_else(|_| "nothing".to_owned()));
                }
                ["try", lock] => match storage.acquire(&[claim(lock)]).await.pop().expect("one answer") {
                    Ok(AcquireReply::Held { holder: Some(holder), .. }) => {
                        answer(&format!("held {}", holder.remaining.as_millis()));
                    }
                    other => answer(&format!("{other:?}")),
                },
                ["shorten", lock, owner] => {
                    let mine = Claim::new(name(lock), owner.parse().expect("an owner"), SHORT);
                    renew(&storage, &mine.patience(LONG).shorten(true)).await;
                    answer("shortened");
                }
                ["starve"] => {
                    starved.extend(starve(0));
                    answer("starved");
                }
                ["touch"] => {
                    touch(&file);
                    answer("touched");
                }
                ["careless"] => {
                    let file = file.clone();
                    std::thread::spawn(move || {
                        loop {
                            touch(&file);
                        }
                    });
                    answer("careless");
                }
                ["child"] => {
                    let mut child = Command::new("sleep");
                    let child =
                        child.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                    answer(&child.spawn().expect("started").id().to_string());
                }
                ["cycles", lock, n] => {
                    for _ in 0..n.parse().expect("a number") {
                        let mine = claim(lock).wait(true);
                        let token = wait_for(&storage, &mut hints, &mine, || ()).await;
                        let (from, until) = (nanos(), nanos());
                        assert_eq!(release(&storage, &mine).await, ReleaseReply::Released);
                        answer(&format!("{from} {until} {token}"));
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    });
}

/// Takes all descriptors that there are, but for so many.
fn starve(left: usize) -> Vec<fs::File> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let current = std::cmp::min(limit.current.unwrap_or(256), 256);
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), ..limit }).expect("limited");
    let mut taken = Vec::new();
    while let Ok(file) = fs::File::open("/dev/null") {
        taken.push(file);
    }
    taken.truncate(taken.len().saturating_sub(left));
    taken
}

/// Opens and closes all that belongs to a lock file, as a backup does. Closing any descriptor of a file drops all of this
/// process's fcntl locks on it.
fn touch(file: &Path) {
    let dir = file.parent().expect("a directory");
    let live =
        fs::read_dir(dir.join("locks.db-live")).expect("listed").map(|file| file.expect("a file").path());
    let parts = ["locks.db", "locks.db-wal", "locks.db-shm"].map(|part| dir.join(part));
    for file in live.filter(|file| file.extension().is_none()).chain(parts) {
        drop(fs::File::open(file));
    }
}

/// A worker process; killed when dropped.
struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

struct Granted {
    token: Token,
    owner: Owner,
}

impl Worker {
    /// Starts one and waits until it has the file open.
    fn start(file: &Path) -> Self {
        let mut worker = Self::spawn(file);
        assert_eq!(worker.hear(), "open");
        worker
    }

    fn spawn(file: &Path) -> Self {
        Self::spawn_by(Command::new(std::env::current_exe().expect("this test")), file)
    }

    /// Starts one with a command that executes this test.
    fn spawn_by(mut command: Command, file: &Path) -> Self {
        let mut child = command
            .args(["worker", "--exact", "--nocapture", "--test-threads=1"])
            .env(ROLE, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, input, output }
    }

    fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the worker lives");
    }

    /// The next answer; the test harness's own words are passed over.
    fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("read");
            assert!(read > 0, "the worker ended");
            if let Some((_, answer)) = line.split_once("@ ") {
                return answer.trim_end().to_owned();
            }
        }
    }

    fn hear_granted(&mut self) -> Granted {
        let heard = self.hear();
        let words: Vec<_> = heard.split(' ').collect();
        match words.as_slice() {
            ["granted", token, owner] => {
                Granted { token: token.parse().expect("a token"), owner: owner.parse().expect("an owner") }
            }
            other => panic!("{other:?}"),
        }
    }

    /// Takes a free lock.
    fn take(&mut self, lock: &str) -> Granted {
        self.say(&format!("wait {lock}"));
        self.hear_granted()
    }

    /// How long the lease of a lock that another holds is still said to last.
    fn remaining(&mut self, lock: &str) -> Duration {
        self.say(&format!("try {lock}"));
        let heard = self.hear();
        let held = heard.strip_prefix("held ").unwrap_or_else(|| panic!("{heard}"));
        Duration::from_millis(held.parse().expect("a number"))
    }

    /// Waits for a lock that is held.
    fn queue(&mut self, lock: &str) {
        self.say(&format!("wait {lock}"));
        assert_eq!(self.hear(), "waiting");
    }

    fn kill(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ended = self.child.kill();
        let _ended = self.child.wait();
    }
}

fn answer(text: &str) {
    let mut output = std::io::stdout();
    writeln!(output, "@ {text}").expect("written");
}

// ---------------------------------------------------------------- helpers

type Hints = Pin<Box<dyn Stream<Item = Hint> + Send>>;

/// Asks until granted, as the engine does: on each hint, and on its heartbeat.
async fn wait_for(storage: &Sqlite, hints: &mut Hints, claim: &Claim, waiting: impl FnOnce()) -> Token {
    let mut waiting = Some(waiting);
    loop {
        if let AcquireReply::Granted { token, .. } = acquire(storage, claim).await {
            return token;
        }
        if let Some(waiting) = waiting.take() {
            waiting();
        }
        while let Ok(Some(Hint::Owner(owner))) = tokio::time::timeout(WAITER_HEARTBEAT, hints.next()).await
            && owner != claim.owner
        {}
    }
}

async fn open(file: &Path) -> Sqlite {
    Sqlite::open(Config::new(file)).await.expect("opened")
}

async fn acquire(storage: &Sqlite, claim: &Claim) -> AcquireReply {
    storage.acquire(std::slice::from_ref(claim)).await.pop().expect("one answer").expect("answered")
}

async fn renew(storage: &Sqlite, claim: &Claim) -> RenewReply {
    storage.renew(std::slice::from_ref(claim)).await.pop().expect("one answer").expect("answered")
}

async fn release(storage: &Sqlite, claim: &Claim) -> ReleaseReply {
    storage.release(std::slice::from_ref(claim)).await.pop().expect("one answer").expect("answered")
}

fn waiters(answer: &AcquireReply) -> Option<u64> {
    match answer {
        AcquireReply::Held { holder, .. } => holder.as_ref().and_then(|holder| holder.waiters),
        _ => None,
    }
}

/// Every name under a prefix, read in small pages.
async fn list(storage: &Sqlite, prefix: &str) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), None);
    loop {
        let page = storage.list(prefix, after.as_ref(), 3).await.expect("listed");
        let Some(last) = page.last() else { return names };
        after = Some(last.cursor());
        names.extend(page.iter().map(|holder| holder.name.as_str().to_owned()));
    }
}

fn claim(lock: &str) -> Claim {
    Claim::new(name(lock), Owner::random(), LONG)
}

fn name(lock: &str) -> Name {
    Name::new(lock).expect("a name")
}

fn nanos() -> u128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let secs = u64::try_from(now.tv_sec).expect("positive");
    Duration::new(secs, u32::try_from(now.tv_nsec).expect("positive")).as_nanos()
}

fn query<T: rusqlite::types::FromSql>(file: &Path, sql: &str) -> T {
    let db = rusqlite::Connection::open(file).expect("opened");
    db.query_row(sql, [], |row| row.get(0)).expect("queried")
}

fn execute(file: &Path, sql: &str) {
    let db = rusqlite::Connection::open(file).expect("opened");
    db.execute_batch(sql).expect("executed");
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// So many milliseconds, times what a slow machine is given.
fn time(ms: u64) -> Duration {
    let factor = std::env::var("LEASEHOLD_TEST_TIME").ok().and_then(|factor| factor.parse().ok());
    Duration::from_millis(ms).mul_f64(factor.unwrap_or(1.0))
}

struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn file(&self) -> PathBuf {
        self.path().join("locks.db")
    }
}
