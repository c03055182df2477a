//! The client's side of an engine: the commands that it sends, and how the replies come back.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};

use super::call::Key;
use super::lease_status::LeaseStatus;
use super::owner_map::OwnerMap;
use super::planted::{self, Bug};
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Change, Changes, Event, Events};
use crate::options::{self, Options};
use crate::process::Process;
use crate::storage::{Finding, Guarantees, Holder, Limits, Name, Owner};
use crate::ticket::Ticket;

/// How many changes an observer may be behind.
const CHANGES: usize = 64;

/// A command to the engine.
pub(crate) enum Command {
    Acquire {
        key: Key,
        wanted: Wanted,
        reply: Reply<Option<Delivery>>,
    },
    /// Several commands that the engine takes in together, so that their claims leave in one batch.
    Batch(Vec<Self>),
    Break {
        name: Name,
        reply: Reply<Vec<Holder>>,
    },
    Close {
        /// How long to wait for the storage.
        limit: Duration,
        reply: Reply<()>,
    },
    Detach {
        key: Key,
    },
    Findings {
        reply: Reply<Vec<Finding>>,
    },
    Inspect {
        name: Name,
        reply: Reply<Vec<Holder>>,
    },
    Cancel {
        key: Key,
    },
    List {
        prefix: String,
        reply: Reply<Vec<Holder>>,
    },
    Observe {
        name: Name,
        id: u64,
        changes: mpsc::Sender<Change>,
    },
    Release {
        key: Key,
        reply: Option<Reply<()>>,
    },
    /// Releases a lease that no caller has used, at once.
    Undo {
        key: Key,
    },
    Renew {
        key: Key,
        ttl: Option<Duration>,
        reply: Reply<()>,
    },
    /// Renews with a claim that unties the lease from this process, as every later renewal does.
    Outlive {
        key: Key,
        reply: Reply<()>,
    },
    Resume {
        key: Key,
        ticket: Ticket,
        options: Options,
        reply: Reply<Delivery>,
    },
    Unobserve {
        name: Name,
        id: u64,
    },
    Verify {
        key: Key,
        reply: Reply<()>,
    },
}

/// A lock that a caller wants, and how.
#[derive(Clone)]
pub(crate) struct Wanted {
    pub(crate) name: Name,
    pub(crate) options: Options,
    pub(crate) mode: Mode,
}

/// How an acquisition proceeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As its options say.
    Usual,
    /// As its options say, after a claim of another acquisition of the same caller that was refused.
    AfterTry,
    /// With one claim. *Held* is an error, which names the holder.
    FirstTry,
    /// With one claim. *Held* is an answer.
    Once,
}

impl Mode {
    /// Returns `true` if it sends one claim only.
    pub(crate) fn is_try(self) -> bool {
        matches!(self, Self::FirstTry | Self::Once)
    }
}

/// Makes the owner id of a new acquisition.
pub(crate) type MakeOwner = Box<dyn Fn() -> Owner + Send + Sync>;

/// The channel for the reply to a command.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What the engine and its handles share.
pub(crate) struct Shared {
    pub(super) limits: Limits,
    pub(super) guarantees: Guarantees,
    pub(super) storage: String,
    pub(super) clock: Clock,
    pub(super) make_owner: MakeOwner,
    pub(super) events: broadcast::WeakSender<Event>,
    /// The leases that `held` lists.
    pub(super) held: Mutex<OwnerMap<Arc<LeaseStatus>>>,
    pub(super) closed: AtomicBool,
    /// Why the engine has stopped or never ran, unless the client was closed.
    pub(super) failure: OnceLock<Error>,
    /// The next number of an acquisition or observer.
    pub(super) numbers: AtomicU64,
}

impl Shared {
    /// Locks the list of the leases that are held.
    pub(super) fn held(&self) -> MutexGuard<'_, OwnerMap<Arc<LeaseStatus>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a lease from the list of what is held. A later one of the same owner stays.
    pub(super) fn unlist(&self, key: Key) {
        let mut held = self.held();
        if held.get(&key.owner).is_some_and(|status| status.key == key) {
            held.remove(&key.owner);
        }
    }
}

