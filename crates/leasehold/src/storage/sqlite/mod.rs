#![doc = include_str!("README.md")]

mod boot;
mod config;
mod connect;
mod db;
#[cfg(unix)]
mod exclusive;
#[cfg(not(unix))]
#[path = "exclusive_none.rs"]
mod exclusive;
mod findings;
mod fs;
#[cfg(target_os = "linux")]
mod hints;
#[cfg(not(target_os = "linux"))]
#[path = "hints_none.rs"]
mod hints;
mod job;
mod leases;
#[cfg(unix)]
mod live;
#[cfg(not(unix))]
#[path = "live_none.rs"]
mod live;
#[cfg(unix)]
mod process;
mod tx;

use std::fmt;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::oneshot;

pub use self::config::{Config, Synchronous};
use self::db::Db;
use self::hints::{Commands, Hinter};
use self::job::{Job, Reply};
use super::registry::Target;
use super::url::Url;
use super::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, LeaseClock, Limits, Name, ReleaseReply,
    RenewReply, Storage, Tier,
};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::system::no_thread;

/// Keeps locks in a file, for the processes of one machine.
pub struct Sqlite {
    path: PathBuf,
    clock: Clock,
    jobs: mpsc::Sender<Job>,
    hinter: Hinter,
    commands: Mutex<Option<Commands>>,
    /// Says when the thread has closed the file.
    closed: Mutex<mpsc::Receiver<()>>,
}

/// How long dropping a storage waits for its thread to close the file.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);
/// The most claims in one call.
const BATCH_MAX: usize = 512;

/// Reads a URL of this storage.
pub(super) fn target(_: &str, url: Url) -> Result<Target> {
    let config = Config::from_url(&url)?;
    Ok(Target::new(|| Sqlite::open(config)))
}

impl Sqlite {
    /// Opens the lock file, and makes it if it is missing.
    ///
    /// # Errors
    ///
    /// `Unsupported` if the file is not one of ours, lies on a network file system or in a directory that
    /// anybody may write to, was mounted apart from its directory, has more than one name, or may not be read and written;
    /// or if the clock or the liveness of others cannot be told. `Unavailable` if the file was replaced while another
    /// process still uses the old one. `Internal` if the system has run out of something, such as space on the disk.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the file again.
    pub async fn open(config: Config) -> Result<Self> {
        let (jobs, received) = mpsc::channel();
        let (hinter, commands) = hints::channel();
        let (opened, opening) = oneshot::channel();
        let (closing, closed) = mpsc::channel();
        let thread = std::thread::Builder::new().name("leasehold-sqlite".to_owned());
        let start = thread.spawn({
            let hinter = hinter.clone();
            move || {
                // Dropped last, after the file is closed.
                let _closing: mpsc::Sender<()> = closing;
                match Db::open(config, hinter) {
                    Ok(db) => {
                        if opened.send(Ok(db.path().to_owned())).is_ok() {
                            db.run(&received);
                        }
                    }
                    Err(error) => drop(opened.send(Err(error))),
                }
            }
        });
        start.map_err(|e| no_thread("the thread of the lock file cannot be started", e))?;
        let path = opening.await.map_err(|_| gone())??;
        Ok(Self {
            path,
            clock: Clock::boot(),
            jobs,
            hinter,
            commands: Mutex::new(Some(commands)),
            closed: Mutex::new(closed),
        })
    }

    /// Hands a job to the thread and waits for its answers.
    async fn ask<T>(
        &self,
        claims: &[Claim],
        job: impl FnOnce(Vec<Claim>, Reply<T>) -> Job,
    ) -> Vec<Result<T>> {
        let (reply, answer) = oneshot::channel();
        let _gone = self.jobs.send(job(claims.to_vec(), reply));
        answer.await.unwrap_or_else(|_| claims.iter().map(|_| Err(gone())).collect())
    }
}

/// Closes the file and removes this storage's liveness file. Leases that were not released and are not
/// detached are free at once.
impl Drop for Sqlite {
    fn drop(&mut self) {
        let _gone = self.jobs.send(Job::Close);
        let closed = self.closed.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _closed_or_late = closed.recv_timeout(CLOSE_LIMIT);
    }
}

impl fmt::Debug for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sqlite").field("path", &self.path).finish_non_exhaustive()
    }
}

impl fmt::Display for Sqlite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sqlite:{}", self.path.display())
    }
}

impl Storage for Sqlite {
    fn guarantees(&self) -> Guarantees {
        let clock = if cfg!(any(target_os = "linux", target_os = "android")) {
            LeaseClock::Boot
        } else {
            LeaseClock::ServerWall
        };
        Guarantees {
            fencing: true,
            fair: true,
            push: hints::PUSH,
            ..Guarantees::new(Tier::RestartSafe, clock)
        }
    }

    fn limits(&self) -> Limits {
        Limits { batch_max: BATCH_MAX, ..Limits::default() }
    }

    fn acquire(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<AcquireReply>>> + Send {
        let sent = self.clock.now();
        self.ask(claims, move |claims, reply| Job::Acquire { claims, sent, reply })
    }

    fn renew(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<RenewReply>>> + Send {
        let sent = self.clock.now();
        self.ask(claims, move |claims, reply| Job::Renew { claims, sent, reply })
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        self.ask(claims, |claims, reply| Job::Release { claims, reply }).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        let (reply, answer) = oneshot::channel();
        let name = name.clone();
        let _gone = self.jobs.send(Job::Inspect { name, reply });
        let holder = answer.await.unwrap_or_else(|_| Err(gone()))?;
        Ok(holder.into_iter().collect())
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        let (reply, answer) = oneshot::channel();
        let (prefix, after) = (prefix.to_owned(), after.cloned());
        let _gone = self.jobs.send(Job::List { prefix, after, limit, reply });
        answer.await.unwrap_or_else(|_| Err(gone()))
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        Ok(vec![findings::file(&self.path)])
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        self.hinter.watch(added, removed);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner).take();
        let jobs = self.jobs.clone();
        let replaced = move || drop(jobs.send(Job::Check));
        match commands {
            Some(commands) => commands.listen(replaced).left_stream(),
            None => stream::pending().right_stream(),
        }
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the thread of the lock file has ended; connect again")
}
