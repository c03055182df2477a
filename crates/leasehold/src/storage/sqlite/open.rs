//! An open lock file, and the check that it is still the one that the other processes use.

use rusqlite::Connection;

use super::Config;
use super::connect::connect;
use super::errors::replaced_error;
use super::exclusive::Exclusive;
use super::fs::{self, Files, OpenParts, Paths};
use super::leases::Leases;
use super::live::{self, LivenessFile};
use crate::clock::Clock;
use crate::error::Result;

/// An open lock file.
#[derive(Debug)]
pub(super) struct OpenFile {
    // Dropped first: as long as this storage may write, its liveness file keeps others from taking its leases.
    pub(super) connection: Connection,
    pub(super) files: Files,
    pub(super) parts: OpenParts,
    pub(super) live: LivenessFile,
    pub(super) exclusive: Exclusive,
    pub(super) leases: Leases,
    /// How many transactions there were.
    pub(super) transactions: u32,
    /// The name after which the next pruning begins.
    pub(super) prune_from: String,
}

impl OpenFile {
    pub(super) fn new(paths: &Paths, config: &Config, clock: &Clock) -> Result<Self> {
        // The directory is checked before it is trusted, and made only beside a lock file of Leasehold.
        fs::check_live_dir(&paths.live_dir)?;
        let (connection, files) = connect(paths, config, clock)?;
        let (live, parts, exclusive) = announce(paths, files).inspect_err(|_| {
            // Removes the directory only if it is empty.
            let _kept = std::fs::remove_dir(&paths.live_dir);
        })?;
        Ok(Self {
            connection,
            files,
            parts,
            live,
            exclusive,
            leases: Leases::default(),
            transactions: 0,
            prune_from: String::new(),
        })
    }

    /// Returns `true` if every file is the one at its path, and others can see that this storage is alive.
    pub(super) fn is_in_place(&self, paths: &Paths) -> bool {
        is_in_place(self.files, &self.live, paths)
    }

    /// Closes the file, in the order of the fields. Returns the leases that were held in it.
    pub(super) fn close(self) -> Leases {
        self.leases
    }
}

/// Makes the liveness file, and checks that the files have not been replaced before it was visible.
fn announce(paths: &Paths, files: Files) -> Result<(LivenessFile, OpenParts, Exclusive)> {
    let live = LivenessFile::create(paths, &files.tag())?;
    // A process that replaced a file before this liveness file existed has not seen it. Others may still use the old one.
    live::refuse_others(&paths.live_dir, &files.tag())?;
    let (parts, exclusive) = (OpenParts::new(paths)?, Exclusive::open(&paths.live_dir)?);
    // Again, because the directory of the liveness files may have been made just now.
    fs::check_mounts(paths)?;
    if is_in_place(files, &live, paths) {
        Ok((live, parts, exclusive))
    } else {
        Err(replaced_error(&paths.database))
    }
}

fn is_in_place(files: Files, live: &LivenessFile, paths: &Paths) -> bool {
    Files::at(paths).is_ok_and(|now| now == files) && live.is_in_place()
}
