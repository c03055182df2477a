//! Opens the lock file: makes it, or checks that it is one of Leasehold.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, TransactionBehavior};

use super::busy::{Backoff, begin, pause};
use super::errors::{explain, is_busy, replaced_error};
use super::exclusive::Exclusive;
use super::fs::{self, Files, Paths};
use super::live;
use super::{Config, Synchronous};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// The application id of a lock file: `LHOK`.
const APPLICATION_ID: i64 = 0x4c48_4f4b;
const SCHEMA: &str = include_str!("schema.sql");
const SCHEMA_VERSION: i64 = 1;

/// How long an opening waits for others that open the same new file.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// Opens the file, after removing what dead storages left beside it.
///
/// Begins anew whenever a part of the file was made or replaced meanwhile.
pub(super) fn connect(paths: &Paths, config: &Config, clock: &Clock) -> Result<(Connection, Files)> {
    // While one opening of this process holds SQLite's locks, another one must not make and close the file.
    static OPENING: Mutex<()> = Mutex::new(());
    let _alone = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    let path = paths.database.as_path();
    let started = clock.now();
    loop {
        let before = Files::at(paths)?;
        fs::check_mounts(paths)?;
        // SQLite would take the log of an older file for this one's, so this check comes first.
        if let Err(error) = live::sweep(&paths.live_dir, &before.tag()) {
            if Files::at(paths)? == before {
                return Err(error);
            }
            continue;
        }
        if before.database.is_none() {
            fs::create(paths)?;
            continue;
        }
        fs::check_owner(path)?;
        fs::tighten(paths)?;
        let connection = connect_alone(paths, config, clock, before.log.is_some());
        let files = Files::at(paths)?;
        let retry = clock.now().since(started) < OPEN_LIMIT;
        match connection {
            Ok(connection) if files.are_complete() && files.come_from(&before) => {
                fs::check_mounts(paths)?;
                fs::share_parts(paths)?;
                return Ok((connection, files));
            }
            Ok(_) if retry => {}
            Ok(_) => return Err(replaced_error(path)),
            // SQLite does not wait for other processes during some changes of the journal mode.
            Err(Failed::Sqlite(error)) if is_busy(&error) && retry => pause(Duration::from_millis(1)),
            Err(Failed::Sqlite(error)) => return Err(explain(path, error)),
            Err(Failed::Other(error)) => return Err(error),
        }
    }
}

/// The reason why no connection was opened.
enum Failed {
    Sqlite(rusqlite::Error),
    Other(Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

/// Connects while no other transaction is in progress.
///
/// SQLite empties the index of the log if it considers itself the first to open it. It cannot see another copy of SQLite
/// in this process. Where the directory of the liveness files does not exist yet, no process has the file open.
fn connect_alone(paths: &Paths, config: &Config, clock: &Clock, has_log: bool) -> Result<Connection, Failed> {
    let path = paths.database.as_path();
    let exclusive = paths.live_dir.exists().then(|| Exclusive::open(&paths.live_dir)).transpose();
    let exclusive = exclusive.map_err(Failed::Other)?;
    let _access = match &exclusive {
        Some(exclusive) => begin(exclusive, clock).map_err(|e| Failed::Other(e.explain(path)))?,
        None => None,
    };
    try_connect(path, config, has_log)
}

fn try_connect(path: &Path, config: &Config, has_log: bool) -> Result<Connection, Failed> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(path, flags)?;
    let mut backoff = Backoff::new(&Clock::boot());
    connection.busy_handler(Some(move |count| {
        if count == 0 {
            backoff.reset();
        }
        backoff.again()
    }))?;
    // A file of another program is left as it was: with its log, or without one.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_log)?;
    connection.set_prepared_statement_cache_capacity(32);
    // Otherwise SQLite compiles statements anew for each execution, in case other parameters deserve another plan.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;

    // Nothing is written before the file is known to be a lock file, or empty.
    let ours = {
        let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        is_ours(&snapshot, path)?
    };
    configure(&connection, path, config)?;
    if !ours {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Another process may have been first.
        if !is_ours(&transaction, path)? {
            transaction.execute_batch(SCHEMA)?;
        }
        transaction.commit()?;
    }
    Ok(connection)
}

fn configure(connection: &Connection, path: &Path, config: &Config) -> Result<(), Failed> {
    // Otherwise the last process that closes the file writes the log into it, flushes it and removes the log. That takes
    // 15 ms in a program that takes one lock. It is also dangerous where a process has lost SQLite's locks by closing a
    // descriptor: it would still use the removed log.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    let synchronous = match config.synchronous {
        Synchronous::Normal => "NORMAL",
        Synchronous::Full => "FULL",
    };
    connection.execute_batch(&format!(
        "PRAGMA trusted_schema = OFF;
         PRAGMA synchronous = {synchronous};
         PRAGMA wal_autocheckpoint = 4000;
         PRAGMA journal_size_limit = 33554432;"
    ))?;
    let mode: String = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    if mode != "wal" {
        return Err(not_ours(path, "the lock file's directory allows no write-ahead log"));
    }
    Ok(())
}

/// Returns `true` if the file is a lock file of Leasehold, and `false` if it is empty. A file of another program is an
/// error.
///
/// Runs within a transaction, because another process may be creating the tables.
fn is_ours(connection: &Connection, path: &Path) -> Result<bool, Failed> {
    let number = |query| connection.query_row(query, [], |row| row.get::<_, i64>(0));
    let application = number("PRAGMA application_id")?;
    let version = number("PRAGMA user_version")?;
    match (application, version) {
        (APPLICATION_ID, SCHEMA_VERSION) => Ok(true),
        (APPLICATION_ID, newer) => Err(not_ours(
            path,
            &format!("the lock file was made by another version of Leasehold version=`{newer}`"),
        )),
        (0, 0) if number("SELECT count(*) FROM sqlite_schema")? == 0 => Ok(false),
        _ => Err(not_ours(path, "this SQLite file belongs to another program")),
    }
}

fn not_ours(path: &Path, what: &str) -> Failed {
    let text = format!("{what}; choose another path for the lock file path=`{}`", path.display());
    Failed::Other(Error::new(ErrorKind::Unsupported, text))
}
