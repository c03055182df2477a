//! Opens the file: makes it, or makes sure that it is ours. And says what SQLite's errors ask for.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::exclusive::{Exclusive, Turn};
use super::fs::{self, Files, Paths};
use super::live;
use super::{Config, Synchronous};
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};

/// `LHOK`: says of a SQLite file that it is one of ours.
const APPLICATION_ID: i64 = 0x4c48_4f4b;
const SCHEMA: &str = include_str!("schema.sql");
const SCHEMA_VERSION: i64 = 1;

const BUSY: &str = "other processes kept the lock file busy; retry";
/// How long others may keep the file busy before a call fails.
const BUSY_LIMIT: Duration = Duration::from_secs(3);
/// How long an opening waits for others that open the same new file.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// Opens the file, after sweeping away what the dead left beside it.
pub(super) fn connect(paths: &Paths, config: &Config, clock: &Clock) -> Result<(Connection, Files)> {
    // A file just made here must not be closed while another opening of this process has SQLite's locks on it.
    static OPENING: Mutex<()> = Mutex::new(());
    let _alone = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    let path = paths.database.as_path();
    let started = clock.now();
    loop {
        let before = Files::at(paths)?;
        fs::check_mounts(paths)?;
        // Before SQLite comes: it would take the log of an older file for this one's.
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
        // SQLite empties the index where it takes itself for the first to open it, which another copy of it in this
        // process cannot see. Before there is a directory, nobody has the file open.
        let exclusive = paths.live_dir.exists().then(|| Exclusive::open(&paths.live_dir)).transpose()?;
        let turn = match &exclusive {
            Some(exclusive) => begin(exclusive, clock).map_err(|e| e.explain(path))?,
            None => None,
        };
        let connection = try_connect(path, config, before.log.is_some());
        drop(turn);
        let files = Files::at(paths)?;
        let retry = clock.now().since(started) < OPEN_LIMIT;
        match connection {
            Ok(connection) if files.are_whole() && files.come_from(&before) => {
                fs::check_mounts(paths)?;
                fs::share_parts(paths)?;
                return Ok((connection, files));
            }
            Ok(_) if retry => {}
            Ok(_) => return Err(replaced_error(path)),
            // Some switches of mode do not wait for others by themselves.
            Err(Failed::Sqlite(error)) if is_busy(&error) && retry => pause(Duration::from_millis(1)),
            Err(Failed::Sqlite(error)) => return Err(explain(path, error)),
            Err(Failed::NotOurs(error)) => return Err(error),
        }
    }
}

/// Begins a transaction, as soon as nobody else is in one.
pub(super) fn begin<'a>(exclusive: &'a Exclusive, clock: &Clock) -> Result<Option<Turn<'a>>, NotBegun> {
    let mut patience = Patience::new(clock);
    match exclusive.begin(|| patience.again()) {
        Ok(Some(turn)) => Ok(Some(turn)),
        Ok(None) => Err(NotBegun::Busy),
        Err(error) => Err(NotBegun::System(error.into())),
    }
}

/// Why a transaction did not begin.
#[derive(Debug)]
pub(super) enum NotBegun {
    Busy,
    System(io::Error),
}

impl NotBegun {
    pub(super) fn explain(self, path: &Path) -> Error {
        match self {
            Self::Busy => Error::new(ErrorKind::Unavailable, format!("{BUSY} path=`{}`", path.display())),
            Self::System(cause) => {
                fs::failed("the lock file cannot be kept for one transaction", path, cause)
            }
        }
    }
}

/// How one waits whose turn it is not yet.
struct Patience {
    clock: Clock,
    since: Moment,
    count: u32,
}

impl Patience {
    fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), since: clock.now(), count: 0 }
    }

    /// Pauses. Returns `true` if it is worth asking again.
    fn again(&mut self) -> bool {
        // SQLite's own pauses are whole milliseconds and grow to 100: far longer than anybody writes here.
        match self.count {
            0..4 => std::thread::yield_now(),
            4..40 => pause(Duration::from_micros(50)),
            40..80 => pause(Duration::from_micros(200)),
            _ => pause(Duration::from_millis(1)),
        }
        self.count = self.count.saturating_add(1);
        self.clock.now().since(self.since) < BUSY_LIMIT
    }
}

