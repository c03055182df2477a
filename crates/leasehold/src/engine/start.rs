//! Starts an engine over a storage: on a thread of its own, or on the runtime of its caller.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::actor::{Actor, Home};
use super::alarm::Alarm;
use super::busy_poll::BusyPoll;
use super::handle::{Commands, Handle, MakeOwner, Shared};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::process::Process;
use crate::storage::target::Target;
use crate::storage::{AnyStorage, Guarantees, LeaseClock, Limits, Owner, Storage, Tier};

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// How many unread events are kept for a slow reader.
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
                    // The caller has left.
                    () = ready.closed() => return,
                };
                let clock = Clock::boot();
                match storage
                    .and_then(|storage| prepare(storage, clock.clone(), Box::new(Owner::random), home))
                {
                    Ok((handle, actor)) => {
                        if ready.send(Ok(handle)).is_ok() {
                            actor.run(Alarm::boot(clock), BusyPoll::new()).await;
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
            let (handle, actor) = prepare(storage, clock.clone(), Box::new(Owner::random), home)?;
            tokio::spawn(async move { actor.run(Alarm::tokio(clock), BusyPoll::disabled()).await });
            Ok(handle)
        }
        Home::Thread => {
            let clock = Clock::boot();
            let (handle, actor) = prepare(storage, clock.clone(), Box::new(Owner::random), home)?;
            on_thread(async move { actor.run(Alarm::boot(clock), BusyPoll::new()).await })?;
            Ok(handle)
        }
    }
}

/// Makes a handle without an engine: each call fails with the cause.
pub(crate) fn failed(error: Error) -> Handle {
    let (commands, _) = mpsc::unbounded_channel();
    let properties = Properties {
        limits: Limits::default(),
        guarantees: Guarantees::new(Tier::Advisory, LeaseClock::Boot),
        storage: "no storage".to_owned(),
    };
    let events = broadcast::channel(1).0.downgrade();
    let shared = shared(properties, Clock::boot(), Box::new(Owner::random), events);
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

/// The properties of a storage, read once.
struct Properties {
    limits: Limits,
    guarantees: Guarantees,
    storage: String,
}

/// Makes the engine of a storage and the handle of its client. The engine does not run yet.
pub(super) fn prepare(
    storage: AnyStorage,
    clock: Clock,
    make_owner: MakeOwner,
    home: Home,
) -> Result<(Handle, Actor)> {
    let read = AssertUnwindSafe(|| Properties {
        limits: storage.limits(),
        guarantees: storage.guarantees(),
        storage: storage.to_string(),
    });
    let properties = catch_unwind(read).map_err(|panic| Error::panicked("the storage panicked", &*panic))?;
    let (commands, inbox) = mpsc::unbounded_channel();
    let (events, _) = broadcast::channel(EVENTS);
    let shared = shared(properties, clock.clone(), make_owner, events.downgrade());
    let process = Process::current();
    let weak = commands.downgrade();
    let actor = Actor::new(storage, clock, home, Arc::clone(&shared), inbox, weak, events);
    Ok((Handle::new(Commands::new(commands, process), shared), actor))
}

fn shared(
    properties: Properties,
    clock: Clock,
    make_owner: MakeOwner,
    events: broadcast::WeakSender<Event>,
) -> Arc<Shared> {
    Arc::new(Shared {
        limits: properties.limits,
        guarantees: properties.guarantees,
        storage: properties.storage,
        clock,
        make_owner,
        events,
        held: Mutex::default(),
        closed: AtomicBool::new(false),
        failure: OnceLock::new(),
        numbers: AtomicU64::new(0),
    })
}

/// Runs a future on a thread of its own.
fn on_thread(work: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|source| {
        let text = "cannot make the engine's event loop; raise the limit of open files (`ulimit -n`)";
        Error::new(ErrorKind::Internal, text).with_source(source)
    })?;
    // In a slot outside of the closure. If the thread cannot start, the closure is dropped here, and a runtime in it
    // would panic if this is a thread of another runtime.
    let slot = Arc::new(Mutex::new(Some((runtime, work))));
    let for_thread = Arc::clone(&slot);
    let thread = std::thread::Builder::new().name("leasehold".to_owned());
    let started = thread.spawn(move || {
        if let Some((runtime, work)) = take(&for_thread) {
            // As a task: to wake up a task from within the runtime needs no system call.
            let _ = runtime.block_on(async { runtime.spawn(work).await });
        }
    });
    started.map(drop).map_err(|source| {
        if let Some((runtime, work)) = take(&slot) {
            drop(work);
            runtime.shutdown_background();
        }
        let text =
            "cannot start the engine's thread; raise the limit of processes (`ulimit -u`) or of memory";
        Error::new(ErrorKind::Internal, text).with_source(source)
    })
}

fn take<T>(slot: &Mutex<Option<(Runtime, T)>>) -> Option<(Runtime, T)> {
    slot.lock().unwrap_or_else(PoisonError::into_inner).take()
}
