//! Writes results to stdout, and notices when they do not get there.
//!
//! The standard library cannot tell: when the program starts with stdout closed, its runtime opens the null device
//! there, and later it takes a descriptor that cannot be written to for one that was written to.

use std::io;

use rustix::fs::OFlags;
use rustix::io::FdFlags;

use crate::launch::was_closed;
use crate::writing::{Patience, write_all};

/// Lets the programs that this one starts have closed what it was given closed.
pub(crate) fn keep_closed() {
    let standard = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for (descriptor, fd) in standard.into_iter().enumerate() {
        if was_closed(descriptor) {
            // Fails only for a descriptor that is not open, which is what is wanted.
            let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
    }
}

/// Says why nothing can be written to stdout, as far as that is known without writing.
pub(crate) fn unusable() -> Option<&'static str> {
    if was_closed(1) {
        return Some("stdout is closed");
    }
    let flags = rustix::fs::fcntl_getfl(rustix::stdio::stdout());
    let writable =
        |flags: OFlags| flags.intersects(OFlags::WRONLY | OFlags::RDWR) && !flags.contains(OFlags::PATH);
    match flags {
        Ok(flags) if writable(flags) => None,
        Ok(_) => Some("stdout is not open for writing"),
        Err(_) => Some("stdout is closed"),
    }
}

/// Writes all of it. Fails with `TimedOut` if a signal came while nothing read it.
pub(crate) fn write(bytes: &[u8]) -> io::Result<()> {
    if let Some(why) = unusable() {
        return Err(io::Error::other(why));
    }
    let stdout = rustix::stdio::stdout();
    write_all(stdout, bytes, Patience::UntilSignal)?;
    // Some file systems of other machines say only now that there is no room.
    nix::unistd::close(rustix::io::dup(stdout)?)?;
    Ok(())
}
