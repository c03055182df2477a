use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use futures_core::Stream;

use super::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, Limits, Name, ReleaseReply, RenewReply,
    Share, Storage, registry,
};
use crate::error::{Error, ErrorKind, Result};

/// A storage of any type. It is a storage itself, so it can be wrapped. Cheap to clone.
#[derive(Clone)]
pub struct AnyStorage(Arc<dyn Erased>);

impl AnyStorage {
    /// Erases the type of a storage.
    pub fn new(storage: impl Storage) -> Self {
        Self(Arc::new(storage))
    }

    /// Connects to the storage that a URL names, as [`Locks::connect`](crate::Locks::connect) does, but
    /// without an engine. For programs that call or wrap a storage themselves.
    ///
    /// # Errors
    ///
    /// - [`Invalid`](crate::ErrorKind::Invalid) if the URL is wrong; the text lists what is known.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable) if the storage cannot be reached.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the feature for that scheme is off, or the storage
    ///   is not fit to keep locks.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future leaves nothing running.
    pub async fn connect(url: &str) -> Result<Self> {
        registry::parse(url)?.connect().await
    }
}

impl AnyStorage {
    /// Calls the storage for the claims whose share it can grant, and answers the others with an error. Returns the
    /// answers in the order of the claims.
    async fn within_limits<T>(
        &self,
        claims: &[Claim],
        call: impl AsyncFnOnce(&[Claim]) -> Vec<Result<T>>,
    ) -> Vec<Result<T>> {
        if claims.iter().all(|claim| claim.share == Share::EXCLUSIVE) {
            return call(claims).await;
        }
        let limit_max = self.0.limits().share_max;
        let checked: Vec<_> = claims.iter().map(|claim| claim.share.check(limit_max)).collect();
        let granted = claims.iter().zip(&checked).filter(|(_, checked)| checked.is_ok());
        let granted: Vec<_> = granted.map(|(claim, _)| claim.clone()).collect();
        let mut answers = if granted.is_empty() { Vec::new() } else { call(&granted).await }.into_iter();
        let missing = || Error::new(ErrorKind::Internal, "the storage did not answer the claim");
        let answer = |checked: Result<()>| match checked {
            Ok(()) => answers.next().unwrap_or_else(|| Err(missing())),
            Err(error) => Err(error.definite()),
        };
        checked.into_iter().map(answer).collect()
    }
}

impl fmt::Debug for AnyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Display for AnyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl Storage for AnyStorage {
    fn guarantees(&self) -> Guarantees {
        self.0.guarantees()
    }

    fn limits(&self) -> Limits {
        self.0.limits()
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<AcquireReply>> {
        self.within_limits(claims, async |claims| self.0.acquire(claims).await).await
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<RenewReply>> {
        self.within_limits(claims, async |claims| self.0.renew(claims).await).await
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        self.within_limits(claims, async |claims| self.0.release(claims).await).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        self.0.inspect(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        self.0.list(prefix, after, limit).await
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        self.0.findings().await
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        self.0.watch(added, removed);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        self.0.hints()
    }
}

type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A [`Storage`] with boxed futures. Nothing else boxes them.
trait Erased: fmt::Debug + fmt::Display + Send + Sync {
    fn guarantees(&self) -> Guarantees;
    fn limits(&self) -> Limits;
    fn acquire<'a>(&'a self, claims: &'a [Claim]) -> Boxed<'a, Vec<Result<AcquireReply>>>;
    fn renew<'a>(&'a self, claims: &'a [Claim]) -> Boxed<'a, Vec<Result<RenewReply>>>;
    fn release<'a>(&'a self, claims: &'a [Claim]) -> Boxed<'a, Vec<Result<ReleaseReply>>>;
    fn inspect<'a>(&'a self, name: &'a Name) -> Boxed<'a, Result<Vec<Holder>>>;
    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> Boxed<'a, Result<Vec<Holder>>>;
    fn findings<'a>(&'a self) -> Boxed<'a, Result<Vec<Finding>>>;
    fn watch(&self, added: &[Name], removed: &[Name]);
    fn hints(&self) -> Pin<Box<dyn Stream<Item = Hint> + Send>>;
}

impl<S: Storage> Erased for S {
    fn guarantees(&self) -> Guarantees {
        Storage::guarantees(self)
    }

    fn limits(&self) -> Limits {
        Storage::limits(self)
    }

    fn acquire<'a>(&'a self, claims: &'a [Claim]) -> Boxed<'a, Vec<Result<AcquireReply>>> {
        Box::pin(Storage::acquire(self, claims))
    }

    fn renew<'a>(&'a self, claims: &'a [Claim]) -> Boxed<'a, Vec<Result<RenewReply>>> {
        Box::pin(Storage::renew(self, claims))
    }

    fn release<'a>(&'a self, claims: &'a [Claim]) -> Boxed<'a, Vec<Result<ReleaseReply>>> {
        Box::pin(Storage::release(self, claims))
    }

    fn inspect<'a>(&'a self, name: &'a Name) -> Boxed<'a, Result<Vec<Holder>>> {
        Box::pin(Storage::inspect(self, name))
    }

    fn list<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a Cursor>,
        limit: usize,
    ) -> Boxed<'a, Result<Vec<Holder>>> {
        Box::pin(Storage::list(self, prefix, after, limit))
    }

    fn findings<'a>(&'a self) -> Boxed<'a, Result<Vec<Finding>>> {
        Box::pin(Storage::findings(self))
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        Storage::watch(self, added, removed);
    }

    fn hints(&self) -> Pin<Box<dyn Stream<Item = Hint> + Send>> {
        Box::pin(Storage::hints(self))
    }
}
