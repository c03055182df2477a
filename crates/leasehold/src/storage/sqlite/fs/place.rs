//! The path of a lock file and its directories: a place where locks exclude, and where no other account interferes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

#[cfg(unix)]
use super::Sharing;
use super::failed;
use super::network::network_fs;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::sqlite::Config;

/// The permission bit that lets every account write.
#[cfg(unix)]
pub(super) const OTHERS_WRITE: u32 = 0o002;

/// Makes the directories of the lock file, and returns its path with the directory resolved.
///
/// # Errors
///
/// `Unsupported` if locks at that path would not exclude, or if other accounts could replace the file.
pub(in crate::storage::sqlite) fn prepare(config: &Config) -> Result<PathBuf> {
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

/// Refuses a path that is too long once SQLite has added an ending to it.
///
/// SQLite itself would only report that it cannot open the file.
#[cfg(unix)]
fn check_length(path: &Path) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    /// The longest ending, `-journal`. SQLite looks for that file even where it keeps a write-ahead log.
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

/// Makes the directory of the liveness files, which only the accounts that share the lock file may write to.
#[cfg(unix)]
pub(in crate::storage::sqlite) fn make_live_dir(path: &Path, sharing: Sharing) -> Result<()> {
    make_dirs(path).map_err(|e| failed("the directory of the liveness files cannot be made", path, e))?;
    sharing.widen(path);
    check_live_dir(path)
}

/// Refuses what is at the path of the directory of the liveness files, unless it is a private directory or nothing.
pub(in crate::storage::sqlite) fn check_live_dir(path: &Path) -> Result<()> {
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

/// Refuses a file that another account made in a directory which every account may write to.
///
/// Its owner could take it away at any time.
#[cfg(unix)]
pub(in crate::storage::sqlite) fn check_owner(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let examine = |path: &Path| {
        fs::symlink_metadata(path)
            .map_err(|e| failed("the owner of the lock file cannot be looked at", path, e))
    };
    let shared = examine(path.parent().unwrap_or(path))?.mode() & OTHERS_WRITE != 0;
    let (owner, me) = (examine(path)?.uid(), rustix::process::geteuid().as_raw());
    if shared && owner != me && owner != 0 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "another account made this in a directory that every account may write to; choose another path \
                 path=`{}` owner=`{owner}`",
                path.display()
            ),
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
pub(in crate::storage::sqlite) fn check_owner(_path: &Path) -> Result<()> {
    Ok(())
}

/// Refuses a directory in which every account may replace the file: writable for all, and not sticky.
#[cfg(unix)]
fn check_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    const STICKY: u32 = 0o1000;
    let found = fs::metadata(path)
        .map_err(|e| failed("the directory of the lock file cannot be looked at", path, e))?;
    if found.mode() & OTHERS_WRITE != 0 && found.mode() & STICKY == 0 {
        return Err(Error::new(
            ErrorKind::Unsupported,
            format!(
                "every account may replace files in this directory; choose another, or take away others' right to \
                 write path=`{}`",
                path.display()
            ),
        ));
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_dir(_path: &Path) -> Result<()> {
    Ok(())
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

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{Paths, create};
    use super::*;

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
    fn a_file_of_another_account_in_an_open_directory_is_refused() {
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
}