enum Failed {
    Sqlite(rusqlite::Error),
    NotOurs(Error),
}

impl From<rusqlite::Error> for Failed {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

fn try_connect(path: &Path, config: &Config, has_log: bool) -> Result<Connection, Failed> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let mut connection = Connection::open_with_flags(path, flags)?;
    let mut patience = Patience::new(&Clock::boot());
    connection.busy_handler(Some(move |count| {
        if count == 0 {
            patience = Patience::new(&patience.clock);
        }
        patience.again()
    }))?;
    // What is somebody else's is left as it was: with its log, or without one.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, has_log)?;
    connection.set_prepared_statement_cache_capacity(32);

    // Nothing is written to a file before it is known to be ours, or nobody's.
    let ours = {
        let snapshot = connection.transaction_with_behavior(TransactionBehavior::Deferred)?;
        is_ours(&snapshot, path)?
    };
    // Else the last one to close writes the log into the file, flushes it and removes it: 15 ms for a program that
    // takes one lock, and a trap where a careless descriptor dropped SQLite's locks of another that has it open.
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
    if !ours {
        let making = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Somebody else may have been first.
        if !is_ours(&making, path)? {
            making.execute_batch(SCHEMA)?;
        }
        making.commit()?;
    }
    Ok(connection)
}

/// Whether the file is one of ours; not if it is empty. One that is somebody else's is an error.
/// Within a transaction, for somebody may be making the file ours.
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
    Failed::NotOurs(Error::new(ErrorKind::Unsupported, text))
}

pub(super) fn replaced_error(path: &Path) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the lock file, or a part of it, was replaced or removed; retry path=`{}`", path.display()),
    )
}

pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// SQLite's own words, once.
struct Said(rusqlite::Error);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            rusqlite::Error::SqliteFailure(_, Some(words)) => f.write_str(words),
            rusqlite::Error::SqliteFailure(error, None) => {
                f.write_str(rusqlite::ffi::code_to_str(error.extended_code))
            }
            other => other.fmt(f),
        }
    }
}

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Said {}

/// Says what to do about an error of SQLite, which is the source.
pub(super) fn explain(path: &Path, error: rusqlite::Error) -> Error {
    use ErrorCode as Code;
    use ErrorKind::{Internal, Unavailable, Unsupported};
    let code = error.sqlite_error_code();
    let system = match code {
        // SQLite drops the number of the system's error, so the system is asked again.
        Some(
            Code::CannotOpen
            | Code::ReadOnly
            | Code::PermissionDenied
            | Code::SystemIoFailure
            | Code::FileLockingProtocolFailed,
        ) => fs::short_of(path),
        _ => None,
    };
    if let Some(why) = system {
        let text = format!("the lock file cannot be used; {why} path=`{}`", path.display());
        return Error::new(Internal, text).with_source(Said(error));
    }
    let (kind, text) = match code {
        Some(Code::DatabaseBusy | Code::DatabaseLocked | Code::FileLockingProtocolFailed) => {
            (Unavailable, BUSY)
        }
        Some(Code::DiskFull) => (Internal, "the disk of the lock file is full; free some space"),
        Some(Code::NotADatabase) => (Unsupported, "this is not a lock file; choose another path"),
        Some(Code::DatabaseCorrupt) => {
            (Unsupported, "the lock file is damaged; stop every program that uses it, then remove it")
        }
        Some(Code::ReadOnly | Code::PermissionDenied | Code::AuthorizationForStatementDenied) => (
            Unsupported,
            "the lock file may not be written; check its permissions and those of its directory",
        ),
        Some(Code::CannotOpen) => {
            (Unsupported, "the lock file cannot be opened; check its permissions and those of its directory")
        }
        Some(Code::OutOfMemory) => (Internal, "no memory is left for the lock file; free some"),
        Some(Code::SystemIoFailure) => (
            Internal,
            "the lock file could not be read or written; see that its disk works, that its quota is not used up, and \
             that nobody removed a part of it",
        ),
        Some(Code::OperationInterrupted) => (Unavailable, "the work on the lock file was interrupted; retry"),
        _ => (Internal, "SQLite refused; please report it"),
    };
    Error::new(kind, format!("{text} path=`{}`", path.display())).with_source(Said(error))
}

fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "no event tells when SQLite's write lock is free")]
    std::thread::sleep(time);
}
