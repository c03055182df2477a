//! What an error of SQLite means for the caller, and what to do about it.

use std::fmt;
use std::path::Path;

use rusqlite::ErrorCode;

use super::fs;
use crate::error::{Error, ErrorKind};

const BUSY: &str = "other processes kept the lock file busy; retry";

/// Returns the error that says what to do about an error of SQLite, which becomes the source.
pub(super) fn explain(path: &Path, error: rusqlite::Error) -> Error {
    use ErrorCode as Code;
    let shortage = match error.sqlite_error_code() {
        // SQLite drops the number of the system's error, so the system is asked again.
        Some(
            Code::CannotOpen
            | Code::ReadOnly
            | Code::PermissionDenied
            | Code::SystemIoFailure
            | Code::FileLockingProtocolFailed,
        ) => fs::shortage(path),
        _ => None,
    };
    let (kind, text) = match shortage {
        Some(why) => (ErrorKind::Internal, format!("the lock file cannot be used; {why}")),
        None => {
            let (kind, text) = by_code(error.sqlite_error_code());
            (kind, text.to_owned())
        }
    };
    Error::new(kind, format!("{text} path=`{}`", path.display())).with_source(Message(error))
}

fn by_code(code: Option<ErrorCode>) -> (ErrorKind, &'static str) {
    use ErrorCode as Code;
    use ErrorKind::{Internal, Unavailable, Unsupported};
    match code {
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
            "the lock file could not be read or written; check that its disk works, that its quota is not used up, \
             and that no part of it was removed",
        ),
        Some(Code::OperationInterrupted) => (Unavailable, "the work on the lock file was interrupted; retry"),
        _ => (Internal, "SQLite refused; please report it"),
    }
}

/// Returns the error for a file that other processes kept busy for too long.
pub(super) fn busy_error(path: &Path) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{BUSY} path=`{}`", path.display()))
}

/// Returns the error for a file that is not the one at its path any more.
pub(super) fn replaced_error(path: &Path) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!("the lock file, or a part of it, was replaced or removed; retry path=`{}`", path.display()),
    )
}

/// Returns `true` if other processes keep the file busy.
pub(super) fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

/// An error of SQLite that displays its message once. The error of `rusqlite` repeats it in its source.
struct Message(rusqlite::Error);

impl fmt::Display for Message {
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

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Message {}
