//! One guardian process, and the pipes between it and `run`.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::net::unix::pipe::Receiver;

use super::handle::Report;
use super::message::{Message, REQUESTED};
use super::turn::Turn;
use super::{VERB, broken, nanos};
use crate::args::OnLost;
use crate::cmd::run::clock::boot_nanos;
use crate::cmd::run::{helper, reaper};
use crate::exit::Result;
use crate::output::millis;

/// The guardian's name in the list of processes. It is not `leasehold`, so that `killall leasehold` does not end it.
const NAME: &str = "lh-guardian";

/// The variables that connecting to a storage may depend on. The guardian gets no others: some tools end all processes
/// that have inherited a certain variable.
const NEEDED: [&str; 3] = ["HOME", "SSL_CERT_DIR", "SSL_CERT_FILE"];

pub(super) struct Process {
    child: Child,
    orders: Option<ChildStdin>,
    reports: Receiver,
    /// The reports that were read and not returned yet.
    unread: VecDeque<u8>,
    started: u64,
    /// Whether its pipe is full or closed, so that it missed a message.
    is_stuck: bool,
}

impl Process {
    pub(super) fn start(on_lost: OnLost, grace: Duration, turn: &Turn) -> Result<Self> {
        let mut child = helper::this_program()
            .arg0(NAME)
            .args([VERB, on_lost.as_str(), &millis(grace).to_string()])
            .env_clear()
            .envs(NEEDED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(turn.share().map_err(broken)?)
            .process_group(0)
            .spawn()
            .map_err(broken)?;
        reaper::keep(Pid::from_child(&child));
        let orders = child.stdin.take().expect("BUG: piped");
        let reports = child.stdout.take().expect("BUG: piped");
        // A guardian that does not read must not block `run`.
        rustix::io::ioctl_fionbio(&orders, true).map_err(|e| broken(e.into()))?;
        let reports = Receiver::from_owned_fd(reports.into()).map_err(broken)?;
        Ok(Self {
            child,
            orders: Some(orders),
            reports,
            unread: VecDeque::new(),
            started: boot_nanos(),
            is_stuck: false,
        })
    }

    /// Writes a message. A pipe takes one as a whole or not at all.
    pub(super) fn tell(&mut self, message: &Message) {
        if let Some(orders) = &mut self.orders
            && orders.write_all(format!("{message}\n").as_bytes()).is_err()
        {
            self.is_stuck = true;
        }
    }

    /// Closes the pipe to the guardian, after [`Message::Done`].
    pub(super) fn hang_up(&mut self) {
        self.orders = None;
    }

    /// Returns `true` if the guardian has missed a message.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    /// Returns `true` if it was started less than `span` ago.
    pub(super) fn is_younger_than(&self, span: Duration) -> bool {
        boot_nanos().saturating_sub(self.started) < nanos(span)
    }

    /// Returns the next report, if there is one. Fails if the guardian has ended.
    pub(super) fn report(&mut self) -> io::Result<Option<Report>> {
        let read = if self.unread.is_empty() { self.read() } else { Ok(()) };
        match self.unread.pop_front() {
            None => read.map(|()| None),
            Some(REQUESTED) => Ok(Some(Report::Requested)),
            Some(_) => Ok(Some(Report::Answered)),
        }
    }

    /// Waits until there may be a report, or the guardian has ended.
    pub(super) async fn readable(&self) {
        // An error comes again when the report is read.
        let _ = self.reports.readable().await;
    }

    pub(super) fn continue_if_stopped(&self) {
        let pid = Pid::from_child(&self.child);
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        if let Ok(Some(_)) = rustix::process::waitid(WaitId::Pid(pid), stopped) {
            let _ = rustix::process::kill_process(pid, Signal::CONT);
        }
    }

    /// Kills it, if it has not ended, and reaps it.
    pub(super) fn end(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        reaper::forget(Pid::from_child(&self.child));
    }

    /// Reads all reports that have come. Fails if the pipe has ended.
    fn read(&mut self) -> io::Result<()> {
        let mut buffer = [0; 64];
        loop {
            match self.reports.try_read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.unread.extend(&buffer[..n]),
                Err(error) => return Err(error),
            }
        }
    }
}
