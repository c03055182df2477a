//! Worker processes: this test's own executable, which executes commands from its input and answers on its output.
//!
//! | Command | What the worker does | Its answer |
//! |---|---|---|
//! | `wait LOCK` | acquires the lock, and waits for it | `waiting` after a refusal; `granted TOKEN OWNER` |
//! | `detach LOCK` | the same, detached | `granted TOKEN OWNER` |
//! | `guard LOCK outlives` or `guard LOCK ends` | acquires a guard, which outlives the process or not | its ticket |
//! | `job LOCK TTL AT_LEAST END` | acquires a guard with a minimum, both in milliseconds; ends it: `released`, `closed`, `dropped` or not at all: `held` | its end |
//! | `try LOCK` | acquires without waiting | `held MILLISECONDS`, the rest of the lease, or another result |
//! | `renew LOCK OWNER`, `release LOCK OWNER` | does so | `renewed`, `released` or `not held` |
//! | `shorten LOCK OWNER` | renews, and shortens to 200 ms | `shortened` |
//! | `hinted` | waits for a hint to an owner | the owner, or `nothing` after 10 s |
//! | `cycles LOCK N` | acquires and releases N times | each time `FROM UNTIL TOKEN`, in nanoseconds |
//! | `touch` | opens and closes all files of the lock file | `touched` |
//! | `touch forever` | the same, again and again on another thread | `touching` |
//! | `starve` | takes all file descriptors | `starved` |
//! | `child` | starts a child process | its pid |

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use leasehold::storage::sqlite::{Config, Sqlite};
use leasehold::storage::{AcquireReply, Claim, Hint, Owner, ReleaseReply, RenewReply, Storage, Token};
use leasehold::{Guard, Locks};

use crate::tools::{Hints, LONG, claim, name, release, renew, run, time, try_acquire, wait_for};

/// The path of the lock file, in the environment of a worker.
const FILE: &str = "LEASEHOLD_TEST_SQLITE_FILE";
/// The number of descriptors that a worker has left when it opens the file, in its environment.
pub(crate) const DESCRIPTORS: &str = "LEASEHOLD_TEST_SQLITE_DESCRIPTORS";
const SHORT: Duration = Duration::from_millis(200);

/// A worker process, killed when dropped.
pub(crate) struct Worker {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

/// A grant, as a worker reports it.
pub(crate) struct Granted {
    pub(crate) token: Token,
    pub(crate) owner: Owner,
}

impl Worker {
    /// Starts a worker and waits until it has the file open.
    pub(crate) fn start(file: &Path) -> Self {
        Self::start_by(Command::new(std::env::current_exe().expect("this test")), file)
    }

    /// Starts a worker with a command that executes this test, and waits until it has the file open.
    pub(crate) fn start_by(command: Command, file: &Path) -> Self {
        let mut worker = Self::spawn_by(command, file);
        assert_eq!(worker.hear(), "open");
        worker
    }

    /// Starts so many workers.
    pub(crate) fn start_many<const N: usize>(file: &Path) -> [Self; N] {
        [(); N].map(|()| Self::start(file))
    }

    /// Starts a worker that holds a lock.
    pub(crate) fn holding(file: &Path, lock: &str) -> (Self, Granted) {
        let mut worker = Self::start(file);
        let granted = worker.take(lock);
        (worker, granted)
    }

    /// Starts a worker without waiting for it. Its first answer is `open`, or an error.
    pub(crate) fn spawn(file: &Path) -> Self {
        Self::spawn_by(Command::new(std::env::current_exe().expect("this test")), file)
    }

    pub(crate) fn spawn_by(mut command: Command, file: &Path) -> Self {
        let mut child = command
            .args(["worker::process", "--exact", "--nocapture", "--test-threads=1"])
            .env(FILE, file)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("started");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, input, output }
    }

    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a command.
    pub(crate) fn say(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("the worker lives");
    }

