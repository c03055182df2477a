//! Classic defects, planted on purpose to prove that the checks catch them.
//!
//! Defects of a storage are a wrapper over any storage. Those of the engine are compiled into the library
//! only with `RUSTFLAGS="--cfg leasehold_planted"`, and have no effect until one is switched on.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::ValueEnum;
use futures_core::Stream;
use futures_util::StreamExt;
use leasehold::storage::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, Limits, Name, Owner, ReleaseReply,
    RenewReply, Storage, Token,
};
use leasehold::{Error, ErrorKind, Result};

/// A defect. Each was found in some lock library or is one statement away from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Defect {
    // ── of the engine ──
    /// The queue entry of a canceled waiter stays.
    CanceledWaiterStays,
    /// Deadlines count from the answer.
    DeadlineFromReply,
    /// Dropping a guard releases nothing.
    DropWithoutRelease,
    /// A claim that is in flight when its caller drops it is not undone.
    DropWithoutResolver,
    /// A lost lock is still listed as held.
    ExpiredStillListed,
    /// Claims may be executed at any time, and are not undone after that.
    GhostAcquire,
    /// One pause and one try more than requested.
    IntervalAfterLastTry,
    /// A renewal that is answered after the deadline revives the lease.
    LateRenewalRevives,
    /// A waiter asks again only after a hint.
    NoRecheck,
    /// One owner id for all acquisitions of a client.
    OwnerPerClient,

    // ── of a storage ──
    /// An error counts as "held by another client".
    ErrorIsContention,
    /// An error counts as a grant.
    ErrorIsSuccess,
    /// Waiters get no hints.
    ForgetsHints,
    /// A claim is executed however late it arrives.
    IgnoresPatience,
    /// A release ends leases, but not queue entries.
    KeepsEntries,
    /// A release deletes by name alone.
    ReleasesForAnyOwner,
    /// A renewal inserts the lease if it is missing.
    RenewsAsUpsert,
    /// A shorter TTL deletes the lease, and the answer is that it was renewed.
    ShorterTtlDeletes,
    /// A client that takes over an expired lock gets the deadline of the previous lease.
    TakeoverKeepsDeadline,
    /// A release deletes the counter along with the lease.
    TokensRestart,

    // ── of a server ──
    /// A crash of the server empties the table of leases.
    LeasesUnlogged,
}

impl Defect {
    /// Returns all defects.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    /// Returns its name on the command line.
    ///
    /// # Panics
    ///
    /// Never, because every defect has a name.
    pub fn name(self) -> String {
        self.to_possible_value().expect("BUG: a defect without a name").get_name().to_owned()
    }

    /// Switches it on, if it is a defect of the engine.
    ///
    /// # Errors
    ///
    /// If it is one, and this program was built without the engine's defects.
    pub fn wake(self) -> std::result::Result<(), &'static str> {
        let Some(name) = self.of_the_engine() else { return Ok(()) };
        wake(name)
    }

    /// Returns `true` if the defect is in the client part of a storage, on this side of the network.
    pub(crate) fn is_of_the_driver(self) -> bool {
        matches!(self, Self::ErrorIsContention | Self::ErrorIsSuccess)
    }

    /// Returns `true` if the defect is in the server.
    pub(crate) fn is_of_the_server(self) -> bool {
        self == Self::LeasesUnlogged
    }

    fn of_the_engine(self) -> Option<&'static str> {
        Some(match self {
            Self::CanceledWaiterStays => "canceled-waiter-stays",
            Self::DeadlineFromReply => "deadline-from-reply",
            Self::DropWithoutRelease => "drop-without-release",
            Self::DropWithoutResolver => "drop-without-resolver",
            Self::ExpiredStillListed => "expired-still-listed",
            Self::GhostAcquire => "ghost-acquire",
            Self::IntervalAfterLastTry => "interval-after-last-try",
            Self::LateRenewalRevives => "late-renewal-revives",
            Self::NoRecheck => "no-recheck",
            Self::OwnerPerClient => "owner-per-client",
            _ => return None,
        })
    }
}

#[cfg(leasehold_planted)]
fn wake(name: &str) -> std::result::Result<(), &'static str> {
    if leasehold::__planted::wake(name) { Ok(()) } else { Err("the engine has no such defect") }
}

#[cfg(not(leasehold_planted))]
fn wake(_: &str) -> std::result::Result<(), &'static str> {
    Err("built without defects; build with RUSTFLAGS=\"--cfg leasehold_planted\", as scripts/test does")
}

/// A storage with one defect or none. [`Defective::beside`] makes further clients of the same locks.
pub struct Defective<S> {
    inner: S,
    defect: Option<Defect>,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    names: HashMap<Name, Known>,
    /// Owners whose leases a defect has shortened. A storage that does so by mistake tells nothing of it.
    shortened: HashSet<Owner>,
}

#[derive(Default)]
struct Known {
    owner: Option<Owner>,
    released: bool,
    ttl: Duration,
    token: u64,
}

impl<S: Storage> Defective<S> {
    /// Wraps the storage of the first client.
    pub fn new(inner: S, defect: Option<Defect>) -> Self {
        Self { inner, defect, shared: Arc::default() }
    }

    /// Wraps the storage of a further client.
    #[must_use]
    pub fn beside(&self, inner: S) -> Self {
        Self { inner, defect: self.defect, shared: Arc::clone(&self.shared) }
    }

