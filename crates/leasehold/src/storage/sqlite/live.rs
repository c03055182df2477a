//! Liveness files: how a process knows that another one is dead, before its leases expire.
//!
//! Each opened storage has a file of its own under an exclusive classic fcntl lock, which the kernel drops
//! when the process ends, however it ends. Not flock and not an open-file-description lock: those live on in
//! forked children. The price of the classic lock: closing *any* descriptor of the file drops it, so a
//! process never opens a file of its own again; a registry knows which ones those are.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Flock, FlockType, Pid};

use super::fs::{self as files, Identity, failed};
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
    pub(super) fn create(dir: &Path, tag: &str) -> Result<Self> {
        // Somebody who sweeps may take a new file for a dead one, between its making and its locking.
        for _ in 0..100 {
            files::private_dir(dir)?;
            if let Some(live) =
                Self::try_create(dir, tag).map_err(|e| failed("the liveness file cannot be made", dir, e))?
            {
                return Ok(live);
            }
        }
        let text = format!("the liveness file was taken away each time; retry path=`{}`", dir.display());
        Err(Error::new(ErrorKind::Unavailable, text))
    }

    fn try_create(dir: &Path, tag: &str) -> io::Result<Option<Self>> {
        let id = format!("{tag}-{}", Owner::random());
        let path = dir.join(&id);
        own().insert(id.clone(), std::process::id());
        match lock_new(&path) {
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
}

/// Looks whether a storage is in use. What cannot be told is taken for alive; then the TTL decides.
pub(super) fn look(dir: &Path, id: &str) -> State {
    if own().get(id) == Some(&std::process::id()) {
        return State::Alive(None);
    }
    if !is_id(id) {
        return State::Alive(None);
    }
    let file = match open(&dir.join(id)) {
        Ok(file) => file,
        Err(Errno::NOENT) => return State::Dead,
        Err(_) => return State::Alive(None),
    };
    // A read lock conflicts with the owner's exclusive lock, and not with those who sweep.
    match rustix::process::fcntl_getlk(&file, &Flock::from(FlockType::ReadLock)) {
        Ok(Some(lock)) => State::Alive(lock.pid),
        Ok(None) => State::Dead,
        Err(_) => State::Alive(None),
    }
}

/// Removes what the dead left behind. Refuses if somebody lives on other files of the same paths.
pub(super) fn sweep(dir: &Path, tag: &str) -> Result<()> {
    for name in names(dir)? {
        let name = name.as_str();
        if let Some(id) = name.strip_suffix(HINT) {
            if is_id(id) && look(dir, id) == State::Dead {
                bury(dir, id);
            }
        } else if is_id(name) {
            if look(dir, name) == State::Dead {
                bury(dir, name);
            } else if !has_tag(name, tag) {
                return Err(others_error(dir));
            }
        }
    }
    Ok(())
}

/// Refuses if somebody lives on other files of the same paths.
pub(super) fn refuse_others(dir: &Path, tag: &str) -> Result<()> {
    let others = names(dir)?.into_iter().filter(|name| is_id(name) && !has_tag(name, tag));
    for other in others {
        if look(dir, &other) != State::Dead {
            return Err(others_error(dir));
        }
    }
    Ok(())
}

/// Removes the files of one dead storage.
pub(super) fn bury(dir: &Path, id: &str) {
    if !is_id(id) || own().contains_key(id) {
        return;
    }
    let path = dir.join(id);
    match open(&path) {
        // The lock keeps a file that is being made from being taken for a dead one.
        Ok(file) if rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockShared).is_ok() => {
            remove(&path)
        }
        Err(Errno::NOENT) => remove(&path),
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
    id.rsplit_once('-').is_some_and(|(found, _)| found == tag)
}

fn others_error(dir: &Path) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        format!(
            "the lock file, or a part of it, was replaced or removed, and somebody still uses the old one; put it \
             back, or retry when those programs have noticed or ended path=`{}`",
            dir.display()
        ),
    )
}

fn lock_new(path: &Path) -> io::Result<Option<(fs::File, Identity)>> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => fs::File::from(file),
        // Its directory was taken away again.
        Err(Errno::NOENT) => return Ok(None),
        Err(other) => return Err(other.into()),
    };
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::AGAIN | Errno::ACCESS) => return Ok(None),
        Err(other) => {
            remove(path);
            return Err(other.into());
        }
    }
    let identity = files::identity_of(&file.metadata()?);
    let kept = rustix::fs::fstat(&file)?.st_nlink > 0;
    Ok(kept.then_some((file, identity)))
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

/// An id is part of a path and comes out of a file that others write.
fn is_id(id: &str) -> bool {
    id.len() < 96 && id.contains('-') && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lives_as_long_as_its_storage() {
        let dir = tempfile::tempdir().expect("a directory");
        let live = Live::create(dir.path(), "7-8-9").expect("made");
        let id = live.id().to_owned();
        assert!(matches!(look(dir.path(), &id), State::Alive(_)));
        bury(dir.path(), &id);
        sweep(dir.path(), "7-8-9").expect("swept");
        assert!(dir.path().join(&id).exists(), "a live one was removed");
        drop(live);
        assert_eq!(look(dir.path(), &id), State::Dead);
        assert_eq!(fs::read_dir(dir.path()).expect("listed").count(), 0);
    }

    #[test]
    fn what_the_dead_left_is_swept() {
        let dir = tempfile::tempdir().expect("a directory");
        let id = format!("7-{}", Owner::random());
        let orphan = format!("7-{}{HINT}", Owner::random());
        for name in [&id, &format!("{id}{HINT}"), &orphan, "README"] {
            fs::write(dir.path().join(name), "").expect("written");
        }
        assert_eq!(look(dir.path(), &id), State::Dead);
        sweep(dir.path(), "9-0-0").expect("swept");
        let left: Vec<_> =
            fs::read_dir(dir.path()).expect("listed").map(|e| e.expect("entry").file_name()).collect();
        assert_eq!(left, ["README"]);
    }

    #[test]
    fn a_live_one_on_other_files_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let _live = Live::create(dir.path(), "7-8-9").expect("made");
        refuse_others(dir.path(), "7-8-9").expect("the same files");
        for tag in ["7-8-a", "7-0-9", "0-0-0", "8-8-9", "7-8", "7"] {
            for refused in [sweep(dir.path(), tag), refuse_others(dir.path(), tag)] {
                let error = refused.expect_err("other files");
                assert_eq!(error.kind(), ErrorKind::Unavailable);
                assert!(error.to_string().contains("replaced"), "{error}");
            }
        }
    }

    #[test]
    fn it_notices_that_nobody_sees_it() {
        let dir = tempfile::tempdir().expect("a directory");
        let live = Live::create(&dir.path().join("live"), "7-8-9").expect("made");
        assert!(live.is_seen());
        fs::rename(dir.path().join("live"), dir.path().join("moved")).expect("moved");
        assert!(!live.is_seen());
    }

    #[test]
    fn an_id_is_never_a_path() {
        for id in ["../x-1", "/etc/passwd", "7", "", "7-a.hint", "7-ä"] {
            assert!(!is_id(id), "{id}");
            assert_eq!(look(Path::new("/nowhere"), id), State::Alive(None));
        }
    }
}
