//! What is asked of the file system before a lock file is trusted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Config;
use crate::error::{Error, ErrorKind, Result};

/// Where the parts of a lock file are.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    pub(super) database: PathBuf,
    /// SQLite's write-ahead log.
    pub(super) log: PathBuf,
    /// SQLite's index of the log.
    pub(super) index: PathBuf,
    pub(super) live_dir: PathBuf,
}

/// The three files that SQLite works with. Whoever has not all the same ones excludes nobody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    pub(super) database: Option<Identity>,
    pub(super) log: Option<Identity>,
    index: Option<Identity>,
}

/// Tells one file from another that takes its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

/// Tells cheaply whether the log and its index were removed: while somebody has them open they only lose their links.
/// A path-only descriptor, whose closing drops none of SQLite's locks.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(super) struct Kept([std::os::fd::OwnedFd; 2]);

#[cfg(target_os = "linux")]
impl Kept {
    pub(super) fn new(paths: &Paths) -> Result<Self> {
        use rustix::fs::{Mode, OFlags};
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let keep = |path: &Path| {
            rustix::fs::open(path, flags, Mode::empty())
                .map_err(|e| failed("a part of the lock file cannot be looked at", path, e.into()))
        };
        Ok(Self([keep(&paths.log)?, keep(&paths.index)?]))
    }

    /// Whether none was removed and the file is in its place. Whether one was moved away, [`Files::at`] tells.
    pub(super) fn are_at(&self, files: Files, paths: &Paths) -> bool {
        let linked = |file| rustix::fs::fstat(file).is_ok_and(|found| found.st_nlink > 0);
        self.0.iter().all(linked) && identity(&paths.database).is_ok_and(|now| now == files.database)
    }
}

/// Elsewhere every path is looked at.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub(super) struct Kept;

#[cfg(not(target_os = "linux"))]
impl Kept {
    pub(super) fn new(_paths: &Paths) -> Result<Self> {
        Ok(Self)
    }

    pub(super) fn are_at(&self, files: Files, paths: &Paths) -> bool {
        Files::at(paths).is_ok_and(|now| now == files)
    }
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

impl Files {
    /// The files as they are now.
    pub(super) fn at(paths: &Paths) -> Result<Self> {
        let database = identity(&paths.database)?;
        Ok(Self { database, log: identity(&paths.log)?, index: identity(&paths.index)? })
    }

    /// Whether nothing is missing.
    pub(super) fn are_whole(&self) -> bool {
        self.database.is_some() && self.log.is_some() && self.index.is_some()
    }

    /// Whether these may be the same files, some of which had not been made yet.
    pub(super) fn come_from(&self, before: &Self) -> bool {
        let same = |before: Option<Identity>, now| before.is_none() || before == now;
        same(before.database, self.database) && same(before.log, self.log) && same(before.index, self.index)
    }

    /// A word for these files, and for no others of these paths.
    pub(super) fn tag(&self) -> String {
        let inode = |file: Option<Identity>| file.map_or(0, |file| file.inode);
        format!("{:x}-{:x}-{:x}", inode(self.database), inode(self.log), inode(self.index))
    }
}

/// The permission bit that lets everybody write.
#[cfg(unix)]
const OTHERS_WRITE: u32 = 0o002;

/// Makes the way to the file, and refuses a place where locks would not exclude or not be private.
/// Returns the path with its directory resolved.
pub(super) fn prepare(config: &Config) -> Result<PathBuf> {
    let path = config.path()?;
    if path.as_os_str().is_empty() {
        return Err(Error::invalid("the path of the lock file is empty; name a file"));
    }
    let path = std::path::absolute(&path)
        .map_err(|e| failed("the path of the lock file cannot be resolved", &path, e))?;
    let (Some(parent), Some(file)) = (path.parent(), path.file_name()) else {
        return Err(Error::invalid(format!("not the path of a file path=`{}`", path.display())));
    };
    make_dirs(parent).map_err(|e| failed("the directory of the lock file cannot be made", parent, e))?;
    let parent = fs::canonicalize(parent)
        .map_err(|e| failed("the directory of the lock file cannot be resolved", parent, e))?;
    check_dir(&parent)?;
    if !config.allow_network_fs
        && let Some(kind) = network_fs(&parent)
    {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "locks in a file do not hold on {kind}, which may be shared with other machines; choose a local \
                 directory or another storage, or set allow_network_fs=true if only this machine uses it path=`{}`",
                parent.display()
            ),
        ));
    }
    Ok(parent.join(file))
}

