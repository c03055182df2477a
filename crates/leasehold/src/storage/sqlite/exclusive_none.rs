//! Where SQLite's own locks belong to whoever opened the file, they suffice.

use std::path::Path;

use crate::error::Result;

/// Stands for nothing.
#[derive(Debug)]
pub(super) struct Exclusive;

/// Stands for nothing.
#[derive(Debug)]
pub(super) struct Turn<'a>(std::marker::PhantomData<&'a Exclusive>);

impl Exclusive {
    pub(super) fn open(_live_dir: &Path) -> Result<Self> {
        Ok(Self)
    }

    pub(super) fn begin(&self, _again: impl FnMut() -> bool) -> std::io::Result<Option<Turn<'_>>> {
        Ok(Some(Turn(std::marker::PhantomData)))
    }
}
