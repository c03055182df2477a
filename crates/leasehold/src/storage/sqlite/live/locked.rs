//! Both locks on a liveness file: how they are taken, and how another process looks at them.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::id::pipe_of;
use crate::storage::sqlite::fs::{Identity, Sharing, identity_of};

/// Makes a liveness file and takes both locks; `None` if another process removed the file or its directory meanwhile.
pub(super) fn create_locked(path: &Path, sharing: Sharing) -> io::Result<Option<(fs::File, Identity)>> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => fs::File::from(file),
        // The directory was removed.
        Err(Errno::NOENT) => return Ok(None),
        Err(other) => return Err(other.into()),
    };
    let lock = FlockOperation::NonBlockingLockExclusive;
    match rustix::fs::fcntl_lock(&file, lock).and_then(|()| flock(path, &file, lock)) {
        Ok(()) => {}
        // A sweeping process has locked the file and is about to remove it.
        Err(Errno::AGAIN | Errno::ACCESS) => return Ok(None),
        Err(other) => {
            remove(path);
            return Err(other.into());
        }
    }
    if let Err(error) = sharing.share(&file) {
        remove(path);
        return Err(error);
    }
    let identity = identity_of(&file.metadata()?);
    let exists = rustix::fs::fstat(&file)?.st_nlink > 0;
    Ok(exists.then_some((file, identity)))
}

/// Returns `true` if the process that made the file, or a forked child, has it open; also where that cannot be told.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn is_flocked(file: &OwnedFd) -> bool {
    // If the lock is granted here, it ends when the file is closed.
    rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

/// Returns `true`: on other systems the two kinds of locks exclude each other, so the file has only one.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn is_flocked(_file: &OwnedFd) -> bool {
    true
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn flock(path: &Path, file: &fs::File, lock: FlockOperation) -> rustix::io::Result<()> {
    // NFS makes one kind of lock out of both, so that they exclude each other.
    if crate::storage::sqlite::fs::network_fs(path.parent().unwrap_or(path)).is_some() {
        return Ok(());
    }
    rustix::fs::flock(file, lock)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn flock(_path: &Path, _file: &fs::File, _lock: FlockOperation) -> rustix::io::Result<()> {
    Ok(())
}

/// Opens the liveness file of another process.
pub(super) fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty())
}

/// Removes a liveness file and its pipe.
pub(super) fn remove(path: &Path) {
    // The pipe goes first: any process may remove a pipe that has no liveness file.
    let _gone = fs::remove_file(pipe_of(path));
    let _gone = fs::remove_file(path);
}
