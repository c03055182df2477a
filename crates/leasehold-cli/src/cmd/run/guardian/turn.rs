//! The right to send the one SIGTERM of a loss.
//!
//! `run` and its guardian may both find the lease over in the same moment, and the command must get one SIGTERM all the
//! same. So a pipe contains one byte, and only the process that reads it sends the signal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::PipeFlags;

/// A pipe with one byte in it.
pub(super) struct Turn(OwnedFd);

impl Turn {
    pub(super) fn new() -> io::Result<Self> {
        let (turn, fill) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        rustix::io::write(fill, b"1")?;
        Ok(Self(turn))
    }

    /// Returns another descriptor of the same pipe, for a guardian.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        self.0.try_clone()
    }

    /// Returns `true` for the first caller of all processes.
    pub(super) fn take(&self) -> bool {
        take(&self.0)
    }
}

/// Returns `true` for the first caller of all processes that share this pipe.
pub(super) fn take(from: impl AsFd) -> bool {
    matches!(rustix::io::read(from, &mut [0; 1]), Ok(1))
}
