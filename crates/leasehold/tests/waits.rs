//! A long wait is logged while it lasts, so that the log of a program that hangs shows what it waits for.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use leasehold::storage::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, LeaseClock, Limits, Memory, Name,
    ReleaseReply, RenewReply, Storage, Tier,
};
use leasehold::{Locks, Result};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

fn client(storage: impl Storage) -> Locks {
    Locks::builder().on_current_runtime().build(storage).expect("it promises enough")
}

fn s(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Lets all tasks run until each waits for something.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_is_logged_once_while_it_lasts() {
    let logs = Logs::default();
    let _logging = tracing::subscriber::set_default(logs.clone());
    let memory = Memory::new();
    let (holder, waiter) = (client(memory.clone()), client(memory));
    let guard = holder.lock("x").label("the first").acquire().await.expect("free");
    // One claims at the storage, and the other waits in the local queue.
    let waiting = [0, 1].map(|_| {
        let lock = waiter.lock("x");
        tokio::spawn(async move { lock.acquire().await.map(drop) })
    });
    settle().await;
    tokio::time::sleep(s(9)).await;
    assert_eq!(logs.long_waits(), Vec::<String>::new(), "too early");
    tokio::time::sleep(s(1)).await;
    settle().await;
    let lines = logs.long_waits();
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in &lines {
        assert!(line.contains("name=x") && line.contains("holder=\"the first\""), "{line}");
        assert!(line.contains("waited=10"), "{line}");
    }
    tokio::time::sleep(s(60)).await;
    assert_eq!(logs.long_waits().len(), 2, "once for each acquisition");
    guard.release().await.expect("held");
    for waiting in waiting {
        waiting.await.expect("no panic").expect("granted");
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_for_a_silent_storage_says_so() {
    let logs = Logs::default();
    let _logging = tracing::subscriber::set_default(logs.clone());
    let lock = client(Silent).lock("x");
    let waiting = tokio::spawn(async move { lock.acquire().await.map(drop) });
    // The claim that is in flight after ten seconds ends within its patience, which is four seconds.
    tokio::time::sleep(s(15)).await;
    settle().await;
    let lines = logs.long_waits();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("the storage does not answer") && lines[0].contains("error="), "{lines:?}");
    waiting.await.expect("no panic").expect_err("silence ends it");
    assert_eq!(logs.long_waits().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lock_that_is_granted_soon_is_not_logged() {
    let logs = Logs::default();
    let _logging = tracing::subscriber::set_default(logs.clone());
    let locks = client(Memory::new());
    let guard = locks.lock("x").acquire().await.expect("free");
    tokio::time::sleep(s(30)).await;
    guard.release().await.expect("held");
    assert_eq!(logs.long_waits(), Vec::<String>::new());
}

/// A storage that never answers.
#[derive(Debug)]
struct Silent;

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("silence")
    }
}

impl Storage for Silent {
    fn guarantees(&self) -> Guarantees {
        Guarantees::new(Tier::Advisory, LeaseClock::Boot)
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    async fn acquire(&self, _: &[Claim]) -> Vec<Result<AcquireReply>> {
        std::future::pending().await
    }

    async fn renew(&self, _: &[Claim]) -> Vec<Result<RenewReply>> {
        std::future::pending().await
    }

    async fn release(&self, _: &[Claim]) -> Vec<Result<ReleaseReply>> {
        std::future::pending().await
    }

    async fn inspect(&self, _: &Name) -> Result<Vec<Holder>> {
        std::future::pending().await
    }

    async fn list(&self, _: &str, _: Option<&Cursor>, _: usize) -> Result<Vec<Holder>> {
        std::future::pending().await
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        std::future::pending().await
    }

    fn watch(&self, _: &[Name], _: &[Name]) {}

    fn hints(&self) -> impl futures_core::Stream<Item = Hint> + Send + 'static {
        futures_util::stream::pending()
    }
}

/// A subscriber that collects what is logged at the level `info`.
#[derive(Clone, Default)]
struct Logs(Arc<Mutex<Vec<String>>>);

impl Logs {
    fn long_waits(&self) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().filter(|line| line.contains("still waiting")).cloned().collect()
    }
}

impl Subscriber for Logs {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::INFO
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = Line(String::new());
        event.record(&mut line);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(line.0);
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let _ = write!(self.0, " {}={value:?}", field.name());
    }
}
