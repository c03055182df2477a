//! File descriptors in tokio's hands.

use std::io;

use rustix::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Hands a descriptor to tokio's reactor, to wait until it is readable.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(deprecated, reason = "the unsafe successor asks for what an `OwnedFd` always keeps")]
    AsyncFd::with_interest(fd, Interest::READABLE)
}
