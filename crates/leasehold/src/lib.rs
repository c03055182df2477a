//! Distributed locks over the database you already run.
//!
//! At most one client holds a lock, among threads, processes and machines. Each grant is a *lease*: it is
//! renewed while the lock is held, and it ends by itself if the holder dies. It carries a *fencing token*, by which
//! the protected resource recognizes the later holder.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
//! use std::time::Duration;
//! use leasehold::Locks;
//!
//! let locks = Locks::connect("memory:").await?;       // or `sqlite:`, a file; `redis:`, `postgres:`, `mongodb:`
//!
//! let guard = locks.lock("invoice/42").wait(Duration::from_secs(5)).acquire().await?;
//! println!("charge with token {}", guard.token());    // the token is what makes this safe
//! guard.release().await?;                             // Ok: held without interruption until now
//! # Ok(()) }
//! ```
//!
//! [`Locks`] is the client, one per program. [`Locks::lock`] names a [`Lock`], which holds nothing.
//! Acquiring it returns a [`Guard`], the proof of holding. These types have no type parameters, and are `Send`,
//! `Sync` and `'static`. Programs without an async runtime use [`blocking`], which has the same names.
//!
//! # Which call do I need?
//!
//! | I want to | Call |
//! |---|---|
//! | do something while holding the lock, and stop if it is lost | [`Lock::run`] |
//! | hold it until I release it | [`Lock::acquire`], then [`Guard::release`] |
//! | skip the work if another client does it | [`Lock::try_run`] |
//! | hold several locks, all or none | [`Locks::all`] |
//! | have one leader among several programs | [`Locks::election`] |
//! | wait for a limited time | [`Lock::wait`] |
//! | try a few times and give up | [`Lock::retries`] and [`Lock::interval`] |
//! | be notified when the lock is lost | [`Guard::lost`], or [`Guard::watch`] where the guard cannot be borrowed |
//! | have enough time left for a step that must not be interrupted | [`Guard::ensure`] |
//! | protect the resource in every case | [`Guard::token`], checked by the resource |
//! | run a job once, though several machines start it | [`Lock::at_least`], then [`Lock::try_run`] |
//! | never hold longer than a certain time | [`Lock::max_hold`] |
//! | hand the lease to another process | [`Guard::into_ticket`], then [`Locks::resume`] |
//! | see the holder of a lock, or all held locks | [`Locks::inspect`], [`Locks::list`] |
//! | be notified when a lock is locked or unlocked | [`Locks::observe`] |
//! | end the lease of another client | [`Locks::break_lock`] |
//! | count, log, alert | [`Locks::events`]; each is also a `tracing` event under `leasehold`, where a wait is logged at ten seconds, while it lasts |
//! | leave no lease behind at the end of the program | [`Locks::close`] |
//!
//! # What dropping does
//!
//! Any future of this crate may be dropped at any point. The section *Cancel safety* of each method describes the
//! effect. In short, at the storage:
//!
//! - Dropping an *acquire* gives up its place in the queue. If the lock is being granted, it is released.
//! - Dropping a *guard* releases the lock in the background, at once, and retries until the storage answers.
//! - Dropping a *release* does not stop it.
//! - After the last clone of a client and its last guard are dropped, the engine finishes its requests. If the
//!   program ends before that, a lease may remain until its TTL; [`Locks::close`] waits for it.
//!
//! # Time
//!
//! A guard knows the deadline of its lease without a request. The deadline counts from before the last renewal was
//! *sent*, less a margin (1 % of the TTL, at least 12 ms). Its clock also counts the time in which the machine
//! sleeps. [`Guard::is_held`] compares and never waits. When the deadline passes, [`Guard::lost`] completes, even if
//! the storage is unreachable. A lost lock stays lost.
//!
//! The TTL is 10 s unless set. Renewals are sent every third of it, on the client's own thread, so a blocked runtime
//! loses no lock. A shorter TTL frees the lock of a crashed holder sooner; a longer one survives longer outages of
//! the storage. Holding a lock for hours does not require a long TTL.
//!
//! # Errors
//!
//! [`Error`] is one pointer wide; [`Error::kind`] says what to do.
//!
//! | Kind | What happened | Do |
//! |---|---|---|
//! | [`Contended`](ErrorKind::Contended) | another client held it for the whole wait; [`Error::holder`] tells which | try later, or skip |
//! | [`Lost`](ErrorKind::Lost) | it was held and has been lost | stop; the work is unfinished |
//! | [`Unavailable`](ErrorKind::Unavailable) | the storage did not answer; the state is unknown | retry, or give up |
//! | [`Invalid`](ErrorKind::Invalid) | a name, an option, a URL or a ticket is wrong, or the storage cannot take it | fix the call |
//! | [`Unsupported`](ErrorKind::Unsupported) | this storage does not support the call, or lacks a permission or a setting that it needs | set it up, or choose another one |
//! | [`Closed`](ErrorKind::Closed) | the client was closed | nothing |
//! | [`Internal`](ErrorKind::Internal) | the system has run out of something, which the text names; else a bug | mend it; report it |
//!
//! # Testing your own code
//!
//! `memory:` is always available, and follows tokio's time. With [`Builder::on_current_runtime`] and paused time, a
//! test can observe an expiry without a server and without waiting:
//!
//! ```
//! # use std::time::Duration;
//! # use leasehold::{Locks, Lost, Renewal, storage::Memory};
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! let locks = Locks::builder().on_current_runtime().build(Memory::new())?;
//! let guard = locks.lock("a").ttl(Duration::from_secs(3600)).renewal(Renewal::Never).acquire().await?;
//! assert_eq!(guard.lost().await, Lost::Expired);      // an hour later, in no real time
//! # Ok::<(), leasehold::Error>(()) }).unwrap();
//! ```
//!
//! `leasehold_conformance::Chaos` breaks the calls of any storage on demand, to test how your code reacts to
//! [`Lost`] and `Unavailable`.
//!
//! # Features
//!
//! | Feature | Adds | Default |
//! |---|---|---|
//! | `sqlite` | the storage `sqlite:`; builds SQLite from source, which needs a C compiler | yes |
//! | `redis` | the storages `redis:` and `redis+quorum:`, with Sentinel, Cluster and TLS | no |
//! | `postgres` | the storage `postgres:`, also behind PgBouncer, with TLS | no |
//! | `mongodb` | the storage `mongodb:`, with TLS and `mongodb+srv:` | no |
//! | `etcd` | the storage `etcd:`, with TLS | no |
//! | `full` | every storage | no |
//!
//! Features only add storages. Your own storage needs none: implement [`Storage`] and pass it to [`Locks::new`].
//!
//! # What it does not do
//!
//! It cannot stop a process that was paused while it held a lock, and that writes after another client took over.
//! No lock with a TTL can. Send [`Guard::token`] with each write, and let the resource refuse a token that is smaller
//! than the largest it has seen.
//!
//! It is not reentrant: a holder that acquires again waits for itself. It locks names, not data, and it does not make
//! a transaction of the work under the lock.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(doc)]
use crate::storage::Storage;

