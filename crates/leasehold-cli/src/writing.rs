//! Writes to stdout and stderr. Their readers may be slow or may have stopped: a pager, a terminal after Ctrl-S, a full
//! pipe.
//!
//! A write that blocks would stop more than the message. The handlers of signals only set a flag, so no signal would end
//! this program. The engine writes the log, so it would renew no lease meanwhile. So each write first waits for room, and
//! writes no more than a pipe with room takes at once.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::signals;

/// PIPE_BUF: what a pipe takes at once if it has any room.
const PIECE: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 4096 } else { 512 };

/// How long to wait for a reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReaderWait {
    /// Not at all.
    None,
    /// For 100 ms, as a busy reader may take.
    Moment,
    /// Until a second after a signal has asked this program to end.
    UntilSignal,
}

/// Writes all bytes. Fails with `TimedOut` if nothing reads them.
pub(crate) fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8], reader_wait: ReaderWait) -> io::Result<()> {
    while !bytes.is_empty() {
        wait(to, reader_wait)?;
        match rustix::io::write(to, &bytes[..std::cmp::min(bytes.len(), PIECE)]) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => bytes = &bytes[written..],
            // `AGAIN`: another process has made the pipe non-blocking, and has filled it since.
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits until there is room, or an error to report.
fn wait(to: BorrowedFd<'_>, reader_wait: ReaderWait) -> io::Result<()> {
    const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
    const NOT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut looks_left = if reader_wait == ReaderWait::UntilSignal { 10 } else { 1 };
    while looks_left > 0 {
        let limit = if reader_wait == ReaderWait::None { NOT } else { LOOK };
        match poll(&mut [PollFd::new(&to, PollFlags::OUT)], Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => {
                if reader_wait != ReaderWait::UntilSignal || signals::ended_so_far().is_some() {
                    looks_left -= 1;
                }
            }
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(io::ErrorKind::TimedOut.into())
}

/// The writer of the log to stderr. It drops the lines for which there is no room.
#[derive(Debug)]
pub(crate) struct Log;

impl io::Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        static DROPPED: AtomicU64 = AtomicU64::new(0);
        let stderr = rustix::stdio::stderr();
        let dropped = DROPPED.swap(0, Ordering::Relaxed);
        let told = match dropped {
            0 => Ok(()),
            n => write_all(
                stderr,
                format!("leasehold: {n} lines of the log were dropped, because nothing read them\n")
                    .as_bytes(),
                ReaderWait::None,
            ),
        };
        if told.is_err() {
            DROPPED.fetch_add(dropped + 1, Ordering::Relaxed);
        } else if write_all(stderr, line, ReaderWait::None).is_err() {
            DROPPED.fetch_add(1, Ordering::Relaxed);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
