use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use leasehold::storage::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, Limits, Memory, Name, Owner,
    ReleaseReply, RenewReply, Storage, Token,
};
use leasehold::{Error, ErrorKind, Result};

pub(crate) const PASSWORD: &str = "S3CRET";

/// A defect, described by what the storage does. Each was found in some lock library or is one statement
/// away from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Defect {
    /// Reports every release as that of a holder.
    AlwaysSaysReleased,
    /// Assigns the answers of a batch to the claims in reverse order.
    AnswersBackwards,
    /// Answers a repeated acquire of the holder without a new TTL.
    NoNewTtlWhenRepeated,
    /// Checks that the lock is free, and takes it later.
    ChecksThenActs,
    /// Keeps labels in a column of 255 bytes.
    CutsLabels,
    /// Counts the TTL in units that are too short.
    EndsEarly,
    /// Leaves a queue entry for claims that do not wait, too.
    EveryClaimWaits,
    /// Sends no hints to observers.
    HintsNoName,
    /// Does not wake the next waiter.
    HintsNoOwner,
    /// Executes every claim, however late.
    IgnoresPatience,
    /// Releases leases, but not queue entries.
    KeepsEntries,
    /// Orders waiters by when their owner was first seen.
    KeepsPlaces,
    /// Grants a free lock to any client, ahead of the waiters.
    LetsNewcomersPass,
    /// Sorts names by a locale instead of by bytes.
    ListsByCollation,
    /// A page begins behind every holder of the name where the page before ended.
    PagesBehindNames,
    /// Keeps the later end, even if the claim is shorter.
    NeverShortens,
    /// Increments the token with every grant, also for the same owner.
    NewTokenForTheSameOwner,
    None,
    /// Splices the prefix into a LIKE.
    PrefixIsAPattern,
    /// Has no defect, and makes no promises.
    PromisesNothing,
    /// Deletes by name alone.
    ReleasesForAnyOwner,
    /// Shows the TTL as the remaining time.
    RemainderStands,
    /// Reports no findings.
    FindsNothing,
    /// Inserts the lease if a renewal does not find it.
    RenewsAsUpsert,
    /// Answers a renewal without moving the deadline.
    RenewsWithoutEffect,
    /// Executes a shortening renewal, however late it arrives.
    ShortensLate,
    /// Forgets to tell the owner of a lease that another client has shortened it.
    ShortensSilently,
    /// Writes the end of the lease whenever its owner asks again.
    ShortensWhenRepeated,
    /// Writes the end of the lease with every renewal.
    ShortensWithEveryRenewal,
    /// Derives `Debug`.
    DerivesDebug,
    /// Runs a batch as one transaction, which fails as a whole.
    SpoilsBatches,
    /// Reuses the token of the expired lease for the next one.
    TokenReusedAfterExpiry,
    /// Deletes the counter along with the lease.
    TokensRestart,
    /// Compares names as a padded CHAR column does.
    TrimsNames,
}

/// A client of a memory storage with one defect.
pub(crate) struct Broken {
    inner: Memory,
    defect: Defect,
    shared: Arc<Mutex<Shared>>,
}

/// What the clients of one broken storage share besides its memory.
#[derive(Default)]
struct Shared {
    tokens: HashMap<Name, Counter>,
    ttls: HashMap<Name, Duration>,
    queues: HashMap<Name, Vec<Claim>>,
    left: HashSet<Owner>,
    shortened: HashSet<Owner>,
}

/// A broken token counter, which replaces the true token of the current grant.
#[derive(Default)]
struct Counter {
    owner: Option<Owner>,
    released: bool,
    shown: u64,
}

impl Broken {
    pub(crate) fn new(defect: Defect) -> Self {
        Self { inner: Memory::new(), defect, shared: Arc::default() }
    }

    pub(crate) fn client(&self) -> Self {
        Self { inner: self.inner.clone(), defect: self.defect, shared: Arc::clone(&self.shared) }
    }

    fn is(&self, defect: Defect) -> bool {
        self.defect == defect
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = if self.is(Defect::DerivesDebug) { PASSWORD } else { "" };
        f.debug_struct("Broken").field("password", &password).finish()
    }
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("broken")
    }
}