mod all;
pub mod blocking;
mod clock;
#[cfg(any(doc, doctest))]
pub mod docs;
mod duration;
mod election;
mod engine;
mod error;
mod event;
#[cfg(target_os = "linux")]
mod fd;
mod guard;
mod guards;
mod lock;
mod locks;
mod lost;
mod options;
mod process;
pub mod storage;
#[cfg(any(feature = "sqlite", feature = "_net"))]
#[cfg_attr(
    not(any(feature = "sqlite", feature = "redis", feature = "postgres")),
    allow(dead_code, reason = "not every storage uses it")
)]
mod system;
mod ticket;
mod watch;

#[cfg(leasehold_planted)]
#[doc(hidden)]
pub mod __planted {
    pub use crate::engine::planted::wake;
}

pub use crate::all::All;
pub use crate::duration::parse_duration;
pub use crate::election::{Election, Leader, Leaders};
pub use crate::error::{Error, ErrorKind, Result};
pub use crate::event::{Change, Changes, Event, Events};
pub use crate::guard::Guard;
pub use crate::guards::Guards;
pub use crate::lock::Lock;
pub use crate::locks::{Builder, Locks, WeakLocks};
pub use crate::lost::Lost;
pub use crate::options::{Options, Renewal, Wait};
pub use crate::storage::{Guarantees, Holder, LeaseClock, Name, Owner, Tier, Token};
pub use crate::ticket::Ticket;
pub use crate::watch::Watch;

/// The code in the README, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}

/// Calls that are easily forgotten do not compile if warnings are errors.
///
/// A lock that is never acquired:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// fn forgets(locks: leasehold::Locks) { locks.lock("a"); }
/// ```
///
/// A guard that is dropped at once:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// async fn forgets(lock: leasehold::Lock) -> leasehold::Result<()> { lock.acquire().await?; Ok(()) }
/// ```
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// fn forgets(lock: leasehold::blocking::Lock) -> leasehold::Result<()> { lock.acquire()?; Ok(()) }
/// ```
///
/// The result of a release:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// async fn forgets(guard: leasehold::Guard) { guard.release().await; }
/// ```
///
/// A builder that builds nothing:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// fn forgets() { leasehold::Locks::builder(); }
/// ```
///
/// The same, on purpose, compiles:
///
/// ```no_run
/// #![deny(unused_must_use)]
/// async fn means_it(locks: leasehold::Locks) -> leasehold::Result<()> {
///     let _ = leasehold::Locks::builder();
///     let lock = locks.lock("a");
///     let _ = lock.acquire().await?;
///     let _ = lock.acquire().await?.release().await;
///     Ok(())
/// }
/// fn means_it_too(lock: leasehold::blocking::Lock) -> leasehold::Result<()> {
///     let _ = lock.acquire()?;
///     Ok(())
/// }
/// ```
#[cfg(doctest)]
mod must_use {}
