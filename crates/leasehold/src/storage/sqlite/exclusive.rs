//! Exclusive access to a lock file for one transaction, even where SQLite's own locks do not exclude.
//!
//! SQLite's locks are classic fcntl locks. A process that closes any descriptor of the file drops all of its locks on it.
//! Two copies of SQLite in one process, as two packages bring them, do not exclude each other at all.
//!
//! Each transaction therefore also takes a flock, which belongs to one open file description. It is taken on the
//! directory of the liveness files.

use std::fs::File;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::fs::failed;
use crate::error::Result;

/// The directory on which the flock is taken.
#[derive(Debug)]
pub(super) struct Exclusive(File);

/// Exclusive access; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Access<'a>(&'a File);

impl Exclusive {
    /// Opens the directory of the liveness files, which must exist.
    ///
    /// It stays open, so that a process without free descriptors can still renew what it holds.
    pub(super) fn open(live_dir: &Path) -> Result<Self> {
        let opened = File::open(live_dir);
        opened
            .map(Self)
            .map_err(|e| failed("the directory of the liveness files cannot be opened", live_dir, e))
    }

    /// Begins a transaction as soon as no other is in progress. Gives up when `again` returns `false`.
    pub(super) fn begin(&self, mut again: impl FnMut() -> bool) -> rustix::io::Result<Option<Access<'_>>> {
        // Transactions that only read also exclude each other. If they ran side by side, they could leave no gap for
        // one that writes.
        let lock = FlockOperation::NonBlockingLockExclusive;
        loop {
            match rustix::fs::flock(&self.0, lock) {
                Ok(()) => return Ok(Some(Access(&self.0))),
                Err(Errno::WOULDBLOCK | Errno::INTR) if again() => {}
                Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
                Err(other) => return Err(other),
            }
        }
    }
}

impl Drop for Access<'_> {
    fn drop(&mut self) {
        // Closing the descriptor would not do: a child that was forked meanwhile shares the lock, and would keep it.
        let _unlocked = rustix::fs::flock(self.0, FlockOperation::Unlock);
    }
}
