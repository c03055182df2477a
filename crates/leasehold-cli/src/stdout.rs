//! Writes results to stdout, and notices when they cannot be written.
//!
//! The standard library does not notice it. When the program starts with stdout closed, Rust's runtime opens the null
//! device in its place, and the library ignores the error of a descriptor that is not open for writing.

use std::io;

use rustix::fs::OFlags;
use rustix::io::FdFlags;
use tokio::io::Interest;
use tokio::net::unix::pipe::Sender;

use crate::launch::was_closed;
use crate::writing::{ReaderWait, write_all};

/// Keeps stdin, stdout and stderr closed for the programs that this one starts, if they were closed at launch.
pub(crate) fn keep_closed() {
    let standard = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    for (descriptor, fd) in standard.into_iter().enumerate() {
        if was_closed(descriptor) {
            // It fails only for a descriptor that is not open, which is as good.
            let _ = rustix::io::fcntl_setfd(fd, FdFlags::CLOEXEC);
        }
    }
}

/// Returns why nothing can be written to stdout, as far as that can be known without writing.
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

/// Waits for the next result to print. Returns `None` if there is none any more, or the reader of stdout has gone.
pub(crate) async fn while_read<T>(next: impl Future<Output = Option<T>>) -> Option<T> {
    tokio::select! {
        biased;
        next = next => next,
        () = reader_gone() => None,
    }
}

/// Waits until the reader of stdout has gone. Waits for ever if stdout is no pipe.
async fn reader_gone() {
    // A descriptor of its own, because this closes it.
    let stdout = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).map_err(Into::into);
    // Unchecked, for the check would make it non-blocking for every process that has it. A file cannot be watched.
    let watched = stdout.and_then(Sender::from_owned_fd_unchecked);
    if let Ok(watched) = watched
        && watched.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Writes all bytes. Fails with `TimedOut` if a signal came while nothing read them.
pub(crate) fn write(bytes: &[u8]) -> io::Result<()> {
    if let Some(why) = unusable() {
        return Err(io::Error::other(why));
    }
    let stdout = rustix::stdio::stdout();
    write_all(stdout, bytes, ReaderWait::UntilSignal)?;
    // Some network file systems report a full disk only when the file is closed.
    nix::unistd::close(rustix::io::dup(stdout)?)?;
    Ok(())
}
