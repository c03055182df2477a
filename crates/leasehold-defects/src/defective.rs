use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_core::Stream;
use futures_util::StreamExt;
use leasehold::storage::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, Limits, Name, ReleaseReply, RenewReply,
    Storage,
};
use leasehold::{Error, ErrorKind, Result};

use crate::tokens::Shared;
use crate::{Defect, Place};

/// The secret that a storage with [`Defect::DerivesDebug`] shows.
pub const PASSWORD: &str = "S3CRET";

/// A storage with one defect of a storage or of its driver, or with none. [`Defective::beside`] makes further
/// clients of the same locks.
pub struct Defective<S> {
    pub(crate) inner: S,
    /// `None` also for a defect that is planted elsewhere.
    defect: Option<Defect>,
    promises: bool,
    shared: Arc<Mutex<Shared>>,
}

impl<S: Storage> Defective<S> {
    /// Wraps the storage of the first client.
    pub fn new(inner: S, defect: Option<Defect>) -> Self {
        let defect = defect.filter(|defect| matches!(defect.place(), Place::Driver | Place::Storage));
        Self { inner, defect, promises: true, shared: Arc::default() }
    }

    /// Wraps the storage of a further client.
    #[must_use]
    pub fn beside(&self, inner: S) -> Self {
        Self { inner, defect: self.defect, promises: self.promises, shared: Arc::clone(&self.shared) }
    }

    /// Promises only the tier, and no order, tokens or hints.
    #[must_use]
    pub fn without_promises(self) -> Self {
        Self { promises: false, ..self }
    }

    pub(crate) fn is(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    pub(crate) fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the holder as clients see it.
    pub(crate) fn shown(&self, holder: Holder) -> Holder {
        match self.defect {
            Some(defect) => self.shared().shown(holder, defect),
            None => holder,
        }
    }

    fn in_place<T>(&self, mut answers: Vec<T>) -> Vec<T> {
        if self.is(Defect::AnswersBackwards) {
            answers.reverse();
        }
        answers
    }
}

impl<S: Storage> Storage for Defective<S> {
    fn guarantees(&self) -> Guarantees {
        let guarantees = self.inner.guarantees();
        match self.promises {
            true => guarantees,
            false => Guarantees::new(guarantees.tier, guarantees.clock),
        }
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<AcquireReply>> {
        let Some(defect) = self.defect else { return self.inner.acquire(claims).await };
        if defect == Defect::SpoilsBatches && claims.iter().any(|claim| claim.patience.is_zero()) {
            let spoiled = || Error::new(ErrorKind::Unavailable, "another claim of the batch failed");
            return claims.iter().map(|_| Err(spoiled())).collect();
        }
        let mut answers = Vec::new();
        for claim in claims {
            answers.push(self.acquire_one(&self.changed(claim), defect).await);
        }
        self.in_place(answers)
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<RenewReply>> {
        let Some(defect) = self.defect else { return self.inner.renew(claims).await };
        let mut answers = Vec::new();
        for claim in claims {
            answers.push(self.renew_one(&self.changed(claim), defect).await);
        }
        self.in_place(answers)
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        let Some(defect) = self.defect else { return self.inner.release(claims).await };
        let mut answers = Vec::new();
        for claim in claims {
            answers.push(self.release_one(&self.changed(claim), defect).await);
        }
        self.in_place(answers)
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        let holders = self.inner.inspect(&self.changed_name(name)).await?;
        Ok(holders.into_iter().map(|holder| self.shown(holder)).collect())
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        let Some(defect) = self.defect else { return self.inner.list(prefix, after, limit).await };
        let pattern = defect == Defect::PrefixIsAPattern;
        // Cut into pages below, by what the clients see.
        let all = self.inner.list(if pattern { "" } else { prefix }, None, usize::MAX).await?;
        let mut holders: Vec<_> = all.into_iter().map(|holder| self.shown(holder)).collect();
        if pattern {
            holders.retain(|holder| is_like(holder.name.as_str(), &format!("{prefix}%")));
        }
        if defect == Defect::ListsByCollation {
            holders.sort_by_key(|holder| holder.name.as_str().to_lowercase());
        }
        if let Some(after) = after {
            holders.retain(|holder| match defect {
                Defect::PagesBehindNames => holder.name > after.name,
                _ => holder.cursor() > *after,
            });
        }
        holders.truncate(limit);
        Ok(holders)
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        match self.defect {
            Some(Defect::FindsNothing) => Ok(Vec::new()),
            Some(Defect::DerivesDebug) => Ok(vec![Finding::good("server", format!("password=`{PASSWORD}`"))]),
            _ => self.inner.findings().await,
        }
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        self.inner.watch(added, removed);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let (defect, shared) = (self.defect, Arc::clone(&self.shared));
        Box::pin(self.inner.hints().filter(move |hint| {
            let withheld = match (hint, defect) {
                (Hint::Owner(_), Some(Defect::HintsNoOwner)) => true,
                (Hint::Name(_), Some(Defect::HintsNoName)) => true,
                (Hint::Owner(owner), Some(Defect::ShortensSilently | Defect::TakeoverKeepsDeadline)) => {
                    shared.lock().unwrap_or_else(PoisonError::into_inner).shortened.contains(owner)
                }
                _ => false,
            };
            std::future::ready(!withheld)
        }))
    }
}

impl<S: fmt::Debug> fmt::Debug for Defective<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let password = if self.defect == Some(Defect::DerivesDebug) { PASSWORD } else { "" };
        f.debug_struct("Defective")
            .field("inner", &self.inner)
            .field("password", &password)
            .finish_non_exhaustive()
    }
}

impl<S: fmt::Display> fmt::Display for Defective<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

/// Matches as SQL's LIKE does: `%` stands for any text, `_` for any one character.
fn is_like(text: &str, pattern: &str) -> bool {
    let Some(first) = pattern.chars().next() else {
        return text.is_empty();
    };
    let rest = &pattern[first.len_utf8()..];
    let mut chars = text.chars();
    match (first, chars.next()) {
        ('%', None) => is_like(text, rest),
        ('%', Some(_)) => is_like(text, rest) || is_like(chars.as_str(), pattern),
        ('_', Some(_)) => is_like(chars.as_str(), rest),
        (literal, Some(c)) if literal == c => is_like(chars.as_str(), rest),
        _ => false,
    }
}
