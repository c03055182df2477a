//! Liveness files: how a process knows that another one is dead, before its leases expire.
//!
//! Each opened storage has a file of its own, whose name says which files it locks in and to which process it belongs.
//! Three things show that this process lives:
//!
//! 1. A classic fcntl lock on the file. The kernel drops it when the process ends, however it ends, and a forked child
//!    does not have it. But the process itself drops it when any of its code closes any descriptor of the file.
//! 2. A flock on the file. Nobody drops it by accident, but a forked child has it, too.
//! 3. The process named by the file, where its pid means something.
//!
//! | fcntl lock | flock | process | the storage is |
//! |---|---|---|---|
//! | held | | | alive |
//! | free | free | | dead |
//! | free | held | lives | alive: careless code has dropped the lock |
//! | free | held | has ended | dead: a forked child keeps the flock |
//! | free | held | of another pid namespace | unknown: the boot and the TTL decide |
//! | not to be opened | | lives, has ended, not told | alive, dead, unknown |
//!
//! A file of the running process is never opened, but by the storage that made it: closing it would drop the fcntl lock.
//! It counts as alive, whichever copy of this library made it.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Pid};

use super::fs::{self as files, Identity, Paths, Sharing, failed};
use super::process::Process;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Owner;

/// The ending of the pipe that belongs to a liveness file.
pub(super) const HINT: &str = ".hint";

/// Shows the others that this storage is in use, until it is dropped.
#[derive(Debug)]
pub(super) struct Live {
    id: String,
    path: PathBuf,
    identity: Identity,
    /// Holds the lock; never opened again, closed last.
    _locked: fs::File,
}

impl Live {
    /// Makes a liveness file, and its directory, for a storage on the files with this tag.
    ///
    /// It is shared as the lock file is: those who may lock may also see who lives.
    pub(super) fn create(paths: &Paths, tag: &str) -> Result<Self> {
        let dir = &paths.live_dir;
        let sharing = Sharing::of(&paths.database)?;
        let cannot = |e| failed("the liveness file cannot be made", dir, e);
        let process = Process::own().map_err(cannot)?;
        // Somebody who sweeps may take a new file for a dead one, between its making and its locking.
        for _ in 0..100 {
            files::live_dir(dir, sharing)?;
            if let Some(live) = Self::try_create(dir, tag, process, sharing).map_err(cannot)? {
                return Ok(live);
            }
        }
        let text = format!("the liveness file was taken away each time; retry path=`{}`", dir.display());
        Err(Error::new(ErrorKind::Unavailable, text))
    }

    fn try_create(dir: &Path, tag: &str, process: Process, sharing: Sharing) -> io::Result<Option<Self>> {
        let id = format!("{tag}-{process}-{}", Owner::random());
        let path = dir.join(&id);
        own().insert(id.clone(), std::process::id());
        match lock_new(&path, sharing) {
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

    /// Whether the others can still see it: if not, they take its leases for free.
    pub(super) fn is_seen(&self) -> bool {
        fs::symlink_metadata(&self.path).is_ok_and(|found| files::identity_of(&found) == self.identity)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        // In a forked child these belong to the parent.
        if own().get(&self.id) == Some(&std::process::id()) {
            own().remove(&self.id);
            remove(&self.path);
        }
    }
}

/// Whether the storage behind a liveness file is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Dead,
    /// By the process with this id, if it has one here: not in another pid namespace.
    Alive(Option<Pid>),
    /// Cannot be told.
    Unknown,
}

/// Looks whether a storage is in use.
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
    // A read lock conflicts with the owner's exclusive lock, and not with those who sweep.
    match rustix::process::fcntl_getlk(&file, &Flock::from(FlockType::ReadLock)) {
        Ok(Some(lock)) => State::Alive(lock.pid.or_else(|| process.and_then(Process::pid))),
        Ok(None) if is_flocked(&file) => by_process(process),
        Ok(None) => State::Dead,
        Err(_) => by_process(process),
    }
}

fn by_process(process: Option<Process>) -> State {
    match process.and_then(Process::lives) {
        Some(true) => State::Alive(process.and_then(Process::pid)),
        Some(false) => State::Dead,
        None => State::Unknown,
    }
}