/// A sender of commands, which works only in the process that the engine runs in.
#[derive(Clone)]
pub(crate) struct Commands {
    sender: Option<mpsc::UnboundedSender<Command>>,
    process: Process,
}

impl Commands {
    pub(super) fn new(sender: mpsc::UnboundedSender<Command>, process: Process) -> Self {
        Self { sender: Some(sender), process }
    }

    /// Sends a command. Returns `false` if the engine has ended, or runs in the process that this one was forked from.
    pub(super) fn send(&self, command: Command) -> bool {
        self.process.is_current() && self.sender.as_ref().is_some_and(|sender| sender.send(command).is_ok())
    }
}

/// Drops the sender, which wakes up the engine if it is the last one. In a fork there is no engine to wake
/// up, and a mutex on the way to it may be locked.
impl Drop for Commands {
    fn drop(&mut self) {
        if self.sender.as_ref().is_some_and(|sender| sender.strong_count() == 1) && !self.process.is_current()
        {
            std::mem::forget(self.sender.take());
        }
    }
}

/// A handle of an engine. The engine ends when the last handle is dropped and no cleanup is left.
#[derive(Clone)]
pub(crate) struct Handle {
    commands: Commands,
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(commands: Commands, shared: Arc<Shared>) -> Self {
        Self { commands, shared }
    }

    /// Returns a handle that does not keep the engine running.
    pub(crate) fn downgrade(&self) -> WeakHandle {
        let sender = self.commands.sender.as_ref().map(mpsc::UnboundedSender::downgrade);
        WeakHandle { sender, process: self.commands.process, shared: Arc::clone(&self.shared) }
    }

    /// Acquires a lock. Returns `None` if it is held, and that is an answer.
    pub(crate) async fn acquire(&self, wanted: Wanted) -> Result<Option<Arc<LeaseStatus>>> {
        let key = self.key(self.new_owner());
        // Dropped with this future: then the engine undoes what it has begun. A delivery on its way here is
        // dropped with the channel, which releases the lease.
        let cancel = CancelOnDrop { engine: self, command: Some(Command::Cancel { key }) };
        let answer = self.request(|reply| Command::Acquire { key, wanted, reply }).await;
        cancel.disarm();
        answer.map(|delivery| delivery.map(Delivery::take))
    }

