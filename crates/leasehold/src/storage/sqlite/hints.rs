//! How a process learns that it is its turn, without polling.
//!
//! Turns are passed through a named pipe beside each liveness file; deaths are seen through pidfds; changes
//! of watched names through the write-ahead log.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream::{self, FuturesUnordered};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use tokio::io::unix::AsyncFd;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::fs::{Paths, Sharing, failed};
use super::live::{self, State};
use crate::clock::{Clock, Moment};
use crate::error::Result;
use crate::fd;
use crate::storage::{Hint, Name, Owner, WAITER_TTL};

/// Whether a release wakes the next waiter.
pub(super) const PUSH: bool = true;

/// How often a process that has no pidfd here is looked at, while somebody waits for it.
const LOOK_AGAIN: Duration = Duration::from_millis(25);
/// The least time between two hints about one watched name: a busy file must not become a busy loop.
const CHANGES_APART: Duration = Duration::from_millis(5);
/// The least time between two times that all watched names are hinted, for each of them: the log does not tell which
/// lock has changed, and the looks that follow must not take the storage from those who lock.
const CHANGES_APART_EACH: Duration = Duration::from_micros(200);
/// After so many bytes in one go the pipe may have been full and something was not written.
const FULL: usize = 60 * 1024;
/// What happens to a file that leaves its path. A file that is open is not deleted: it has fewer links.
const GONE: WatchFlags = WatchFlags::MOVE_SELF.union(WatchFlags::DELETE_SELF).union(WatchFlags::ATTRIB);

/// The storage's side: sends hints, to this storage and to others.
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

#[derive(Debug, Default)]
struct Shared {
    listening: AtomicBool,
    /// By the storage that may die: who wants to know, and until when.
    deaths: Mutex<HashMap<String, HashMap<Owner, Moment>>>,
}

#[derive(Debug)]
enum Command {
    Opened(Opened),
    Hint(Hint),
    Death(String),
    Watch { added: Vec<Name>, removed: Vec<Name> },
}

/// What a newly opened lock file gives to listen to.
#[derive(Debug)]
struct Opened {
    pipe: File,
    paths: Paths,
    /// The liveness file.
    live: PathBuf,
}

pub(super) fn channel() -> (Hinter, Commands) {
    let (tx, rx) = mpsc::unbounded_channel();
    let shared = Arc::new(Shared::default());
    let hinter = Hinter { commands: tx, shared: Arc::clone(&shared) };
    (hinter, Commands { commands: rx, shared })
}

impl Hinter {
    /// Listens on a newly opened lock file. The pipe goes when the liveness file does.
    pub(super) fn opened(&self, paths: &Paths, id: &str) -> Result<()> {
        let made = make_pipe(&paths.live_dir, id, Sharing::of(&paths.database)?);
        let pipe = made.map_err(|e| failed("the pipe for hints cannot be made", &paths.live_dir, e))?;
        let live = paths.live_dir.join(id);
        self.command(Command::Opened(Opened { pipe, paths: paths.clone(), live }));
        Ok(())
    }

    /// Hints an owner that asked this storage.
    pub(super) fn tell(&self, hint: Hint) {
        if self.shared.listening.load(Ordering::Acquire) {
            self.command(Command::Hint(hint));
        }
    }

    /// Hints an owner that asked another storage. What cannot be written is left to that owner's heartbeat.
    pub(super) fn pass(&self, live_dir: &Path, id: &str, owner: Owner) {
        let Some(path) = live::hint_path(live_dir, id) else {
            return;
        };
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        if let Ok(pipe) = rustix::fs::open(path, flags, Mode::empty()) {
            // At most PIPE_BUF bytes: written whole or not at all.
            let _written = File::from(pipe).write(&owner.to_bytes());
        }
    }

