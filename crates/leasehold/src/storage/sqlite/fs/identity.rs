//! Which file is at a path, and whether it is still the same one.
//!
//! Processes exclude each other only if they use the same database, the same log and the same index. Any of the three
//! can be replaced while it is open, so their identities are compared before each transaction is trusted.

use std::fs;
use std::io;
use std::path::Path;

#[cfg(any(target_os = "linux", target_os = "android"))]
use super::mounts::has_mount;
use super::{Paths, failed};
use crate::error::{Error, ErrorKind, Result};

/// The identities of the three files that SQLite works with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::storage::sqlite) struct Files {
    pub(in crate::storage::sqlite) database: Option<Identity>,
    pub(in crate::storage::sqlite) log: Option<Identity>,
    index: Option<Identity>,
}

impl Files {
    /// Returns the files that are at these paths now.
    pub(in crate::storage::sqlite) fn at(paths: &Paths) -> Result<Self> {
        let database = identity(&paths.database)?;
        Ok(Self { database, log: identity(&paths.log)?, index: identity(&paths.index)? })
    }

    /// Returns `true` if all three files exist.
    pub(in crate::storage::sqlite) fn are_complete(&self) -> bool {
        self.database.is_some() && self.log.is_some() && self.index.is_some()
    }

    /// Returns `true` if no file of `before` has been replaced. A file that was missing then may exist now.
    pub(in crate::storage::sqlite) fn come_from(&self, before: &Self) -> bool {
        let same = |before: Option<Identity>, now| before.is_none() || before == now;
        same(before.database, self.database) && same(before.log, self.log) && same(before.index, self.index)
    }

    /// Returns a word that names these files, and no others that were ever at these paths.
    pub(in crate::storage::sqlite) fn tag(&self) -> String {
        let inode = |file: Option<Identity>| file.map_or(0, |file| file.inode);
        format!("{:x}-{:x}-{:x}", inode(self.database), inode(self.log), inode(self.index))
    }
}

/// The identity of a file, which differs from that of any other file that takes its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage::sqlite) struct Identity {
    device: u64,
    inode: u64,
    /// The mount through which the path leads to the file; 0 where the system does not report it with the rest.
    mount: u64,
}

/// Descriptors of the log and its index, which show cheaply whether either was removed.
///
/// A file that is removed while another process has it open only loses its links. The descriptors are path-only, so
/// closing them drops none of SQLite's locks.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(in crate::storage::sqlite) struct OpenParts([std::os::fd::OwnedFd; 2]);

#[cfg(target_os = "linux")]
impl OpenParts {
    pub(in crate::storage::sqlite) fn new(paths: &Paths) -> Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |path: &Path| {
            rustix::fs::open(path, flags, Mode::empty())
                .map_err(|e| failed("a part of the lock file cannot be looked at", path, e.into()))
        };
        Ok(Self([open(&paths.log)?, open(&paths.index)?]))
    }

    /// Returns `true` if neither part was removed and the database is in its place.
    ///
    /// Does not notice a part that was moved away; [`Files::at`] does.
    pub(in crate::storage::sqlite) fn are_at(&self, files: Files, paths: &Paths) -> bool {
        let linked = |file| rustix::fs::fstat(file).is_ok_and(|found| found.st_nlink == 1);
        self.0.iter().all(linked) && identity(&paths.database).is_ok_and(|now| now == files.database)
    }
}

/// A stand-in for the descriptors of Linux. Every path is examined instead.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(in crate::storage::sqlite) struct OpenParts;

#[cfg(not(target_os = "linux"))]
impl OpenParts {
    pub(in crate::storage::sqlite) fn new(_paths: &Paths) -> Result<Self> {
        Ok(Self)
    }

    pub(in crate::storage::sqlite) fn are_at(&self, files: Files, paths: &Paths) -> bool {
        Files::at(paths).is_ok_and(|now| now == files)
    }
}

/// Returns the identity of the file at a path; `None` if there is no file.
///
/// Never opens the file. Closing any descriptor of a database drops the locks that SQLite holds on it in this process.
pub(in crate::storage::sqlite) fn identity(path: &Path) -> Result<Option<Identity>> {
    let found = match examine(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("the lock file cannot be looked at", path, e)),
    };
    let refuse = |why: &str| {
        Err(Error::new(ErrorKind::Unsupported, format!("the lock file {why} path=`{}`", path.display())))
    };
    if !found.is_file {
        return refuse("must be a plain file, not a link or a directory; name the file itself");
    }
    // SQLite names the log after the path. Clients of one name would not see what clients of the other name write.
    if found.links > 1 {
        return refuse("has more than one name (hard links), each with a log of its own; remove all but one");
    }
    Ok(Some(found.identity))
}

/// Returns the identity that a file's metadata shows, without its mount.
#[cfg(unix)]
pub(in crate::storage::sqlite) fn identity_of(found: &fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    Identity { device: found.dev(), inode: found.ino(), mount: 0 }
}

/// Returns one identity for all files: other systems do not let a file in use be replaced.
#[cfg(not(unix))]
fn identity_of(_found: &fs::Metadata) -> Identity {
    Identity { device: 0, inode: 0, mount: 0 }
}

/// The properties of a path that decide whether it is a lock file.
struct Found {
    identity: Identity,
    is_file: bool,
    links: u64,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn examine(path: &Path) -> io::Result<Found> {
    use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};
    let wanted = StatxFlags::TYPE | StatxFlags::NLINK | StatxFlags::INO | StatxFlags::MNT_ID;
    let Ok(found) = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted) else {
        // An old kernel, or a sandbox that hides the call.
        return examine_without_mount(path);
    };
    Ok(Found {
        identity: Identity {
            device: rustix::fs::makedev(found.stx_dev_major, found.stx_dev_minor),
            inode: found.stx_ino,
            mount: if has_mount(&found) { found.stx_mnt_id } else { 0 },
        },
        is_file: FileType::from_raw_mode(u32::from(found.stx_mode)) == FileType::RegularFile,
        links: u64::from(found.stx_nlink),
    })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn examine(path: &Path) -> io::Result<Found> {
    examine_without_mount(path)
}

fn examine_without_mount(path: &Path) -> io::Result<Found> {
    let found = fs::symlink_metadata(path)?;
    Ok(Found { identity: identity_of(&found), is_file: found.is_file(), links: links(&found) })
}

#[cfg(unix)]
fn links(found: &fs::Metadata) -> u64 {
    use std::os::unix::fs::MetadataExt;
    found.nlink()
}

#[cfg(not(unix))]
fn links(_found: &fs::Metadata) -> u64 {
    1
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_file_is_a_lock_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("locks.db");
        assert_eq!(identity(&path).expect("examined"), None);
        std::os::unix::fs::symlink("/etc/passwd", &path).expect("a link");
        assert_eq!(identity(&path).expect_err("a link").kind(), ErrorKind::Unsupported);
    }
}
