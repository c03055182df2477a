//! Waiting for file descriptors with tokio.

use std::io;

use rustix::fd::OwnedFd;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers a descriptor with tokio's reactor, which then waits until it is readable.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    #[expect(
        deprecated,
        reason = "its successor is unsafe; the condition for it always holds for an `OwnedFd`"
    )]
    AsyncFd::with_interest(fd, Interest::READABLE)
}
