use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_core::Stream;
use leasehold::Result;
use leasehold::storage::{
    Acquire, Claim, Guarantees, Hint, Holder, Limits, Name, Owner, Release, Renew, Storage,
};
use tokio::time::sleep;

/// Executes at once and answers late, as a link does that is slow on the way back.
pub(super) struct Slow<S> {
    inner: S,
    delays: Arc<Delays>,
}

/// The longest delay of an answer of each verb, in milliseconds.
#[derive(Default)]
pub(super) struct Delays {
    pub(super) acquire: AtomicU64,
    pub(super) renew: AtomicU64,
}

impl<S> Slow<S> {
    pub(super) fn new(inner: S, delays: Arc<Delays>) -> Self {
        Self { inner, delays }
    }
}

/// Anything up to the longest, more often long.
async fn delay(longest: &AtomicU64) {
    let longest = longest.load(Ordering::Relaxed);
    if longest > 0 {
        let [a, b, ..] = Owner::random().to_bytes();
        let part = u64::from(std::cmp::max(a, b));
        sleep(Duration::from_millis(longest * part / 255)).await;
    }
}

impl<S: fmt::Debug> fmt::Debug for Slow<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Slow").field(&self.inner).finish()
    }
}

impl<S: fmt::Display> fmt::Display for Slow<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.inner, f)
    }
}

impl<S: Storage> Storage for Slow<S> {
    fn guarantees(&self) -> Guarantees {
        self.inner.guarantees()
    }

    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<Acquire>> {
        let answers = self.inner.acquire(claims).await;
        delay(&self.delays.acquire).await;
        answers
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<Renew>> {
        let answers = self.inner.renew(claims).await;
        delay(&self.delays.renew).await;
        answers
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<Release>> {
        self.inner.release(claims).await
    }

    async fn inspect(&self, name: &Name) -> Result<Option<Holder>> {
        self.inner.inspect(name).await
    }

    async fn list(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Result<Vec<Holder>> {
        self.inner.list(prefix, after, limit).await
    }

    fn watch(&self, names: &[Name]) {
        self.inner.watch(names);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        self.inner.hints()
    }
}
