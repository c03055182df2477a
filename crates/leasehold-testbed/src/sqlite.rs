//! SQLite, which needs no server: a file in a temporary directory.

use std::path::PathBuf;

use crate::registry::Entry;
use crate::{Result, Scratch, Server, Setup};

/// All setups of SQLite.
pub(crate) const SETUPS: &[Entry] =
    &[Entry::new("sqlite", "a SQLite file", |_| Ok(Box::new(File(Scratch::new()?))))
        .scheme("sqlite")
        .suite()];

/// A file that the first client creates.
struct File(Scratch);

impl Setup for File {
    fn url(&self) -> String {
        format!("sqlite:{}", self.0.path().join("locks.db").display())
    }

    fn servers(&self) -> Vec<&Server> {
        Vec::new()
    }

    fn ca(&self) -> Option<PathBuf> {
        None
    }

    fn connections(&self) -> Result<u64> {
        Ok(0)
    }

    fn commands(&self) -> Result<u64> {
        Ok(0)
    }
}
