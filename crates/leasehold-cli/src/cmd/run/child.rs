//! The command: a child of the main thread, at the head of its own process group.

use std::cell::Cell;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{self, Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::signal::unix;

use super::{exec, procfs, reaper};
use crate::exit::{Exit, Failure, Result};
use crate::{launch, signals};

pub(super) struct Child {
    pid: Pid,
    /// SIGCHLD, subscribed to before there was a child; but after it if the child inherits it ignored.
    news: Option<unix::Signal>,
    /// Whether it was stopped, and not continued by this program since.
    stopped: Cell<bool>,
    reaped: bool,
}

/// What the kernel reports about a child.
pub(super) enum Change {
    /// It ended. It is not reaped: its process group's id is not used for anything else yet.
    Ended(Exit),
    /// It was stopped by this signal.
    Stopped(Signal),
}

impl Child {
    /// Starts the helper that becomes the command. Call it on the main thread: the command ends with the thread that
    /// started it.
    pub(super) fn spawn(command: &[OsString], variables: &[(&str, String)]) -> Result<Self> {
        let is_ignored = launch::is_ignored(Signal::CHILD);
        let news = if is_ignored { None } else { Some(signals::of_children()?) };
        let pipe = if launch::is_ignored(Signal::PIPE) { exec::IGNORED } else { "default" };
        let mut helper = super::ourselves();
        helper
            .arg(exec::VERB)
            .arg(process::getpid().as_raw_nonzero().to_string())
            .arg(pipe)
            .args(command)
            .envs(variables.iter().map(|(key, value)| (*key, value)))
            .process_group(0);
        let helper = signals::with_blocked_as_launched(|| helper.spawn()).map_err(|error| {
            Failure::new(Exit::NotExecutable, format!("the command cannot be started error=`{error}`"))
        })?;
        let pid = Pid::from_child(&helper);
        reaper::keep(pid);
        Ok(Self { pid, news, stopped: Cell::new(false), reaped: false })
    }

    /// Waits until the helper has stopped itself, and takes over SIGCHLD, which it has inherited by now. What follows
    /// is `start`, unless the helper could not get so far: then it has ended.
    pub(super) async fn ready(&mut self) -> Result<()> {
        while self.look().is_none() {
            self.wait().await;
        }
        if self.news.is_none() {
            self.news = Some(signals::of_children()?);
            reaper::start()?;
        }
        Ok(())
    }

    /// Lets the helper become the command.
    pub(super) fn start(&self) {
        self.signal(Signal::CONT);
    }

    pub(super) fn group(&self) -> Pid {
        self.pid
    }

    /// Waits for the next change. Loses none if it is dropped.
    pub(super) async fn change(&mut self) -> Change {
        loop {
            if let Some(change) = self.look() {
                return change;
            }
            self.wait().await;
        }
    }

    /// Waits until there may be news.
    async fn wait(&mut self) {
        // Also without news: SIGCHLD is one for all children, and may be kept from us.
        const LOOK: Duration = Duration::from_millis(1);
        const LOOK_AGAIN: Duration = Duration::from_secs(1);
        match &mut self.news {
            Some(news) => _ = tokio::time::timeout(LOOK_AGAIN, news.recv()).await,
            None => tokio::time::sleep(LOOK).await,
        }
    }

    fn look(&self) -> Option<Change> {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        match self.waitid(ended) {
            Ok(None) => {}
            Ok(Some(status)) => return Some(Change::Ended(exit(&status))),
            // The kernel has reaped it, and forgotten how it ended.
            Err(_) => return Some(Change::Ended(Exit::Bug)),
        }
        let status = self.waitid(WaitIdOptions::STOPPED).ok()??;
        let signal = status.stopping_signal().and_then(Signal::from_named_raw);
        self.stopped.set(true);
        Some(Change::Stopped(signal.unwrap_or(Signal::STOP)))
    }

    fn waitid(&self, options: WaitIdOptions) -> Result<Option<WaitIdStatus>, Errno> {
        loop {
            match process::waitid(WaitId::Pid(self.pid), options | WaitIdOptions::NOHANG) {
                Err(Errno::INTR) => {}
                status => return status,
            }
        }
    }

    /// Signals the whole process group. That it is gone is no error.
    pub(super) fn signal(&self, signal: Signal) {
        if signal == Signal::CONT {
            self.stopped.set(false);
        }
        if self.reaped {
            signal_group_without_leader(self.pid, signal);
        } else {
            signal_group(self.pid, signal);
        }
    }

    /// Continues the group if the command is stopped, for it to notice another signal.
    pub(super) fn wake(&self) {
        if self.stopped.get() {
            self.signal(Signal::CONT);
        }
    }

    /// Asks the group to end; a stopped process can only do so when it is continued.
    pub(super) fn terminate(&self) {
        self.signal(Signal::TERM);
        self.signal(Signal::CONT);
    }

    /// Returns a process of the command that this program may not signal, because it runs as another user.
    pub(super) fn foreign_process(&self) -> Option<Pid> {
        procfs::find_in_tree(self.pid, |pid| process::test_kill_process(pid) == Err(Errno::PERM))
    }

    /// Waits until the group of a reaped child has no member. There is no event for that.
    pub(super) async fn group_ended(&self) {
        const LOOK: Duration = Duration::from_millis(20);
        while group_lives(self.pid) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Frees the child's id; that of its group is not used again while the group has a member.
    pub(super) fn reap(&mut self) {
        // It has ended, so this does not wait.
        let _ = process::waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED);
        self.reaped = true;
        reaper::forget(self.pid);
    }
}

/// Signals a process group, as far as that is allowed.
pub(super) fn signal_group(group: Pid, signal: Signal) {
    let _ = process::kill_process_group(group, signal);
}

/// The same if the head of the group was reaped.
pub(super) fn signal_group_without_leader(group: Pid, signal: Signal) {
    if group_lives(group) {
        signal_group(group, signal);
    }
}

/// Returns `true` if a group whose head was reaped has a member. The kernel says so, which hides no process and needs
/// no `/proc`; a member that may not be signaled is one, and so is a zombie that its parent leaves.
fn group_lives(group: Pid) -> bool {
    // A process that has the group's id now is a new one: the kernel gives no id away that a group has.
    let is_used_again = process::test_kill_process(group) != Err(Errno::SRCH);
    process::test_kill_process_group(group) != Err(Errno::SRCH) && !is_used_again
}

/// Returns `true` if a group has a member, which may be a zombie.
pub(super) fn has_members(group: Pid, is_reaped: bool) -> bool {
    if is_reaped { group_lives(group) } else { process::test_kill_process_group(group) != Err(Errno::SRCH) }
}

/// Returns `true` if a member of a group may still run. Zombies do not, and stay where the first process of a container
/// reaps nothing.
pub(super) fn has_running_members(group: Pid) -> bool {
    procfs::group_runs(group).unwrap_or(true)
}

fn exit(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Child(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        (_, Some(n)) => Exit::Signal(u8::try_from(n).unwrap_or(u8::MAX)),
        _ => Exit::Bug,
    }
}

/// Returns a command that starts this program again, whatever became of its file.
pub(super) fn ourselves() -> Command {
    let mut command = Command::new(program());
    command.arg0("leasehold");
    command
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn program() -> PathBuf {
    let running = Path::new("/proc/self/exe");
    if running.exists() {
        return running.to_owned();
    }
    // Without `/proc`: as it was executed.
    OsStr::from_bytes(rustix::param::linux_execfn().to_bytes()).into()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn program() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| "leasehold".into())
}