    /// Returns the next answer. Skips the output of the test harness.
    pub(crate) fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            let read = self.output.read_line(&mut line).expect("read");
            assert!(read > 0, "the worker ended");
            if let Some((_, answer)) = line.split_once("@ ") {
                return answer.trim_end().to_owned();
            }
        }
    }

    /// Sends a command and returns the answer.
    pub(crate) fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.hear()
    }

    pub(crate) fn hear_granted(&mut self) -> Granted {
        let heard = self.hear();
        let words: Vec<_> = heard.split(' ').collect();
        match words.as_slice() {
            ["granted", token, owner] => {
                Granted { token: token.parse().expect("a token"), owner: owner.parse().expect("an owner") }
            }
            other => panic!("{other:?}"),
        }
    }

    /// Acquires a free lock.
    pub(crate) fn take(&mut self, lock: &str) -> Granted {
        self.say(&format!("wait {lock}"));
        self.hear_granted()
    }

    /// Begins to wait for a lock that is held.
    pub(crate) fn queue(&mut self, lock: &str) {
        assert_eq!(self.ask(&format!("wait {lock}")), "waiting");
    }

    pub(crate) fn renew(&mut self, lock: &str, owner: Owner) -> String {
        self.ask(&format!("renew {lock} {owner}"))
    }

    pub(crate) fn release(&mut self, lock: &str, owner: Owner) -> String {
        self.ask(&format!("release {lock} {owner}"))
    }

    /// Returns the rest of the lease of a lock that another owner holds.
    pub(crate) fn remaining(&mut self, lock: &str) -> Duration {
        let heard = self.ask(&format!("try {lock}"));
        let held = heard.strip_prefix("held ").unwrap_or_else(|| panic!("{heard}"));
        Duration::from_millis(held.parse().expect("a number"))
    }

    pub(crate) fn kill(&mut self) {
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

/// Runs a worker process. Does nothing as a test: then no lock file is in its environment.
#[test]
fn process() {
    let Some(file) = std::env::var_os(FILE).map(PathBuf::from) else {
        return;
    };
    run(async {
        let _taken = std::env::var(DESCRIPTORS).ok().map(|left| starve(left.parse().expect("a number")));
        let storage = match Sqlite::open(Config::new(&file)).await {
            Ok(storage) => storage,
            Err(error) => return answer(&format!("{:?}: {error}", error.kind())),
        };
        let hints: Hints = Box::pin(storage.hints());
        let mut process = Process { file, storage, hints, guards: Vec::new(), taken: Vec::new() };
        answer("open");
        for line in std::io::stdin().lines() {
            let line = line.expect("a line");
            process.execute(&line.split(' ').collect::<Vec<_>>()).await;
        }
    });
}

/// The state of a worker process.
struct Process {
    file: PathBuf,
    storage: Sqlite,
    hints: Hints,
    guards: Vec<(Locks, Guard)>,
    /// Descriptors that are taken, so that none is left.
    taken: Vec<fs::File>,
}

impl Process {
    async fn execute(&mut self, words: &[&str]) {
        match words {
            ["wait", lock] => self.wait(claim(lock).wait(true), || answer("waiting")).await,
            ["detach", lock] => self.wait(claim(lock).detached(true), || ()).await,
            ["guard", lock, end] => self.guard(lock, *end == "outlives").await,
            ["job", lock, ttl, at_least, end] => self.job(lock, millis(ttl), millis(at_least), end).await,
            ["try", lock] => match try_acquire(&self.storage, &claim(lock)).await {
                Ok(AcquireReply::Held { holder: Some(holder), .. }) => {
                    answer(&format!("held {}", holder.remaining.as_millis()));
                }
                other => answer(&format!("{other:?}")),
            },
            ["renew", lock, owner] => match renew(&self.storage, &claim_of(lock, owner, LONG)).await {
                RenewReply::NotHeld => answer("not held"),
                _ => answer("renewed"),
            },
            ["release", lock, owner] => match release(&self.storage, &claim_of(lock, owner, LONG)).await {
                ReleaseReply::NotHeld => answer("not held"),
                _ => answer("released"),
            },
            ["shorten", lock, owner] => {
                let mine = claim_of(lock, owner, SHORT);
                renew(&self.storage, &mine.patience(LONG).shorten(true)).await;
                answer("shortened");
            }
            ["hinted"] => self.hinted().await,
            ["cycles", lock, n] => self.cycles(lock, n.parse().expect("a number")).await,
            ["touch"] => {
                touch(&self.file);
                answer("touched");
            }
            ["touch", "forever"] => {
                let file = self.file.clone();
                std::thread::spawn(move || {
                    loop {
                        touch(&file);
                    }
                });
                answer("touching");
            }
            ["starve"] => {
                self.taken.extend(starve(0));
                answer("starved");
            }
            ["child"] => {
                let mut child = Command::new("sleep");
                child.arg("600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
                answer(&child.spawn().expect("started").id().to_string());
            }
            other => panic!("{other:?}"),
        }
    }

    async fn wait(&mut self, mine: Claim, waiting: impl FnOnce()) {
        let token = wait_for(&self.storage, &mut self.hints, &mine, waiting).await;
        answer(&format!("granted {token} {}", mine.owner));
    }

    async fn guard(&mut self, lock: &str, outlives: bool) {
        let locks = Locks::connect(&format!("sqlite:{}", self.file.display())).await.expect("opened");
        let guard = locks.lock(lock).ttl(LONG).acquire().await.expect("free");
        if outlives {
            guard.outlive_process().await.expect("held");
            guard.verify().await.expect("still held");
        }
        answer(&guard.ticket().to_string());
        self.guards.push((locks, guard));
    }

    async fn job(&mut self, lock: &str, ttl: Duration, at_least: Duration, end: &str) {
        let locks = Locks::connect(&format!("sqlite:{}", self.file.display())).await.expect("opened");
        let guard = locks.lock(lock).ttl(ttl).at_least(at_least).acquire().await.expect("free");
        match end {
            "released" => guard.release().await.expect("held until now"),
            "closed" => {
                drop(guard);
                locks.close().await.expect("answered");
            }
            "dropped" => drop(guard),
            _ => self.guards.push((locks, guard)),
        }
        answer(end);
    }

    async fn hinted(&mut self) {
        let hinted = async {
            loop {
                if let Some(Hint::Owner(owner)) = self.hints.next().await {
                    break owner.to_string();
                }
            }
        };
        let heard = tokio::time::timeout(time(10_000), hinted).await;
        answer(&heard.unwrap_or_else(|_| "nothing".to_owned()));
    }

    async fn cycles(&mut self, lock: &str, n: u32) {
        for _ in 0..n {
            let mine = claim(lock).wait(true);
            let token = wait_for(&self.storage, &mut self.hints, &mine, || ()).await;
            let (from, until) = (nanos(), nanos());
            assert_eq!(release(&self.storage, &mine).await, ReleaseReply::Released);
            answer(&format!("{from} {until} {token}"));
        }
    }
}

fn millis(text: &str) -> Duration {
    Duration::from_millis(text.parse().expect("a number"))
}

fn claim_of(lock: &str, owner: &str, ttl: Duration) -> Claim {
    Claim::new(name(lock), owner.parse().expect("an owner"), ttl)
}

fn answer(text: &str) {
    let mut output = std::io::stdout();
    writeln!(output, "@ {text}").expect("written");
}

/// Takes all descriptors of this process except `left`.
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

/// Opens and closes all files of a lock file, as a backup does.
///
/// Closing any descriptor of a file drops all fcntl locks that this process has on it.
fn touch(file: &Path) {
    let dir = file.parent().expect("a directory");
    let live =
        fs::read_dir(dir.join("locks.db-live")).expect("listed").map(|file| file.expect("a file").path());
    let parts = ["locks.db", "locks.db-wal", "locks.db-shm"].map(|part| dir.join(part));
    for file in live.filter(|file| file.extension().is_none()).chain(parts) {
        drop(fs::File::open(file));
    }
}

fn nanos() -> u128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let secs = u64::try_from(now.tv_sec).expect("positive");
    Duration::new(secs, u32::try_from(now.tv_nsec).expect("positive")).as_nanos()
}
