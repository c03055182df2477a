//! What the guardian process does: `leasehold __guard ON-LOST GRACE`.
//!
//! Its stdin is the pipe of messages, its stdout that of reports, and its stderr the turn.
//!
//! | State | Input | Next state | Action |
//! |---|---|---|---|
//! | waiting | `lease`, `keep`, `group`, `reaped` | waiting | it notes what they say |
//! | waiting | `deadline` | waiting, until then | |
//! | waiting | the deadline has passed for `SLACK` | lost | `term`: SIGTERM if it takes the turn, then SIGCONT; `kill`: SIGKILL; `ignore`: nothing |
//! | waiting | `lost` | lost | it plans the SIGKILL as `--on-lost` says; a deadline only tells until when the other leases last |
//! | lost | the grace time is over | lost | SIGKILL |
//! | any | `forget` | the same | it forgets that lease |
//! | any | `ask` | the same | it answers |
//! | any | `ended` | waiting | it forgets the group, the deadline and the planned SIGKILL |
//! | any | `done` | ended | |
//! | any | the pipe ends: `run` is dead | ended | SIGKILL; it waits until no member of the group runs, and releases the leases, or has the storage keep them until the time of `keep` |
//!
//! The deadline passes without a message only while `run` is stopped. If the guardian dies before it has released a
//! lease, that lease ends with its TTL.

use std::ffi::OsString;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::ValueEnum as _;
use leasehold::Ticket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::message::{ANSWERED, Message};
use super::{after, nanos, turn};
use crate::args::OnLost;
use crate::cmd::run::clock::boot_nanos;
use crate::cmd::run::group::{self, has_members, has_running_members};
use crate::exit::Exit;
use crate::{session, signals};

/// How much later than `run` the guardian acts, so that it acts only if `run` does not. This is less than the margin by
/// which the deadline comes before the end of the lease at the storage.
const SLACK: Duration = Duration::from_millis(5);

/// Runs until there is nothing left to do.
pub(in crate::cmd::run) fn main(args: &[OsString]) -> Exit {
    let [on_lost, grace] = args else {
        return Exit::Usage;
    };
    let on_lost = OnLost::from_str(&on_lost.to_string_lossy(), false).unwrap_or(OnLost::Term);
    let grace = Duration::from_millis(grace.to_string_lossy().parse().unwrap_or(0));
    outlive_signals();
    Program::new(on_lost, grace).run();
    Exit::Success
}

/// Handles the signals that are meant for the whole job: they must not end the process that cleans up after it. Reports
/// requests to end, for `run` must know whether every process got them.
fn outlive_signals() {
    for &signal in signals::ENDING.iter().chain(&[Signal::TSTP, Signal::TTIN, Signal::TTOU]) {
        let _ = signal_hook::flag::register(signal.as_raw(), Arc::new(AtomicBool::new(false)));
    }
    for signal in signals::REQUESTS {
        if let Ok(reports) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3) {
            let _ = signal_hook::low_level::pipe::register(signal.as_raw(), reports);
        }
    }
}

struct Program {
    on_lost: OnLost,
    grace: Duration,
    group: Option<Pid>,
    /// Whether the head of the group was reaped.
    is_reaped: bool,
    /// Whether `run` acts on a loss.
    is_lost: bool,
    /// When the lease is over, unless a message says otherwise.
    deadline: Option<u64>,
    /// When the group gets SIGKILL, unless a message says otherwise.
    kill_at: Option<u64>,
    /// The leases that are released once the group has ended.
    leases: Vec<Ticket>,
    /// The URL of their storage.
    url: String,
    /// Until when they are kept all the same.
    keep_until: u64,
    /// The last deadline that `run` has told.
    lease_ends: u64,
}

impl Program {
    fn new(on_lost: OnLost, grace: Duration) -> Self {
        Self {
            on_lost,
            grace,
            group: None,
            is_reaped: false,
            is_lost: false,
            deadline: None,
            kill_at: None,
            leases: Vec::new(),
            url: String::new(),
            keep_until: 0,
            lease_ends: 0,
        }
    }

