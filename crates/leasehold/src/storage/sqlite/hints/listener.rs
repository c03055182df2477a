//! The listener: makes one stream of hints out of commands, the pipe, deaths and changes of files.
//!
//! | Event | What the listener does |
//! |---|---|
//! | a hint of this storage | yields it |
//! | the lock file was opened | watches its files and its pipe instead of the former ones, has the file checked, and yields `Any` |
//! | names are observed, or no longer | adds or removes them; watches the log while there are any |
//! | a storage is to be watched | adds it to the death watch |
//! | the pipe is readable | yields each owner in it |
//! | a storage has died | yields the owners that wait for its death |
//! | the log was written to | yields all observed names, at `hint_at` at the earliest |
//! | a file was moved or removed | has the file checked |

use std::collections::{HashSet, VecDeque};
use std::path::PathBuf;
use std::time::Duration;

use tokio::net::unix::pipe::Receiver;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::deaths::DeathWatch;
use super::files::{Changed, FileWatch, advice, changed};
use super::{Command, Commands, Opened, pipe};
use crate::storage::{Hint, Name};

/// The least time between two hints of all observed names, for each of them.
///
/// The log does not show which lock has changed, so every observer looks at its lock. These looks must not delay the
/// processes that lock.
const HINTS_APART_EACH: Duration = Duration::from_micros(200);

/// The state of the listener.
pub(super) struct Listener {
    commands: mpsc::UnboundedReceiver<Command>,
    /// Has the storage check whether the lock file was replaced.
    check: Box<dyn Fn() + Send>,
    ready: VecDeque<Hint>,
    live_dir: PathBuf,
    pipe: Option<Receiver>,
    files: Option<FileWatch>,
    deaths: DeathWatch,
    observed: HashSet<Name>,
    /// The time to hint the observed names, if the log has changed.
    hint_at: Option<Instant>,
    /// The earliest time of the next such hints.
    hint_not_before: Instant,
}

impl Listener {
    pub(super) fn new(commands: Commands, check: Box<dyn Fn() + Send>) -> Self {
        Self {
            commands: commands.commands,
            check,
            ready: VecDeque::new(),
            live_dir: PathBuf::new(),
            pipe: None,
            files: None,
            deaths: DeathWatch::new(commands.shared),
            observed: HashSet::new(),
            hint_at: None,
            hint_not_before: Instant::now(),
        }
    }

    /// Waits for the next hint; `None` once there are no more commands.
    pub(super) async fn next(&mut self) -> Option<Hint> {
        loop {
            if let Some(hint) = self.ready.pop_front() {
                return Some(hint);
            }
            tokio::select! {
                command = self.commands.recv() => self.execute(command?),
                () = pipe::readable(self.pipe.as_ref()) => self.read_pipe(),
                cause = self.deaths.next() => self.deaths.look(&cause, &self.live_dir, &mut self.ready),
                changed = changed(self.files.as_mut()) => self.changed(changed),
                () = at(self.hint_at) => self.hint_observed(),
            }
        }
    }

    fn execute(&mut self, command: Command) {
        match command {
            Command::Hint(hint) => self.ready.push_back(hint),
            Command::WatchDeath(id) => self.deaths.watch(id, &self.live_dir, &mut self.ready),
            Command::Watch { added, removed } => self.observe(added, &removed),
            Command::Opened(opened) => self.opened(opened),
        }
    }

    fn observe(&mut self, added: Vec<Name>, removed: &[Name]) {
        let observed_any = !self.observed.is_empty();
        self.observed.extend(added);
        for name in removed {
            self.observed.remove(name);
        }
        let observes_any = !self.observed.is_empty();
        if let Some(files) = self.files.as_mut().filter(|_| observed_any != observes_any) {
            files.watch_log(observes_any);
        }
    }

    fn opened(&mut self, opened: Opened) {
        self.files = FileWatch::new(&opened)
            .inspect_err(|error| {
                // Only time is lost: holders check the file at each renewal, and observers look at each heartbeat.
                let why = advice(error);
                tracing::warn!(target: "leasehold", %error, why, "the lock file is not watched");
            })
            .ok();
        self.pipe = Receiver::from_file(opened.pipe).ok();
        self.live_dir = opened.paths.live_dir;
        if let Some(files) = &mut self.files {
            files.watch_log(!self.observed.is_empty());
        }
        // The file may have been replaced before it was watched.
        (self.check)();
        // Hints in the former pipe are lost.
        self.ready.push_back(Hint::Any);
    }

    fn read_pipe(&mut self) {
        if let Some(pipe) = &self.pipe {
            pipe::read(pipe, &mut self.ready);
        }
    }

    fn changed(&mut self, changed: Changed) {
        if changed.log {
            self.hint_at.get_or_insert(self.hint_not_before);
        }
        if changed.file {
            (self.check)();
        }
    }

    fn hint_observed(&mut self) {
        self.ready.extend(self.observed.iter().cloned().map(Hint::Name));
        let apart = HINTS_APART_EACH.saturating_mul(u32::try_from(self.observed.len()).unwrap_or(u32::MAX));
        (self.hint_at, self.hint_not_before) = (None, Instant::now() + apart);
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
