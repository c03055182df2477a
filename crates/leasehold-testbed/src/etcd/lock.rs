//! The lock of etcd's own command line.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::error::Context as _;
use crate::wait::scaled;
use crate::{Error, Result};

/// A running `etcdctl lock`. Dropping it kills it without a release.
#[derive(Debug)]
pub struct EtcdctlLock {
    process: Child,
    said: Receiver<String>,
}

/// How long the lock is awaited.
const LIMIT: Duration = Duration::from_secs(30);

impl EtcdctlLock {
    pub(super) fn start(command: &mut Command) -> Result<Self> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut process = command.spawn().context("cannot start etcdctl")?;
        let output = process.stdout.take().ok_or_else(|| Error::new("etcdctl has no output"))?;
        let (say, said) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(std::result::Result::ok) {
                if say.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { process, said })
    }

    /// Waits until it holds the lock. Returns the key with which it does.
    ///
    /// # Errors
    ///
    /// If it ends instead, or takes too long.
    pub fn await_held(&self) -> Result<String> {
        self.said.recv_timeout(scaled(LIMIT)).context("etcdctl does not get the lock")
    }

    /// Returns `true` if it has said that it holds the lock.
    pub fn holds(&self) -> bool {
        self.said.try_recv().is_ok()
    }

    /// Releases the lock, or stops waiting for it. Returns when the process has ended.
    ///
    /// # Errors
    ///
    /// If the process cannot be told to, or has failed.
    pub fn release(mut self) -> Result<()> {
        let id = Pid::from_child(&self.process);
        kill_process(id, Signal::INT).context("cannot interrupt etcdctl")?;
        self.process.wait().context("etcdctl does not end").map(drop)
    }
}

impl Drop for EtcdctlLock {
    fn drop(&mut self) {
        let _ended_already = self.process.kill();
        let _ended_already = self.process.wait();
    }
}
