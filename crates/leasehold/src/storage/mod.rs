//! The contract between the engine and a storage, which keeps the locks.
//!
//! Implement [`Storage`] to keep locks somewhere else, and prove the implementation with the `leasehold-conformance`
//! crate. Each clause of the contract has test cases there. A clause without a case is not promised. The trait may
//! still change before 1.0.

mod any;
mod cursor;
#[cfg(feature = "etcd")]
pub mod etcd;
mod finding;
mod holder;
mod memory;
#[cfg(feature = "mongodb")]
pub mod mongodb;
mod name;
#[cfg(feature = "_net")]
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
pub(crate) mod target;
mod token;
pub(crate) mod url;
mod validate;

use std::fmt::{self, Debug, Display};
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;

pub use self::any::AnyStorage;
pub use self::cursor::Cursor;
pub use self::finding::{Finding, Severity};
pub use self::holder::Holder;
pub use self::memory::Memory;
pub use self::name::Name;
pub use self::owner::Owner;
pub use self::registry::{schema, schemes};
pub use self::share::Share;
pub use self::token::Token;
use crate::error::{Error, Result};

/// A place where locks are kept. Implementors write plain `async fn`; no method has a default.
///
/// # Contract
///
/// **Batches.** `acquire`, `renew` and `release` get claims with distinct names and answer each of them, in order.
/// Each claim is executed atomically, by the storage's clock. The failure of one claim does not affect the others.
///
/// **Acquire grants a lock once.** Of all concurrent claims for a free lock, one is granted. Where no order is
/// promised ([`Guarantees::fair`]), concurrent claims may also block each other, so that none is granted. Then each
/// reply says when to retry.
///
/// **Acquire is idempotent per owner.** If the owner already holds the lock, another acquire grants the same token
/// and a full TTL from now. So a lost reply does no harm.
///
/// **A waiter may be granted less than its TTL,** if the lock was handed over to it between two of its claims. A
/// renewal grants the full TTL.
///
/// **A lease is shortened only by a claim that says so.** An acquire or a renew by the holder moves the end of the
/// lease to `ttl` from now, unless the lease ends later: requests may be executed late and twice. Only a renew with
/// [`Claim::shorten`] may move the end to an earlier time, and only within its patience. Where the storage promises
/// push, it then hints the owner, since another process may hold a guard of the same lease.
///
/// **Shares.** A storage gets only claims whose share [`Limits::share_max`] allows. [`AnyStorage`] refuses all others
/// without calling the storage.
///
/// **Patience.** A claim that the storage executes later than [`Claim::patience`] after it was sent grants nothing
/// and leaves nothing behind.
///
/// **Waiters.** A claim with [`Claim::wait`] that is answered with `Held` leaves a waiter's entry for its owner. The
/// entry expires after [`WAITER_TTL`]. Another claim refreshes it, and it keeps its place. `release` removes it.
/// While the queue has a live entry, a fair storage grants the lock only to the owner of the first one. A claim
/// without `wait` leaves no entry.
///
/// **Renew never revives a lease.** After expiry, release or loss, the reply is `NotHeld`, even if the lock is still
/// free.
///
/// **Release affects only the lease and the entry of its owner.** A second release is answered with `NotHeld`. If the
/// lock is free after a release, the storage hints the next waiter.
///
/// **`Err` means unknown.** A storage that knows the result returns it. The engine retries after an error of the kind
/// [`Unavailable`](crate::ErrorKind::Unavailable); any other kind ends the attempt. After an error, the engine
/// releases what the claim may have left, until the claim can no longer be executed. It does not if the storage marks
/// the error as [definite](crate::Error::definite): then nothing was executed and nothing will be.
///
/// **The tokens of a name grow,** across releases, expiry and restarts: `max(last + 1, clock in µs)`, below 2^63.
///
/// **A dropped call has an unknown result,** and does not break the storage. The engine limits the time of each call
/// by dropping it.
///
/// **Hints may be early, late, repeated or missing.** After every reconnect, the storage sends [`Hint::Any`], or
/// [`Hint::Restarted`] if leases may have been forgotten in the meantime.
///
/// **A storage does not retry, sleep or renew.** The engine does.
///
/// **Names and labels are data.** They are bound as parameters and never become part of a statement. `Debug`,
/// `Display`, errors and logs never show a secret.
pub trait Storage: Debug + Display + Send + Sync + 'static {
    /// Returns what this storage promises, as probed when it was connected.
    fn guarantees(&self) -> Guarantees;

    /// Returns what this storage accepts.
    fn limits(&self) -> Limits;

    /// Grants each claim whose lock is free and whose owner is the next in the queue.
    fn acquire(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<AcquireReply>>> + Send;

    /// Extends the lease of each claim's owner to a full TTL from now, if it still holds the lock.
    fn renew(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<RenewReply>>> + Send;

    /// Ends the lease of each claim's owner, and removes its waiter's entry.
    fn release(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<ReleaseReply>>> + Send;

    /// Returns every holder of a lock, ordered by token. The list is empty if the lock is free. Changes nothing.
    fn inspect(&self, name: &Name) -> impl Future<Output = Result<Vec<Holder>>> + Send;

    /// Returns a page of the holders of all locks whose names begin with `prefix`, ordered by name and token. The
    /// page begins behind `after`. It has `limit` holders, or fewer if it is the last one.
    fn list(
        &self,
        prefix: &str,
        after: Option<&Cursor>,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Holder>>> + Send;

    /// Reports what the servers or files of the storage are, and what to change so that they promise more.
    /// `leasehold doctor` prints these findings. There is at least one.
    fn findings(&self) -> impl Future<Output = Result<Vec<Finding>>> + Send;

    /// Changes the set of names that this process observes. The names in `added` were not in the set, and those in
    /// `removed` were. The storage sends [`Hint::Name`] when a lock in the set is locked or unlocked, if it can do so
    /// without polling. The cost of a call depends on the difference and not on the size of the set.
    fn watch(&self, added: &[Name], removed: &[Name]);

    /// Subscribes to hints. The engine calls this at most once, before the first claim that waits and the first
    /// observed name. If subscribing takes time, the storage sends [`Hint::Any`] once it is subscribed.
    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static;
}

/// How long a waiter's entry lives after it was last refreshed: three times [`WAITER_HEARTBEAT`].
pub const WAITER_TTL: Duration = Duration::from_secs(6);

/// How long a waiter waits for a hint before it claims again.
pub const WAITER_HEARTBEAT: Duration = Duration::from_secs(2);

/// A request for a lock, or for a change of its lease, on behalf of one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim {
    /// The lock.
    pub name: Name,
    /// How much of the lock it takes.
    pub share: Share,
    /// The acquisition on whose behalf the claim is made.
    pub owner: Owner,
    /// How long the lease lasts, from the moment when the storage executes the claim.
    pub ttl: Duration,
    /// How long after it was sent an acquire may be executed. Later it grants nothing.
    pub patience: Duration,
    /// Whether to leave a waiter's entry if the lock is held.
    pub wait: bool,
    /// Whether the lease must outlive this process. A storage that detects the death of a process ends the leases of
    /// that process early, except detached ones.
    pub detached: bool,
    /// Whether a renew may move the end of the lease to an earlier time. Then its patience limits it as it limits an
    /// acquire.
    pub shorten: bool,
    /// The text that `inspect` shows for the holder.
    pub label: Option<Arc<str>>,
}

impl Claim {
    /// Makes an exclusive claim with a patience of half the TTL, which does not wait and has no label.
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

/// The reply to an acquire.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AcquireReply {
    /// The owner holds the lock for `ttl`, from the moment when the storage executed the claim.
    Granted {
        /// The fencing token. It is larger than every earlier token of this name.
        token: Token,
        /// The TTL that was granted. It may be longer than requested, where a storage counts whole seconds. It may be
        /// shorter if the lock was handed over to a waiter.
        ttl: Duration,
    },
    /// Another owner holds the lock, or is before this one in the queue.
    Held {
        /// The holder, or one of them. `None` if the lock is free.
        holder: Option<Holder>,
        /// When to claim again if no hint comes earlier.
        retry_after: Option<Duration>,
    },
}

/// The reply to a renew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RenewReply {
    /// The owner has no lease.
    NotHeld,
    /// The lease lasts for `ttl`, from the moment when the storage executed the claim.
    Renewed {
        /// The TTL that was granted.
        ttl: Duration,
    },
}

/// The reply to a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseReply {
    /// The owner had no lease. If it had a waiter's entry, that was removed.
    NotHeld,
    /// The lease lasted until now, and has ended.
    Released,
}

