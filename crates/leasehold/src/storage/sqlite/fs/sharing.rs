//! Modes and groups: all parts of a lock file are shared with the accounts that may use the database.

#[cfg(unix)]
use std::{fs, io, path::Path};

use super::Paths;
#[cfg(unix)]
use super::failed;
#[cfg(unix)]
use super::place::OTHERS_WRITE;
use crate::error::Result;

/// The mode and the group of a lock file, which its other parts take over.
#[cfg(unix)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::storage::sqlite) struct Sharing {
    /// The mode of a file.
    mode: u32,
    group: Option<u32>,
}

#[cfg(unix)]
impl Sharing {
    const PRIVATE: Self = Self { mode: 0o600, group: None };

    /// Returns how an existing lock file is shared.
    pub(in crate::storage::sqlite) fn of(file: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let found = fs::symlink_metadata(file)
            .map_err(|e| failed("the mode of the lock file cannot be looked at", file, e))?;
        Ok(Self { mode: found.mode() & 0o666 | 0o600, group: Some(found.gid()) })
    }

    /// Returns how a lock file was shared that no longer exists. The directory of its liveness files still shows it.
    fn remembered(live_dir: &Path) -> Self {
        use std::os::unix::fs::MetadataExt;
        match fs::symlink_metadata(live_dir) {
            // An account that may only list the directory could not lock.
            Ok(found) if found.is_dir() => {
                let bits = |w: u32| if found.mode() & w == w { w & 0o666 } else { 0 };
                Self { mode: 0o600 | bits(0o070) | bits(0o007), group: Some(found.gid()) }
            }
            _ => Self::PRIVATE,
        }
    }

    /// Shares a file that this process has just made. The umask may have given it any mode.
    pub(in crate::storage::sqlite) fn share(self, file: &fs::File) -> io::Result<()> {
        use std::os::unix::fs::{MetadataExt, PermissionsExt};
        let mut found = file.metadata()?;
        if let Some(group) = self.group.filter(|group| *group != found.gid()) {
            // Succeeds only for a member of the group; otherwise the file stays private.
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

    /// Shares an existing part, if this account owns it. Takes no right away.
    pub(in crate::storage::sqlite) fn widen(self, path: &Path) {
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
        // A directory also needs the right to enter it. If every account may write to it, it becomes sticky, so that
        // each account removes only its own files.
        let wanted = match found.is_dir() {
            true if mode & OTHERS_WRITE != 0 => mode | (mode & 0o444) >> 2 | 0o1000,
            true => mode | (mode & 0o444) >> 2,
            false => mode,
        };
        let now = found.mode() & 0o7777;
        if now | wanted != now {
            // If this fails, the system refuses the part to the other accounts, and their errors say so.
            let _refused = fs::set_permissions(path, fs::Permissions::from_mode(now | wanted));
        }
    }

    /// Returns the mode of a part that belongs to `group`. Another group does not get the rights of the lock file's.
    fn mode_in(self, group: u32) -> u32 {
        if self.group == Some(group) { self.mode } else { self.mode & !0o070 }
    }
}

/// Makes the lock file if it is missing: private from its first moment, unless the one before it was shared.
///
/// The caller keeps other openings in this process out until SQLite has the file open.
#[cfg(unix)]
pub(in crate::storage::sqlite) fn create(paths: &Paths) -> Result<()> {
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
pub(in crate::storage::sqlite) fn create(_paths: &Paths) -> Result<()> {
    Ok(())
}

/// Makes an empty file of this account private, as if it had been made here. A file with content keeps its mode.
#[cfg(unix)]
pub(in crate::storage::sqlite) fn tighten(paths: &Paths) -> Result<()> {
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
pub(in crate::storage::sqlite) fn tighten(_paths: &Paths) -> Result<()> {
    Ok(())
}

/// Shares the parts of the lock file that SQLite made.
#[cfg(unix)]
pub(in crate::storage::sqlite) fn share_parts(paths: &Paths) -> Result<()> {
    let sharing = Sharing::of(&paths.database)?;
    for part in [&paths.log, &paths.index] {
        sharing.widen(part);
    }
    Ok(())
}

#[cfg(not(unix))]
pub(in crate::storage::sqlite) fn share_parts(_paths: &Paths) -> Result<()> {
    Ok(())
}
