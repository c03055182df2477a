//! Distributed locks over the database you already run.
//!
//! At most one client holds a lock, among threads, processes and machines. Each grant is a *lease*: it is
//! renewed while you hold it, it ends by itself if you vanish, and it carries a *fencing token* that tells
//! whatever you write to which holder is the later one.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
//! use std::time::Duration;
//! use leasehold::Locks;
//!
//! let locks = Locks::connect("memory:").await?;       // or `sqlite:`, a file; `redis:` and `postgres:` servers
//!
//! let guard = locks.lock("invoice/42").wait(Duration::from_secs(5)).acquire().await?;
//! println!("charge with token {}", guard.token());    // the token is what makes this safe
//! guard.release().await?;                             // Ok: it was ours, without a break, until now
//! # Ok(()) }
//! ```
//!
//! [`Locks`] is the client, one per program. [`Locks::lock`] names a [`Lock`], which holds nothing.
//! Acquiring it gives a [`Guard`], the proof of holding. None has a type parameter, all are `Send`, `Sync` and
//! `'static`. Programs without an async runtime use [`blocking`], where everything has the same name.
//!
//! # Which call do I need?
//!
//! | I want to | Call |
//! |---|---|
//! | do something while I hold the lock, and stop if I lose it | [`Lock::run`] |
//! | hold it for as long as I say | [`Lock::acquire`], then [`Guard::release`] |
//! | skip the work if somebody else does it | [`Lock::try_acquire`] |
//! | wait, but not for ever | [`Lock::wait`] |
//! | ask a few times and give up | [`Lock::retries`] and [`Lock::interval`] |
//! | be told when the lock is lost | [`Guard::lost`] |
//! | be sure that enough is left before a step that must not be cut short | [`Guard::ensure`] |
//! | protect what I write to, whatever happens | [`Guard::token`], checked there |
//! | never hold longer than a certain time | [`Lock::max_hold`] |
//! | hand the lease to another process | [`Guard::into_ticket`], then [`Locks::resume`] |
//! | see who holds, or everything that is held | [`Locks::inspect`], [`Locks::list`] |
//! | be told when a lock is locked or unlocked | [`Locks::observe`] |
//! | end somebody's lease | [`Locks::break_lock`] |
//! | count, log, alert | [`Locks::events`]; each is also a `tracing` event under `leasehold` |
//! | leave nothing behind when the program ends | [`Locks::close`] |
//!
//! # What dropping does
//!
//! Any future of this crate may be dropped at any point, and each says under *Cancel safety* what that means.
//! In short, at the storage:
//!
//! - A dropped *acquire* gives up its place in the queue. If the lock was just being granted, it is released.
//! - A dropped *guard* is released, at once and in the background, and repeatedly until the storage answers.
//! - A dropped *release* goes on.
//! - When the last clone of a client and its last guard are gone, what is under way is finished first. A
//!   program that ends right then may leave a lease to its TTL; [`Locks::close`] waits.
//!
//! # Time
//!
//! A guard knows when its lease ends, without asking: counted from before the last renewal was *sent*, less a
//! margin (1 % of the TTL, at least 12 ms), on a clock that counts the time in which the machine sleeps.
//! [`Guard::is_held`] compares and never waits. When the deadline passes, [`Guard::lost`] fires, also if the
//! storage is unreachable. A lost lock stays lost.
//!
//! The TTL is 10 s unless set; renewals come every third of it, on a thread of the client's own, so that a
//! runtime that is blocked loses nothing. A shorter TTL frees the lock of a crashed holder sooner, a longer one
//! rides out longer silences of the storage. Holding for hours needs no long TTL.
//!
//! # Errors
//!
//! [`Error`] is one pointer wide; [`Error::kind`] says what to do.
//!
//! | Kind | What happened | Do |
//! |---|---|---|
//! | [`Contended`](ErrorKind::Contended) | somebody else held it for the whole wait; [`Error::holder`] says who | try later, or skip |
//! | [`Lost`](ErrorKind::Lost) | it was held and is not any more | stop; the work is unfinished |
//! | [`Unavailable`](ErrorKind::Unavailable) | the storage did not answer: nobody knows | retry, or give up |
//! | [`Invalid`](ErrorKind::Invalid) | a name, an option, a URL or a ticket is wrong; nothing was sent | fix the call |
//! | [`Unsupported`](ErrorKind::Unsupported) | this storage cannot do that | choose another one |
//! | [`Closed`](ErrorKind::Closed) | the client was closed | nothing |
//! | [`Internal`](ErrorKind::Internal) | the system has run out of something, which the text names; else a bug | mend it; report it |
//!
//! # Testing your own code
//!
//! `memory:` is always there, and follows tokio's time. With [`Builder::on_current_runtime`] and paused time, a
//! test sees a lock expire without a server and without waiting:
//!
//! ```
//! # use std::time::Duration;
//! # use leasehold::{Locks, Lost, Renewal, storage::Memory};
//! # tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(async {
//! let locks = Locks::builder().on_current_runtime().build(Memory::new())?;
//! let guard = locks.lock("a").ttl(Duration::from_secs(3600)).renewal(Renewal::Never).acquire().await?;
//! assert_eq!(guard.lost().await, Lost::Expired);      // an hour later, which takes no time
//! # Ok::<(), leasehold::Error>(()) }).unwrap();
//! ```
//!
//! `leasehold_conformance::Chaos` breaks the calls of any storage on demand, to test what you do on
//! [`Lost`] and `Unavailable`.
//!
//! # Features
//!
//! | Feature | Adds | Default |
//! |---|---|---|
//! | `sqlite` | the storage `sqlite:`; builds SQLite from source, which needs a C compiler | yes |
//! | `redis` | the storages `redis:` and `redis+quorum:`, with Sentinel, Cluster and TLS | no |
//! | `postgres` | the storage `postgres:`, also behind PgBouncer, with TLS | no |
//!
//! A feature only adds. A storage of your own needs none: implement [`Storage`] and pass it to [`Locks::new`].
//!
//! # What it does not do
//!
//! It cannot stop a process that was paused while it held a lock and writes after somebody else took over. No
//! lock with a TTL can. Pass [`Guard::token`] along with each write, and let whatever you write to refuse a
//! smaller token than it has seen.
//!
//! It is not reentrant: a holder who asks again waits for itself. It locks names, not data, and it makes no
//! transaction out of what you do while you hold it.

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(doc)]
use crate::storage::Storage;