    /// Hints the owner when one of these storages dies.
    pub(super) fn watch_deaths(&self, owner: Owner, ids: Vec<String>, now: Moment) {
        let until = now.after(WAITER_TTL);
        let mut deaths = self.shared.deaths();
        for id in ids {
            let unseen = !deaths.contains_key(&id);
            let owners = deaths.entry(id.clone()).or_default();
            if owners.len().is_power_of_two() {
                owners.retain(|_, until| *until > now);
            }
            owners.insert(owner, until);
            if unseen {
                self.command(Command::Death(id));
            }
        }
    }

    /// Whether somebody waits for the death of this storage already.
    pub(super) fn watches_death(&self, id: &str) -> bool {
        self.shared.deaths().contains_key(id)
    }

    /// Takes back what [`Hinter::watch_deaths`] was asked for.
    pub(super) fn settled(&self, owner: Owner) {
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
        let _nobody_listens = self.commands.send(command);
    }
}

impl Shared {
    fn deaths(&self) -> MutexGuard<'_, HashMap<String, HashMap<Owner, Moment>>> {
        self.deaths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Commands {
    /// Listens, within a tokio runtime, until every [`Hinter`] is gone. `replaced` is called when something
    /// happened to the lock file itself.
    pub(super) fn listen(
        self,
        replaced: impl Fn() + Send + 'static,
    ) -> impl Stream<Item = Hint> + Send + 'static {
        self.shared.listening.store(true, Ordering::Release);
        stream::unfold(None::<Listener>, {
            let mut start = Some((self, replaced));
            move |listener| {
                let start = start.take();
                async move {
                    let mut listener = match (listener, start) {
                        (Some(listener), _) => listener,
                        (None, Some((commands, replaced))) => Listener::new(commands, Box::new(replaced)),
                        (None, None) => return None,
                    };
                    listener.next().await.map(|hint| (hint, Some(listener)))
                }
            }
        })
    }
}

type Death = Pin<Box<dyn Future<Output = Pid> + Send>>;

struct Listener {
    commands: mpsc::UnboundedReceiver<Command>,
    shared: Arc<Shared>,
    replaced: Box<dyn Fn() + Send>,
    ready: VecDeque<Hint>,
    live_dir: PathBuf,
    pipe: Option<pipe::Receiver>,
    files: Option<Files>,
    watched: HashSet<Name>,
    /// When to hint the watched names, if the log has changed.
    hint_at: Option<Instant>,
    /// When they may be hinted next.
    hint_not_before: Instant,
    /// The storages of each process that has a pidfd in `deaths`.
    processes: HashMap<Pid, HashSet<String>>,
    deaths: FuturesUnordered<Death>,
    /// Storages that have no pidfd here.
    looked_at: HashSet<String>,
    look_again: Interval,
    clock: Clock,
}