/// A sign that it may be useful to claim or to inspect again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Anything may have changed. Every waiter claims again.
    Any,
    /// This lock was locked or unlocked.
    Name(Name),
    /// This owner may be the next in its queue. Or it is a holder, and another client may have ended or shortened its
    /// lease.
    Owner(Owner),
    /// The storage may have forgotten leases, because it was restarted or another server answers now. Every waiter
    /// claims again, and every lease is verified at once.
    Restarted,
}

/// The promises of a storage, as probed when it was connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Guarantees {
    /// Whether the tokens of a name always grow.
    pub fencing: bool,
    /// Whether waiters of different processes are served first come, first served.
    pub fair: bool,
    /// Whether a release wakes the next waiter up, without polling.
    pub push: bool,
    /// Which clock ends a lease.
    pub clock: LeaseClock,
    /// Which faults the storage survives.
    pub tier: Tier,
}

impl Guarantees {
    /// Makes guarantees of this tier and clock, without the other promises. Set their fields if they hold.
    pub const fn new(tier: Tier, clock: LeaseClock) -> Self {
        Self { fencing: false, fair: false, push: false, clock, tier }
    }
}

/// The clock that ends a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LeaseClock {
    /// The machine's boot clock. It counts the time in suspend and cannot be set.
    Boot,
    /// The server's monotonic clock.
    ServerMonotonic,
    /// The server's wall clock. Setting it shortens or lengthens leases.
    ServerWall,
}