/// The file as it is now; `None` if there is none.
///
/// Never opens it: closing any descriptor of a database drops the locks that SQLite holds on it in this process.
pub(super) fn identity(path: &Path) -> Result<Option<Identity>> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(failed("the lock file cannot be looked at", path, e)),
    };
    if !found.file_type().is_file() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the lock file must be a plain file, not a link or a directory; name the file itself path=`{}`",
                path.display()
            ),
        ));
    }
    Ok(Some(identity_of(&found)))
}

/// Makes the directory of the liveness files, which nobody else may write to.
#[cfg(unix)]
pub(super) fn private_dir(path: &Path) -> Result<()> {
    make_dirs(path).map_err(|e| failed("the directory of the liveness files cannot be made", path, e))?;
    check_private_dir(path)
}

/// Refuses what is in the place of the directory of the liveness files, if something is and it is not one.
pub(super) fn check_private_dir(path: &Path) -> Result<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(failed("the directory of the liveness files cannot be looked at", path, e)),
    };
    if !found.is_dir() {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "the liveness files need a directory and something else is there path=`{}`",
                path.display()
            ),
        ));
    }
    check_owner(path)?;
    check_dir(path)
}

/// Refuses what somebody else laid out in a directory that everybody may write to: its owner could take it away.
#[cfg(unix)]
pub(super) fn check_owner(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let look = |path: &Path| {
        fs::symlink_metadata(path)
            .map_err(|e| failed("the owner of the lock file cannot be looked at", path, e))
    };
    let shared = look(path.parent().unwrap_or(path))?.mode() & OTHERS_WRITE != 0;
    let (owner, me) = (look(path)?.uid(), rustix::process::geteuid().as_raw());
    if shared && owner != me && owner != 0 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "somebody else made this in a directory that all may write to; choose another path path=`{}` owner=`{owner}`",
                path.display()
            ),
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
pub(super) fn check_owner(_path: &Path) -> Result<()> {
    Ok(())
}

/// Says what failed; the cause itself is the source.
pub(super) fn failed(what: &str, path: &Path, cause: io::Error) -> Error {
    use io::ErrorKind as Io;
    let (kind, hint) = match cause.kind() {
        Io::PermissionDenied => (ErrorKind::Unsupported, "check its permissions"),
        Io::ReadOnlyFilesystem => (ErrorKind::Unsupported, "the file system is read-only"),
        Io::StorageFull | Io::QuotaExceeded => (ErrorKind::Unavailable, "free some space and retry"),
        Io::NotADirectory | Io::AlreadyExists | Io::InvalidFilename => {
            (ErrorKind::Unsupported, "choose another path")
        }
        _ => (ErrorKind::Unavailable, "retry, or choose another path"),
    };
    Error::new(kind, format!("{what}; {hint} path=`{}`", path.display())).with_source(cause)
}

#[cfg(unix)]
fn make_dirs(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
fn make_dirs(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// Makes the file if it is missing, so that it is private from its first moment.
///
/// The caller keeps other openings in this process out until SQLite has it open.
#[cfg(unix)]
pub(super) fn create(path: &Path) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let made = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            Err(failed("the lock file cannot be made", path, e))
        }
        _ => Ok(()),
    }
}

#[cfg(not(unix))]
pub(super) fn create(_path: &Path) -> Result<()> {
    Ok(())
}

/// Makes an empty file of this account private, as if it had been made here. What is in use keeps its mode.
#[cfg(unix)]
pub(super) fn tighten(path: &Path) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let failed = |e| failed("the lock file cannot be made private", path, e);
    let found = fs::symlink_metadata(path).map_err(failed)?;
    let mine = found.uid() == rustix::process::geteuid().as_raw();
    if found.is_file() && found.len() == 0 && mine && found.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(not(unix))]
pub(super) fn tighten(_path: &Path) -> Result<()> {
    Ok(())
}

#[cfg(unix)]
pub(super) fn identity_of(found: &fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    Identity { device: found.dev(), inode: found.ino() }
}

/// Elsewhere a file in use cannot be replaced.
#[cfg(not(unix))]
fn identity_of(_found: &fs::Metadata) -> Identity {
    Identity { device: 0, inode: 0 }
}