    /// Starts several acquisitions, whose claims leave in one batch. Each is undone if it is dropped before it has
    /// arrived.
    pub(crate) fn acquire_together(&self, wanted: impl Iterator<Item = Wanted>) -> Vec<Arriving<'_>> {
        let (mut commands, mut arriving) = (Vec::new(), Vec::new());
        for wanted in wanted {
            let key = self.key(self.new_owner());
            let (reply, answer) = oneshot::channel();
            commands.push(Command::Acquire { key, wanted, reply });
            let cancel = CancelOnDrop { engine: self, command: Some(Command::Cancel { key }) };
            arriving.push(Arriving { answer, cancel });
        }
        // If the engine has ended, the replies are dropped with the command.
        self.send(Command::Batch(commands));
        arriving
    }

    /// Resumes the lease of a ticket.
    pub(crate) async fn resume(&self, ticket: Ticket, options: Options) -> Result<Arc<LeaseStatus>> {
        options::check_ttl(ticket.ttl, self.limits())?;
        let key = self.key(ticket.owner);
        let cancel = CancelOnDrop { engine: self, command: Some(Command::Cancel { key }) };
        let answer = self.request(|reply| Command::Resume { key, ticket, options, reply }).await;
        cancel.disarm();
        answer.map(Delivery::take)
    }

    /// Returns every holder of a lock.
    pub(crate) async fn inspect(&self, name: Name) -> Result<Vec<Holder>> {
        self.request(|reply| Command::Inspect { name, reply }).await
    }

    /// Lists all holders of names with this prefix.
    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Holder>> {
        self.request(|reply| Command::List { prefix: prefix.to_owned(), reply }).await
    }

    /// Returns what the storage reports about its servers or files.
    pub(crate) async fn findings(&self) -> Result<Vec<Finding>> {
        self.request(|reply| Command::Findings { reply }).await
    }

    /// Ends the leases that an inspection shows. Returns their holders.
    pub(crate) async fn break_lock(&self, name: Name) -> Result<Vec<Holder>> {
        self.request(|reply| Command::Break { name, reply }).await
    }

    /// Closes the client. The error of a client that is closed already is not passed on.
    pub(crate) async fn close(&self, limit: Duration) -> Result<()> {
        if self.commands.process.is_current() {
            self.shared.closed.store(true, Ordering::Release);
        }
        match self.request(|reply| Command::Close { limit, reply }).await {
            Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
            other => other,
        }
    }

    /// Renews a lease now, possibly for another TTL.
    pub(crate) async fn renew(&self, status: &LeaseStatus, ttl: Option<Duration>) -> Result<()> {
        // Before the command is sent, so that a ticket made meanwhile promises no more.
        ttl.into_iter().for_each(|ttl| status.shorten(ttl));
        prefer_end(status, self.request(|reply| Command::Renew { key: status.key, ttl, reply }).await)
    }

    /// Makes the lease independent of this process, so that the storage keeps it if the process dies.
    pub(crate) async fn outlive(&self, status: &LeaseStatus) -> Result<()> {
        prefer_end(status, self.request(|reply| Command::Outlive { key: status.key, reply }).await)
    }

    /// Verifies with the storage that the lease is held.
    pub(crate) async fn verify(&self, status: &LeaseStatus) -> Result<()> {
        prefer_end(status, self.request(|reply| Command::Verify { key: status.key, reply }).await)
    }

    /// Releases a lease.
    pub(crate) async fn release(&self, status: &LeaseStatus) -> Result<()> {
        self.unlist(status);
        let answer = self.request(|reply| Command::Release { key: status.key, reply: Some(reply) }).await;
        // `Ok` stays: the lease was held until then, whatever the clock says by now.
        if answer.is_ok() { answer } else { prefer_lost(status, answer) }
    }

    /// Releases several leases in this order, in one batch. Returns the first loss, or else the first error.
    pub(crate) async fn release_together(&self, statuses: &[Arc<LeaseStatus>]) -> Result<()> {
        let (mut commands, mut answers) = (Vec::new(), Vec::new());
        for status in statuses {
            self.unlist(status);
            let (reply, answer) = oneshot::channel();
            commands.push(Command::Release { key: status.key, reply: Some(reply) });
            answers.push(answer);
        }
        self.send(Command::Batch(commands));
        let (mut lost, mut failed) = (None, None);
        for (status, answer) in statuses.iter().zip(answers) {
            let answer = self.answer(answer).await;
            match if answer.is_ok() { answer } else { prefer_lost(status, answer) } {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Lost => _ = lost.get_or_insert(error),
                Err(error) => _ = failed.get_or_insert(error),
            }
        }
        lost.or(failed).map_or(Ok(()), Err)
    }

    /// Releases several leases in this order, in one batch, in the background. If they are `unused`, their acquisition
    /// is undone.
    pub(crate) fn abandon_together(&self, statuses: &[Arc<LeaseStatus>], unused: bool) {
        statuses.iter().for_each(|status| self.unlist(status));
        if planted::is(Bug::DropWithoutRelease) {
            return;
        }
        let end = |key| if unused { Command::Undo { key } } else { Command::Release { key, reply: None } };
        self.send(Command::Batch(statuses.iter().map(|status| end(status.key)).collect()));
    }

    /// Releases a lease in the background.
    pub(crate) fn abandon(&self, status: &LeaseStatus) {
        self.unlist(status);
        if planted::is(Bug::DropWithoutRelease) {
            return;
        }
        self.send(Command::Release { key: status.key, reply: None });
    }

    /// Lets a lease end with its TTL.
    pub(crate) fn detach(&self, status: &LeaseStatus) {
        self.unlist(status);
        self.send(Command::Detach { key: status.key });
    }

    /// Observes a name.
    pub(crate) fn observe(&self, name: Name) -> Result<Changes> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(Error::closed());
        }
        let (changes, seen) = mpsc::channel(CHANGES);
        let id = self.next_number();
        if !self.commands.send(Command::Observe { name: name.clone(), id, changes }) {
            return Err(self.stopped());
        }
        // Weak, so that an observer does not keep the engine alive.
        let commands = self.commands.sender.as_ref().map(mpsc::UnboundedSender::downgrade);
        let process = self.commands.process;
        Ok(Changes::new(seen, move || {
            if process.is_current()
                && let Some(commands) = commands.as_ref().and_then(mpsc::WeakUnboundedSender::upgrade)
            {
                // An engine that has ended has no observers.
                let _ = commands.send(Command::Unobserve { name: name.clone(), id });
            }
        }))
    }

    /// Subscribes to events.
    pub(crate) fn events(&self) -> Events {
        let events = if self.commands.process.is_current() { self.shared.events.upgrade() } else { None };
        Events::new(match events {
            Some(events) => events.subscribe(),
            // The engine has ended: a stream that ends at once.
            None => broadcast::channel(1).1,
        })
    }

    /// Lists the leases that this client holds.
    pub(crate) fn held(&self) -> Vec<Holder> {
        if !self.commands.process.is_current() {
            return Vec::new();
        }
        let listed: Vec<_> = self.shared.held().values().cloned().collect();
        let shown = |status: &&Arc<LeaseStatus>| status.is_held() || planted::is(Bug::ExpiredStillListed);
        let mut held: Vec<_> = listed.iter().filter(shown).map(|status| status.holder()).collect();
        held.sort_by(|a, b| (&a.name, a.token).cmp(&(&b.name, b.token)));
        held
    }

    /// Returns what the storage promises.
    pub(crate) fn guarantees(&self) -> Guarantees {
        self.shared.guarantees
    }

    /// Returns what the storage accepts.
    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// Returns the time, as the engine sees it.
    pub(crate) fn now(&self) -> Moment {
        self.shared.clock.now()
    }

    /// Returns `true` if the other handle is one of the same engine.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    fn new_owner(&self) -> Owner {
        if planted::is(Bug::OwnerPerClient) {
            let client: u64 = std::ptr::from_ref(&*self.shared).addr().try_into().unwrap_or(0);
            return Owner::from_bytes(u128::from(client).to_be_bytes());
        }
        (self.shared.make_owner)()
    }

    fn next_number(&self) -> u64 {
        self.shared.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the key of a new acquisition of that owner.
    pub(super) fn key(&self, owner: Owner) -> Key {
        Key { owner, generation: self.next_number() }
    }

    /// Sends a command, and waits for the reply.
    async fn request<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        if !self.commands.send(command(reply)) {
            return Err(self.stopped());
        }
        self.answer(answer).await
    }

    /// Waits for the reply to a command.
    async fn answer<T>(&self, answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        self.commands.process.limits(answer).await.and_then(Result::ok).unwrap_or_else(|| Err(self.stopped()))
    }

    /// Removes a lease from the list of what is held, as its guard is dropped.
    fn unlist(&self, status: &LeaseStatus) {
        if self.commands.process.is_current() {
            self.shared.unlist(status.key);
        }
    }

    /// Sends a command that has no reply.
    pub(super) fn send(&self, command: Command) {
        // An engine that has ended has released everything, or has left it to the TTL.
        let _ = self.commands.send(command);
    }

    /// Returns why no reply comes.
    fn stopped(&self) -> Error {
        if !self.commands.process.is_current() {
            return Error::invalid(
                "this client was made before this process was forked; connect again in the fork",
            );
        }
        if let Some(failure) = self.shared.failure.get() {
            return failure.clone();
        }
        if self.shared.closed.load(Ordering::Acquire) {
            return Error::closed();
        }
        Error::new(ErrorKind::Internal, "the engine of this client has stopped; connect again")
    }
}