impl LeaseClock {
    /// Returns the clock in words with hyphens: `boot`, `server-monotonic`, `server-wall`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::ServerMonotonic => "server-monotonic",
            Self::ServerWall => "server-wall",
        }
    }
}

/// The faults that a storage survives, from fewest to most. Each tier includes the ones before it.
///
/// No tier protects against a holder that is paused. Only a checked [`Token`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Tier {
    /// Works as long as nothing fails.
    Advisory,
    /// Survives the crash of a holder. A restart of the storage may forget locks.
    CrashSafe,
    /// Also survives a crash and a restart of the storage.
    RestartSafe,
    /// Also survives the loss of a primary, or of a minority of servers.
    FailoverSafe,
}

impl Tier {
    /// The tiers, from fewest to most.
    const ALL: [Self; 4] = [Self::Advisory, Self::CrashSafe, Self::RestartSafe, Self::FailoverSafe];

    /// Returns the tier as one word: `advisory`, `crash-safe`, `restart-safe`, `failover-safe`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Advisory => "advisory",
            Self::CrashSafe => "crash-safe",
            Self::RestartSafe => "restart-safe",
            Self::FailoverSafe => "failover-safe",
        }
    }
}

impl Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Reads the word that [`Tier::as_str`] returns.
impl FromStr for Tier {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|tier| tier.as_str() == text).ok_or_else(|| {
            let valid = Self::ALL.map(Self::as_str).join(", ");
            Error::invalid(format!("no such tier tier=`{}` valid=`{valid}`", text.escape_debug()))
        })
    }
}

/// The limits of what a storage accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The shortest TTL; at least 100 ms.
    pub ttl_min: Duration,
    /// The longest TTL; at most 24 h.
    pub ttl_max: Duration,
    /// The most claims in one call; at least 1.
    pub batch_max: usize,
    /// The most calls of one kind (acquire, renew, release) in flight at a time, among leases of similar TTLs; at
    /// least 1.
    pub batches_in_flight: usize,
    /// The largest [`Share::limit`] that is granted; at least 1. With 1, every lock has at most one holder.
    pub share_max: u32,
}

impl Default for Limits {
    /// Returns a TTL of 100 ms to 24 h, 256 claims in a call, one call of a kind at a time, and exclusive locks only.
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