/// Removes what the dead left behind. Refuses if somebody lives on other files of the same paths.
pub(super) fn sweep(dir: &Path, tag: &str) -> Result<()> {
    for name in names(dir)? {
        let name = name.as_str();
        let id = name.strip_suffix(HINT).unwrap_or(name);
        if is_id(id) && look(dir, id) == State::Dead {
            bury(dir, id);
        }
    }
    refuse_others(dir, tag)
}

/// Refuses if somebody lives on other files of the same paths.
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

/// Returns the storages that have a liveness file, dead or alive.
pub(super) fn storages(dir: &Path) -> Result<Vec<String>> {
    Ok(names(dir)?.into_iter().filter(|name| is_id(name)).collect())
}

/// Removes the files of one dead storage.
pub(super) fn bury(dir: &Path, id: &str) {
    if !is_id(id) || own().contains_key(id) || is_own(process_of(id)) {
        return;
    }
    let path = dir.join(id);
    match open(&path) {
        // The lock keeps a file that is being made from being taken for a dead one.
        Ok(file) if rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockShared).is_ok() => {
            remove(&path)
        }
        Err(Errno::NOENT) => remove(&path),
        // Its process is known to have ended, and it cannot be made anew: no id comes twice.
        Err(Errno::ACCESS) if by_process(process_of(id)) == State::Dead => remove(&path),
        _ => {}
    }
}

/// The path of the pipe that belongs to a liveness file.
#[cfg(target_os = "linux")]
pub(super) fn hint_path(dir: &Path, id: &str) -> Option<PathBuf> {
    is_id(id).then(|| dir.join(format!("{id}{HINT}")))
}

/// The storages of this process, by id, with the process that opened them: a forked child inherits the map,
/// and none of the locks.
fn own() -> MutexGuard<'static, HashMap<String, u32>> {
    static OWN: LazyLock<Mutex<HashMap<String, u32>>> = LazyLock::new(Mutex::default);
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is in the directory; nothing if there is none.
fn names(dir: &Path) -> Result<Vec<String>> {
    let names = match fs::read_dir(dir) {
        Ok(names) => names,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("the liveness files cannot be listed", dir, e)),
    };
    let names = names.filter_map(io::Result::ok);
    Ok(names.filter_map(|name| name.file_name().into_string().ok()).collect())
}

fn has_tag(id: &str, tag: &str) -> bool {
    id.strip_prefix(tag)
        .is_some_and(|rest| rest.starts_with('-') && rest.split('-').count() == PARTS - TAG + 1)
}

/// Returns the process that a liveness file names.
fn process_of(id: &str) -> Option<Process> {
    // The tag before it and the random number after it.
    let (_, rest) = id.match_indices('-').nth(TAG - 1).map(|(at, _)| id.split_at(at + 1))?;
    rest.rsplit_once('-')?.0.parse().ok()
}

/// Returns `true` if a liveness file belongs to the running process, whichever copy of this library made it.
fn is_own(process: Option<Process>) -> bool {
    process.is_some_and(|process| Process::own().is_ok_and(|own| own == process))
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

/// Says that it cannot be told whether the old file is used, and who can tell.
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

fn lock_new(path: &Path, sharing: Sharing) -> io::Result<Option<(fs::File, Identity)>> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => fs::File::from(file),
        // Its directory was taken away again.
        Err(Errno::NOENT) => return Ok(None),
        Err(other) => return Err(other.into()),
    };
    let lock = FlockOperation::NonBlockingLockExclusive;
    match rustix::fs::fcntl_lock(&file, lock).and_then(|()| flock(path, &file, lock)) {
        Ok(()) => {}
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
    let identity = files::identity_of(&file.metadata()?);
    let kept = rustix::fs::fstat(&file)?.st_nlink > 0;
    Ok(kept.then_some((file, identity)))
}

/// Returns `true` if the process that made the file, or a forked child, has it open. Also where there is no telling.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn is_flocked(file: &OwnedFd) -> bool {
    // Ends when the file is closed.
    rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
}