/// A handle that does not keep the engine running.
#[derive(Clone)]
pub(crate) struct WeakHandle {
    sender: Option<mpsc::WeakUnboundedSender<Command>>,
    process: Process,
    shared: Arc<Shared>,
}

impl WeakHandle {
    /// Returns a handle while another one exists. Returns `None` in a fork, which has no engine.
    pub(crate) fn upgrade(&self) -> Option<Handle> {
        let sender = self.sender.as_ref().filter(|_| self.process.is_current())?.upgrade()?;
        Some(Handle::new(Commands::new(sender, self.process), Arc::clone(&self.shared)))
    }
}

/// The storage, without its secrets.
impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shared.storage)
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shared.storage)
    }
}

/// Returns the loss of the lease instead of any other reply, if it is lost.
fn prefer_lost(status: &LeaseStatus, answer: Result<()>) -> Result<()> {
    match status.why_lost() {
        Some(lost) if !matches!(&answer, Err(error) if error.kind() == ErrorKind::Lost) => {
            Err(Error::lost_for(&status.name, lost))
        }
        _ => answer,
    }
}

/// Returns the end of the lease instead of any other error: its loss, or that its guard has given it up.
fn prefer_end(status: &LeaseStatus, answer: Result<()>) -> Result<()> {
    match prefer_lost(status, answer) {
        Err(error) if error.kind() != ErrorKind::Lost && status.is_given_up() => {
            Err(Error::released(&status.name))
        }
        answer => answer,
    }
}

