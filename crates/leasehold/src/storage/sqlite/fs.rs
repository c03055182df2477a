//! What is asked of the file system before a lock file is trusted.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::system::exhausted;

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
    /// The mount through which the path leads to it; 0 where that is not told on the way.
    mount: u64,
}

/// Which other accounts share the lock file, so that what belongs to it is shared in the same way.
#[cfg(unix)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sharing {
    /// Of a file.
    mode: u32,
    group: Option<u32>,
}

#[cfg(unix)]
impl Sharing {
    const PRIVATE: Self = Self { mode: 0o600, group: None };

    /// Returns how a lock file is shared that is there.
    pub(super) fn of(file: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let found = fs::symlink_metadata(file)
            .map_err(|e| failed("the mode of the lock file cannot be looked at", file, e))?;
        Ok(Self { mode: found.mode() & 0o666 | 0o600, group: Some(found.gid()) })
    }

    /// Returns how a lock file was shared that is not there any more. The directory of its liveness files remembers it.
    pub(super) fn remembered(live_dir: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        match fs::symlink_metadata(live_dir) {
            // Whoever may only list the directory could not lock.
            Ok(found) if found.is_dir() => {
                let bits = |w: u32| if found.mode() & w == w { w & 0o666 } else { 0 };
                Self { mode: 0o600 | bits(0o070) | bits(0o007), group: Some(found.gid()) }
            }
            _ => Self::PRIVATE,
        }
    }