impl Listener {
    fn new(commands: Commands, replaced: Box<dyn Fn() + Send>) -> Self {
        let mut look_again = tokio::time::interval(LOOK_AGAIN);
        look_again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            commands: commands.commands,
            shared: commands.shared,
            replaced,
            ready: VecDeque::new(),
            live_dir: PathBuf::new(),
            pipe: None,
            files: None,
            watched: HashSet::new(),
            hint_at: None,
            hint_not_before: Instant::now(),
            processes: HashMap::new(),
            deaths: FuturesUnordered::new(),
            looked_at: HashSet::new(),
            look_again,
            clock: Clock::boot(),
        }
    }

    async fn next(&mut self) -> Option<Hint> {
        loop {
            if let Some(hint) = self.ready.pop_front() {
                return Some(hint);
            }
            tokio::select! {
                command = self.commands.recv() => self.obey(command?),
                () = readable(self.pipe.as_ref()) => self.drain(),
                Some(pid) = self.deaths.next() => self.process_died(pid),
                _ = self.look_again.tick(), if !self.looked_at.is_empty() => self.look(),
                changed = changed(self.files.as_mut()) => self.changed(changed),
                () = at(self.hint_at) => self.hint_watched(),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Hint(hint) => self.ready.push_back(hint),
            Command::Death(id) => self.expect_death(id),
            Command::Watch { added, removed } => {
                let watched_any = !self.watched.is_empty();
                self.watched.extend(added);
                for name in &removed {
                    self.watched.remove(name);
                }
                let watches_any = !self.watched.is_empty();
                if let Some(files) = self.files.as_mut().filter(|_| watched_any != watches_any) {
                    files.watch_log(watches_any);
                }
            }
            Command::Opened(opened) => {
                self.files = Files::new(&opened)
                    .inspect_err(|error| {
                        // Nothing is lost but time: who holds looks at each renewal, who observes at each heartbeat.
                        let why = watching_failed(error);
                        tracing::warn!(target: "leasehold", %error, why, "the lock file is not watched");
                    })
                    .ok();
                self.pipe = pipe::Receiver::from_file(opened.pipe).ok();
                self.live_dir = opened.paths.live_dir;
                if let Some(files) = &mut self.files {
                    files.watch_log(!self.watched.is_empty());
                }
                // What happened to the file before it was watched.
                (self.replaced)();
                // Whatever was hinted through the former pipe is lost with it.
                self.ready.push_back(Hint::Any);
            }
        }
    }

    /// Reads all that others wrote.
    fn drain(&mut self) {
        let Some(pipe) = &self.pipe else { return };
        let (mut buffer, mut total) = ([0; 4096], 0);
        // A whole number of hints each time: they are written whole.
        while let Ok(read) = pipe.try_read(&mut buffer) {
            let hints = buffer.get(..read).unwrap_or_default().chunks_exact(16);
            let owners = hints.filter_map(|hint| hint.try_into().ok().map(Owner::from_bytes));
            self.ready.extend(owners.map(Hint::Owner));
            total += read;
            if read == 0 || total > 2 * FULL {
                break;
            }
        }
        if total >= FULL {
            self.ready.push_back(Hint::Any);
        }
    }

    fn expect_death(&mut self, id: String) {
        match live::look(&self.live_dir, &id) {
            State::Dead => self.died(&id),
            State::Alive(Some(pid)) => {
                if !self.processes.contains_key(&pid) {
                    let Some(death) = death(pid) else {
                        self.looked_at.insert(id);
                        return;
                    };
                    self.deaths.push(death);
                }
                self.processes.entry(pid).or_default().insert(id.clone());
                // The pid may have been another process's by the time its pidfd was opened.
                if live::look(&self.live_dir, &id) != State::Alive(Some(pid)) {
                    self.died(&id);
                }
            }
            State::Alive(None) | State::Unknown => {
                self.looked_at.insert(id);
            }
        }
    }

    fn process_died(&mut self, pid: Pid) {
        for id in self.processes.remove(&pid).unwrap_or_default() {
            self.died(&id);
        }
    }

    fn look(&mut self) {
        let ids: Vec<_> = self.looked_at.iter().cloned().collect();
        for id in ids {
            let now = self.clock.now();
            let wanted =
                self.shared.deaths().get(&id).is_some_and(|owners| owners.values().any(|until| *until > now));
            if !wanted || live::look(&self.live_dir, &id) == State::Dead {
                self.looked_at.remove(&id);
                self.died(&id);
            }
        }
    }

    fn died(&mut self, id: &str) {
        let owners = self.shared.deaths().remove(id).unwrap_or_default();
        self.ready.extend(owners.into_keys().map(Hint::Owner));
    }

    fn changed(&mut self, changed: Changed) {
        if changed.log {
            self.hint_at.get_or_insert(self.hint_not_before);
        }
        if changed.file {
            (self.replaced)();
        }
    }

    fn hint_watched(&mut self) {
        self.ready.extend(self.watched.iter().cloned().map(Hint::Name));
        let apart = CHANGES_APART_EACH.saturating_mul(u32::try_from(self.watched.len()).unwrap_or(u32::MAX));
        (self.hint_at, self.hint_not_before) = (None, Instant::now() + apart);
    }
}

