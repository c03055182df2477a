//! Explanations of what the system refuses: one table for the whole library.

use std::io;

#[cfg(feature = "sqlite")]
use crate::error::{Error, ErrorKind};

/// Explains which resource the system has run out of, or which part of it has failed, and what to do.
///
/// Returns `None` for any other cause. [`Unavailable`](crate::ErrorKind::Unavailable) would be the wrong kind for these:
/// the storage works, and a retry helps only after the system is repaired.
pub(crate) fn exhausted(cause: &io::Error) -> Option<&'static str> {
    by_number(cause).or_else(|| {
        Some(match cause.kind() {
            io::ErrorKind::StorageFull => "no space is left on the disk; free some",
            io::ErrorKind::QuotaExceeded => "the disk quota is used up; free some space, or raise it",
            io::ErrorKind::OutOfMemory => "no memory is left; free some",
            io::ErrorKind::ReadOnlyFilesystem => {
                "the file system is read-only; mount it for writing, or choose another path"
            }
            _ => return None,
        })
    })
}

#[cfg(unix)]
fn by_number(cause: &io::Error) -> Option<&'static str> {
    use rustix::io::Errno;
    Some(match Errno::from_io_error(cause)? {
        Errno::MFILE => {
            "this process has no file descriptor left; close some, or raise its limit (`ulimit -n`)"
        }
        Errno::NFILE => {
            "the system has no file descriptor left; close some, or raise its limit (`fs.file-max`)"
        }
        Errno::NOMEM => "no memory is left; free some",
        Errno::NOBUFS => "no memory is left for sockets; free some",
        Errno::NOLCK => "the system has no file locks left; free some",
        Errno::IO => "the disk failed; look into the system's log",
        _ => return None,
    })
}

#[cfg(not(unix))]
fn by_number(_cause: &io::Error) -> Option<&'static str> {
    None
}

/// Explains why a thread could not be started.
#[cfg(feature = "sqlite")]
pub(crate) fn no_thread(what: &str, cause: io::Error) -> Error {
    let why = match exhausted(&cause) {
        Some(why) => why,
        // The only cause that the manual gives for this number.
        None if cause.kind() == io::ErrorKind::WouldBlock => {
            "no more threads may be started; end some, or raise the limit (`ulimit -u`, `pids.max`)"
        }
        None => "the system started no thread",
    };
    Error::new(ErrorKind::Internal, format!("{what}; {why}")).with_source(cause)
}

#[cfg(all(test, unix))]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn an_exhausted_resource_is_named() {
        let cases = [
            (Errno::MFILE, "ulimit -n"),
            (Errno::NFILE, "fs.file-max"),
            (Errno::NOMEM, "memory"),
            (Errno::NOBUFS, "memory"),
            (Errno::NOSPC, "space"),
            (Errno::DQUOT, "quota"),
            (Errno::ROFS, "read-only"),
            (Errno::IO, "disk"),
            (Errno::NOLCK, "locks"),
        ];
        for (number, word) in cases {
            let said = exhausted(&number.into()).expect("said");
            assert!(said.contains(word), "{number:?}: {said}");
        }
        for number in [Errno::ACCESS, Errno::NOENT, Errno::CONNREFUSED, Errno::TIMEDOUT, Errno::PIPE] {
            assert_eq!(exhausted(&number.into()), None, "{number:?}");
        }
    }

    #[cfg(feature = "sqlite")]
    #[test]
    fn threads_have_a_limit_of_their_own() {
        let error = no_thread("no thread", Errno::AGAIN.into());
        assert_eq!(error.kind(), ErrorKind::Internal);
        assert!(error.to_string().contains("ulimit -u"), "{error}");
    }
}
