//! The machine behind a client: one task that owns every acquisition from its first claim to its end, so
//! that a caller may be dropped, blocked or gone without anything staying held, queued or running.
//!
//! `attempt`, `lease` and `resolver` are the states of an acquisition, pure; `actor` feeds them with
//! commands, answers, hints and time, and does what they say. It knows no storage by name.

mod actor;
mod alarm;
mod attempt;
mod hold;
mod keeper;
mod lane;
mod lease;
mod linger;
mod observers;
mod owners;
pub(crate) mod planted;
mod queue;
mod resolver;
#[cfg(test)]
mod sim;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};

use self::actor::Actor;
use self::alarm::Alarm;
pub(crate) use self::hold::Hold;
use self::linger::Linger;
use self::owners::Owners;
use self::planted::Bug;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Change, Changes, Event, Events};
use crate::guard::Guard;
use crate::options::{self, Options};
use crate::storage::{AnyStorage, Guarantees, Holder, Limits, Name, Owner, Storage, url};
use crate::ticket::Ticket;

/// Where the engine runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Home {
    Thread,
    CurrentRuntime,
}

/// Connects to a storage and starts an engine over it.
pub(crate) async fn connect(target: url::Target, home: Home) -> Result<Handle> {
    match home {
        Home::CurrentRuntime => Ok(start(within_limit(target).await?, home)),
        Home::Thread => {
            let (mut ready, connected) = oneshot::channel();
            on_thread(async move {
                let storage = tokio::select! {
                    storage = within_limit(target) => storage,
                    () = ready.closed() => return, // nobody waits for it any more
                };
                let storage = match storage {
                    Ok(storage) => storage,
                    Err(error) => return drop(ready.send(Err(error))),
                };
                let clock = Clock::boot();
                let (handle, actor) = prepare(storage, clock.clone());
                if ready.send(Ok(handle)).is_ok() {
                    actor.run(Alarm::boot(clock), Linger::new()).await;
                }
            })?;
            connected.await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Internal, "the storage panicked while connecting"))
            })
        }
    }
}

/// Starts an engine over a storage.
pub(crate) fn start(storage: AnyStorage, home: Home) -> Handle {
    match home {
        Home::CurrentRuntime => {
            let clock = Clock::tokio();
            let (handle, actor) = prepare(storage, clock.clone());
            tokio::spawn(async move { actor.run(Alarm::tokio(clock), Linger::never()).await });
            handle
        }
        Home::Thread => {
            let clock = Clock::boot();
            let (handle, actor) = prepare(storage, clock.clone());
            if let Err(error) = on_thread(async move { actor.run(Alarm::boot(clock), Linger::new()).await }) {
                // The actor is dropped with its end of the channel: every call says so.
                tracing::error!(target: "leasehold", %error, "no engine");
            }
            handle
        }
    }
}

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How long `close` waits for the storage.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// How many events a slow reader may be behind.
const EVENTS: usize = 1024;
/// How many changes an observer may be behind.
const CHANGES: usize = 64;

async fn within_limit(target: url::Target) -> Result<AnyStorage> {
    let limit = tokio::time::timeout(CONNECT_LIMIT, target.connect()).await;
    limit.unwrap_or_else(|_| {
        let text = format!(
            "the storage did not answer while connecting; check that it runs waited=`{CONNECT_LIMIT:?}`"
        );
        Err(Error::new(ErrorKind::Unavailable, text))
    })
}

fn prepare(storage: AnyStorage, clock: Clock) -> (Handle, Actor) {
    let (commands, inbox) = mpsc::unbounded_channel();
    let (events, _) = broadcast::channel(EVENTS);
    let shared = Arc::new(Shared {
        limits: storage.limits(),
        guarantees: storage.guarantees(),
        storage: storage.to_string(),
        events: events.downgrade(),
        holds: Mutex::default(),
        closed: AtomicBool::new(false),
    });
    let actor = Actor::new(storage, clock, Arc::clone(&shared), inbox, commands.downgrade(), events);
    (Handle { commands, shared }, actor)
}

fn on_thread(work: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    let failed =
        |source| Error::new(ErrorKind::Internal, "cannot start the engine's thread").with_source(source);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let thread = std::thread::Builder::new().name("leasehold".to_owned());
    // As a task: whatever wakes it from within the runtime then needs no system call.
    thread.spawn(move || runtime.block_on(async { runtime.spawn(work).await })).map_err(failed)?;
    Ok(())
}

/// What a command asks of the engine.
pub(crate) enum Command {
    Acquire { owner: Owner, name: Name, options: Options, once: bool, reply: Reply<Option<Guard>> },
    Break { name: Name, reply: Reply<Option<Holder>> },
    Close { reply: Reply<()> },
    Detach { owner: Owner },
    Inspect { name: Name, reply: Reply<Option<Holder>> },
    Leave { owner: Owner },
    LeaveResume { owner: Owner, by: Owner },
    List { prefix: String, reply: Reply<Vec<Holder>> },
    Observe { name: Name, changes: mpsc::Sender<Change> },
    Release { owner: Owner, reply: Option<Reply<()>> },
    Renew { owner: Owner, ttl: Option<Duration>, reply: Reply<()> },
    Resume { by: Owner, ticket: Ticket, options: Options, reply: Reply<Resumed> },
    Verify { owner: Owner, reply: Reply<()> },
}

/// Where an answer goes.
pub(crate) type Reply<T> = oneshot::Sender<Result<T>>;

