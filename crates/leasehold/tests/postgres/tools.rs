//! What the tests have in common: time, servers, clients, claims, counts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use futures_util::StreamExt;
use leasehold::storage::postgres::Config;
use leasehold::storage::{Acquire, Claim, Hint, Name, Owner, Release, Renew, Storage, Token};
use leasehold::{Error, ErrorKind, Guard, Locks, Result};
use leasehold_faultproxy::Proxy;
use leasehold_testbed::{Postgres, scaled, shared};

/// The storage, without an engine.
pub(crate) type Bare = leasehold::storage::postgres::Postgres;
pub(crate) type Hints = Pin<Box<dyn Stream<Item = Hint> + Send>>;

/// Longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// So many milliseconds, times what a slow machine is given.
pub(crate) fn time(ms: u64) -> Duration {
    scaled(Duration::from_millis(ms))
}

pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

/// Waits for what must happen well before any TTL is over.
#[track_caller]
pub(crate) fn within<T>(limit: Duration, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        match tokio::time::timeout(limit, future).await {
            Ok(outcome) => outcome,
            Err(_) => panic!("not within {limit:?} at {caller}"),
        }
    }
}

/// Looks until it is so.
#[track_caller]
pub(crate) fn until(what: &str, look: impl FnMut() -> leasehold_testbed::Result<()>) {
    leasehold_testbed::until(what, look).expect("it happens");
}

pub(crate) fn with(url: &str, option: &str) -> String {
    format!("{url}{}{option}", if url.contains('?') { '&' } else { '?' })
}

pub(crate) async fn bare(url: &str) -> Bare {
    match within(LONG, try_bare(url)).await {
        Ok(storage) => storage,
        Err(error) => panic!("{url}: {error}"),
    }
}

pub(crate) async fn try_bare(url: &str) -> Result<Bare> {
    Bare::connect(Config::new(url)?).await
}

/// What a storage says when it is connected to in vain.
pub(crate) async fn refusal(url: &str) -> Error {
    match within(LONG, try_bare(url)).await {
        Ok(storage) => panic!("connected: {storage} by {url}"),
        Err(error) => error,
    }
}

/// Replaces who may come in, and how.
pub(crate) fn allow(postgres: &Postgres, rules: &[&str]) {
    let asked = || postgres.sql("select pg_conf_load_time()");
    let (file, before) = (postgres.sql("show hba_file").expect("answered"), asked().expect("answered"));
    let rules: Vec<_> = rules.iter().map(|rule| format!("('{rule}')")).collect();
    let sql = format!("copy (values {}) to '{file}'", rules.join(", "));
    postgres.sql(&sql).expect("written");
    postgres.sql("select pg_reload_conf()").expect("read");
    until("the rules", || match asked() {
        Ok(time) if time == before => Err(leasehold_testbed::Error::new("the old ones hold")),
        Ok(_) => Ok(()),
        // Who asks here is itself let in no longer.
        Err(error) if error.to_string().contains("pg_hba.conf") => Ok(()),
        Err(error) => Err(error),
    });
}

/// A file that nobody else can read. Goes with the directory.
pub(crate) fn private(directory: &tempfile::TempDir, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("written");
    share(&path, 0o600);
    path
}

pub(crate) fn share(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("changed");
}

/// What ends at once where all goes well, and must not be mistaken for waiting until a TTL is over.
pub(crate) fn soon() -> Duration {
    time(5_000)
}

/// A server that tests share which do not break it.
pub(crate) fn common() -> &'static Postgres {
    shared::postgres().expect("a server")
}

/// A server that is stopped and killed, by one test after the other.
pub(crate) fn victim() -> MutexGuard<'static, Postgres> {
    static VICTIM: OnceLock<Mutex<Postgres>> = OnceLock::new();
    let victim = VICTIM.get_or_init(|| Mutex::new(Postgres::start().expect("a server")));
    let victim = victim.lock().unwrap_or_else(PoisonError::into_inner);
    // The test before may have failed half-way.
    victim.cont();
    if victim.sql("select 1").is_err() {
        victim.kill9();
        victim.restart().expect("started");
    }
    victim
}

/// A proxy before a server, and a table through it and without it.
pub(crate) async fn proxied(postgres: &Postgres) -> (Proxy, String, String) {
    let proxy = Proxy::start(format!("127.0.0.1:{}", postgres.port())).await.expect("a proxy");
    let option = format!("table={}", table());
    let through = with(&proxy.url_for(&postgres.url()), &option);
    (proxy, through, with(&postgres.url(), &option))
}

/// The URL with a table that nobody else has.
pub(crate) fn own(url: &str) -> String {
    with(url, &format!("table={}", table()))
}

/// A name that nobody else has: of a table, a prefix, an application.
pub(crate) fn table() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("t{}_", LAST.fetch_add(1, Ordering::Relaxed))
}

/// The table that an own URL names.
pub(crate) fn table_of(url: &str) -> &str {
    let (_, rest) = url.split_once("table=").expect("an own one");
    rest.split('&').next().expect("its value")
}