    /// Shares a file that was just made, so its mode may still be anything.
    pub(super) fn share(self, file: &fs::File) -> io::Result<()> {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let mut found = file.metadata()?;
        if let Some(group) = self.group.filter(|group| *group != found.gid()) {
            // Only for a member of the group; for another, the file stays private.
            if std::os::unix::fs::fchown(file, None, Some(group)).is_ok() {
                found = file.metadata()?;
            }
        }
        let mode = self.mode_in(found.gid());
        if found.mode() & 0o777 != mode {
            file.set_permissions(fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Gives those that share the lock file a part of it that this account owns. Takes nothing away.
    pub(super) fn widen(self, path: &Path) {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let Ok(found) = fs::symlink_metadata(path) else { return };
        if found.uid() != rustix::process::geteuid().as_raw() || found.file_type().is_symlink() {
            return;
        }
        let mut gid = found.gid();
        if let Some(group) = self.group.filter(|group| *group != gid)
            && std::os::unix::fs::lchown(path, None, Some(group)).is_ok()
        {
            gid = group;
        }
        let mode = self.mode_in(gid);
        // A directory also has to be passed; and in one that all may write to, each removes only its own.
        let wanted = match found.is_dir() {
            true if mode & OTHERS_WRITE != 0 => mode | (mode & 0o444) >> 2 | 0o1000,
            true => mode | (mode & 0o444) >> 2,
            false => mode,
        };
        let now = found.mode() & 0o7777;
        if now | wanted != now {
            // What cannot be shared is refused to the others by the system, which says so.
            let _refused = fs::set_permissions(path, fs::Permissions::from_mode(now | wanted));
        }
    }

    /// Nobody of another group gets what the lock file's group has.
    fn mode_in(self, group: u32) -> u32 {
        if self.group == Some(group) { self.mode } else { self.mode & !0o070 }
    }
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
        let linked = |file| rustix::fs::fstat(file).is_ok_and(|found| found.st_nlink == 1);
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
    let path = parent.join(file);
    check_length(&path)?;
    Ok(path)
}

/// Refuses a path to which SQLite cannot add what it names its parts by. It would only say that it cannot open it.
#[cfg(unix)]
fn check_length(path: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    /// The longest of the endings, `-journal`: SQLite looks for one also where it keeps a write-ahead log.
    const ENDING: usize = 8;
    const PATH: usize = 512 - ENDING;
    const NAME: usize = 255 - ENDING;
    let (length, name) = (path.as_os_str().len(), path.file_name().map_or(0, |name| name.as_bytes().len()));
    if length <= PATH && name <= NAME {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Unsupported,
        format!(
            "the path of the lock file is too long; choose a shorter one bytes=`{length}` at_most=`{PATH}` \
             bytes_of_the_name=`{name}` at_most=`{NAME}` path=`{}`",
            path.display()
        ),
    ))
}

#[cfg(not(unix))]
fn check_length(_path: &Path) -> Result<()> {
    Ok(())
}

/// The file as it is now; `None` if there is none.
///
/// Never opens it: closing any descriptor of a database drops the locks that SQLite holds on it in this process.
pub(super) fn identity(path: &Path) -> Result<Option<Identity>> {
    let found = match look(path) {
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
    // Under each name SQLite keeps another log, so those that use one do not see what those of the other write.
    if found.links > 1 {
        return refuse("has more than one name (hard links), each with a log of its own; remove all but one");
    }
    Ok(Some(found.identity))
}

/// What is at a path.
struct Found {
    identity: Identity,
    is_file: bool,
    links: u64,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn look(path: &Path) -> io::Result<Found> {
    use rustix::fs::{AtFlags, CWD, FileType, StatxFlags};
    let wanted = StatxFlags::TYPE | StatxFlags::NLINK | StatxFlags::INO | StatxFlags::MNT_ID;
    let Ok(found) = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, wanted) else {
        // An old kernel, or one that hides the call.
        return look_without_mount(path);
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
fn look(path: &Path) -> io::Result<Found> {
    look_without_mount(path)
}

fn look_without_mount(path: &Path) -> io::Result<Found> {
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

#[cfg(any(target_os = "linux", target_os = "android"))]
fn has_mount(found: &rustix::fs::Statx) -> bool {
    rustix::fs::StatxFlags::from_bits_retain(found.stx_mask).contains(rustix::fs::StatxFlags::MNT_ID)
}

/// Returns the mount through which a file was opened.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn mount_of(file: impl std::os::fd::AsFd) -> io::Result<u64> {
    use rustix::fs::{AtFlags, StatxFlags};
    use std::os::fd::AsRawFd;
    let file = file.as_fd();
    match rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
        Ok(found) if has_mount(&found) => return Ok(found.stx_mnt_id),
        // Older than Linux 5.8, or hidden.
        _ => {}
    }
    let info = fs::read_to_string(format!("/proc/thread-self/fdinfo/{}", file.as_raw_fd()))?;
    let mount = info.lines().find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok());
    mount.ok_or_else(|| io::Error::other("the system does not say through which mount a file was opened"))
}

/// Refuses parts that were mounted one by one (`mount --bind locks.db …`, `docker -v ./locks.db:…`): through another
/// path the same part lies beside others, and what excludes there excludes nothing here.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn check_mounts(paths: &Paths) -> Result<()> {
    use rustix::fs::{CWD, Mode, OFlags};
    // Path-only descriptors, whose closing drops none of SQLite's locks.
    let mount = |path: &Path| -> Result<Option<u64>> {
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
    };
    let dir = mount(paths.database.parent().unwrap_or(&paths.database))?;
    for part in [&paths.database, &paths.log, &paths.index, &paths.live_dir] {
        let own = mount(part)?;
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

/// Elsewhere single files are not mounted.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn check_mounts(_paths: &Paths) -> Result<()> {
    Ok(())
}

/// Makes the directory of the liveness files, which only those may write to that share the lock file.
#[cfg(unix)]
pub(super) fn live_dir(path: &Path, sharing: Sharing) -> Result<()> {
    make_dirs(path).map_err(|e| failed("the directory of the liveness files cannot be made", path, e))?;
    sharing.widen(path);
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

#[cfg(unix)]
fn make_dirs(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

#[cfg(not(unix))]
fn make_dirs(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// Makes the file if it is missing: private from its first moment, unless the one before was shared.
///
/// The caller keeps other openings in this process out until SQLite has it open.
#[cfg(unix)]
pub(super) fn create(paths: &Paths) -> Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = &paths.database;
    let failed = |e| failed("the lock file cannot be made", path, e);
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(made) => Sharing::remembered(&paths.live_dir).share(&made).map_err(failed),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(failed(e)),
    }
}

#[cfg(not(unix))]
pub(super) fn create(_paths: &Paths) -> Result<()> {
    Ok(())
}

/// Makes an empty file of this account private, as if it had been made here. What is in use keeps its mode.
#[cfg(unix)]
pub(super) fn tighten(paths: &Paths) -> Result<()> {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    let path = &paths.database;
    let failed = |e| failed("the lock file cannot be made private", path, e);
    let found = fs::symlink_metadata(path).map_err(failed)?;
    let mine = found.uid() == rustix::process::geteuid().as_raw();
    let mode = Sharing::remembered(&paths.live_dir).mode_in(found.gid());
    if found.is_file() && found.len() == 0 && mine && found.mode() & 0o777 & !mode != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(not(unix))]
pub(super) fn tighten(_paths: &Paths) -> Result<()> {
    Ok(())
}

/// Gives those that share the lock file the parts of it that SQLite made.
#[cfg(unix)]
pub(super) fn share_parts(paths: &Paths) -> Result<()> {
    let sharing = Sharing::of(&paths.database)?;
    for part in [&paths.log, &paths.index] {
        sharing.widen(part);
    }
    Ok(())
}

#[cfg(not(unix))]
pub(super) fn share_parts(_paths: &Paths) -> Result<()> {
    Ok(())
}

/// Says why files cannot be opened or written here, if it is the system that has none left or fails.
pub(super) fn short_of(path: &Path) -> Option<&'static str> {
    let dir = path.parent().unwrap_or(path);
    // As many as SQLite needs at a time.
    let opened: Result<Vec<_>, _> = (0..5).map(|_| open_again(dir)).collect();
    match opened {
        Err(e) => exhausted(&e),
        Ok(_) => exhausted(&disk_trouble(dir)?.into()),
    }
}

#[cfg(unix)]
fn open_again(dir: &Path) -> io::Result<fs::File> {
    fs::File::open(dir)
}

#[cfg(not(unix))]
fn open_again(_dir: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn disk_trouble(dir: &Path) -> Option<io::ErrorKind> {
    /// SQLite lets the index of its log grow by so much at a time.
    const PIECE: u64 = 32 * 1024;
    let found = rustix::fs::statvfs(dir).ok()?;
    if found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Some(io::ErrorKind::ReadOnlyFilesystem);
    }
    // Some file systems count nothing.
    let is_full = found.f_blocks > 0 && found.f_bavail.saturating_mul(found.f_frsize) < PIECE;
    is_full.then_some(io::ErrorKind::StorageFull)
}

#[cfg(not(unix))]
fn disk_trouble(_dir: &Path) -> Option<io::ErrorKind> {
    None
}

#[cfg(unix)]
pub(super) fn identity_of(found: &fs::Metadata) -> Identity {
    use std::os::unix::fs::MetadataExt;
    Identity { device: found.dev(), inode: found.ino(), mount: 0 }
}

/// Elsewhere a file in use cannot be replaced.
#[cfg(not(unix))]
fn identity_of(_found: &fs::Metadata) -> Identity {
    Identity { device: 0, inode: 0, mount: 0 }
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
pub(super) fn network_fs(path: &Path) -> Option<&'static str> {
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
        create(&Paths::new(path.clone())).expect("made");
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
