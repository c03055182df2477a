//! What the tests of this storage have in common beyond those of the others: servers, tables, counts.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

pub(crate) use leasehold::storage::postgres::Config;
use leasehold::storage::{AcquireReply, Claim, Owner, Storage, Token};
use leasehold_testbed::{Postgres, shared};

pub(crate) use crate::net::tools::*;

/// The storage, without an engine.
pub(crate) type Bare = leasehold::storage::postgres::Postgres;
pub(crate) type Server = Postgres;

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

/// The URL with a table that nobody else has.
pub(crate) fn own(url: &str) -> String {
    with(url, &format!("table={}", table()))
}

/// A name that nobody else has: of a table, a prefix, an application.
pub(crate) fn table() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("t{}_", LAST.fetch_add(1, Ordering::Relaxed))
}

/// What only a request to be told contains.
pub(crate) const SUBSCRIBE: &str = "listen leasehold_";

/// What of an owner goes by on the wire.
pub(crate) fn marker(owner: Owner) -> [u8; 16] {
    owner.to_bytes()
}

/// The table that an own URL names.
pub(crate) fn table_of(url: &str) -> &str {
    let (_, rest) = url.split_once("table=").expect("an own one");
    rest.split('&').next().expect("its value")
}

/// Takes what is free, once the server answers again and what was under way is over.
pub(crate) async fn take_in_the_end(storage: &impl Storage, claim: &Claim) -> Token {
    match answered(async || acquire(storage, claim).await).await {
        AcquireReply::Granted { token, .. } => token,
        other => panic!("not granted: {other:?}"),
    }
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

/// What only the text of an acquire, a renewal, a release, a look and a notification behind a release contains.
pub(crate) const ACQUIRE: &str = "token = greatest(";
pub(crate) const RENEW: &str = "renewed as (";
pub(crate) const RELEASE: &str = "as freed";
pub(crate) const LOOK: &str = "order by w.since, w.owner limit 1\n) head";
pub(crate) const PASS: &str = "select w.name, w.client, w.owner";
/// And that of a release that hands over.
pub(crate) const HANDOVER: &str = "heir as materialized";

/// Waits until so many clients are connected that call themselves so.
pub(crate) fn connections(postgres: &Postgres, application: &str, wanted: usize) {
    until("its connections", || match postgres.backends(application)?.len() {
        found if found == wanted => Ok(()),
        found => Err(leasehold_testbed::Error::new(format!("{found}, not {wanted}"))),
    });
}