pub(crate) async fn client(url: &str) -> Locks {
    within(LONG, Locks::connect(url)).await.expect("connected")
}

/// A storage that listens: its first hint says so.
pub(crate) async fn listening(url: &str) -> (Bare, Hints) {
    let storage = bare(url).await;
    let mut hints: Hints = Box::pin(storage.hints());
    assert_eq!(within(LONG, hints.next()).await, Some(Hint::Any));
    (storage, hints)
}

pub(crate) fn name(lock: &str) -> Name {
    Name::new(lock).expect("a name")
}

pub(crate) fn claim(lock: &str) -> Claim {
    Claim::new(name(lock), Owner::random(), LONG)
}

pub(crate) async fn acquire(storage: &impl Storage, claim: &Claim) -> Result<Acquire> {
    storage.acquire(std::slice::from_ref(claim)).await.pop().expect("an answer")
}

pub(crate) async fn renew(storage: &impl Storage, claim: &Claim) -> Result<Renew> {
    storage.renew(std::slice::from_ref(claim)).await.pop().expect("an answer")
}

pub(crate) async fn release(storage: &impl Storage, claim: &Claim) -> Result<Release> {
    storage.release(std::slice::from_ref(claim)).await.pop().expect("an answer")
}

/// Takes what is free.
pub(crate) async fn take(storage: &impl Storage, claim: &Claim) -> Token {
    match acquire(storage, claim).await {
        Ok(Acquire::Granted { token, .. }) => token,
        other => panic!("not granted: {other:?}"),
    }
}

/// Takes what is free, once the server answers again and what was under way is over.
pub(crate) async fn take_in_the_end(storage: &impl Storage, claim: &Claim) -> Token {
    let asking = async {
        loop {
            match acquire(storage, claim).await {
                Ok(Acquire::Granted { token, .. }) => return token,
                Ok(other) => panic!("not granted: {other:?}"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(LONG, asking).await
}

/// Asks for what is held.
pub(crate) async fn is_held(storage: &impl Storage, claim: &Claim) {
    let answer = acquire(storage, claim).await;
    assert!(matches!(answer, Ok(Acquire::Held { .. })), "{answer:?}");
}

/// Takes what is free, with an engine.
pub(crate) async fn hold(locks: &Locks, lock: &str, ttl: Duration) -> Guard {
    within(LONG, locks.lock(lock).ttl(ttl).acquire()).await.expect("nobody else holds it")
}

/// Takes and gives back, which ends soon if nobody holds.
pub(crate) async fn is_free(locks: &Locks, lock: &str) {
    within(soon(), locks.lock(lock).acquire()).await.expect("granted").release().await.expect("released");
}

/// Waits until so many wait for a lock.
pub(crate) async fn waiters(locks: &Locks, lock: &str, wanted: u64) {
    let looking = async {
        while locks.inspect(lock).await.ok().flatten().and_then(|holder| holder.waiters) != Some(wanted) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within(LONG, looking).await;
}

/// Runs statements as the administrator.
#[track_caller]
pub(crate) fn sql(postgres: &Postgres, text: &str) -> String {
    match postgres.sql(text) {
        Ok(answer) => answer,
        Err(error) => panic!("{text}: {error}"),
    }
}

/// Waits for what only a question to the server tells.
#[track_caller]
pub(crate) fn until_sql(postgres: &Postgres, text: &str, wanted: &str) {
    until(text, || match postgres.sql(text)? {
        found if found == wanted => Ok(()),
        found => Err(leasehold_testbed::Error::new(format!("{found}, not {wanted}"))),
    });
}

/// What the statements of a table have done that contain this: how often, rows, bytes of the log.
pub(crate) fn done(postgres: &Postgres, table: &str, part: &str) -> [u64; 3] {
    let text = format!(
        "select coalesce(sum(calls), 0)::bigint, coalesce(sum(rows), 0)::bigint, coalesce(sum(wal_bytes), 0)::bigint \
         from pg_stat_statements where strpos(query, '\"{table}') > 0 and strpos(query, '{part}') > 0 \
         and strpos(query, 'pg_stat_statements') = 0"
    );
    let answer = sql(postgres, &text);
    let numbers: Vec<_> = answer.split('|').map(|number| number.parse().expect("a number")).collect();
    numbers.try_into().expect("three")
}

/// What only the text of an acquire, a renewal, a release, a look and a notification contains.
pub(crate) const ACQUIRE: &str = "granted as (";
pub(crate) const RENEW: &str = "renewed as (";
pub(crate) const RELEASE: &str = "freed as (";
pub(crate) const LOOK: &str = "head.owner = c.owner";
pub(crate) const PASS: &str = "pg_notify(";

/// Waits until so many clients are connected that call themselves so.
pub(crate) fn connections(postgres: &Postgres, application: &str, wanted: usize) {
    until("its connections", || match postgres.backends(application)?.len() {
        found if found == wanted => Ok(()),
        found => Err(leasehold_testbed::Error::new(format!("{found}, not {wanted}"))),
    });
}
