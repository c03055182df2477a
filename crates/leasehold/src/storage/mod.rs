//! The contract between the engine and whatever remembers who holds a lock.
//!
//! Implement [`Storage`] to lock over something of your own, then prove it with the
//! `leasehold-conformance` crate: each clause below is a case there. A clause that no case checks is not
//! promised. The trait may still change before 1.0.

mod any;
mod cursor;
mod finding;
mod memory;
mod name;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod net;
mod owner;
#[cfg(feature = "postgres")]
pub mod postgres;
pub(crate) mod progress;
#[cfg(feature = "redis")]
pub mod redis;
pub(crate) mod registry;
mod share;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod token;
pub(crate) mod url;

use std::fmt::{self, Debug, Display};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;

pub use self::any::AnyStorage;
pub use self::cursor::Cursor;
pub use self::finding::{Finding, Severity};
pub use self::memory::Memory;
pub use self::name::Name;
pub use self::owner::Owner;
pub use self::registry::{schema, schemes};
pub use self::share::Share;
pub use self::token::Token;
use crate::error::Result;

/// Remembers who holds which lock. Implementors write plain `async fn`; there are no default methods.
///
/// # Contract
///
/// *Batches.* `acquire`, `renew` and `release` get claims with distinct names and answer each, in order.
/// Each claim is atomic on its own, by the storage's clock; one claim's failure is not another's.
///
/// *Acquire grants to one.* Of any number of concurrent claims for a free name, one is granted. Where no order is
/// promised ([`Guarantees::fair`]) their votes may be split, and none is: then each is told when to ask again.
///
/// *Acquire is idempotent per owner.* Asked again by the owner that holds, it grants the same token and a
/// full TTL from now. So a lost answer is harmless.
///
/// *A waiter may be granted less than it asks for,* if the lock was handed over to it before it asked again. A renewal
/// gives it a full TTL from then.
///
/// *Nothing shortens a lease but a claim that says so.* An acquire or a renew by the owner that holds moves the
/// end of the lease to `ttl` from now or leaves it where it is, whichever is later: requests may be executed
/// late and twice. Only a renew with [`Claim::shorten`] may bring it forward, and only within its patience.
/// One that does hints the owner where the storage promises push: another process may hold a guard of that
/// lease, and has to learn of its new end at once.
///
/// *Shares.* A storage is asked only for shares that [`Limits::share_max`] allows: [`AnyStorage`] refuses others before
/// it calls one.
///
/// *Patience.* A claim that the storage executes later than [`Claim::patience`] after it was sent grants
/// nothing and leaves nothing.
///
/// *Waiters.* A `Held` answer to a claim with [`Claim::wait`] leaves a waiter's entry for that owner. It
/// expires by itself within [`WAITER_TTL`]; asking again refreshes it and keeps its place; `release` by that
/// owner removes it. While a live entry stands first, a fair storage grants to nobody else. A claim without
/// `wait` leaves nothing.
///
/// *Renew never resurrects.* After expiry, release or loss the answer is `NotHeld`, even if nobody else came.
///
/// *Release touches only this owner's lease and entry,* and a second release is `NotHeld`. If the lock is
/// free afterwards and somebody waits, the turn passes on: the next waiter is hinted.
///
/// *`Err` means unknown.* A storage that knows the answer returns it. An error of kind
/// [`Unavailable`](crate::ErrorKind::Unavailable) is asked again; any other kind ends the attempt. What it may have
/// left is released, until no claim can be executed any more; not so if the storage says that it has done nothing
/// ([`Error::definite`](crate::Error::definite)).
///
/// *Tokens grow per name,* across releases, expiry and restarts: `max(last + 1, clock in µs)`, below 2^63.
///
/// *A dropped call is an unknown outcome,* never a broken storage. The engine limits the time of each call
/// by dropping it.
///
/// *Hints may be early, late, repeated or missing.* [`Hint::Any`] is sent after every reconnect, and
/// [`Hint::Restarted`] instead if leases may have been forgotten meanwhile.
///
/// *No retries, no sleeping, no renewals inside a storage.* The engine does those.
///
/// *Names and labels are data:* bound, never spliced. `Debug`, `Display`, errors and logs never show a secret.
pub trait Storage: Debug + Display + Send + Sync + 'static {
    /// Says what this storage promises, as found when it was connected.
    fn guarantees(&self) -> Guarantees;

    /// Says what this storage accepts.
    fn limits(&self) -> Limits;

    /// Grants each claim whose name is free and whose turn it is.
    fn acquire(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<AcquireReply>>> + Send;

    /// Gives each claim's owner a full TTL from now, if it still holds.
    fn renew(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<RenewReply>>> + Send;

    /// Ends each claim's lease and waiter's entry.
    fn release(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<ReleaseReply>>> + Send;

    /// Returns every holder of a lock, ordered by token; none if it is free. Changes nothing.
    fn inspect(&self, name: &Name) -> impl Future<Output = Result<Vec<Holder>>> + Send;

    /// Lists at most `limit` holders whose names begin with `prefix`, ordered by name and token, that come after
    /// `after`. A page with fewer holders is the last one.
    fn list(
        &self,
        prefix: &str,
        after: Option<&Cursor>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Holder>>> + Send;

    /// Says what the servers or files behind it are, and what to change for them to promise more: the lines of
    /// `leasehold doctor`. At least one.
    fn findings(&self) -> impl Future<Output = Result<Vec<Finding>>> + Send;

    /// Changes the set of names that this process observes: `added` were not in it, `removed` were. Send
    /// [`Hint::Name`] when a name in the set is locked or unlocked, if that is possible without polling. The
    /// cost of a call must depend on the difference, not on the size of the set.
    fn watch(&self, added: &[Name], removed: &[Name]);

    /// Subscribes to hints. Called at most once, before the first waiting claim and the first watched name.
    /// A subscription that takes time sends [`Hint::Any`] when it stands.
    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static;
}

/// How long a waiter's entry lives unless it is refreshed: three times [`WAITER_HEARTBEAT`].
pub const WAITER_TTL: Duration = Duration::from_secs(6);

/// How often a waiter asks again when nobody wakes it.
pub const WAITER_HEARTBEAT: Duration = Duration::from_secs(2);

/// What a storage is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim {
    /// The lock.
    pub name: Name,
    /// How much of the lock it takes.
    pub share: Share,
    /// The acquisition that asks.
    pub owner: Owner,
    /// How long the lease lasts from the moment it is granted or renewed.
    pub ttl: Duration,
    /// An acquire executed later than this after it was sent grants nothing.
    pub patience: Duration,
    /// Whether to leave a waiter's entry if the lock is held.
    pub wait: bool,
    /// Whether the lease must outlive this process. A storage that notices the death of processes ends
    /// their leases early, but never a detached one.
    pub detached: bool,
    /// Whether a renew may bring the end of the lease forward. Then patience binds it as it binds an acquire.
    pub shorten: bool,
    /// What `inspect` shows of the holder.
    pub label: Option<Arc<str>>,
}

impl Claim {
    /// Makes a claim with a patience of half the TTL, that does not wait and has no label.
    pub fn new(name: Name, owner: Owner, ttl: Duration) -> Self {
        let (share, patience) = (Share::EXCLUSIVE, ttl / 2);
        Self { name, share, owner, ttl, patience, wait: false, detached: false, shorten: false, label: None }
    }

    /// Sets [`Claim::wait`].
    #[must_use]
    pub fn wait(self, wait: bool) -> Self {
        Self { wait, ..self }
    }

    /// Sets [`Claim::patience`].
    #[must_use]
    pub fn patience(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// Sets [`Claim::label`].
    #[must_use]
    pub fn label(self, label: impl Into<Arc<str>>) -> Self {
        Self { label: Some(label.into()), ..self }
    }

    /// Sets [`Claim::shorten`].
    #[must_use]
    pub fn shorten(self, shorten: bool) -> Self {
        Self { shorten, ..self }
    }

    /// Sets [`Claim::detached`].
    #[must_use]
    pub fn detached(self, detached: bool) -> Self {
        Self { detached, ..self }
    }
}

/// Answers an acquire.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcquireReply {
    /// The owner holds, for `ttl` from the moment the storage executed the claim.
    Granted {
        /// Larger than every earlier token of this name.
        token: Token,
        /// The TTL that the storage gave; some can only give whole seconds, and what was handed over to a waiter may
        /// last less than it asked for.
        ttl: Duration,
    },
    /// Somebody else holds, or stands before this owner in the queue.
    Held {
        /// Who holds, if anybody does.
        holder: Option<Holder>,
        /// When asking again may be worth it, if nothing is hinted before.
        retry_after: Option<Duration>,
    },
}

/// Answers a renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RenewReply {
    /// The lease is over or never was.
    NotHeld,
    /// The lease lasts for `ttl` from the moment the storage executed the claim.
    Renewed {
        /// The TTL that the storage gave.
        ttl: Duration,
    },
}

/// Answers a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseReply {
    /// There was no lease of this owner. A waiter's entry, if there was one, is gone.
    NotHeld,
    /// The lease was alive until now and is over.
    Released,
}