pub mod blocking;
mod clock;
mod engine;
mod error;
mod event;
#[cfg(target_os = "linux")]
mod fd;
mod guard;
mod lock;
mod locks;
mod lost;
mod options;
mod process;
pub mod storage;
#[cfg(any(feature = "sqlite", feature = "redis", feature = "postgres"))]
mod system;
mod ticket;

#[cfg(leasehold_planted)]
#[doc(hidden)]
pub mod __planted {
    pub use crate::engine::planted::wake;
}

pub use crate::error::{Error, ErrorKind, Result};
pub use crate::event::{Change, Changes, Event, Events};
pub use crate::guard::Guard;
pub use crate::lock::Lock;
pub use crate::locks::{Builder, Locks};
pub use crate::lost::Lost;
pub use crate::options::{Options, Renewal, Wait};
pub use crate::storage::{Guarantees, Holder, LeaseClock, Name, Owner, Tier, Token};
pub use crate::ticket::Ticket;

/// The code in the documents, compiled.
#[cfg(doctest)]
mod documents {
    #[doc = include_str!("../../../README.md")]
    mod readme {}
    #[doc = include_str!("../../../CONTRIBUTING.md")]
    mod contributing {}
    #[doc = include_str!("../../../docs/architecture.md")]
    mod architecture {}
    #[doc = include_str!("../../../docs/design.md")]
    mod design {}
    #[doc = include_str!("../../../docs/guarantees.md")]
    mod guarantees {}
}

/// What is easily forgotten does not compile where warnings are errors.
///
/// A lock that nobody acquires:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// fn forgets(locks: leasehold::Locks) { locks.lock("a"); }
/// ```
///
/// A guard that is dropped on the spot:
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
/// Whether a release succeeded:
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
/// The same, said on purpose, compiles:
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
