//! `leasehold __guard`: a second process that ends the command's group when we cannot.
//!
//! The kernel ends only the command itself when we die, not its children; and nobody ends anything while we
//! are stopped. The guardian reads from a pipe what it has to know, one line each: `group <id>`,
//! `deadline <ns since boot>`, `lost`, `done`. If the pipe ends without `done`, we are dead: it kills the
//! group at once. If the deadline passes without news, we are stopped and the lease is over: it does what
//! `--on-lost` says.

use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::process::{self, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::ValueEnum as _;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::child::signal_group;
use super::clock::boot_nanos;
use crate::args::OnLost;
use crate::exit::{Exit, Failure, Result};
use crate::output::millis;

pub(super) const VERB: &str = "__guard";

/// Our side: tells the guardian what it has to know. If it is dropped before `done`, the group dies.
pub(super) struct Guardian {
    process: process::Child,
    pipe: Option<ChildStdin>,
}

impl Guardian {
    pub(super) fn start(on_lost: OnLost, grace: Duration) -> Result<Self> {
        let broken = |error: std::io::Error| Failure::system("cannot start the command's guardian", error);
        let mut process = super::ourselves()
            .args([VERB, on_lost.as_str(), &millis(grace).to_string()])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(broken)?;
        let pipe = process.stdin.take();
        if let Some(pipe) = &pipe {
            // A guardian that does not read must not stop us.
            rustix::io::ioctl_fionbio(pipe, true).map_err(|e| broken(e.into()))?;
        }
        Ok(Self { process, pipe })
    }

    pub(super) fn group(&mut self, group: Pid) {
        self.tell(&group_line(group));
    }

    pub(super) fn deadline(&mut self, remaining: Duration) {
        let remaining = u64::try_from(remaining.as_nanos()).unwrap_or(u64::MAX);
        self.tell(&format!("deadline {}\n", boot_nanos().saturating_add(remaining)));
    }

    /// The number of the pipe's descriptor, for `/proc`.
    pub(super) fn pipe(&self) -> RawFd {
        self.pipe.as_ref().map_or(-1, AsRawFd::as_raw_fd)
    }

    /// We know of the loss and act on it; the guardian only makes sure that it comes to an end.
    pub(super) fn lost(&mut self) {
        self.tell("lost\n");
    }

    /// The group's id is about to be free for others.
    pub(super) fn done(&mut self) {
        self.tell("done\n");
        self.pipe = None;
    }

    /// Whether it has ended, as it does after `done`.
    pub(super) fn is_gone(&mut self) -> bool {
        !matches!(self.process.try_wait(), Ok(None))
    }

    /// A line is shorter than what a pipe takes at once. A guardian that is gone can do nothing with it.
    fn tell(&mut self, line: &str) {
        if let Some(pipe) = &mut self.pipe {
            let _ = pipe.write_all(line.as_bytes());
        }
    }
}

pub(super) fn group_line(group: Pid) -> String {
    format!("group {}\n", group.as_raw_nonzero())
}

/// The guardian's side.
pub(super) fn main(args: &[OsString]) -> Exit {
    let [on_lost, grace] = args else {
        return Exit::Usage;
    };
    let on_lost = OnLost::from_str(&on_lost.to_string_lossy(), false).unwrap_or(OnLost::Term);
    let grace = Duration::from_millis(grace.to_string_lossy().parse().unwrap_or(0));
    outlive_signals();
    Watch { on_lost, grace, group: None, deadline: None, kill_at: None }.run();
    Exit::Success
}

/// What is meant for the whole job must not end the one who cleans up after it.
fn outlive_signals() {
    let signals = [
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::TERM,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::TSTP,
        Signal::TTIN,
        Signal::TTOU,
    ];
    for signal in signals {
        let _ = signal_hook::flag::register(signal.as_raw(), Arc::new(AtomicBool::new(false)));
    }
}

struct Watch {
    on_lost: OnLost,
    grace: Duration,
    group: Option<Pid>,
    /// When the lease is over, unless there is news.
    deadline: Option<u64>,
    /// When the group is killed, unless it is done.
    kill_at: Option<u64>,
}

/// How much later than ourselves the guardian acts, so that it only does when we do not. Less than the
/// margin by which our deadline comes before the end of the lease at the storage.
const SLACK: Duration = Duration::from_millis(5);

impl Watch {
    fn run(mut self) {
        let mut unread = Vec::new();
        loop {
            // What was written is read before anything is signalled: it may say `done`.
            if !readable(self.until_due()) {
                self.act();
                continue;
            }
            let mut buffer = [0; 4096];
            match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Err(Errno::INTR) => continue,
                Ok(0) | Err(_) => return self.signal(Signal::KILL),
                Ok(n) => unread.extend_from_slice(&buffer[..n]),
            }
            while let Some(end) = unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<_> = unread.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if line.trim_end() == "done" {
                    return;
                }
                self.hear(line.trim_end());
            }
        }
    }

    fn hear(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("group", id)) => self.group = id.parse().ok().and_then(Pid::from_raw),
            Some(("deadline", at)) => self.deadline = at.parse().ok(),
            _ if line == "lost" => {
                self.deadline = None;
                self.kill_at = match self.on_lost {
                    OnLost::Term => Some(after(self.grace.saturating_add(SLACK))),
                    OnLost::Kill => Some(after(SLACK)),
                    OnLost::Ignore => None,
                };
            }
            _ => {}
        }
    }

    fn until_due(&self) -> Option<Duration> {
        let deadline = self.deadline.map(|at| at.saturating_add(nanos(SLACK)));
        let due = deadline.into_iter().chain(self.kill_at).min()?;
        Some(Duration::from_nanos(due.saturating_sub(boot_nanos())))
    }

    fn act(&mut self) {
        let now = boot_nanos();
        if self.kill_at.is_some_and(|at| at <= now) {
            self.kill_at = None;
            self.signal(Signal::KILL);
        }
        if self.deadline.is_some_and(|at| at.saturating_add(nanos(SLACK)) <= now) {
            self.deadline = None;
            match self.on_lost {
                OnLost::Term => {
                    self.signal(Signal::TERM);
                    self.signal(Signal::CONT);
                    self.kill_at = Some(after(self.grace));
                }
                OnLost::Kill => self.signal(Signal::KILL),
                OnLost::Ignore => {}
            }
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            signal_group(group, signal);
        }
    }
}

/// Waits until the pipe has something to say, or until `limit` has passed: then `false`.
fn readable(limit: Option<Duration>) -> bool {
    // `poll` does not count the time the machine sleeps, so it never waits for long at a time.
    const LONGEST: Duration = Duration::from_secs(1);
    let limit = limit.map(|limit| {
        let limit = std::cmp::min(limit, LONGEST);
        Timespec::try_from(limit).expect("BUG: a second fits")
    });
    let stdin = rustix::stdio::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    matches!(poll(&mut fds, limit.as_ref()), Ok(1..))
}

fn after(duration: Duration) -> u64 {
    boot_nanos().saturating_add(nanos(duration))
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
