//! Keeps transactions on one lock file apart, even where SQLite's own locks do not.
//!
//! SQLite's locks are classic fcntl locks. A process that closes any descriptor of the file drops all of its own, and two
//! copies of SQLite in one process, as two packages bring them, do not exclude each other at all. So each transaction is
//! done under a flock, which belongs to whoever opened what it is on, and which is on the directory of the liveness files.

use std::fs::File;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::fs::failed;
use crate::error::Result;

/// What transactions on a lock file are kept apart by.
#[derive(Debug)]
pub(super) struct Exclusive(File);

/// The time of one transaction; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Turn<'a>(&'a File);

impl Exclusive {
    /// Opens the directory of the liveness files, which has to be there.
    ///
    /// It stays open: a process that has no descriptor left has to renew what it holds.
    pub(super) fn open(live_dir: &Path) -> Result<Self> {
        let opened = File::open(live_dir);
        opened
            .map(Self)
            .map_err(|e| failed("the directory of the liveness files cannot be opened", live_dir, e))
    }

    /// Begins a transaction if nobody else is in one; else asks `again`, and gives up if it says `false`.
    pub(super) fn begin(&self, mut again: impl FnMut() -> bool) -> rustix::io::Result<Option<Turn<'_>>> {
        // Also where it only looks: those that look together would leave no gap for one that writes.
        let lock = FlockOperation::NonBlockingLockExclusive;
        loop {
            match rustix::fs::flock(&self.0, lock) {
                Ok(()) => return Ok(Some(Turn(&self.0))),
                Err(Errno::WOULDBLOCK | Errno::INTR) if again() => {}
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
                Err(other) => return Err(other),
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // Not by closing: a child that was forked meanwhile has the same lock, and would keep it.
        let _unlocked = rustix::fs::flock(self.0, FlockOperation::Unlock);
    }
}
