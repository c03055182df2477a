//! Helpers of the tests of this storage: servers, tables, counts.

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

/// Replaces the rules of `pg_hba.conf`.
pub(crate) fn allow(postgres: &Postgres, rules: &[&str]) {
    let asked = || postgres.sql("select pg_conf_load_time()");
    let (file, before) = (postgres.sql("show hba_file").expect("answered"), asked().expect("answered"));
    let rules: Vec<_> = rules.iter().map(|rule| format!("('{rule}')")).collect();
    let sql = format!("copy (values {}) to '{file}'", rules.join(", "));
    postgres.sql(&sql).expect("written");
    postgres.sql("select pg_reload_conf()").expect("read");
    until("the rules", || match asked() {
        Ok(time) if time == before => Err(leasehold_testbed::Error::new("the old rules are in force")),
        Ok(_) => Ok(()),
        // The rules no longer accept this login either.
        Err(error) if error.to_string().contains("pg_hba.conf") => Ok(()),
        Err(error) => Err(error),
    });
}

/// Writes a file that others cannot read. It is removed with the directory.
pub(crate) fn private(directory: &tempfile::TempDir, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, text).expect("written");
    share(&path, 0o600);
    path
}

pub(crate) fn share(path: &std::path::Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("changed");
}

/// Returns the server that is shared by the tests that do not break it.
pub(crate) fn common() -> &'static Postgres {
    shared::postgres().expect("a server")
}

/// Returns a server to stop and kill, to one test after the other.
pub(crate) fn victim() -> MutexGuard<'static, Postgres> {
    static VICTIM: OnceLock<Mutex<Postgres>> = OnceLock::new();
    let victim = VICTIM.get_or_init(|| Mutex::new(Postgres::start().expect("a server")));
    let victim = victim.lock().unwrap_or_else(PoisonError::into_inner);
    // The test before may have failed in between.
    victim.cont();
    if victim.sql("select 1").is_err() {
        victim.kill9();
        victim.restart().expect("started");
    }
    victim
}

/// Returns the URL with a table of its own.
pub(crate) fn own(url: &str) -> String {
    with(url, &format!("table={}", table()))
}

/// Returns a unique name: of a table, a prefix, an application.
pub(crate) fn table() -> String {
    static LAST: AtomicU64 = AtomicU64::new(0);
    format!("t{}_", LAST.fetch_add(1, Ordering::Relaxed))
}

/// A text that only the subscription contains.
pub(crate) const SUBSCRIBE: &str = "listen leasehold_";

/// Returns the bytes of an owner in a claim.
pub(crate) fn marker(owner: Owner) -> [u8; 16] {
    owner.to_bytes()
}

/// Returns the table of a URL that [`own`] returned.
pub(crate) fn table_of(url: &str) -> &str {
    let (_, rest) = url.split_once("table=").expect("a table of its own");
    rest.split('&').next().expect("its value")
}

/// Acquires a free lock, once the server answers again and earlier statements have ended.
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

/// Waits until a statement returns this.
#[track_caller]
pub(crate) fn until_sql(postgres: &Postgres, text: &str, wanted: &str) {
    until(text, || match postgres.sql(text)? {
        found if found == wanted => Ok(()),
        found => Err(leasehold_testbed::Error::new(format!("{found}, not {wanted}"))),
    });
}

/// Returns the calls, rows, and bytes of the log of the statements that contain the table and this text.
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

/// Texts that only an acquire, a renewal, a release, a check of new entries, and a notification behind a release contain.
pub(crate) const ACQUIRE: &str = "token = greatest(";
pub(crate) const RENEW: &str = "renewed as (";
pub(crate) const RELEASE: &str = "as freed";
pub(crate) const LOOK: &str = "order by w.since, w.owner limit 1 ) head";
pub(crate) const PASS: &str = "select w.name, w.client, w.owner";
/// And a text that only a release that may hand over contains.
pub(crate) const HANDOVER: &str = "successor as materialized";

/// Waits until so many connections have this `application_name`.
pub(crate) fn connections(postgres: &Postgres, application: &str, wanted: usize) {
    until("its connections", || match postgres.backends(application)?.len() {
        found if found == wanted => Ok(()),
        found => Err(leasehold_testbed::Error::new(format!("{found}, not {wanted}"))),
    });
}

/// Makes a role with these settings, and a schema of its own.
pub(crate) fn role(postgres: &Postgres, settings: &[(&str, &str)]) -> (String, String) {
    let role = table();
    let url = postgres.user(&role, "pw").expect("made");
    sql(postgres, &format!("create schema {role} authorization {role}"));
    for (setting, value) in settings {
        if let Err(error) = postgres.set_for(&role, setting, value) {
            // A setting of another version.
            assert!(error.to_string().contains("unrecognized configuration parameter"), "{error}");
        }
    }
    (role.clone(), with(&url, &format!("schema={role}")))
}

/// Returns the statements that make a trigger of a table.
pub(crate) fn trigger(table: &str, when: &str, body: &str) -> String {
    format!(
        "create function {table}fires() returns trigger language plpgsql as $$ begin {body} end $$; \
         create trigger fires {when} execute function {table}fires()"
    )
}
