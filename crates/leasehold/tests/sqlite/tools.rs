//! Helpers of the tests: a directory, a storage, calls of it, and the tables of its file.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use leasehold::Error;
use leasehold::storage::sqlite::{Config, Sqlite};
use leasehold::storage::{
    AcquireReply, Claim, Hint, Name, Owner, ReleaseReply, RenewReply, Storage, Token, WAITER_HEARTBEAT,
};
use leasehold_testbed::scaled;

pub(crate) type Hints = Pin<Box<dyn Stream<Item = Hint> + Send>>;

/// A TTL longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// A directory for a lock file, removed when dropped.
pub(crate) struct Dir(tempfile::TempDir);

impl Dir {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().expect("a directory"))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns the path of the lock file.
    pub(crate) fn file(&self) -> PathBuf {
        self.part("")
    }

    /// Returns the path of a part of the lock file, by its ending.
    pub(crate) fn part(&self, ending: &str) -> PathBuf {
        self.path().join(format!("locks.db{ending}"))
    }
}

pub(crate) async fn open(file: &Path) -> Sqlite {
    Sqlite::open(Config::new(file)).await.expect("opened")
}

/// Opens a file that must be refused, and returns the error.
pub(crate) fn refusal(file: &Path) -> Error {
    run(Sqlite::open(Config::new(file))).expect_err("refused")
}

pub(crate) async fn try_acquire(storage: &Sqlite, claim: &Claim) -> Result<AcquireReply, Error> {
    storage.acquire(std::slice::from_ref(claim)).await.pop().expect("one answer")
}

pub(crate) async fn acquire(storage: &Sqlite, claim: &Claim) -> AcquireReply {
    try_acquire(storage, claim).await.expect("answered")
}

pub(crate) async fn renew(storage: &Sqlite, claim: &Claim) -> RenewReply {
    storage.renew(std::slice::from_ref(claim)).await.pop().expect("one answer").expect("answered")
}

pub(crate) async fn release(storage: &Sqlite, claim: &Claim) -> ReleaseReply {
    storage.release(std::slice::from_ref(claim)).await.pop().expect("one answer").expect("answered")
}

/// Acquires a lock that must be free.
pub(crate) async fn take(storage: &Sqlite, claim: &Claim) -> Token {
    match acquire(storage, claim).await {
        AcquireReply::Granted { token, .. } => token,
        held => panic!("{held:?}"),
    }
}

/// Sends a claim that must be refused, because another owner holds the lock.
pub(crate) async fn is_held(storage: &Sqlite, claim: &Claim) {
    let reply = acquire(storage, claim).await;
    assert!(matches!(reply, AcquireReply::Held { .. }), "{reply:?}");
}

/// Renews a lease that must be held.
pub(crate) async fn is_renewed(storage: &Sqlite, claim: &Claim) {
    let reply = renew(storage, claim).await;
    assert!(matches!(reply, RenewReply::Renewed { .. }), "{reply:?}");
}

/// Acquires as the engine does: again after each hint, and on its heartbeat. Calls `waiting` after the first refusal.
pub(crate) async fn wait_for(
    storage: &Sqlite,
    hints: &mut Hints,
    claim: &Claim,
    waiting: impl FnOnce(),
) -> Token {
    let mut waiting = Some(waiting);
    loop {
        if let AcquireReply::Granted { token, .. } = acquire(storage, claim).await {
            return token;
        }
        if let Some(waiting) = waiting.take() {
            waiting();
        }
        while let Ok(Some(Hint::Owner(owner))) = tokio::time::timeout(WAITER_HEARTBEAT, hints.next()).await
            && owner != claim.owner
        {}
    }
}

/// Opens the file once, and checks that the lock is held.
pub(crate) fn check_held(file: &Path, lock: &str) {
    run(async { is_held(&open(file).await, &claim(lock)).await });
}

/// Opens the file once, and checks that the lock is free.
pub(crate) fn check_free(file: &Path, lock: &str) {
    let _token = run(async { take(&open(file).await, &claim(lock)).await });
}

/// Opens the file once, and renews a lease as a process does that resumed its ticket.
pub(crate) fn renew_elsewhere(file: &Path, lock: &str, owner: Owner, detached: bool) {
    let claim = Claim::new(name(lock), owner, LONG).detached(detached);
    run(async { is_renewed(&open(file).await, &claim).await });
}

pub(crate) fn claim(lock: &str) -> Claim {
    Claim::new(name(lock), Owner::random(), LONG)
}

pub(crate) fn name(lock: &str) -> Name {
    Name::new(lock).expect("a name")
}

/// Returns the first value of a query on the file.
pub(crate) fn query<T: rusqlite::types::FromSql>(file: &Path, sql: &str) -> T {
    let db = rusqlite::Connection::open(file).expect("opened");
    db.query_row(sql, [], |row| row.get(0)).expect("queried")
}

/// Executes statements on the file.
pub(crate) fn execute(file: &Path, sql: &str) {
    let db = rusqlite::Connection::open(file).expect("opened");
    db.execute_batch(sql).expect("executed");
}

/// Checks that the database is not damaged.
pub(crate) fn check_intact(file: &Path) {
    assert_eq!(query::<String>(file, "PRAGMA integrity_check"), "ok");
}

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// Returns so many milliseconds, times the factor for a slow machine.
pub(crate) fn time(ms: u64) -> Duration {
    scaled(Duration::from_millis(ms))
}
