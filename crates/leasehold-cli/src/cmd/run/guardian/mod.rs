//! `leasehold __guard`: a second process that ends the command's group when we cannot.
//!
//! The kernel ends only the command itself when we die, not its children; and nothing ends anything while we
//! are stopped. So the lease does not end with us either: only the guardian knows when the command has ended. It reads
//! from a pipe what it has to know, one line each:
//!
//! | Line | Meaning |
//! |---|---|
//! | `lease <ticket> <url>` | what to release after our death, once the group has ended |
//! | `group <id>` | the group to end |
//! | `reaped` | the head of the group was reaped: the group lives only as long as it has members |
//! | `deadline <ns since boot>` | when the lease is over |
//! | `lost` | the lock is lost, and we act on it |
//! | `ask` | answer, after all reports |
//! | `ended` | the group is not to be ended any more |
//! | `done` | nothing is left to do |
//!
//! If the pipe ends without `done`, we are dead:
//!
//! 1. It kills the group at once.
//! 2. It waits until the group has no member that runs, for as long as the lease may last.
//! 3. It releases the lease, so that the next holder need not wait for the TTL. If it is killed before, the TTL decides.
//!
//! If the deadline passes without news, we are stopped and the lease is over: it does what `--on-lost` says. It reports to us through another pipe, one byte
//! each: `X` that it was sent a request to end, `A` that it was asked. The end of that pipe is its own end: we start
//! another guardian.
//!
//! One loss is one SIGTERM, although both of us may find the lease over in the same moment: a third pipe has one byte in
//! it, and only the process that reads it sends the signal.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, ErrorKind, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{self, ChildStdin, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::ValueEnum as _;
use leasehold::Ticket;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix;

use super::child::{has_members, has_running_members, signal_group, signal_group_without_leader};
use super::clock::boot_nanos;
use super::reaper;
use crate::args::OnLost;
use crate::exit::{Exit, Failure, Result};
use crate::output::millis;
use crate::{session, signals};

pub(super) const VERB: &str = "__guard";

/// Its name among the processes: not ours, so that what signals every `leasehold` does not signal it.
const NAME: &str = "lh-guardian";

/// The variables that connecting to a storage may depend on. It gets no others: what ends processes by a variable that
/// they have inherited is not to end the guardian.
const NEEDED: [&str; 3] = ["HOME", "SSL_CERT_DIR", "SSL_CERT_FILE"];

/// Our side: tells the guardian what it has to know. If it is dropped before `done`, the group dies.
pub(super) struct Guardian {
    running: Running,
    on_lost: OnLost,
    grace: Duration,
    /// What a new guardian has to be told.
    lines: Lines,
    /// How many guardians in a row have ended soon after their start.
    short_lived: u32,
    /// Reports that were read and not returned yet.
    reports: VecDeque<u8>,
    /// SIGCHLD: the guardian may have been stopped.
    news: Option<unix::Signal>,
    /// Whether there is no guardian any more, and no other is started.
    is_given_up: bool,
    turn: Turn,
}

/// The right to ask the group to end because the lock is lost: a pipe with one byte in it.
struct Turn(OwnedFd);

impl Turn {
    fn new() -> io::Result<Self> {
        let (turn, fill) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        rustix::io::write(fill, b"1")?;
        Ok(Self(turn))
    }

    /// Returns `true` for one of all that ask.
    fn take(from: impl AsFd) -> bool {
        matches!(rustix::io::read(from, &mut [0; 1]), Ok(1))
    }
}

/// One process.
struct Running {
    process: process::Child,
    pipe: Option<ChildStdin>,
    reports: Receiver,
    started: u64,
    /// Whether it does not read what it is told.
    is_deaf: bool,
}

#[derive(Default)]
struct Lines {
    lease: Option<String>,
    group: Option<String>,
    reaped: Option<String>,
    deadline: Option<String>,
    lost: Option<String>,
}

/// What the guardian reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// It was sent a request to end, as only those get it that signal every process.
    Requested,
    /// It was asked.
    Answered,
    /// It has ended, or does not read any more: it has to be replaced.
    Gone,
}

impl Guardian {
    pub(super) fn start(on_lost: OnLost, grace: Duration) -> Result<Self> {
        let turn = Turn::new().map_err(broken)?;
        Ok(Self {
            running: Running::start(on_lost, grace, &turn)?,
            turn,
            on_lost,
            grace,
            lines: Lines::default(),
            short_lived: 0,
            reports: VecDeque::new(),
            news: None,
            is_given_up: false,
        })
    }

    /// Looks from now on whether it is stopped.
    pub(super) fn watch(&mut self) -> Result<()> {
        self.news = Some(signals::of_children()?);
        Ok(())
    }