/// What the engine and its clients share.
pub(crate) struct Shared {
    limits: Limits,
    guarantees: Guarantees,
    storage: String,
    events: broadcast::WeakSender<Event>,
    holds: Mutex<Owners<Arc<Hold>>>,
    closed: AtomicBool,
}

impl Shared {
    fn holds(&self) -> MutexGuard<'_, Owners<Arc<Hold>>> {
        self.holds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Talks to an engine. The engine ends when the last one is dropped and nothing is owed any more.
#[derive(Clone)]
pub(crate) struct Handle {
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) async fn acquire(&self, name: Name, options: Options, once: bool) -> Result<Option<Guard>> {
        let owner = if planted::is(Bug::OwnerPerClient) {
            let client: u64 = std::ptr::from_ref(&*self.shared).addr().try_into().unwrap_or(0);
            Owner::from_bytes(u128::from(client).to_be_bytes())
        } else {
            Owner::random()
        };
        // Dropped with this future: then the engine undoes whatever it had begun. A guard that was on its
        // way here is dropped with the channel, which releases it.
        let leaving = Leaving { engine: self, command: Some(Command::Leave { owner }) };
        let answer = self.ask(|reply| Command::Acquire { owner, name, options, once, reply }).await;
        leaving.not_needed();
        answer
    }

    pub(crate) async fn resume(&self, ticket: Ticket, options: Options) -> Result<Guard> {
        options::check_ttl(ticket.ttl, self.limits())?;
        let (owner, by) = (ticket.owner, Owner::random());
        let leaving = Leaving { engine: self, command: Some(Command::LeaveResume { owner, by }) };
        let answer = self.ask(|reply| Command::Resume { by, ticket, options, reply }).await;
        leaving.not_needed();
        answer.map(Resumed::into_guard)
    }

    pub(crate) async fn inspect(&self, name: Name) -> Result<Option<Holder>> {
        self.ask(|reply| Command::Inspect { name, reply }).await
    }

    pub(crate) async fn list(&self, prefix: &str) -> Result<Vec<Holder>> {
        self.ask(|reply| Command::List { prefix: prefix.to_owned(), reply }).await
    }

    pub(crate) async fn break_lock(&self, name: Name) -> Result<Option<Holder>> {
        self.ask(|reply| Command::Break { name, reply }).await
    }

    pub(crate) async fn close(&self) -> Result<()> {
        self.shared.closed.store(true, Ordering::Release);
        match self.ask(|reply| Command::Close { reply }).await {
            Err(error) if error.kind() == ErrorKind::Closed => Ok(()),
            other => other,
        }
    }

    pub(crate) async fn renew(&self, hold: &Hold, ttl: Option<Duration>) -> Result<()> {
        // Before anybody is asked, so that a ticket written meanwhile promises no more.
        ttl.into_iter().for_each(|ttl| hold.shorten(ttl));
        lost_first(hold, self.ask(|reply| Command::Renew { owner: hold.owner, ttl, reply }).await)
    }

    pub(crate) async fn verify(&self, hold: &Hold) -> Result<()> {
        lost_first(hold, self.ask(|reply| Command::Verify { owner: hold.owner, reply }).await)
    }

    pub(crate) async fn release(&self, hold: &Hold) -> Result<()> {
        self.unlist(hold);
        let asked = self.ask(|reply| Command::Release { owner: hold.owner, reply: Some(reply) }).await;
        // `Ok` stays: it was ours until then, whatever the clock says by now.
        if asked.is_ok() { asked } else { lost_first(hold, asked) }
    }

    /// Releases without anybody who waits for it.
    pub(crate) fn abandon(&self, hold: &Hold) {
        self.unlist(hold);
        if planted::is(Bug::DropWithoutRelease) {
            return;
        }
        self.tell(Command::Release { owner: hold.owner, reply: None });
    }

    /// Lets the lease end with its TTL.
    pub(crate) fn detach(&self, hold: &Hold) {
        self.unlist(hold);
        self.tell(Command::Detach { owner: hold.owner });
    }

    pub(crate) fn observe(&self, name: Name) -> Result<Changes> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(Error::closed());
        }
        let (changes, seen) = mpsc::channel(CHANGES);
        let sent = self.commands.send(Command::Observe { name, changes });
        sent.map_err(|_| self.gone())?;
        Ok(Changes(seen))
    }

    pub(crate) fn events(&self) -> Events {
        Events::new(match self.shared.events.upgrade() {
            Some(events) => events.subscribe(),
            // The engine has ended: a stream that ends at once.
            None => broadcast::channel(1).1,
        })
    }

    pub(crate) fn held(&self) -> Vec<Holder> {
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

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).map_err(|_| self.gone())?;
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Its guard is gone: `held` does not show it any more.
    fn unlist(&self, hold: &Hold) {
        self.shared.holds().remove(&hold.owner);
    }

    fn tell(&self, command: Command) {
        // An engine that has ended has released everything, or left it to the TTL.
        let _ = self.commands.send(command);
    }

    fn gone(&self) -> Error {
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

/// A guard on its way to whoever resumes a ticket. If it does not arrive, the lease goes back to the ticket.
pub(crate) struct Resumed(Option<Guard>);

impl Resumed {
    fn new(guard: Guard) -> Self {
        Self(Some(guard))
    }

    fn into_guard(mut self) -> Guard {
        self.0.take().expect("BUG: taken once")
    }
}

impl Drop for Resumed {
    fn drop(&mut self) {
        if let Some(guard) = self.0.take() {
            guard.forget();
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
