//! The client's side of an engine: what is asked of it, and how the answers come back.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};

use super::call::Key;
use super::hold::Hold;
use super::owners::Owners;
use super::planted::{self, Bug};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Change, Changes, Event, Events};
use crate::options::{self, Options};
use crate::process::Process;
use crate::storage::{Finding, Guarantees, Holder, Limits, Name, Owner};
use crate::ticket::Ticket;

/// How many changes an observer may be behind.
const CHANGES: usize = 64;

/// What a command asks of the engine.
pub(crate) enum Command {
    Acquire {
        key: Key,
        name: Name,
        options: Options,
        once: bool,
        reply: Reply<Option<Delivery>>,
    },
    Break {
        name: Name,
        reply: Reply<Option<Holder>>,
    },
    Close {
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
        reply: Reply<Option<Holder>>,
    },
    Leave {
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

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What the engine and its clients share.
pub(crate) struct Shared {
    pub(super) limits: Limits,
    pub(super) guarantees: Guarantees,
    pub(super) storage: String,
    pub(super) events: broadcast::WeakSender<Event>,
    pub(super) holds: Mutex<Owners<Arc<Hold>>>,
    pub(super) closed: AtomicBool,
    /// Why the engine has stopped, or never ran, if that was not asked for.
    pub(super) failure: OnceLock<Error>,
    /// Numbers acquisitions and observers.
    pub(super) numbers: AtomicU64,
}

impl Shared {
    pub(super) fn holds(&self) -> MutexGuard<'_, Owners<Arc<Hold>>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a hold off the list of what is held. A later one of the same owner stays.
    pub(super) fn unlist(&self, key: Key) {
        let mut holds = self.holds();
        if holds.get(&key.owner).is_some_and(|hold| hold.key == key) {
            holds.remove(&key.owner);
        }
    }
}

/// Sends commands, in the process that the engine runs in.
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

/// The last sender wakes the engine. In a fork there is none to wake, and what it is woken through may be locked.
impl Drop for Commands {
    fn drop(&mut self) {
        if self.sender.as_ref().is_some_and(|sender| sender.strong_count() == 1) && !self.process.is_current()
        {
            std::mem::forget(self.sender.take());
        }
    }
}

/// Talks to an engine. The engine ends when the last one is dropped and nothing is owed any more.
#[derive(Clone)]
pub(crate) struct Handle {
    commands: Commands,
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(commands: Commands, shared: Arc<Shared>) -> Self {
        Self { commands, shared }
    }

    pub(crate) async fn acquire(
        &self,
        name: Name,
        options: Options,
        once: bool,
    ) -> Result<Option<Arc<Hold>>> {
        let owner = if planted::is(Bug::OwnerPerClient) {
            let client: u64 = std::ptr::from_ref(&*self.shared).addr().try_into().unwrap_or(0);
            Owner::from_bytes(u128::from(client).to_be_bytes())
        } else {
            Owner::random()
        };
        let key = self.key(owner);
        // Dropped with this future: then the engine undoes what it had begun. What was on its way here is dropped
        // with the channel, which releases it.
        let leaving = Leaving { engine: self, command: Some(Command::Leave { key }) };
        let answer = self.ask(|reply| Command::Acquire { key, name, options, once, reply }).await;
        leaving.not_needed();
        answer.map(|delivery| delivery.map(Delivery::take))
    }

    pub(crate) async fn resume(&self, ticket: Ticket, options: Options) -> Result<Arc<Hold>> {
        options::check_ttl(ticket.ttl, self.limits())?;
        let key = self.key(ticket.owner);
        let leaving = Leaving { engine: self, command: Some(Command::Leave { key }) };
        let answer = self.ask(|reply| Command::Resume { key, ticket, options, reply }).await;
        leaving.not_needed();
        answer.map(Delivery::take)
    }

    pub(crate) async fn inspect(&self, name: Name) -> Result<Option<Holder>> {
        self.ask(|reply| Command::Inspect { name, reply }).await
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Holder>> {
        self.ask(|reply| Command::List { prefix: prefix.to_owned(), reply }).await
    }

    pub(crate) async fn findings(&self) -> Result<Vec<Finding>> {
        self.ask(|reply| Command::Findings { reply }).await
    }

    pub(crate) async fn break_lock(&self, name: Name) -> Result<Option<Holder>> {
        self.ask(|reply| Command::Break { name, reply }).await
    }

    pub(crate) async fn close(&self) -> Result<()> {
        if self.commands.process.is_current() {
            self.shared.closed.store(true, Ordering::Release);
        }
        match self.ask(|reply| Command::Close { reply }).await {
            Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
            other => other,
        }
    }

    pub(crate) async fn renew(&self, hold: &Hold, ttl: Option<Duration>) -> Result<()> {
        // Before the storage is asked, so that a ticket written meanwhile promises no more.
        ttl.into_iter().for_each(|ttl| hold.shorten(ttl));
        lost_first(hold, self.ask(|reply| Command::Renew { key: hold.key, ttl, reply }).await)
    }

    /// Has the storage keep the lease even if this process dies.
    pub(crate) async fn outlive(&self, hold: &Hold) -> Result<()> {
        lost_first(hold, self.ask(|reply| Command::Outlive { key: hold.key, reply }).await)
    }

    pub(crate) async fn verify(&self, hold: &Hold) -> Result<()> {
        lost_first(hold, self.ask(|reply| Command::Verify { key: hold.key, reply }).await)
    }

    pub(crate) async fn release(&self, hold: &Hold) -> Result<()> {
        self.unlist(hold);
        let asked = self.ask(|reply| Command::Release { key: hold.key, reply: Some(reply) }).await;
        // `Ok` stays: it was ours until then, whatever the clock says by now.
        if asked.is_ok() { asked } else { lost_first(hold, asked) }
    }

    /// Releases in the background.
    pub(crate) fn abandon(&self, hold: &Hold) {
        self.unlist(hold);
        if planted::is(Bug::DropWithoutRelease) {
            return;
        }
        self.tell(Command::Release { key: hold.key, reply: None });
    }

    /// Lets the lease end with its TTL.
    pub(crate) fn detach(&self, hold: &Hold) {
        self.unlist(hold);
        self.tell(Command::Detach { key: hold.key });
    }

    pub(crate) fn observe(&self, name: Name) -> Result<Changes> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(Error::closed());
        }
        let (changes, seen) = mpsc::channel(CHANGES);
        let id = self.number();
        if !self.commands.send(Command::Observe { name: name.clone(), id, changes }) {
            return Err(self.gone());
        }
        // Weak, so that an observer does not keep the engine alive.
        let commands = self.commands.sender.as_ref().map(mpsc::UnboundedSender::downgrade);
        let process = self.commands.process;
        Ok(Changes::new(seen, move || {
            if process.is_current()
                && let Some(commands) = commands.as_ref().and_then(mpsc::WeakUnboundedSender::upgrade)
            {
                // An engine that has ended observes nothing.
                let _ = commands.send(Command::Unobserve { name: name.clone(), id });
            }
        }))
    }

    pub(crate) fn events(&self) -> Events {
        let events = if self.commands.process.is_current() { self.shared.events.upgrade() } else { None };
        Events::new(match events {
            Some(events) => events.subscribe(),
            // The engine has ended: a stream that ends at once.
            None => broadcast::channel(1).1,
        })
    }

    pub(crate) fn held(&self) -> Vec<Holder> {
        if !self.commands.process.is_current() {
            return Vec::new();
        }
        let holds: Vec<_> = self.shared.holds().values().cloned().collect();
        let shown = |hold: &&Arc<Hold>| hold.is_held() || planted::is(Bug::ExpiredStillListed);
        let mut held: Vec<_> = holds.iter().filter(shown).map(|hold| hold.holder()).collect();
        held.sort_by(|a, b| (&a.name, a.token).cmp(&(&b.name, b.token)));
        held
    }

    pub(crate) fn guarantees(&self) -> Guarantees {
        self.shared.guarantees
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    fn number(&self) -> u64 {
        self.shared.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// A new acquisition of that owner.
    pub(super) fn key(&self, owner: Owner) -> Key {
        Key { owner, generation: self.number() }
    }

    async fn ask<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        if !self.commands.send(command(reply)) {
            return Err(self.gone());
        }
        self.commands.process.limits(answer).await.and_then(Result::ok).unwrap_or_else(|| Err(self.gone()))
    }

    /// Its guard is gone: `held` does not show it any more.
    fn unlist(&self, hold: &Hold) {
        if self.commands.process.is_current() {
            self.shared.unlist(hold.key);
        }
    }

    pub(super) fn tell(&self, command: Command) {
        // An engine that has ended has released everything, or left it to the TTL.
        let _ = self.commands.send(command);
    }

    fn gone(&self) -> Error {
        if !self.commands.process.is_current() {
            return Error::invalid(
                "this client was made before this process was forked; make a new one with `Locks::connect`",
            );
        }
        if let Some(failure) = self.shared.failure.get() {
            return failure.clone();
        }
        if self.shared.closed.load(Ordering::Acquire) {
            return Error::closed();
        }
        Error::new(
            ErrorKind::Internal,
            "the engine of this client has stopped; make a new one with `Locks::connect`",
        )
    }
}

/// Shows the storage without its secrets.
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

/// If the lock is lost, that is the news, whatever else was answered.
fn lost_first(hold: &Hold, answer: Result<()>) -> Result<()> {
    match hold.why_lost() {
        Some(lost) if !matches!(&answer, Err(error) if error.kind() == ErrorKind::Lost) => {
            Err(Error::lost_for(&hold.name, lost))
        }
        _ => answer,
    }
}

/// A lock on its way to the caller. If it does not arrive, that is undone.
pub(crate) struct Delivery {
    hold: Option<Arc<Hold>>,
    commands: Commands,
    undo: Undo,
}

/// How a lock that does not reach its caller is undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Undo {
    Release,
    /// It goes back to its ticket.
    Detach,
}

impl Delivery {
    pub(super) fn new(hold: Arc<Hold>, commands: Commands, undo: Undo) -> Self {
        Self { hold: Some(hold), commands, undo }
    }

    /// Takes the lock: it has arrived.
    pub(super) fn take(mut self) -> Arc<Hold> {
        self.hold.take().expect("BUG: taken once, by value")
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some(hold) = self.hold.take() {
            let key = hold.key;
            self.commands.send(match self.undo {
                Undo::Release => Command::Release { key, reply: None },
                Undo::Detach => Command::Detach { key },
            });
        }
    }
}

/// Sends a command when a caller's future is dropped before it is done.
struct Leaving<'a> {
    engine: &'a Handle,
    command: Option<Command>,
}

impl Leaving<'_> {
    /// The engine has answered, so that nothing is left to undo: that wakes it for nothing.
    fn not_needed(mut self) {
        self.command = None;
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let Some(command) = self.command.take() {
            self.engine.tell(command);
        }
    }
}