    /// Starts another one, and tells it all that this one was told. Fails if they all end at once.
    pub(super) fn replace(&mut self) -> Result<()> {
        const SOON: Duration = Duration::from_secs(1);
        const MOST: u32 = 10;
        let lived = boot_nanos().saturating_sub(self.running.started);
        self.short_lived = if lived < nanos(SOON) { self.short_lived + 1 } else { 0 };
        self.running.end();
        let next = if self.short_lived < MOST {
            Running::start(self.on_lost, self.grace, &self.turn)
        } else {
            Err(Failure::new(Exit::Bug, "the command's guardian ends again and again"))
        };
        self.is_given_up = next.is_err();
        self.running = next?;
        let Lines { lease, group, reaped, deadline, lost } = &self.lines;
        for line in [lease, group, reaped, deadline, lost].into_iter().flatten() {
            self.running.tell(line);
        }
        Ok(())
    }

    /// The lease that the guardian releases once the group has ended. The URL is written to a pipe that no other process
    /// reads: it may contain a password.
    pub(super) fn lease(&mut self, ticket: &Ticket, url: &str) {
        let line = format!("lease {ticket} {url}\n");
        self.running.tell(&line);
        self.lines.lease = Some(line);
    }

    /// The group that the guardian ends.
    pub(super) fn group(&mut self, group: Pid) {
        let line = format!("group {}\n", group.as_raw_nonzero());
        self.running.tell(&line);
        self.lines.group = Some(line);
    }

    /// Call it when the head of the group was reaped.
    pub(super) fn reaped(&mut self) {
        self.running.tell("reaped\n");
        self.lines.reaped = Some("reaped\n".to_owned());
    }

    pub(super) fn deadline(&mut self, remaining: Duration) {
        let line = format!("deadline {}\n", after(remaining));
        self.running.tell(&line);
        self.lines.deadline = Some(line);
    }

    /// We know of the loss and act on it; the guardian only makes sure that it comes to an end.
    pub(super) fn lost(&mut self) {
        self.running.tell("lost\n");
        let lost = Some("lost\n".to_owned());
        (self.lines.lease, self.lines.deadline, self.lines.lost) = (None, None, lost);
    }

    /// Asks for an answer. Returns `false` if there is nobody to give one.
    pub(super) fn ask(&mut self) -> bool {
        self.running.tell("ask\n");
        !self.is_given_up && !self.running.is_deaf
    }

    /// The group's id is about to be free for others. The lease is still there.
    pub(super) fn group_ended(&mut self) {
        self.running.tell("ended\n");
        self.lines = Lines { lease: self.lines.lease.take(), ..Lines::default() };
    }

    /// The lease is over, or ends without the guardian.
    pub(super) fn done(&mut self) {
        self.running.tell("done\n");
        self.running.pipe = None;
        self.lines = Lines::default();
    }

    /// Waits for the next report. Loses none if it is dropped.
    pub(super) async fn hear(&mut self) -> Report {
        loop {
            if self.is_given_up {
                return std::future::pending().await;
            }
            if self.running.is_deaf {
                return Report::Gone;
            }
            match self.next_report() {
                Ok(Some(report)) => return report,
                Ok(None) => {}
                Err(_) => return Report::Gone,
            }
            self.continue_if_stopped();
            let news = async {
                match &mut self.news {
                    Some(news) => _ = news.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // It says so again until what has come is read.
                _ = self.running.reports.readable() => {}
                () = news => {}
            }
        }
    }

    /// Returns `true` if it is for us to ask the group to end, because the guardian has not done so.
    pub(super) fn take_turn(&self) -> bool {
        Turn::take(&self.turn.0)
    }

    /// Waits for its end, after `done`, so that it keeps nothing open that the caller waits for.
    pub(super) async fn ended(mut self) {
        const LONGEST: Duration = Duration::from_secs(1);
        if self.is_given_up {
            return;
        }
        let gone = async { while self.hear().await != Report::Gone {} };
        if tokio::time::timeout(LONGEST, gone).await.is_ok() {
            self.running.end();
        }
    }

    fn next_report(&mut self) -> io::Result<Option<Report>> {
        let read = if self.reports.is_empty() { self.read_reports() } else { Ok(()) };
        match self.reports.pop_front() {
            None => read.map(|()| None),
            Some(REQUESTED) => Ok(Some(Report::Requested)),
            Some(_) => Ok(Some(Report::Answered)),
        }
    }

    /// Fails if the pipe has ended.
    fn read_reports(&mut self) -> io::Result<()> {
        let mut buffer = [0; 64];
        loop {
            match self.running.reports.try_read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(n) => self.reports.extend(&buffer[..n]),
                Err(error) => return Err(error),
            }
        }
    }

    fn continue_if_stopped(&self) {
        let pid = Pid::from_child(&self.running.process);
        let stopped = WaitIdOptions::STOPPED | WaitIdOptions::NOHANG;
        if let Ok(Some(_)) = rustix::process::waitid(WaitId::Pid(pid), stopped) {
            let _ = rustix::process::kill_process(pid, Signal::CONT);
        }
    }
}

