//! Free ports. Binding to port 0 and closing the socket is not enough, because that port is in the range of
//! outgoing connections. While a server is down between a kill and a restart, a client could get its port,
//! or even connect to itself. The ports of this module are below that range, and locked among the test
//! processes of this machine.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};

use rustix::fs::{FlockOperation, flock};

use crate::error::Context as _;
use crate::random::random;
use crate::{Error, Result};

const FIRST: u16 = 10_000;
/// The start of Linux's range for outgoing connections, minus a margin for other programs with the same
/// idea.
const END: u16 = 32_000;

/// A port of the loopback interface that no other test gets during its lifetime. No server listens on it
/// yet.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// A file lock, which the kernel releases at the end of the process.
    _lock: File,
}

impl Port {
    /// Finds a free port.
    ///
    /// # Errors
    ///
    /// If no port is free, or the lock files cannot be created.
    pub fn free() -> Result<Self> {
        // The files of one user are not writable for another.
        let name = format!("leasehold-testbed-ports-{}", rustix::process::geteuid().as_raw());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).context("cannot make the directory of ports")?;
        for _ in 0..1000 {
            let offset = u16::try_from(random() % u64::from(END - FIRST)).unwrap_or(0);
            let number = FIRST + offset;
            let lock = OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                .open(directory.join(number.to_string()));
            let lock = lock.context("cannot lock a port")?;
            if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
                continue;
            }
            if TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
                && TcpListener::bind((Ipv4Addr::UNSPECIFIED, number)).is_ok()
            {
                return Ok(Self { number, _lock: lock });
            }
        }
        Err(Error::new("found no free port"))
    }

    /// Returns the number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Starts a server, and retries with other ports if a program without these locks took one meanwhile.
pub(crate) fn retry_ports<T>(start: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 0..3 {
        match start() {
            Err(error) if error.to_string().to_lowercase().contains("already in use") => {}
            outcome => return outcome,
        }
    }
    start()
}