/// Says that it may be worth asking again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Anything may have happened: everybody asks again.
    Any,
    /// This lock was locked or unlocked.
    Name(Name),
    /// It may be this owner's turn; or, if it holds, another client may have ended or shortened its lease.
    Owner(Owner),
    /// The storage may have forgotten leases: it was restarted, or another server answers now. Everybody asks
    /// again, and every hold is verified at once.
    Restarted,
}

/// Whoever holds a lock, as seen by looking. The picture may be old by the time it is read.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// The lock.
    pub name: Name,
    /// How much of the lock it has taken.
    pub share: Share,
    /// The acquisition that holds.
    pub owner: Owner,
    /// Its fencing token.
    pub token: Token,
    /// What it calls itself.
    pub label: Option<Arc<str>>,
    /// How much of its lease is left; [`Duration::MAX`] if it has no end, as a lock of another library may have none.
    pub remaining: Duration,
    /// How long it has held, if the storage knows.
    pub held_for: Option<Duration>,
    /// How many wait behind it, if the storage knows. A process counts once.
    pub waiters: Option<u64>,
}

impl Holder {
    /// Makes a holder without a label, a start or a queue; set those fields if they are known.
    pub fn new(name: Name, owner: Owner, token: Token, remaining: Duration) -> Self {
        let share = Share::EXCLUSIVE;
        Self { name, share, owner, token, label: None, remaining, held_for: None, waiters: None }
    }

