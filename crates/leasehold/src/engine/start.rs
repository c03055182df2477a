//! Starts an engine over a storage: on a thread of its own, or on the runtime of its caller.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::actor::{Actor, Home};
use super::alarm::Alarm;
use super::handle::{Commands, Handle, Shared};
use super::linger::Linger;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::process::Process;
use crate::storage::target::Target;
use crate::storage::{AnyStorage, Guarantees, LeaseClock, Limits, Storage, Tier};

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How many events a slow reader may be behind.
const EVENTS: usize = 1024;

/// Connects to a storage and starts an engine over it.
pub(crate) async fn connect(target: Target, home: Home) -> Result<Handle> {
    match home {
        Home::CurrentRuntime => start(within_limit(target).await?, home),
        Home::Thread => {
            let (mut ready, connected) = oneshot::channel();
            on_thread(async move {
                let storage = tokio::select! {
                    storage = within_limit(target) => storage,
                    () = ready.closed() => return, // the caller is gone
                };
                let clock = Clock::boot();
                match storage.and_then(|storage| prepare(storage, clock.clone(), home)) {
                    Ok((handle, actor)) => {
                        if ready.send(Ok(handle)).is_ok() {
                            actor.run(Alarm::boot(clock), Linger::new()).await;
                        }
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            })?;
            connected.await.unwrap_or_else(|_| {
                Err(Error::new(ErrorKind::Internal, "the storage panicked while connecting"))
            })
        }
    }
}

/// Starts an engine over a storage.
pub(crate) fn start(storage: AnyStorage, home: Home) -> Result<Handle> {
    match home {
        Home::CurrentRuntime => {
            let clock = Clock::tokio();
            let (handle, actor) = prepare(storage, clock.clone(), home)?;
            tokio::spawn(async move { actor.run(Alarm::tokio(clock), Linger::never()).await });
            Ok(handle)
        }
        Home::Thread => {
            let clock = Clock::boot();
            let (handle, actor) = prepare(storage, clock.clone(), home)?;
            on_thread(async move { actor.run(Alarm::boot(clock), Linger::new()).await })?;
            Ok(handle)
        }
    }
}

/// Makes a handle without an engine: each call fails with the cause.
pub(crate) fn failed(error: Error) -> Handle {
    let (commands, _) = mpsc::unbounded_channel();
    let facts = Facts {
        limits: Limits::default(),
        guarantees: Guarantees::new(Tier::Advisory, LeaseClock::Boot),
        storage: "no storage".to_owned(),
    };
    let shared = shared(facts, broadcast::channel(1).0.downgrade());
    let _ = shared.failure.set(error);
    Handle::new(Commands::new(commands, Process::current()), shared)
}

async fn within_limit(target: Target) -> Result<AnyStorage> {
    let limit = tokio::time::timeout(CONNECT_LIMIT, target.connect()).await;
    limit.unwrap_or_else(|_| {
        let text = format!(
            "the storage did not answer while connecting; check that it runs waited=`{CONNECT_LIMIT:?}`"
        );
        Err(Error::new(ErrorKind::Unavailable, text))
    })
}

/// What a storage says of itself.
struct Facts {
    limits: Limits,
    guarantees: Guarantees,
    storage: String,
}

pub(super) fn prepare(storage: AnyStorage, clock: Clock, home: Home) -> Result<(Handle, Actor)> {
    let asked = AssertUnwindSafe(|| Facts {
        limits: storage.limits(),
        guarantees: storage.guarantees(),
        storage: storage.to_string(),
    });
    let facts = catch_unwind(asked).map_err(|panic| Error::panicked("the storage panicked", &*panic))?;
    let (commands, inbox) = mpsc::unbounded_channel();
    let (events, _) = broadcast::channel(EVENTS);
    let shared = shared(facts, events.downgrade());
    let process = Process::current();
    let weak = commands.downgrade();
    let actor = Actor::new(storage, clock, home, Arc::clone(&shared), inbox, weak, events);
    Ok((Handle::new(Commands::new(commands, process), shared), actor))
}

fn shared(facts: Facts, events: broadcast::WeakSender<Event>) -> Arc<Shared> {
    Arc::new(Shared {
        limits: facts.limits,
        guarantees: facts.guarantees,
        storage: facts.storage,
        events,
        holds: Mutex::default(),
        closed: AtomicBool::new(false),
        failure: OnceLock::new(),
        numbers: AtomicU64::new(0),
    })
}

/// Runs `work` on a thread of its own.
fn on_thread(work: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|source| {
        let text = "cannot make the engine's event loop; raise the limit of open files (`ulimit -n`)";
        Error::new(ErrorKind::Internal, text).with_source(source)
    })?;
    // In a place of its own, not in the closure: a runtime that is dropped along with it on a thread of another
    // runtime panics.
    let place = Arc::new(Mutex::new(Some((runtime, work))));
    let theirs = Arc::clone(&place);
    let thread = std::thread::Builder::new().name("leasehold".to_owned());
    let started = thread.spawn(move || {
        if let Some((runtime, work)) = take(&theirs) {
            // As a task: what wakes it from within the runtime then needs no system call.
            let _ = runtime.block_on(async { runtime.spawn(work).await });
        }
    });
    started.map(drop).map_err(|source| {
        if let Some((runtime, work)) = take(&place) {
            drop(work);
            runtime.shutdown_background();
        }
        let text =
            "cannot start the engine's thread; raise the limit of processes (`ulimit -u`) or of memory";
        Error::new(ErrorKind::Internal, text).with_source(source)
    })
}

fn take<T>(place: &Mutex<Option<(Runtime, T)>>) -> Option<(Runtime, T)> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
}