impl Storage for Broken {
    fn guarantees(&self) -> Guarantees {
        let guarantees = self.inner.guarantees();
        if self.is(Defect::PromisesNothing) {
            return Guarantees::new(guarantees.tier, guarantees.clock);
        }
        guarantees
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<AcquireReply>> {
        if self.is(Defect::SpoilsBatches) && claims.iter().any(|claim| claim.patience.is_zero()) {
            return claims.iter().map(|_| Err(spoiled())).collect();
        }
        let mut answers = Vec::new();
        for claim in claims {
            answers.push(self.acquire_one(&self.changed(claim)).await);
        }
        self.in_place(answers)
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<RenewReply>> {
        let mut answers = Vec::new();
        for claim in claims {
            answers.push(self.renew_one(&self.changed(claim)).await);
        }
        self.in_place(answers)
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        let mut answers = Vec::new();
        for claim in claims {
            answers.push(self.release_one(&self.changed(claim)).await);
        }
        self.in_place(answers)
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        let changed = self.changed_name(name);
        let holders = self.inner.inspect(&changed).await?;
        Ok(holders.into_iter().map(|holder| self.shown(holder)).collect())
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        let pattern = self.is(Defect::PrefixIsAPattern);
        let all = self.inner.list(if pattern { "" } else { prefix }, None, usize::MAX).await?;
        let mut holders: Vec<_> = all.into_iter().map(|holder| self.shown(holder)).collect();
        if pattern {
            holders.retain(|holder| like(holder.name.as_str(), &format!("{prefix}%")));
        }
        if self.is(Defect::ListsByCollation) {
            holders.sort_by_key(|holder| holder.name.as_str().to_lowercase());
        }
        if let Some(after) = after {
            let by_name = self.is(Defect::PagesBehindNames);
            holders.retain(
                |holder| {
                    if by_name { holder.name > after.name } else { holder.cursor() > *after }
                },
            );
        }
        holders.truncate(limit);
        Ok(holders)
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        match self.defect {
            Defect::FindsNothing => Ok(Vec::new()),
            Defect::DerivesDebug => Ok(vec![Finding::good("server", format!("password=`{PASSWORD}`"))]),
            _ => self.inner.findings().await,
        }
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        self.inner.watch(added, removed);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let (defect, shared) = (self.defect, Arc::clone(&self.shared));
        Box::pin(self.inner.hints().filter(move |hint| {
            let forgotten = match hint {
                Hint::Owner(owner) if defect == Defect::ShortensSilently => {
                    shared.lock().unwrap_or_else(PoisonError::into_inner).shortened.contains(owner)
                }
                Hint::Owner(_) => defect == Defect::HintsNoOwner,
                Hint::Name(_) => defect == Defect::HintsNoName,
                _ => false,
            };
            std::future::ready(!forgotten)
        }))
    }
}

impl Broken {
    async fn acquire_one(&self, claim: &Claim) -> Result<AcquireReply> {
        let seen = self.inner.inspect(&claim.name).await?.pop();
        if self.is(Defect::NoNewTtlWhenRepeated)
            && let Some(holder) = seen.as_ref().filter(|holder| holder.owner == claim.owner)
        {
            let (token, ttl) = (holder.token, claim.ttl);
            return Ok(AcquireReply::Granted { token, ttl });
        }
        if self.is(Defect::ChecksThenActs) {
            tokio::task::yield_now().await;
        }
        let answer = match self.defect {
            Defect::LetsNewcomersPass | Defect::KeepsPlaces => self.acquire_out_of_turn(claim).await,
            _ => self.inner_acquire(claim).await,
        }?;
        match answer {
            AcquireReply::Granted { token, .. } => {
                if self.is(Defect::ShortensWhenRepeated) && seen.is_some() {
                    let shortening = claim.clone().shorten(true).patience(Duration::MAX);
                    only(self.inner.renew(&[shortening]).await)?;
                }
                let ttl = claim.ttl;
                self.shared().ttls.insert(claim.name.clone(), ttl);
                let token = self.count(claim, token);
                Ok(AcquireReply::Granted { token, ttl })
            }
            AcquireReply::Held { holder: Some(holder), .. }
                if self.is(Defect::ChecksThenActs) && seen.is_none() && !claim.patience.is_zero() =>
            {
                let (token, ttl) = (Token::new(holder.token.get() + 1), claim.ttl);
                Ok(AcquireReply::Granted { token, ttl })
            }
            AcquireReply::Held { holder, retry_after } => {
                let holder = holder.map(|holder| self.shown(holder));
                Ok(AcquireReply::Held { holder, retry_after })
            }
            other => Ok(other),
        }
    }

    async fn renew_one(&self, claim: &Claim) -> Result<RenewReply> {
        if self.is(Defect::RenewsWithoutEffect) {
            let holder = self.inner.inspect(&claim.name).await?.pop();
            return Ok(match holder {
                Some(holder) if holder.owner == claim.owner => RenewReply::Renewed { ttl: claim.ttl },
                _ => RenewReply::NotHeld,
            });
        }
        let mut renewing = self.shortened(claim);
        match self.defect {
            Defect::NeverShortens => renewing.shorten = false,
            Defect::ShortensLate if claim.shorten => renewing.patience = Duration::MAX,
            Defect::ShortensWithEveryRenewal if !claim.shorten => {
                renewing = renewing.shorten(true).patience(Duration::MAX);
            }
            _ => {}
        }
        if renewing.shorten {
            self.shared().shortened.insert(claim.owner);
        }
        let answer = only(self.inner.renew(&[renewing]).await)?;
        if answer != RenewReply::NotHeld {
            self.shared().ttls.insert(claim.name.clone(), claim.ttl);
            return Ok(RenewReply::Renewed { ttl: claim.ttl });
        }
        if self.is(Defect::RenewsAsUpsert) {
            let upsert = claim.clone().wait(false).patience(Duration::MAX);
            if let AcquireReply::Granted { ttl, .. } = self.inner_acquire(&upsert).await? {
                return Ok(RenewReply::Renewed { ttl });
            }
        }
        Ok(answer)
    }

    async fn release_one(&self, claim: &Claim) -> Result<ReleaseReply> {
        let holder = self.inner.inspect(&claim.name).await?.pop();
        let ours = holder.as_ref().is_some_and(|holder| holder.owner == claim.owner);
        if self.is(Defect::KeepsEntries) && !ours {
            return Ok(ReleaseReply::NotHeld);
        }
        {
            let mut shared = self.shared();
            shared.left.insert(claim.owner);
            if let Some(queue) = shared.queues.get_mut(&claim.name) {
                queue.retain(|waiter| waiter.owner != claim.owner);
            }
            if let Some(counter) = shared.tokens.get_mut(&claim.name).filter(|_| ours) {
                counter.released = true;
            }
        }
        let answer = only(self.inner.release(std::slice::from_ref(claim)).await)?;
        if let Some(holder) = holder.filter(|_| self.is(Defect::ReleasesForAnyOwner) && !ours) {
            let mut theirs = claim.clone();
            theirs.owner = holder.owner;
            return only(self.inner.release(&[theirs]).await);
        }
        if self.is(Defect::AlwaysSaysReleased) {
            return Ok(ReleaseReply::Released);
        }
        Ok(answer)
    }

    /// Acquires with a queue of its own, by removing the other waiters for a moment.
    async fn acquire_out_of_turn(&self, claim: &Claim) -> Result<AcquireReply> {
        let queue = self.shared().queues.get(&claim.name).cloned().unwrap_or_default();
        let (waits, comes_back) = (
            queue.iter().any(|waiter| waiter.owner == claim.owner),
            self.shared().left.contains(&claim.owner),
        );
        let passes = match self.defect {
            Defect::LetsNewcomersPass => true,
            _ => comes_back && claim.wait && !waits,
        };
        let others: Vec<_> =
            queue.iter().filter(|waiter| passes && waiter.owner != claim.owner).cloned().collect();
        for other in &others {
            only(self.inner.release(std::slice::from_ref(other)).await)?;
        }
        let answer = self.inner_acquire(claim).await;
        for other in &others {
            self.inner_acquire(other).await?;
        }
        let mut shared = self.shared();
        let queue = shared.queues.entry(claim.name.clone()).or_default();
        match &answer {
            Ok(AcquireReply::Held { .. }) if claim.wait && !waits && comes_back => {
                queue.insert(0, claim.clone())
            }
            Ok(AcquireReply::Held { .. }) if claim.wait && !waits => queue.push(claim.clone()),
            Ok(AcquireReply::Granted { .. }) => queue.retain(|waiter| waiter.owner != claim.owner),
            _ => {}
        }
        answer
    }

    async fn inner_acquire(&self, claim: &Claim) -> Result<AcquireReply> {
        only(self.inner.acquire(&[self.shortened(claim)]).await)
    }

    fn shortened(&self, claim: &Claim) -> Claim {
        let mut shortened = claim.clone();
        if self.is(Defect::EndsEarly) {
            shortened.ttl = claim.ttl * 9 / 10;
        }
        shortened
    }

    /// Changes the claim before it reaches the memory.
    fn changed(&self, claim: &Claim) -> Claim {
        let mut changed = claim.clone();
        changed.name = self.changed_name(&claim.name);
        match self.defect {
            Defect::EveryClaimWaits => changed.wait = true,
            Defect::IgnoresPatience => changed.patience = Duration::MAX,
            Defect::CutsLabels => changed.label = changed.label.as_deref().map(|label| cut(label).into()),
            _ => {}
        }
        changed
    }

    fn changed_name(&self, name: &Name) -> Name {
        let trimmed = Name::new(name.as_str().trim_end_matches(' '));
        match trimmed {
            Ok(trimmed) if self.is(Defect::TrimsNames) => trimmed,
            _ => name.clone(),
        }
    }

    /// Returns the token that the broken counter assigns to this grant.
    fn count(&self, claim: &Claim, token: Token) -> Token {
        let mut shared = self.shared();
        let counter = shared.tokens.entry(claim.name.clone()).or_default();
        let (again, released) = (counter.owner == Some(claim.owner), counter.released);
        counter.shown = match self.defect {
            Defect::NewTokenForTheSameOwner => counter.shown + 1,
            _ if again && !released => return Token::new(counter.shown),
            Defect::TokensRestart if released => 1,
            Defect::TokensRestart => counter.shown + 1,
            Defect::TokenReusedAfterExpiry if counter.owner.is_some() && !released => counter.shown,
            _ => token.get(),
        };
        (counter.owner, counter.released) = (Some(claim.owner), false);
        Token::new(counter.shown)
    }

    /// Returns the holder as other clients see it.
    fn shown(&self, mut holder: Holder) -> Holder {
        let shared = self.shared();
        if let Some(counter) = shared.tokens.get(&holder.name) {
            holder.token = Token::new(counter.shown);
        }
        if let Some(ttl) = shared.ttls.get(&holder.name).filter(|_| self.is(Defect::RemainderStands)) {
            holder.remaining = *ttl;
        }
        holder
    }

    fn in_place<T>(&self, mut answers: Vec<T>) -> Vec<T> {
        if self.is(Defect::AnswersBackwards) {
            answers.reverse();
        }
        answers
    }
}

/// Matches as SQL's LIKE does: `%` stands for any text, `_` for any one character.
fn like(text: &str, pattern: &str) -> bool {
    let Some(first) = pattern.chars().next() else {
        return text.is_empty();
    };
    let rest = &pattern[first.len_utf8()..];
    let mut chars = text.chars();
    match (first, chars.next()) {
        ('%', None) => like(text, rest),
        ('%', Some(_)) => like(text, rest) || like(chars.as_str(), pattern),
        ('_', Some(_)) => like(chars.as_str(), rest),
        (literal, Some(c)) if literal == c => like(chars.as_str(), rest),
        _ => false,
    }
}

fn cut(label: &str) -> &str {
    let end = (0..=std::cmp::min(255, label.len())).rev().find(|&end| label.is_char_boundary(end));
    label.get(..end.unwrap_or_default()).unwrap_or_default()
}

fn spoiled() -> Error {
    Error::new(ErrorKind::Unavailable, "another claim of the batch failed")
}

fn only<T>(answers: Vec<Result<T>>) -> Result<T> {
    answers.into_iter().next().expect("BUG: one answer for one claim")
}
