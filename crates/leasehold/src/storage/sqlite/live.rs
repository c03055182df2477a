//! Liveness files: how a process learns that another one is dead, before its leases expire.
//!
//! Each open storage has a file of its own, named after the files it locks in and after its process (see `id`). Three
//! facts show that this process is alive:
//!
//! 1. A classic fcntl lock on the file. The kernel drops it when the process ends, however it ends, and a forked child
//!    does not have it. But the process itself drops it when any of its code closes any descriptor of the file.
//! 2. A flock on the file. No code drops it by accident, but a forked child has it, too.
//! 3. The process that the file names, where its pid means something.
//!
//! | fcntl lock | flock | process | the storage is |
//! |---|---|---|---|
//! | held | | | alive |
//! | free | free | | dead |
//! | free | held | alive | alive: other code in the process dropped the fcntl lock |
//! | free | held | ended | dead: a forked child keeps the flock |
//! | free | held | in another pid namespace | unknown: the boot and the TTL decide |
//! | the file cannot be opened | | alive, ended or unknown | alive, dead or unknown |
//!
//! Only the storage that made a file opens it in its process: closing the file would drop the fcntl lock. A file of the
//! running process therefore counts as alive, whichever copy of this library made it.

mod id;
mod locked;

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Pid};

#[cfg(target_os = "linux")]
pub(super) use self::id::hint_path;
use self::id::{HINT, has_tag, is_id, new_id, process_of};
use self::locked::{create_locked, is_flocked, open, remove};
use super::fs::{self as files, Identity, Paths, Sharing, failed};
use super::process::Process;
use crate::error::{Error, ErrorKind, Result};

/// A locked file that shows the other processes that this storage is in use, until it is dropped.
#[derive(Debug)]
pub(super) struct LivenessFile {
    id: String,
    path: PathBuf,
    identity: Identity,
    /// The file with both locks. It is never opened again, and closed last.
    _locked: fs::File,
}

impl LivenessFile {
    /// Makes a liveness file, and its directory, for a storage on the files with this tag.
    ///
    /// The file is shared as the lock file is: accounts that may lock may also see which storages are alive.
    pub(super) fn create(paths: &Paths, tag: &str) -> Result<Self> {
        let dir = &paths.live_dir;
        let sharing = Sharing::of(&paths.database)?;
        let cannot = |e| failed("the liveness file cannot be made", dir, e);
        let process = Process::own().map_err(cannot)?;
        // A sweeping process may take a new file for a dead one, until the file is locked.
        for _ in 0..100 {
            files::make_live_dir(dir, sharing)?;
            if let Some(live) = Self::try_create(dir, tag, process, sharing).map_err(cannot)? {
                return Ok(live);
            }
        }
        let text = format!("the liveness file was removed each time; retry path=`{}`", dir.display());
        Err(Error::new(ErrorKind::Unavailable, text))
    }

    fn try_create(dir: &Path, tag: &str, process: Process, sharing: Sharing) -> io::Result<Option<Self>> {
        let id = new_id(tag, process);
        let path = dir.join(&id);
        own().insert(id.clone(), std::process::id());
        match create_locked(&path, sharing) {
            Ok(Some((locked, identity))) => Ok(Some(Self { id, path, identity, _locked: locked })),
            other => {
                own().remove(&id);
                other.map(|_| None)
            }
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.id
    }

    /// Returns `true` if the other processes can still see the file. If they cannot, they consider its leases free.
    pub(super) fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| files::identity_of(&found) == self.identity)
    }
}

impl Drop for LivenessFile {
    fn drop(&mut self) {
        // In a forked child the file belongs to the parent.
        if own().get(&self.id) == Some(&std::process::id()) {
            own().remove(&self.id);
            remove(&self.path);
        }
    }
}

/// The state of the storage behind a liveness file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Dead,
    /// The storage is in use by the process with this id. There is no id if the process is in another pid namespace.
    Alive(Option<Pid>),
    /// The state cannot be told.
    Unknown,
}