impl Running {
    fn start(on_lost: OnLost, grace: Duration, turn: &Turn) -> Result<Self> {
        let mut process = super::ourselves()
            .arg0(NAME)
            .args([VERB, on_lost.as_str(), &millis(grace).to_string()])
            .env_clear()
            .envs(NEEDED.iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(turn.0.try_clone().map_err(broken)?)
            .process_group(0)
            .spawn()
            .map_err(broken)?;
        reaper::keep(Pid::from_child(&process));
        let pipe = process.stdin.take().expect("BUG: piped");
        let reports = process.stdout.take().expect("BUG: piped");
        // A guardian that does not read must not stop us.
        rustix::io::ioctl_fionbio(&pipe, true).map_err(|e| broken(e.into()))?;
        let reports = Receiver::from_owned_fd(reports.into()).map_err(broken)?;
        Ok(Self { process, pipe: Some(pipe), reports, started: boot_nanos(), is_deaf: false })
    }

    /// A line is shorter than what a pipe takes at once: it is written as a whole or not at all.
    fn tell(&mut self, line: &str) {
        if let Some(pipe) = &mut self.pipe
            && pipe.write_all(line.as_bytes()).is_err()
        {
            self.is_deaf = true;
        }
    }

    /// Ends it, if it has not ended, and reaps it.
    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        reaper::forget(Pid::from_child(&self.process));
    }
}

fn broken(error: io::Error) -> Failure {
    Failure::system("cannot start the command's guardian", error)
}

/// What it reports: `REQUESTED` is what `signal_hook` writes.
const REQUESTED: u8 = b'X';
const ANSWERED: u8 = b'A';

/// The guardian's side.
pub(super) fn main(args: &[OsString]) -> Exit {
    let [on_lost, grace] = args else {
        return Exit::Usage;
    };
    let on_lost = OnLost::from_str(&on_lost.to_string_lossy(), false).unwrap_or(OnLost::Term);
    let grace = Duration::from_millis(grace.to_string_lossy().parse().unwrap_or(0));
    outlive_signals();
    let watch = Watch {
        on_lost,
        grace,
        group: None,
        is_reaped: false,
        deadline: None,
        kill_at: None,
        lease: None,
        lease_ends: 0,
    };
    watch.run();
    Exit::Success
}

/// What is meant for the whole job must not end the process that cleans up after it. Reports what asks a job to end:
/// we must know whether it was sent to each process.
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

fn report(what: u8) {
    let _ = rustix::io::write(rustix::stdio::stdout(), &[what]);
}

struct Watch {
    on_lost: OnLost,
    grace: Duration,
    group: Option<Pid>,
    is_reaped: bool,
    /// When the lease is over, unless there is news.
    deadline: Option<u64>,
    /// When the group is killed, unless it is done.
    kill_at: Option<u64>,
    /// What is released once the group has ended: a ticket and the URL of its storage.
    lease: Option<(Ticket, String)>,
    /// Our last deadline.
    lease_ends: u64,
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
                Ok(0) | Err(_) => return self.succeed(),
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
        match line.split_once(' ').unwrap_or((line, "")) {
            ("group", id) => self.group = id.parse().ok().and_then(Pid::from_raw),
            ("reaped", _) => self.is_reaped = true,
            ("deadline", at) => {
                self.deadline = at.parse().ok();
                self.lease_ends = self.deadline.unwrap_or(0);
            }
            ("lease", lease) => {
                let (ticket, url) = lease.split_once(' ').unwrap_or_default();
                self.lease = ticket.parse().ok().map(|ticket| (ticket, url.to_owned()));
            }
            ("ended", _) => (self.group, self.deadline, self.kill_at) = (None, None, None),
            ("ask", _) => report(ANSWERED),
            ("lost", _) => {
                (self.deadline, self.lease) = (None, None);
                self.kill_at = match self.on_lost {
                    OnLost::Term => Some(after(self.grace.saturating_add(SLACK))),
                    OnLost::Kill => Some(after(SLACK)),
                    OnLost::Ignore => None,
                };
            }
            _ => {}
        }
    }

    /// Does what is left to do after our death.
    fn succeed(mut self) {
        self.signal(Signal::KILL);
        let Some((ticket, url)) = self.lease.take() else { return };
        if !self.group_has_ended() {
            return;
        }
        let left = Duration::from_nanos(self.lease_ends.saturating_sub(boot_nanos()));
        if let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() {
            let release = session::release_ticket(&url, ticket);
            let _ = runtime.block_on(async { tokio::time::timeout(left, release).await });
        }
    }

    /// Waits until the killed group has ended. Returns `false` if the lease is over before.
    #[expect(clippy::disallowed_methods, reason = "no event tells when a group has ended")]
    fn group_has_ended(&self) -> bool {
        const LONGEST: Duration = Duration::from_millis(32);
        let Some(group) = self.group else { return true };
        let mut pause = Duration::from_millis(1);
        // `/proc` is asked late: to look through it costs more the more processes there are.
        while has_members(group, self.is_reaped) && (pause < LONGEST || has_running_members(group)) {
            // It is not renewed any more.
            if boot_nanos() >= self.lease_ends {
                return false;
            }
            std::thread::sleep(pause);
            pause = std::cmp::min(pause * 2, LONGEST);
        }
        true
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
                    if Turn::take(rustix::stdio::stderr()) {
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

    fn signal(&self, signal: Signal) {
        match self.group {
            Some(group) if self.is_reaped => signal_group_without_leader(group, signal),
            Some(group) => signal_group(group, signal),
            None => {}
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