/// Says what to do where files cannot be watched; inotify has limits of its own, under the numbers of others.
fn watching_failed(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull => "no watch is left; raise `fs.inotify.max_user_watches`",
        _ if error.raw_os_error() == Some(rustix::io::Errno::MFILE.raw_os_error()) => {
            "no descriptor is left, or no watcher; raise `ulimit -n` or `fs.inotify.max_user_instances`"
        }
        _ => crate::system::exhausted(error).unwrap_or("the system refused"),
    }
}

fn death(pid: Pid) -> Option<Death> {
    let process = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
    let process = fd::watch(process).ok()?;
    Some(Box::pin(async move {
        // A pidfd is readable once the process has ended, which is after its locks were dropped.
        let _ended = process.readable().await;
        pid
    }))
}

async fn readable(pipe: Option<&pipe::Receiver>) {
    match pipe {
        Some(pipe) if pipe.readable().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

async fn changed(files: Option<&mut Files>) -> Changed {
    match files {
        Some(files) => files.changed().await,
        None => std::future::pending().await,
    }
}

/// Watches what must stay in its place, and what is written to the log if somebody observes a lock.
struct Files {
    events: AsyncFd<OwnedFd>,
    log: i32,
    log_path: PathBuf,
    not_before: Instant,
}

#[derive(Clone, Copy, Default)]
struct Changed {
    /// Somebody wrote something.
    log: bool,
    /// The file was moved, removed, or given other attributes.
    file: bool,
}

impl Files {
    fn new(opened: &Opened) -> io::Result<Self> {
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let (paths, live) = (&opened.paths, &opened.live);
        for file in [&paths.database, &paths.index, live] {
            inotify::add_watch(&events, file, GONE)?;
        }
        let log = inotify::add_watch(&events, &paths.log, GONE)?;
        for dir in [Some(paths.live_dir.as_path()), paths.database.parent()].into_iter().flatten() {
            inotify::add_watch(&events, dir, WatchFlags::MOVE_SELF | WatchFlags::DELETE_SELF)?;
        }
        Ok(Self { events: fd::watch(events)?, log, log_path: paths.log.clone(), not_before: Instant::now() })
    }

    fn watch_log(&mut self, on: bool) {
        let flags = if on { GONE | WatchFlags::MODIFY } else { GONE };
        // Of the same file, so it only changes what is told. Of another one it would tell too much, which is harmless.
        let _gone = inotify::add_watch(self.events.get_ref(), &self.log_path, flags);
    }

    async fn changed(&mut self) -> Changed {
        loop {
            tokio::time::sleep_until(self.not_before).await;
            let Ok(mut ready) = self.events.readable().await else {
                return std::future::pending().await;
            };
            let mut changed = Changed::default();
            let mut buffer = [MaybeUninit::uninit(); 1024];
            let mut reader = inotify::Reader::new(self.events.get_ref(), &mut buffer);
            while let Ok(event) = reader.next() {
                if event.wd() == self.log && event.events().contains(ReadFlags::MODIFY) {
                    changed.log = true;
                } else {
                    changed.file = true;
                }
            }
            ready.clear_ready();
            if changed.log || changed.file {
                self.not_before = Instant::now() + CHANGES_APART;
                return changed;
            }
        }
    }
}

fn make_pipe(live_dir: &Path, id: &str, sharing: Sharing) -> io::Result<File> {
    let path = live::hint_path(live_dir, id).ok_or(io::ErrorKind::InvalidInput)?;
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR)?;
    // The process's umask may have taken these away.
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    // Open at both ends, so that there is always a reader and never an end of file.
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits();
    let flags = i32::try_from(flags).map_err(io::Error::other)?;
    let pipe = File::options().read(true).write(true).custom_flags(flags).open(path)?;
    sharing.share(&pipe)?;
    Ok(pipe)
}