/// A lease on its way to the caller. If it does not arrive, it is undone.
pub(crate) struct Delivery {
    status: Option<Arc<LeaseStatus>>,
    commands: Commands,
    undo: Undo,
}

/// How to undo a lease that does not reach its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undo {
    Release,
    /// Detach it, so that it can be resumed from its ticket again.
    Detach,
}

impl Delivery {
    pub(super) fn new(status: Arc<LeaseStatus>, commands: Commands, undo: Undo) -> Self {
        Self { status: Some(status), commands, undo }
    }

    /// Takes the lease, which has arrived.
    pub(super) fn take(mut self) -> Arc<LeaseStatus> {
        self.status.take().expect("BUG: taken once, by value")
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(status) = self.status.take() {
            let key = status.key;
            self.commands.send(match self.undo {
                Undo::Release => Command::Undo { key },
                Undo::Detach => Command::Detach { key },
            });
        }
    }
}

/// An acquisition that was started with others. If it is dropped, it is undone.
pub(crate) struct Arriving<'a> {
    answer: oneshot::Receiver<Result<Option<Delivery>>>,
    cancel: CancelOnDrop<'a>,
}

impl Arriving<'_> {
    /// Waits for the lease. Returns `None` if the lock is held, and that is an answer.
    pub(crate) async fn arrive(self) -> Result<Option<Arc<LeaseStatus>>> {
        let Self { answer, cancel } = self;
        let answer = cancel.engine.answer(answer).await;
        cancel.disarm();
        answer.map(|delivery| delivery.map(Delivery::take))
    }
}

/// Sends a command when the future of a caller is dropped before it is done.
struct CancelOnDrop<'a> {
    engine: &'a Handle,
    command: Option<Command>,
}

impl CancelOnDrop<'_> {
    /// Sends nothing any more, as the engine has answered: a command would wake it up for nothing.
    fn disarm(mut self) {
        self.command = None;
    }
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(command) = self.command.take() {
            self.engine.send(command);
        }
    }
}