    fn is(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn acquire_one(&self, claim: &Claim) -> Result<AcquireReply> {
        let mut bent = claim.clone();
        if self.is(Defect::IgnoresPatience) {
            bent.patience = Duration::MAX;
        }
        let answer = match only(self.inner.acquire(&[bent]).await) {
            Err(_) if self.is(Defect::ErrorIsContention) => {
                return Ok(AcquireReply::Held { holder: None, retry_after: None });
            }
            Err(_) if self.is(Defect::ErrorIsSuccess) => {
                let token = self.shared().names.get(&claim.name).map_or(1, |known| known.token + 1);
                return Ok(AcquireReply::Granted { token: Token::new(token), ttl: claim.ttl });
            }
            answer => answer?,
        };
        let AcquireReply::Granted { token, ttl } = answer else { return Ok(answer) };
        let (taken_over, token) = {
            let mut shared = self.shared();
            let known = shared.names.entry(claim.name.clone()).or_default();
            let again = known.owner == Some(claim.owner);
            let taken_over = known.owner.is_some() && !again && !known.released;
            known.token = match self.defect {
                Some(Defect::TokensRestart) if again => known.token,
                Some(Defect::TokensRestart) if known.released => 1,
                Some(Defect::TokensRestart) => known.token + 1,
                _ => token.get(),
            };
            (known.owner, known.released, known.ttl) = (Some(claim.owner), false, claim.ttl);
            (taken_over, Token::new(known.token))
        };
        if taken_over && self.is(Defect::TakeoverKeepsDeadline) {
            self.shared().shortened.insert(claim.owner);
            let over = Claim::new(claim.name.clone(), claim.owner, Duration::from_millis(1));
            let over = over.shorten(true).patience(Duration::from_secs(1));
            only(self.inner.renew(&[over]).await)?;
        }
        Ok(AcquireReply::Granted { token, ttl })
    }

    async fn renew_one(&self, claim: &Claim) -> Result<RenewReply> {
        let shorter = self.shared().names.get(&claim.name).is_some_and(|known| claim.ttl < known.ttl);
        if shorter && self.is(Defect::ShorterTtlDeletes) {
            only(self.inner.release(std::slice::from_ref(claim)).await)?;
            return Ok(RenewReply::Renewed { ttl: claim.ttl });
        }
        let answer = only(self.inner.renew(std::slice::from_ref(claim)).await)?;
        if answer == RenewReply::NotHeld && self.is(Defect::RenewsAsUpsert) {
            let upsert = claim.clone().wait(false).patience(Duration::MAX);
            if let AcquireReply::Granted { ttl, .. } = only(self.inner.acquire(&[upsert]).await)? {
                return Ok(RenewReply::Renewed { ttl });
            }
        }
        Ok(answer)
    }

    async fn release_one(&self, claim: &Claim) -> Result<ReleaseReply> {
        let mut bent = claim.clone();
        if self.is(Defect::ReleasesForAnyOwner) || self.is(Defect::KeepsEntries) {
            let holder = self.inner.inspect(&claim.name).await?.first().map(|holder| holder.owner);
            match holder {
                Some(owner) if self.is(Defect::ReleasesForAnyOwner) => bent.owner = owner,
                holder if self.is(Defect::KeepsEntries) && holder != Some(claim.owner) => {
                    return Ok(ReleaseReply::NotHeld);
                }
                _ => {}
            }
        }
        let answer = only(self.inner.release(&[bent]).await);
        if answer.is_ok()
            && let Some(known) = self.shared().names.get_mut(&claim.name)
            && known.owner == Some(claim.owner)
        {
            known.released = true;
        }
        answer
    }
}

impl<S: fmt::Debug> fmt::Debug for Defective<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Defective").field("inner", &self.inner).finish_non_exhaustive()
    }
}

impl<S: fmt::Display> fmt::Display for Defective<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

impl<S: Storage> Storage for Defective<S> {
    fn guarantees(&self) -> Guarantees {
        self.inner.guarantees()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<AcquireReply>> {
        if self.defect.is_none() {
            return self.inner.acquire(claims).await;
        }
        let mut answers = Vec::new();
        for claim in claims {
            answers.push(self.acquire_one(claim).await);
        }
        answers
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<RenewReply>> {
        if self.defect.is_none() {
            return self.inner.renew(claims).await;
        }
        let mut answers = Vec::new();
        for claim in claims {
            answers.push(self.renew_one(claim).await);
        }
        answers
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        if self.defect.is_none() {
            return self.inner.release(claims).await;
        }
        let mut answers = Vec::new();
        for claim in claims {
            answers.push(self.release_one(claim).await);
        }
        answers
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        self.inner.inspect(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        self.inner.list(prefix, after, limit).await
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        self.inner.findings().await
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        self.inner.watch(added, removed);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let (forgets, shared) = (self.is(Defect::ForgetsHints), Arc::clone(&self.shared));
        Box::pin(self.inner.hints()).filter(move |hint| {
            let of_shortened = match hint {
                Hint::Owner(owner) => {
                    shared.lock().unwrap_or_else(PoisonError::into_inner).shortened.contains(owner)
                }
                _ => false,
            };
            std::future::ready(!forgets && !of_shortened)
        })
    }
}

fn only<T>(answers: Vec<Result<T>>) -> Result<T> {
    let missing = || Err(Error::new(ErrorKind::Internal, "the storage did not answer the claim"));
    answers.into_iter().next().unwrap_or_else(missing)
}
