//! What the system has run out of, where SQLite reports only that a file cannot be opened or written.

#[cfg(unix)]
use std::fs;
use std::io;
use std::path::Path;

use crate::system::exhausted;

/// Returns what the system has run out of, or which part of it fails, if that is why a file cannot be used.
pub(in crate::storage::sqlite) fn shortage(path: &Path) -> Option<&'static str> {
    let dir = path.parent().unwrap_or(path);
    // SQLite needs as many descriptors at a time.
    let opened: Result<Vec<_>, _> = (0..5).map(|_| open_dir(dir)).collect();
    match opened {
        Err(e) => exhausted(&e),
        Ok(_) => exhausted(&disk_trouble(dir)?.into()),
    }
}

#[cfg(unix)]
fn open_dir(dir: &Path) -> io::Result<fs::File> {
    fs::File::open(dir)
}

#[cfg(not(unix))]
fn open_dir(_dir: &Path) -> io::Result<()> {
    Ok(())
}

#[cfg(unix)]
fn disk_trouble(dir: &Path) -> Option<io::ErrorKind> {
    /// SQLite lets the index of its log grow in steps of this size.
    const PIECE: u64 = 32 * 1024;
    let found = rustix::fs::statvfs(dir).ok()?;
    if found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
        return Some(io::ErrorKind::ReadOnlyFilesystem);
    }
    // Some file systems report no blocks at all.
    let is_full = found.f_blocks > 0 && found.f_bavail.saturating_mul(found.f_frsize) < PIECE;
    is_full.then_some(io::ErrorKind::StorageFull)
}

#[cfg(not(unix))]
fn disk_trouble(_dir: &Path) -> Option<io::ErrorKind> {
    None
}
