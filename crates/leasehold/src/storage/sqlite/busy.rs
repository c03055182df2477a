//! How a call waits while other processes use the lock file, and for how long.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::errors::busy_error;
use super::exclusive::{Access, Exclusive};
use super::fs;
use crate::clock::{Clock, Moment};
use crate::error::Error;

/// How long other processes may keep the file busy before a call fails.
const BUSY_LIMIT: Duration = Duration::from_secs(3);

/// Begins a transaction as soon as no other is in progress.
pub(super) fn begin<'a>(exclusive: &'a Exclusive, clock: &Clock) -> Result<Option<Access<'a>>, NotBegun> {
    let mut backoff = Backoff::new(clock);
    match exclusive.begin(|| backoff.again()) {
        Ok(Some(access)) => Ok(Some(access)),
        Ok(None) => Err(NotBegun::Busy),
        Err(error) => Err(NotBegun::System(error.into())),
    }
}

/// The reason why a transaction did not begin.
#[derive(Debug)]
pub(super) enum NotBegun {
    Busy,
    System(io::Error),
}

impl NotBegun {
    pub(super) fn explain(self, path: &Path) -> Error {
        match self {
            Self::Busy => busy_error(path),
            Self::System(cause) => {
                fs::failed("the lock file cannot be kept for one transaction", path, cause)
            }
        }
    }
}

/// The pauses between the attempts to get the file.
pub(super) struct Backoff {
    clock: Clock,
    since: Moment,
    count: u32,
}

impl Backoff {
    pub(super) fn new(clock: &Clock) -> Self {
        Self { clock: clock.clone(), since: clock.now(), count: 0 }
    }

    /// Begins anew, for another wait.
    pub(super) fn reset(&mut self) {
        (self.since, self.count) = (self.clock.now(), 0);
    }

    /// Pauses. Returns `true` if another attempt is worthwhile.
    pub(super) fn again(&mut self) -> bool {
        // SQLite's own pauses are whole milliseconds and grow to 100, which is far longer than any transaction here.
        match self.count {
            0..4 => std::thread::yield_now(),
            4..40 => pause(Duration::from_micros(50)),
            40..80 => pause(Duration::from_micros(200)),
            _ => pause(Duration::from_millis(1)),
        }
        self.count = self.count.saturating_add(1);
        self.clock.now().since(self.since) < BUSY_LIMIT
    }
}

pub(super) fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "no event tells when SQLite's write lock is free")]
    std::thread::sleep(time);
}
