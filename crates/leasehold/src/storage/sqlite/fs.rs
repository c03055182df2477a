//! The files of a lock file: where they are, whether they are the same as before, and whether they can be trusted.
//!
//! | Module | Concern |
//! |---|---|
//! | `place` | the path, its directories, and the accounts that may change them |
//! | `network` | file systems that other machines may share |
//! | `mounts` | parts that were mounted apart from their directory |
//! | `identity` | which file is at a path, and whether it is still the same one |
//! | `sharing` | modes and groups: the accounts that may use the files |
//! | `shortage` | what the system has run out of |

mod identity;
mod mounts;
mod network;
mod place;
mod sharing;
mod shortage;

use std::io;
use std::path::{Path, PathBuf};

pub(super) use self::identity::{Files, OpenParts};
#[cfg(unix)]
pub(super) use self::identity::{Identity, identity_of};
pub(super) use self::mounts::check_mounts;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use self::mounts::mount_of;
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) use self::network::network_fs;
#[cfg(unix)]
pub(super) use self::place::make_live_dir;
pub(super) use self::place::{check_live_dir, check_owner, prepare};
#[cfg(unix)]
pub(super) use self::sharing::Sharing;
pub(super) use self::sharing::{create, share_parts, tighten};
pub(super) use self::shortage::shortage;
use crate::error::{Error, ErrorKind};
use crate::system::exhausted;

/// The paths of all that belongs to a lock file.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) database: PathBuf,
    /// SQLite's write-ahead log.
    pub(super) log: PathBuf,
    /// SQLite's index of the log.
    pub(super) index: PathBuf,
    /// The directory of the liveness files.
    pub(super) live_dir: PathBuf,
}

impl Paths {
    pub(super) fn new(database: PathBuf) -> Self {
        let beside = |ending| {
            let mut path = database.as_os_str().to_owned();
            path.push(ending);
            PathBuf::from(path)
        };
        Self { log: beside("-wal"), index: beside("-shm"), live_dir: beside("-live"), database }
    }
}

/// Returns the error for a call of the system that failed. The system's own error becomes the source.
pub(super) fn failed(what: &str, path: &Path, cause: io::Error) -> Error {
    use io::ErrorKind as Io;
    let (kind, hint) = match (exhausted(&cause), cause.kind()) {
        (Some(why), _) => (ErrorKind::Internal, why),
        (None, Io::PermissionDenied) => (ErrorKind::Unsupported, "check its permissions"),
        (None, Io::NotADirectory | Io::AlreadyExists | Io::InvalidFilename) => {
            (ErrorKind::Unsupported, "choose another path")
        }
        (None, _) => (ErrorKind::Unavailable, "retry, or choose another path"),
    };
    Error::new(kind, format!("{what}; {hint} path=`{}`", path.display())).with_source(cause)
}
