//! The command: a child of the main thread, at the head of its own process group.

use std::cell::Cell;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{self, Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::signal::unix;

use super::{exec, group, helper, procfs, reaper};
use crate::exit::{Exit, Failure, Result};
use crate::{launch, signals};

pub(super) struct Child {
    pid: Pid,
    /// SIGCHLD. `run` subscribes before the child exists, or after it if the child has to inherit SIGCHLD ignored.
    signals: Option<unix::Signal>,
    /// Whether the command was stopped, and this program has not continued it since.
    stopped: Cell<bool>,
    reaped: bool,
}

/// What the kernel reports about a child.
pub(super) enum Change {
    /// It ended. It is not reaped, so that the id of its process group is not reused yet.
    Ended(Exit),
    /// This signal has stopped it.
    Stopped(Signal),
}

impl Child {
    /// Starts the helper that becomes the command. Must be called on the main thread: the command ends with the thread
    /// that started it.
    pub(super) fn spawn(command: &[OsString], variables: &[(&str, String)]) -> Result<Self> {
        let is_ignored = launch::is_ignored(Signal::CHILD);
        let signals = if is_ignored { None } else { Some(signals::of_children()?) };
        let pipe = if launch::is_ignored(Signal::PIPE) { exec::IGNORED } else { "default" };
        let mut helper = helper::this_program();
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
        Ok(Self { pid, signals, stopped: Cell::new(false), reaped: false })
    }

    /// Waits until the helper has stopped itself or ended, and subscribes to SIGCHLD, which the helper has inherited by
    /// now. If the helper has stopped itself, [`start`](Self::start) lets it go on.
    pub(super) async fn ready(&mut self) -> Result<()> {
        while self.look().is_none() {
            self.wait().await;
        }
        if self.signals.is_none() {
            self.signals = Some(signals::of_children()?);
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

    /// Signals the whole process group. Does nothing if the group has ended.
    pub(super) fn signal(&self, signal: Signal) {
        if signal == Signal::CONT {
            self.stopped.set(false);
        }
        if self.reaped {
            group::signal_without_leader(self.pid, signal);
        } else {
            group::signal(self.pid, signal);
        }
    }

    /// Signals the group, and continues it if it is stopped and the signal asks it to end: it would not notice the signal.
    pub(super) fn pass_on(&self, signal: Signal) {
        self.signal(signal);
        if signals::REQUESTS.contains(&signal) {
            self.wake();
        }
    }

    /// Continues the group if the command is stopped, so that it notices another signal.
    pub(super) fn wake(&self) {
        if self.stopped.get() {
            self.signal(Signal::CONT);
        }
    }

    /// Asks the group to end. A stopped process can do so only when it is continued.
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
        while group::lives_without_leader(self.pid) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Frees the child's id. The id of its group is not reused while the group has a member.
    pub(super) fn reap(&mut self) {
        // It has ended, so this does not block.
        let _ = process::waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED);
        self.reaped = true;
        reaper::forget(self.pid);
    }

    /// Waits until there may be a change.
    async fn wait(&mut self) {
        // It looks even without a signal: equal signals come as one, and one for another child may hide the next.
        const LOOK: Duration = Duration::from_millis(1);
        const LOOK_AGAIN: Duration = Duration::from_secs(1);
        match &mut self.signals {
            Some(signals) => _ = tokio::time::timeout(LOOK_AGAIN, signals.recv()).await,
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
}

fn exit(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Child(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        (_, Some(n)) => Exit::Signal(u8::try_from(n).unwrap_or(u8::MAX)),
        _ => Exit::Bug,
    }
}