/// Elsewhere the two kinds of locks exclude each other, so there is only one.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_flocked(_file: &OwnedFd) -> bool {
    true
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn flock(path: &Path, file: &fs::File, lock: FlockOperation) -> rustix::io::Result<()> {
    // NFS makes one kind of lock out of both, so that they exclude each other.
    if files::network_fs(path.parent().unwrap_or(path)).is_some() {
        return Ok(());
    }
    rustix::fs::flock(file, lock)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn flock(_path: &Path, _file: &fs::File, _lock: FlockOperation) -> rustix::io::Result<()> {
    Ok(())
}

fn open(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    rustix::fs::open(path, flags, Mode::empty())
}

fn remove(path: &Path) {
    let mut hint = path.as_os_str().to_owned();
    hint.push(HINT);
    // The pipe first: whoever finds one without a liveness file may remove it.
    let _gone = fs::remove_file(hint);
    let _gone = fs::remove_file(path);
}

/// How many numbers an id has, and how many of them say in which files its storage locks.
const PARTS: usize = TAG + 4 + 1;
const TAG: usize = 3;

/// An id is part of a path and comes out of a file that others write.
fn is_id(id: &str) -> bool {
    id.len() < 192
        && id.split('-').count() == PARTS
        && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Dir(tempfile::TempDir);

    impl Dir {
        fn new() -> (Self, Paths) {
            let dir = tempfile::tempdir().expect("a directory");
            let paths = Paths::new(dir.path().join("locks.db"));
            fs::write(&paths.database, "").expect("made");
            (Self(dir), paths)
        }
    }

    /// The id of a storage of another process, which has ended.
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
        let live = Live::create(&paths, "7-8-9").expect("made");
        let (id, dir) = (live.id().to_owned(), &paths.live_dir);
        assert!(matches!(look(dir, &id), State::Alive(_)));
        bury(dir, &id);
        sweep(dir, "7-8-9").expect("swept");
        assert!(dir.join(&id).exists(), "a live one was removed");
        drop(live);
        assert_eq!(look(dir, &id), State::Dead);
        assert_eq!(fs::read_dir(dir).expect("listed").count(), 0);
    }

    #[test]
    fn what_another_copy_of_this_library_made_is_neither_opened_nor_dead() {
        let (_dir, paths) = Dir::new();
        let (live, dir) = (Live::create(&paths, "7-8-9").expect("made"), &paths.live_dir);
        let copy = format!("7-8-9-{}-{}", Process::own().expect("found"), Owner::random());
        // To open it would block, for want of somebody at its other end.
        rustix::fs::mkfifoat(rustix::fs::CWD, dir.join(&copy), Mode::RUSR).expect("made");
        assert_eq!(look(dir, &copy), State::Alive(None));
        bury(dir, &copy);
        assert!(dir.join(&copy).exists());
        fs::remove_file(dir.join(&copy)).expect("removed");
        assert_eq!(look(dir, &copy), State::Dead);
        drop(live);
    }

    #[test]
    fn what_the_dead_left_is_swept() {
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
    fn a_live_one_on_other_files_is_told() {
        let (_dir, paths) = Dir::new();
        let (_live, dir) = (Live::create(&paths, "7-8-9").expect("made"), &paths.live_dir);
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
    fn it_notices_that_nobody_sees_it() {
        let (dir, paths) = Dir::new();
        let live = Live::create(&paths, "7-8-9").expect("made");
        assert!(live.is_seen());
        fs::rename(&paths.live_dir, dir.0.path().join("moved")).expect("moved");
        assert!(!live.is_seen());
    }

    #[test]
    fn an_id_is_never_a_path() {
        for id in
            ["../x-1", "/etc/passwd", "7", "", "7-a.hint", "7-ä", "1-2-3-4-5-6-7-8-9", "1-2-3-4-5-6-7-/"]
        {
            assert!(!is_id(id), "{id}");
            assert_eq!(look(Path::new("/nowhere"), id), State::Unknown);
        }
        assert!(is_id("1-2-3-4-5-6-7-8"));
        assert_eq!(process_of("1-2-3-4-5-6-7-8"), "4-5-6-7".parse().ok());
        assert!(has_tag("1-2-3-4-5-6-7-8", "1-2-3") && !has_tag("1-2-3-4-5-6-7-8", "1-2"));
    }
}