/// Returns the state of a storage.
pub(super) fn look(dir: &Path, id: &str) -> State {
    if own().get(id) == Some(&std::process::id()) {
        return State::Alive(None);
    }
    if !is_id(id) {
        return State::Unknown;
    }
    let (path, process) = (dir.join(id), process_of(id));
    if is_own(process) {
        return match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => State::Dead,
            _ => State::Alive(None),
        };
    }
    let file = match open(&path) {
        Ok(file) => file,
        Err(Errno::NOENT) => return State::Dead,
        Err(_) => return by_process(process),
    };
    // A read lock conflicts with the owner's exclusive lock, but not with the shared lock of a sweeping process.
    match rustix::process::fcntl_getlk(&file, &Flock::from(FlockType::ReadLock)) {
        Ok(Some(lock)) => State::Alive(lock.pid.or_else(|| process.and_then(Process::pid))),
        Ok(None) if is_flocked(&file) => by_process(process),
        Ok(None) => State::Dead,
        Err(_) => by_process(process),
    }
}

/// Returns the state as far as the process shows it.
fn by_process(process: Option<Process>) -> State {
    match process.and_then(Process::is_alive) {
        Some(true) => State::Alive(process.and_then(Process::pid)),
        Some(false) => State::Dead,
        None => State::Unknown,
    }
}

/// Removes the files of dead storages. Fails if a live storage uses other files at the same paths.
pub(super) fn sweep(dir: &Path, tag: &str) -> Result<()> {
    for name in names(dir)? {
        let name = name.as_str();
        let id = name.strip_suffix(HINT).unwrap_or(name);
        if is_id(id) && look(dir, id) == State::Dead {
            remove_dead(dir, id);
        }
    }
    refuse_others(dir, tag)
}

/// Fails if a live storage uses other files at the same paths.
pub(super) fn refuse_others(dir: &Path, tag: &str) -> Result<()> {
    for other in storages(dir)?.into_iter().filter(|id| !has_tag(id, tag)) {
        match look(dir, &other) {
            State::Dead => {}
            State::Alive(_) => return Err(others_error(dir)),
            State::Unknown => return Err(unknown_error(&dir.join(other))),
        }
    }
    Ok(())
}

/// Returns the ids of the storages that have a liveness file, dead or alive.
pub(super) fn storages(dir: &Path) -> Result<Vec<String>> {
    Ok(names(dir)?.into_iter().filter(|name| is_id(name)).collect())
}

/// Removes the files of one dead storage.
pub(super) fn remove_dead(dir: &Path, id: &str) {
    if !is_id(id) || own().contains_key(id) || is_own(process_of(id)) {
        return;
    }
    let path = dir.join(id);
    match open(&path) {
        // Another process may be making this file and not have locked it yet. Only one of the two gets the lock.
        Ok(file) if rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockShared).is_ok() => {
            remove(&path)
        }
        Err(Errno::NOENT) => remove(&path),
        // The process has ended, and the file cannot be made again: no id is used twice.
        Err(Errno::ACCESS) if by_process(process_of(id)) == State::Dead => remove(&path),
        _ => {}
    }
}

/// Returns the storages of this process by id, with the process that opened each.
///
/// A forked child inherits the map, but none of the locks.
fn own() -> MutexGuard<'static, HashMap<String, u32>> {
    static OWN: LazyLock<Mutex<HashMap<String, u32>>> = LazyLock::new(Mutex::default);
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns `true` if a liveness file belongs to the running process, whichever copy of this library made it.
fn is_own(process: Option<Process>) -> bool {
    process.is_some_and(|process| Process::own().is_ok_and(|own| own == process))
}

/// Returns the names of all files in the directory; none if there is no directory.
fn names(dir: &Path) -> Result<Vec<String>> {
    let names = match fs::read_dir(dir) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("the liveness files cannot be listed", dir, e)),
    };
    let names = names.filter_map(io::Result::ok);
    Ok(names.filter_map(|name| name.file_name().into_string().ok()).collect())
}

fn others_error(dir: &Path) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "the lock file, or a part of it, was replaced or removed, and another process still uses the old one; put it \
             back, or retry when those programs have noticed or ended path=`{}`",
            dir.display()
        ),
    )
}