    fn run(mut self) {
        let mut unread = Vec::new();
        loop {
            // What was written is read before anything is signaled: it may say `done`.
            if !readable(self.until_due()) {
                self.act();
                continue;
            }
            let mut buffer = [0; 4096];
            match rustix::io::read(rustix::stdio::stdin(), &mut buffer) {
                Err(Errno::INTR) => continue,
                Ok(0) | Err(_) => return self.succeed(),
                Ok(n) => unread.extend_from_slice(&buffer[..n]),
            }
            while let Some(end) = unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<_> = unread.drain(..=end).collect();
                match Message::parse(String::from_utf8_lossy(&line).trim_end()) {
                    Some(Message::Done) => return,
                    Some(message) => self.hear(message),
                    None => {}
                }
            }
        }
    }

    fn hear(&mut self, message: Message) {
        match message {
            Message::Lease { ticket, url } => {
                self.leases.push(ticket);
                self.url = url;
            }
            Message::Keep(until) => self.keep_until = until,
            Message::Group(group) => self.group = Some(group),
            Message::Reaped => self.is_reaped = true,
            Message::Deadline(at) => (self.deadline, self.lease_ends) = ((!self.is_lost).then_some(at), at),
            Message::Lost => {
                (self.is_lost, self.deadline) = (true, None);
                self.kill_at = match self.on_lost {
                    OnLost::Term => Some(after(self.grace.saturating_add(SLACK))),
                    OnLost::Kill => Some(after(SLACK)),
                    OnLost::Ignore => None,
                };
            }
            Message::Forget(owner) => self.leases.retain(|lease| lease.owner() != owner),
            Message::Ask => _ = rustix::io::write(rustix::stdio::stdout(), &[ANSWERED]),
            Message::Ended => (self.group, self.deadline, self.kill_at) = (None, None, None),
            Message::Done => {}
        }
    }

    /// Returns how long it is until [`act`](Self::act) has something to do.
    fn until_due(&self) -> Option<Duration> {
        let deadline = self.deadline.map(|at| at.saturating_add(nanos(SLACK)));
        let due = deadline.into_iter().chain(self.kill_at).min()?;
        Some(Duration::from_nanos(due.saturating_sub(boot_nanos())))
    }

    /// Does what is due.
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
                    if turn::take(rustix::stdio::stderr()) {
                        self.signal(Signal::TERM);
                    }
                    self.signal(Signal::CONT);
                    self.kill_at = Some(after(self.grace));
                }
                OnLost::Kill => self.signal(Signal::KILL),
                OnLost::Ignore => {}
            }
        }
    }

    /// Does what is left to do after the death of `run`.
    fn succeed(self) {
        self.signal(Signal::KILL);
        if self.leases.is_empty() || !self.group_has_ended() {
            return;
        }
        let until = |at: u64| Duration::from_nanos(at.saturating_sub(boot_nanos()));
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            let end = session::end_leases(&self.url, self.leases, || until(self.keep_until));
            let _ = runtime.block_on(async { tokio::time::timeout(until(self.lease_ends), end).await });
        }
    }

    /// Waits until the killed group has ended. Returns `false` if the lease is over before.
    #[expect(clippy::disallowed_methods, reason = "no event tells when a group has ended")]
    fn group_has_ended(&self) -> bool {
        const LONGEST: Duration = Duration::from_millis(32);
        let Some(group) = self.group else { return true };
        let mut pause = Duration::from_millis(1);
        // `/proc` is read late: to look through it costs more the more processes there are.
        while has_members(group, self.is_reaped) && (pause < LONGEST || has_running_members(group)) {
            // No process renews it any more.
            if boot_nanos() >= self.lease_ends {
                return false;
            }
            std::thread::sleep(pause);
            pause = std::cmp::min(pause * 2, LONGEST);
        }
        true
    }

    fn signal(&self, signal: Signal) {
        match self.group {
            Some(group) if self.is_reaped => group::signal_without_leader(group, signal),
            Some(group) => group::signal(group, signal),
            None => {}
        }
    }
}

/// Waits until the pipe of messages is readable. Returns `false` if it is not within `limit`.
fn readable(limit: Option<Duration>) -> bool {
    // `poll` does not count the time that the machine sleeps, so it never waits for long at a time.
    const LONGEST: Duration = Duration::from_secs(1);
    let limit = limit.map(|limit| {
        let limit = std::cmp::min(limit, LONGEST);
        Timespec::try_from(limit).expect("BUG: a second fits")
    });
    let stdin = rustix::stdio::stdin();
    let mut fds = [PollFd::new(&stdin, PollFlags::IN)];
    matches!(poll(&mut fds, limit.as_ref()), Ok(1..))
}
