//! Free ports. Binding to port 0 and letting go again is not enough: the port comes from the range of outgoing
//! connections, so while a server is down between kill and restart, a client can get it, or even connect to
//! itself. These are below that range, and locked among the test processes of this machine.

use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, TcpListener};

use rustix::fs::{FlockOperation, flock};

use crate::error::Context as _;
use crate::random::random;
use crate::{Error, Result};

const FIRST: u16 = 10_000;
/// Where Linux begins to number outgoing connections, less some that others chose as we did.
const END: u16 = 32_000;

/// Is a port of the loopback interface that no other test gets while this lives. Nobody listens yet.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Locked; the kernel unlocks it when we end.
    _lock: File,
}

impl Port {
    /// Finds a free one.
    ///
    /// # Errors
    ///
    /// If there is none, or the lock files cannot be made.
    pub fn free() -> Result<Self> {
        // Another user could not write to ours.
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

    /// Is its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Starts a server anew, with other ports, if somebody who does not lock them took one in between.
pub(crate) fn retry_ports<T>(start: impl Fn() -> Result<T>) -> Result<T> {
    for _ in 0..3 {
        match start() {
            Err(error) if error.to_string().to_lowercase().contains("already in use") => {}
            outcome => return outcome,
        }
    }
    start()
}
