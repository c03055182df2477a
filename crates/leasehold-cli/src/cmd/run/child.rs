//! The command: a child of the main thread, at the head of its own process group.

use std::cell::Cell;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::process::{self, Command};
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use tokio::signal::unix::{self, SignalKind};

use super::exec;
use super::guardian::Guardian;
use crate::exit::{Exit, Failure, Result};

pub(super) struct Child {
    process: process::Child,
    pid: Pid,
    /// SIGCHLD, subscribed to before there was a child.
    news: unix::Signal,
    /// Whether it was stopped, and not continued by us since.
    stopped: Cell<bool>,
}

/// What the kernel reports about a child.
pub(super) enum Change {
    /// It ended. It is not reaped: its process group's id is not used for anything else yet.
    Ended(Exit),
    /// It was stopped by this signal.
    Stopped(Signal),
}

impl Child {
    /// Starts the command. Call it on the main thread: the command ends with the thread that started it.
    pub(super) fn spawn(
        command: &[OsString],
        variables: &[(&str, String)],
        guardian: &Guardian,
    ) -> Result<Self> {
        let news =
            unix::signal(SignalKind::child()).map_err(|e| Failure::system("cannot handle signals", e))?;
        let us = rustix::process::getpid().as_raw_nonzero().to_string();
        let process = super::ourselves()
            .arg(exec::VERB)
            .arg(us)
            .arg(guardian.pipe().to_string())
            .args(command)
            .envs(variables.iter().map(|(key, value)| (*key, value)))
            .process_group(0)
            .spawn();
        let process = process.map_err(|error| {
            Failure::new(Exit::NotExecutable, format!("the command cannot be started error=`{error}`"))
        })?;
        let pid = Pid::from_child(&process);
        Ok(Self { process, pid, news, stopped: Cell::new(false) })
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
            self.news.recv().await;
        }
    }

    fn look(&self) -> Option<Change> {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        if let Some(status) = self.waitid(ended) {
            return Some(Change::Ended(exit(&status)));
        }
        let status = self.waitid(WaitIdOptions::STOPPED)?;
        let signal = status.stopping_signal().and_then(Signal::from_named_raw);
        self.stopped.set(true);
        Some(Change::Stopped(signal.unwrap_or(Signal::STOP)))
    }

    fn waitid(&self, options: WaitIdOptions) -> Option<WaitIdStatus> {
        loop {
            match rustix::process::waitid(WaitId::Pid(self.pid), options | WaitIdOptions::NOHANG) {
                Err(Errno::INTR) => {}
                status => return status.ok().flatten(),
            }
        }
    }

    /// Signals the whole process group. That it is gone, or not ours to signal, is no error.
    pub(super) fn signal(&self, signal: Signal) {
        if signal == Signal::CONT {
            self.stopped.set(false);
        }
        signal_group(self.pid, signal);
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

    /// Waits until nobody of the group of an ended, unreaped child is alive. There is no event for that.
    pub(super) async fn group_ended(&self) {
        const LOOK: Duration = Duration::from_millis(20);
        while group_lives(self.pid) {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Frees the child's id, and with it that of its group.
    pub(super) fn reap(mut self) {
        let _ = self.process.wait();
    }
}

/// Signals a process group, as far as that is allowed.
pub(super) fn signal_group(group: Pid, signal: Signal) {
    let _ = rustix::process::kill_process_group(group, signal);
}

fn exit(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => Exit::Child(u8::try_from(code & 0xff).unwrap_or(u8::MAX)),
        (_, Some(n)) => Exit::Signal(u8::try_from(n).unwrap_or(u8::MAX)),
        _ => Exit::Bug,
    }
}

/// Whether a process of this group is neither dead nor a zombie, as far as `/proc` tells.
fn group_lives(group: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return true;
    };
    let group = group.as_raw_nonzero().to_string();
    processes.flatten().any(|process| {
        let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
        // pid (name, which may contain anything) state parent group …
        let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().take(3).collect();
        matches!(fields[..], [state, _, of] if of == group && !matches!(state, "Z" | "X"))
    })
}

/// A command that starts this program again, whatever became of its file.
pub(super) fn ourselves() -> Command {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let program = std::path::PathBuf::from("/proc/self/exe");
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let program = std::env::current_exe().unwrap_or_else(|_| "leasehold".into());
    let mut command = Command::new(program);
    command.arg0("leasehold");
    command
}
