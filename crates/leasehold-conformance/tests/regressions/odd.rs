use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use leasehold::storage::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, Limits, Memory, Name, ReleaseReply,
    RenewReply, Storage,
};
use leasehold::{Error, ErrorKind, Result};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::sleep;

/// An unusual behavior of a storage that the contract allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oddity {
    /// Answers an acquire this long after it was executed.
    AnswersLate(Duration),
    /// Fails to release, with an error of this kind.
    FailsToRelease(ErrorKind),
    /// Answers each renewal with an error of this kind.
    FailsToRenew(ErrorKind),
    /// Reports this granted TTL for any claim.
    GrantsFor(Duration),
    /// Lists the first page, whatever the start.
    ListsTheSamePage,
    /// Takes this long to inspect.
    InspectsSlowly(Duration),
    PanicsInHints,
    PanicsInWatch,
    /// Shows holders with a lease that never ends.
    NeverExpires,
}

/// A memory storage with one unusual behavior.
pub(crate) struct Odd {
    memory: Memory,
    oddity: Oddity,
    inspections: Inspections,
    hints: Mutex<Option<UnboundedReceiver<Hint>>>,
    hint: UnboundedSender<Hint>,
}

/// A counter of the inspect calls in flight.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inspections(Arc<(AtomicUsize, AtomicUsize)>);

impl Odd {
    pub(crate) fn new(memory: &Memory, oddity: Oddity) -> Self {
        let (hint, hints) = unbounded_channel();
        let (memory, inspections, hints) = (memory.clone(), Inspections::default(), Mutex::new(Some(hints)));
        Self { memory, oddity, inspections, hints, hint }
    }

    pub(crate) fn inspections(&self) -> Inspections {
        self.inspections.clone()
    }

    /// Returns a sender of hints.
    pub(crate) fn hint(&self) -> UnboundedSender<Hint> {
        self.hint.clone()
    }
}

impl Inspections {
    /// Returns the largest number of inspect calls that were in flight together.
    pub(crate) fn most(&self) -> usize {
        self.0.1.load(Ordering::Relaxed)
    }

    fn begin(&self) {
        let now = self.0.0.fetch_add(1, Ordering::Relaxed) + 1;
        self.0.1.fetch_max(now, Ordering::Relaxed);
    }

    fn end(&self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Odd").field(&self.oddity).finish()
    }
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("odd")
    }
}

impl Storage for Odd {
    fn guarantees(&self) -> Guarantees {
        self.memory.guarantees()
    }

    fn limits(&self) -> Limits {
        self.memory.limits()
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<AcquireReply>> {
        let answers = self.memory.acquire(claims).await;
        if let Oddity::AnswersLate(by) = self.oddity {
            sleep(by).await;
        }
        let said = |answer| match (answer, self.oddity) {
            (AcquireReply::Granted { token, .. }, Oddity::GrantsFor(ttl)) => {
                AcquireReply::Granted { token, ttl }
            }
            (answer, _) => answer,
        };
        answers.into_iter().map(|answer| answer.map(said)).collect()
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<RenewReply>> {
        if let Oddity::FailsToRenew(kind) = self.oddity {
            return claims.iter().map(|_| Err(Error::new(kind, "the reason"))).collect();
        }
        self.memory.renew(claims).await
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        if let Oddity::FailsToRelease(kind) = self.oddity {
            return claims.iter().map(|_| Err(Error::new(kind, "the reason"))).collect();
        }
        self.memory.release(claims).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        self.inspections.begin();
        if let Oddity::InspectsSlowly(by) = self.oddity {
            sleep(by).await;
        }
        self.inspections.end();
        let mut holders = self.memory.inspect(name).await?;
        for holder in holders.iter_mut().filter(|_| self.oddity == Oddity::NeverExpires) {
            holder.remaining = Duration::MAX;
        }
        Ok(holders)
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        let after = after.filter(|_| self.oddity != Oddity::ListsTheSamePage);
        self.memory.list(prefix, after, limit).await
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        self.memory.findings().await
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        assert_ne!(self.oddity, Oddity::PanicsInWatch, "told to panic");
        self.memory.watch(added, removed);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        assert_ne!(self.oddity, Oddity::PanicsInHints, "told to panic");
        let put_in = self.hints.lock().unwrap_or_else(PoisonError::into_inner).take();
        let put_in = stream::unfold(put_in, |put_in| async {
            let mut put_in = put_in?;
            put_in.recv().await.map(|hint| (hint, Some(put_in)))
        });
        stream::select(Box::pin(self.memory.hints()), Box::pin(put_in.chain(stream::pending())))
    }
}