/// Returns the error for a storage on the old files in an unknown state. It names the account that can tell.
fn unknown_error(path: &Path) -> Error {
    use std::os::unix::fs::MetadataExt;
    let owner =
        fs::symlink_metadata(path).map_or_else(|_| "unknown".to_owned(), |found| found.uid().to_string());
    Error::new(
        ErrorKind::Unsupported,
        format!(
            "the lock file, or a part of it, was replaced or removed, and it cannot be told from here whether a program \
             of another account or container still uses the old one; if none does, that account or root has to remove \
             this file path=`{}` owner=`{owner}`",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use rustix::fs::Mode;

    use super::*;
    use crate::storage::Owner;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> (Self, Paths) {
            let dir = tempfile::tempdir().expect("a directory");
            let paths = Paths::new(dir.path().join("locks.db"));
            fs::write(&paths.database, "").expect("made");
            (Self(dir), paths)
        }
    }

    /// Returns the id of a storage of another process, which has ended.
    fn ended(tag: &str) -> String {
        let mut child = std::process::Command::new("true").spawn().expect("started");
        child.wait().expect("ended");
        let own = Process::own().expect("found").to_string();
        let (_, rest) = own.split_once('-').expect("its id is first");
        format!("{tag}-{:x}-{rest}-{}", child.id(), Owner::random())
    }

    #[test]
    fn a_file_lives_as_long_as_its_storage() {
        let (_dir, paths) = Dir::new();
        let live = LivenessFile::create(&paths, "7-8-9").expect("made");
        let (id, dir) = (live.id().to_owned(), &paths.live_dir);
        assert!(matches!(look(dir, &id), State::Alive(_)));
        remove_dead(dir, &id);
        sweep(dir, "7-8-9").expect("swept");
        assert!(dir.join(&id).exists(), "a live one was removed");
        drop(live);
        assert_eq!(look(dir, &id), State::Dead);
        assert_eq!(fs::read_dir(dir).expect("listed").count(), 0);
    }

    #[test]
    fn a_file_of_another_copy_of_this_library_is_neither_opened_nor_dead() {
        let (_dir, paths) = Dir::new();
        let (live, dir) = (LivenessFile::create(&paths, "7-8-9").expect("made"), &paths.live_dir);
        let copy = format!("7-8-9-{}-{}", Process::own().expect("found"), Owner::random());
        // No process has locked this pipe, so it would count as dead if it were opened.
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.join(&copy), Mode::RUSR).expect("made");
        assert_eq!(look(dir, &copy), State::Alive(None));
        remove_dead(dir, &copy);
        assert!(dir.join(&copy).exists());
        fs::remove_file(dir.join(&copy)).expect("removed");
        assert_eq!(look(dir, &copy), State::Dead);
        drop(live);
    }

    #[test]
    fn the_files_of_dead_storages_are_removed() {
        let (_dir, paths) = Dir::new();
        let dir = &paths.live_dir;
        fs::create_dir(dir).expect("made");
        let (id, orphan) = (ended("7-8-9"), format!("{}{HINT}", ended("7-8-9")));
        for name in [&id, &format!("{id}{HINT}"), &orphan, "README"] {
            fs::write(dir.join(name), "").expect("written");
        }
        assert_eq!(look(dir, &id), State::Dead);
        sweep(dir, "9-0-0").expect("swept");
        let left: Vec<_> =
            fs::read_dir(dir).expect("listed").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(left, ["README"]);
    }

    #[test]
    fn a_live_storage_on_other_files_is_reported() {
        let (_dir, paths) = Dir::new();
        let (_live, dir) = (LivenessFile::create(&paths, "7-8-9").expect("made"), &paths.live_dir);
        refuse_others(dir, "7-8-9").expect("the same files");
        for tag in ["7-8-a", "7-0-9", "0-0-0", "8-8-9", "7-8", "7"] {
            for refused in [sweep(dir, tag), refuse_others(dir, tag)] {
                let error = refused.expect_err("other files");
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert!(error.to_string().contains("replaced"), "{error}");
            }
        }
    }

    #[test]
    fn a_storage_notices_that_its_file_has_left_its_place() {
        let (dir, paths) = Dir::new();
        let live = LivenessFile::create(&paths, "7-8-9").expect("made");
        assert!(live.is_in_place());
        fs::rename(&paths.live_dir, dir.0.path().join("moved")).expect("moved");
        assert!(!live.is_in_place());
    }

    #[test]
    fn the_state_behind_a_text_that_is_no_id_is_unknown() {
        for id in ["../x-1", "/etc/passwd", "", "1-2-3-4-5-6-7-/"] {
            assert_eq!(look(Path::new("/nowhere"), id), State::Unknown, "{id}");
        }
    }
}