    /// Returns where this holder stands in a list.
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.name.clone(), self.token)
    }
}

/// What a storage promises, probed when it is connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Guarantees {
    /// Whether tokens grow for ever.
    pub fencing: bool,
    /// Whether waiters of different processes are served in the order in which they came.
    pub fair: bool,
    /// Whether a release wakes the next waiter, without polling.
    pub push: bool,
    /// Whose clock ends a lease.
    pub clock: LeaseClock,
    /// Which faults the storage survives.
    pub tier: Tier,
}

impl Guarantees {
    /// Promises nothing but the tier and the clock; set the other fields if they hold.
    pub const fn new(tier: Tier, clock: LeaseClock) -> Self {
        Self { fencing: false, fair: false, push: false, clock, tier }
    }
}

/// Whose clock ends a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseClock {
    /// The machine's clock that counts suspend; nobody can set it.
    Boot,
    /// The server's monotonic clock.
    ServerMonotonic,
    /// The server's wall clock; setting it ends or stretches leases.
    ServerWall,
}

/// Which faults a storage survives, from fewest to most. Each tier includes the ones before it.
///
/// None protects against a holder that is paused: only a checked [`Token`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Tier {
    /// Works while nothing fails.
    Advisory,
    /// Survives the crash of a holder; a restart of the storage may forget locks.
    CrashSafe,
    /// Also survives a crash and restart of the storage.
    RestartSafe,
    /// Also survives the loss of a primary, or of a minority of servers.
    FailoverSafe,
}

impl Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Advisory => "advisory",
            Self::CrashSafe => "crash-safe",
            Self::RestartSafe => "restart-safe",
            Self::FailoverSafe => "failover-safe",
        })
    }
}

/// What a storage accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The shortest TTL; at least 100 ms.
    pub ttl_min: Duration,
    /// The longest TTL; at most 24 h.
    pub ttl_max: Duration,
    /// The most claims in one call; at least 1.
    pub batch_max: usize,
    /// The most calls of one verb at a time, among leases of similar TTLs; at least 1.
    pub batches_in_flight: usize,
    /// The largest [`Share::limit`] that is granted; at least 1. With 1, every lock has at most one holder.
    pub share_max: u32,
}

impl Default for Limits {
    /// 100 ms to 24 h, 256 claims in a call, one call of a verb at a time, one holder of a lock.
    fn default() -> Self {
        Self {
            ttl_min: Duration::from_millis(100),
            ttl_max: Duration::from_secs(24 * 60 * 60),
            batch_max: 256,
            batches_in_flight: 1,
            share_max: 1,
        }
    }
}