/// In a directory that anybody may write to, anybody may replace the file, unless it is sticky.
#[cfg(unix)]
fn check_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let found = fs::metadata(path)
        .map_err(|e| failed("the directory of the lock file cannot be looked at", path, e))?;
    if exposed(found.mode()) {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "anybody may replace files in this directory; choose another, or take away others' right to write path=`{}`",
                path.display()
            ),
        ));
    }
    Ok(())
}

#[cfg(unix)]
fn exposed(mode: u32) -> bool {
    const STICKY: u32 = 0o1000;
    mode & OTHERS_WRITE != 0 && mode & STICKY == 0
}

#[cfg(not(unix))]
fn check_dir(_path: &Path) -> Result<()> {
    Ok(())
}

#[cfg(target_os = "linux")]
fn network_fs(path: &Path) -> Option<&'static str> {
    let found = rustix::fs::statfs(path).ok()?;
    // The field is signed on some machines and the number has 32 bits on all.
    let magic = u32::try_from(i128::from(found.f_type) & 0xffff_ffff).ok()?;
    network_fs_by_magic(magic)
}

#[cfg(not(target_os = "linux"))]
fn network_fs(_path: &Path) -> Option<&'static str> {
    None
}

/// The file systems on which another machine may open the same file without sharing memory with this one.
#[cfg(target_os = "linux")]
fn network_fs_by_magic(magic: u32) -> Option<&'static str> {
    Some(match magic {
        0x0000_6969 => "NFS",
        0x0000_517b | 0xff53_4d42 | 0xfe53_4d42 => "SMB",
        0x0102_1997 => "9P",
        0x6573_5546 => "FUSE",
        0x5346_414f | 0x6b41_4653 => "AFS",
        0x00c3_6400 => "Ceph",
        0x0116_1970 => "GFS2",
        0x7461_636f => "OCFS2",
        0x0bd0_0bd0 => "Lustre",
        0x7375_7245 => "Coda",
        0x0000_564c => "NCP",
        0x4750_4653 => "GPFS",
        0x1983_0326 => "BeeGFS",
        0x786f_4256 => "a VirtualBox shared folder",
        _ => return None,
    })
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn network_file_systems_are_known_by_their_magic() {
        for magic in [0x6969, 0x517b, 0xff53_4d42, 0x0102_1997, 0x6573_5546, 0x0bd0_0bd0] {
            assert!(network_fs_by_magic(magic).is_some(), "{magic:x}");
        }
        let (ext4, tmpfs, overlay, btrfs, xfs) = (0xef53, 0x0102_1994, 0x794c_7630, 0x9123_683e, 0x5846_5342);
        for magic in [ext4, tmpfs, overlay, btrfs, xfs] {
            assert!(network_fs_by_magic(magic).is_none(), "{magic:x}");
        }
    }

    #[test]
    fn a_directory_open_to_all_is_refused_unless_sticky() {
        let dir = tempfile::tempdir().expect("a directory");
        let open = |mode| {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).expect("chmod");
            prepare(&Config::new(dir.path().join("locks.db")))
        };
        assert_eq!(open(0o777).expect_err("exposed").kind(), ErrorKind::Unsupported);
        assert!(open(0o1777).is_ok());
        assert!(open(0o755).is_ok());
    }

    #[test]
    fn what_somebody_else_laid_out_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o1777)).expect("chmod");
        let path = dir.path().join("locks.db");
        create(&path).expect("made");
        check_owner(&path).expect("it is ours");
        // Only root may give a file away.
        if std::os::unix::fs::chown(&path, Some(12_345), None).is_ok() {
            assert_eq!(check_owner(&path).expect_err("not ours").kind(), ErrorKind::Unsupported);
        }
    }

    #[test]
    fn missing_directories_are_made_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = prepare(&Config::new(dir.path().join("a/b/locks.db"))).expect("made");
        let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode(path.parent().expect("b")), 0o700);
    }

    #[test]
    fn only_a_plain_file_is_a_lock_file() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("locks.db");
        assert_eq!(identity(&path).expect("looked"), None);
        std::os::unix::fs::symlink("/etc/passwd", &path).expect("a link");
        assert_eq!(identity(&path).expect_err("a link").kind(), ErrorKind::Unsupported);
    }
}
