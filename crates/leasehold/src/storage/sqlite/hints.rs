//! Hints between processes, without polling.
//!
//! | What happens | How this process learns of it |
//! |---|---|
//! | another process hints an owner that waits or holds here | 16 bytes in the named pipe beside the liveness file (`pipe`) |
//! | a process dies that an owner waits for | its pidfd becomes readable (`deaths`) |
//! | a name that this process observes may have changed | the write-ahead log is modified, which inotify reports (`files`) |
//! | a part of the lock file is moved or removed | inotify (`files`) |
//!
//! The storage sends commands to a listener, which turns all of these into one stream of hints.

mod deaths;
mod files;
mod listener;
mod pipe;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::mpsc;

use self::listener::Listener;
use super::fs::{Paths, Sharing, failed};
use crate::clock::Moment;
use crate::error::Result;
use crate::storage::{Hint, Name, Owner, WAITER_TTL};

/// Whether a release wakes the next waiter.
pub(super) const PUSH: bool = true;

/// The storage's side: sends hints to this storage and to others.
#[derive(Clone, Debug)]
pub(super) struct Hinter {
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
}

/// The engine's side, before it listens.
#[derive(Debug)]
pub(super) struct Commands {
    commands: mpsc::UnboundedReceiver<Command>,
    shared: Arc<Shared>,
}

/// The state that both sides share.
#[derive(Debug, Default)]
struct Shared {
    listening: AtomicBool,
    /// For each storage that may die, the owners that wait for its death, and until when.
    deaths: Mutex<HashMap<String, HashMap<Owner, Moment>>>,
}

/// A command to the listener.
#[derive(Debug)]
enum Command {
    Opened(Opened),
    Hint(Hint),
    /// Watch for the death of this storage.
    WatchDeath(String),
    Watch {
        added: Vec<Name>,
        removed: Vec<Name>,
    },
}

/// What the listener needs of a lock file that was opened.
#[derive(Debug)]
struct Opened {
    pipe: File,
    paths: Paths,
    /// The liveness file.
    live: PathBuf,
}

/// Returns both sides of a new channel.
pub(super) fn channel() -> (Hinter, Commands) {
    let (tx, rx) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::default());
    let hinter = Hinter { commands: tx, shared: Arc::clone(&shared) };
    (hinter, Commands { commands: rx, shared })
}

impl Hinter {
    /// Listens on a lock file that was just opened. Its pipe is removed together with the liveness file.
    pub(super) fn opened(&self, paths: &Paths, id: &str) -> Result<()> {
        let made = pipe::make(&paths.live_dir, id, Sharing::of(&paths.database)?);
        let pipe = made.map_err(|e| failed("the pipe for hints cannot be made", &paths.live_dir, e))?;
        let live = paths.live_dir.join(id);
        self.command(Command::Opened(Opened { pipe, paths: paths.clone(), live }));
        Ok(())
    }

    /// Sends a hint to this storage.
    pub(super) fn hint(&self, hint: Hint) {
        if self.shared.listening.load(Ordering::Acquire) {
            self.command(Command::Hint(hint));
        }
    }

    /// Hints an owner of another storage. If that fails, the owner asks again on its heartbeat.
    pub(super) fn hint_other(&self, live_dir: &Path, id: &str, owner: Owner) {
        pipe::write(live_dir, id, owner);
    }

    /// Hints the owner when one of these storages dies.
    pub(super) fn watch_deaths(&self, owner: Owner, ids: Vec<String>, now: Moment) {
        let until = now.after(WAITER_TTL);
        let mut deaths = self.shared.deaths();
        for id in ids {
            let is_new = !deaths.contains_key(&id);
            let owners = deaths.entry(id.clone()).or_default();
            if owners.len().is_power_of_two() {
                owners.retain(|_, until| *until > now);
            }
            owners.insert(owner, until);
            if is_new {
                self.command(Command::WatchDeath(id));
            }
        }
    }

    /// Returns `true` if an owner already waits for the death of this storage.
    pub(super) fn watches_death(&self, id: &str) -> bool {
        self.shared.deaths().contains_key(id)
    }

    /// Undoes [`Hinter::watch_deaths`].
    pub(super) fn forget_waiter(&self, owner: Owner) {
        self.shared.deaths().retain(|_, owners| {
            owners.remove(&owner);
            !owners.is_empty()
        });
    }

    /// Changes the set of names whose changes are hinted.
    pub(super) fn watch(&self, added: &[Name], removed: &[Name]) {
        self.command(Command::Watch { added: added.to_vec(), removed: removed.to_vec() });
    }

    fn command(&self, command: Command) {
        let _listener_gone = self.commands.send(command);
    }
}

impl Shared {
    fn deaths(&self) -> MutexGuard<'_, HashMap<String, HashMap<Owner, Moment>>> {
        self.deaths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Commands {
    /// Listens, within a tokio runtime, until every [`Hinter`] is gone.
    ///
    /// Calls `check` when the lock file itself may have been replaced.
    pub(super) fn listen(
        self,
        check: impl Fn() + Send + 'static,
    ) -> impl Stream<Item = Hint> + Send + 'static {
        self.shared.listening.store(true, Ordering::Release);
        stream::unfold(None::<Listener>, {
            let mut start = Some((self, check));
            move |listener| {
                let start = start.take();
                async move {
                    let mut listener = match (listener, start) {
                        (Some(listener), _) => listener,
                        (None, Some((commands, check))) => Listener::new(commands, Box::new(check)),
                        (None, None) => return None,
                    };
                    listener.next().await.map(|hint| (hint, Some(listener)))
                }
            }
        })
    }
}
