//! Accounts that share a lock file.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::{Dir, LONG};
use crate::worker::Worker;

const GROUP: u32 = 34_567;
const ANN: u32 = 12_345;
const BOB: u32 = 23_456;

/// A directory that a group shares.
struct Shared {
    dir: Dir,
    exe: PathBuf,
}

impl Shared {
    fn new() -> Self {
        assert!(rustix::process::geteuid().is_root(), "only root has other accounts, which this test needs");
        let dir = Dir::new();
        // Other accounts may not read the directory in which the tests were built. Another process copies the file: a worker that
        // another test starts meanwhile would inherit it, open for writing, and such a file cannot be executed.
        let exe = dir.path().join("exe");
        let this = std::env::current_exe().expect("this test");
        let copied = Command::new("cp").args([&this, &exe]).status().expect("started");
        assert!(copied.success(), "{copied}");
        fs::set_permissions(&exe, fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let shared = Self { dir, exe };
        fs::create_dir(shared.path("")).expect("made");
        chown(shared.path(""), None, Some(GROUP)).expect("chown");
        fs::set_permissions(shared.path(""), fs::Permissions::from_mode(0o2770)).expect("chmod");
        shared
    }

    fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join("shared").join(part)
    }

    fn start(&self, account: u32) -> Worker {
        Worker::start_by(self.command(&self.exe, account), &self.path("locks.db"))
    }

    fn spawn(&self, account: u32) -> Worker {
        Worker::spawn_by(self.command(&self.exe, account), &self.path("locks.db"))
    }

    fn command(&self, program: impl AsRef<OsStr>, account: u32) -> Command {
        let mut command = Command::new(program);
        command.uid(account).gid(GROUP).current_dir(self.path(""));
        command
    }

    /// Starts a worker with a umask under which it may not even use the files that it makes.
    fn start_masked(&self, account: u32) -> Worker {
        let mut command = self.command("sh", account);
        command.args(["-c", "umask 777; exec \"$@\"", "sh"]).arg(&self.exe);
        Worker::start_by(command, &self.path("locks.db"))
    }

    /// Gives the group access, as the storage's README says.
    fn open_to_the_group(&self) {
        drop(self.start(ANN));
        fs::set_permissions(self.path("locks.db"), fs::Permissions::from_mode(0o660)).expect("chmod");
        // The other parts follow when their owner opens the file again.
        drop(self.start(ANN));
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("there").mode() & 0o777
}

#[test]
fn a_killed_holder_of_another_account_is_replaced_at_once() {
    let shared = Shared::new();
    shared.open_to_the_group();
    for (one, other) in [(ANN, BOB), (BOB, ANN)] {
        let (mut holder, mut waiter) = (shared.start(one), shared.start(other));
        holder.take("job");
        assert!(waiter.remaining("job") > LONG / 2);
        waiter.queue("job");
        holder.kill();
        waiter.hear_granted();
    }
}

#[test]
fn a_file_that_comes_back_is_shared_as_before() {
    let shared = Shared::new();
    shared.open_to_the_group();
    for _ in 0..2 {
        let mut holder = shared.start(ANN);
        holder.take("job");
        // As long as this process lives, no other may use a new file.
        fs::remove_file(shared.path("locks.db")).expect("removed");
        let heard = shared.spawn(BOB).hear();
        assert!(heard.starts_with("Unavailable: ") && heard.contains("still uses the old one"), "{heard}");
        holder.kill();
        for account in [BOB, ANN] {
            let mut worker = shared.start(account);
            worker.take("job");
            for part in ["locks.db", "locks.db-wal", "locks.db-shm"] {
                let path = shared.path(part);
                assert_eq!(
                    (mode(&path), fs::metadata(&path).expect("there").gid()),
                    (0o660, GROUP),
                    "{part}"
                );
            }
            assert_eq!(mode(&shared.path("locks.db-live")), 0o770);
            for file in fs::read_dir(shared.path("locks.db-live")).expect("listed") {
                assert_eq!(mode(&file.expect("a file").path()), 0o660);
            }
        }
    }
}

#[test]
fn a_storage_in_an_unknown_state_is_reported_with_its_account() {
    let shared = Shared::new();
    shared.open_to_the_group();
    // The process is in another pid namespace, and the file cannot be opened.
    let other = format!("1-2-3-7-1-7-1-{}", leasehold::storage::Owner::random());
    let path = shared.path("locks.db-live").join(other);
    fs::write(&path, "").expect("made");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
    let heard = shared.spawn(BOB).hear();
    assert!(heard.starts_with("Unsupported: ") && heard.contains("cannot be told"), "{heard}");
    assert!(heard.contains(&format!("path=`{}` owner=`0`", path.display())), "{heard}");
    fs::remove_file(path).expect("removed");
    shared.start(BOB);
}

#[test]
fn an_account_can_use_its_files_under_any_umask() {
    let shared = Shared::new();
    let (mut first, mut second) = (shared.start_masked(ANN), shared.start_masked(ANN));
    first.take("job");
    second.queue("job");
    first.kill();
    second.hear_granted();
    for part in ["locks.db", "locks.db-wal", "locks.db-shm"] {
        assert_eq!(mode(&shared.path(part)), 0o600, "{part}");
    }
}
