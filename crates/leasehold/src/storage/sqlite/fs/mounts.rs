//! Parts of a lock file that were mounted apart from their directory.
//!
//! A part can be mounted by itself, as in `mount --bind locks.db …` or `docker -v ./locks.db:…`. Through its other path
//! the same part lies beside other files, so clients of one path do not exclude clients of the other.

#[cfg(any(target_os = "linux", target_os = "android"))]
use std::{fs, io, path::Path};

use super::Paths;
#[cfg(any(target_os = "linux", target_os = "android"))]
use super::failed;
use crate::error::Result;
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::error::{Error, ErrorKind};
#[cfg(any(target_os = "linux", target_os = "android"))]
use crate::system::exhausted;

/// Refuses parts that were mounted one by one.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(in crate::storage::sqlite) fn check_mounts(paths: &Paths) -> Result<()> {
    let dir = mount_at(paths.database.parent().unwrap_or(&paths.database))?;
    for part in [&paths.database, &paths.log, &paths.index, &paths.live_dir] {
        let own = mount_at(part)?;
        if own.is_some() && own != dir {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "this was mounted apart from its directory, so what belongs to it may lie elsewhere; mount the \
                     directory of the lock file instead path=`{}`",
                    part.display()
                ),
            ));
        }
    }
    Ok(())
}

/// Accepts all parts: other systems do not mount single files.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(in crate::storage::sqlite) fn check_mounts(_paths: &Paths) -> Result<()> {
    Ok(())
}

/// Returns the mount through which a path leads to its file; `None` if there is no file.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn mount_at(path: &Path) -> Result<Option<u64>> {
    use rustix::fs::{CWD, Mode, OFlags};
    // Closing a path-only descriptor drops none of SQLite's locks.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mount = match rustix::fs::openat(CWD, path, flags, Mode::empty()) {
        Err(rustix::io::Errno::NOENT) => return Ok(None),
        opened => opened.map_err(io::Error::from).and_then(mount_of),
    };
    mount.map(Some).map_err(|e| match exhausted(&e) {
        Some(_) => failed("the lock file cannot be looked at", path, e),
        None => {
            let text = "it cannot be told whether the lock file was mounted by itself, which needs Linux 5.8 or a \
                        /proc; mount this process's own /proc";
            let text = format!("{text} path=`{}`", path.display());
            Error::new(ErrorKind::Unsupported, text).with_source(e)
        }
    })
}

/// Returns the mount through which a file was opened.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(in crate::storage::sqlite) fn mount_of(file: impl std::os::fd::AsFd) -> io::Result<u64> {
    use rustix::fs::{AtFlags, StatxFlags};
    use std::os::fd::AsRawFd;
    let file = file.as_fd();
    match rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
        Ok(found) if has_mount(&found) => return Ok(found.stx_mnt_id),
        // A kernel before Linux 5.8, or a sandbox that hides the call.
        _ => {}
    }
    let info = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", file.as_raw_fd()))?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    mount.ok_or_else(|| io::Error::other("the system does not say through which mount a file was opened"))
}

/// Returns `true` if the kernel reported the mount.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn has_mount(found: &rustix::fs::Statx) -> bool {
    rustix::fs::StatxFlags::from_bits_retain(found.stx_mask).contains(rustix::fs::StatxFlags::MNT_ID)
}
