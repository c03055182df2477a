//! The named pipe beside each liveness file, through which other processes hint the owners of its storage.
//!
//! Each hint is the 16 bytes of an owner id. The kernel writes so few bytes whole or not at all.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tokio::net::unix::pipe::Receiver;

use crate::storage::sqlite::fs::Sharing;
use crate::storage::sqlite::live;
use crate::storage::{Hint, Owner};

/// After so many bytes at a time, the pipe may have been full, so that a hint was not written.
const FULL: usize = 60 * 1024;

/// Makes the pipe, and opens it.
pub(super) fn make(live_dir: &Path, id: &str, sharing: Sharing) -> io::Result<File> {
    let path = live::hint_path(live_dir, id).ok_or(io::ErrorKind::InvalidInput)?;
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RUSR | Mode::WUSR)?;
    // The umask of the process may have removed these rights.
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    // Opened at both ends, so that the pipe always has a reader, and never ends for it.
    let flags = (OFlags::NONBLOCK | OFlags::NOFOLLOW).bits();
    let flags = i32::try_from(flags).map_err(io::Error::other)?;
    let pipe = File::options().read(true).write(true).custom_flags(flags).open(path)?;
    sharing.share(&pipe)?;
    Ok(pipe)
}

/// Writes a hint into the pipe of another storage, if there is one and it is not full.
pub(super) fn write(live_dir: &Path, id: &str, owner: Owner) {
    let Some(path) = live::hint_path(live_dir, id) else {
        return;
    };
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    if let Ok(pipe) = rustix::fs::open(path, flags, Mode::empty()) {
        let _written = File::from(pipe).write(&owner.to_bytes());
    }
}

/// Reads all hints. Adds [`Hint::Any`] if some may be missing.
pub(super) fn read(pipe: &Receiver, hints: &mut impl Extend<Hint>) {
    let (mut buffer, mut total) = ([0; 4096], 0);
    // Each read returns whole hints, because they are written whole.
    while let Ok(read) = pipe.try_read(&mut buffer) {
        let owners = buffer.get(..read).unwrap_or_default().chunks_exact(16);
        let owners = owners.filter_map(|owner| owner.try_into().ok().map(Owner::from_bytes));
        hints.extend(owners.map(Hint::Owner));
        total += read;
        if read == 0 || total > 2 * FULL {
            break;
        }
    }
    if total >= FULL {
        hints.extend([Hint::Any]);
    }
}

/// Waits until there is a hint to read. Waits forever without a pipe.
pub(super) async fn readable(pipe: Option<&Receiver>) {
    match pipe {
        Some(pipe) if pipe.readable().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}
