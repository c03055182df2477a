//! Job control. The command runs in a background group of the terminal, so that a pipeline around `leasehold` keeps the
//! foreground. The command gets the foreground when it first uses the terminal, which stops it with SIGTTIN or SIGTTOU.

use std::cell::Cell;
use std::fs::{File, OpenOptions};

use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd;
use rustix::io::Errno;
use rustix::process::{self, Pid, Signal};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use super::child::Child;
use super::procfs;

/// The controlling terminal, and which group has its foreground.
pub(super) struct Terminal {
    /// The controlling terminal, if there is one.
    tty: Option<File>,
    /// Whether the command had the foreground when it was last stopped.
    had_it: bool,
    /// The group to which this process last gave the foreground.
    given_to: Cell<Option<Pid>>,
}

impl Terminal {
    pub(super) fn open() -> Self {
        let tty = OpenOptions::new().read(true).write(true).open("/dev/tty").ok();
        Self { tty, had_it: false, given_to: Cell::new(None) }
    }

    /// Handles a stop of the command: gives it the terminal if it was stopped for want of it, or else stops this process.
    pub(super) fn stopped(&mut self, child: &Child, by: Signal) {
        let Some(foreground) = self.foreground() else {
            return;
        };
        let wants_it = by == Signal::TTIN || by == Signal::TTOU;
        let has_it = foreground == child.group();
        if wants_it && (has_it || Some(foreground) == own_group()) {
            self.give(child.group());
            child.signal(Signal::CONT);
            return;
        }
        if is_orphaned() {
            // No shell would continue this process. The kernel discards such stops, except for SIGSTOP; so does this.
            if by != Signal::STOP {
                child.signal(Signal::CONT);
            }
            return;
        }
        self.had_it = has_it;
        if has_it {
            self.give_back();
        }
        if by == Signal::TSTP && !has_it {
            // The signal came through this process, so its group got it, too.
            let _ = process::kill_process(process::getpid(), Signal::STOP);
        } else {
            // The parent must see the reason: a `run` around this one gives it the terminal for SIGTTIN and SIGTTOU.
            let _ = process::kill_current_process_group(if wants_it { by } else { Signal::STOP });
        }
    }

    /// Continues the command after this process was continued, with the terminal if it had it and a shell has given it
    /// to this process.
    pub(super) fn continued(&mut self, child: &Child) {
        if self.had_it && self.is_ours() {
            self.give(child.group());
        }
        self.had_it = false;
        child.signal(Signal::CONT);
    }

    /// Takes the terminal back from a command that has ended, for the rest of the same job. Returns `true` if the command
    /// had it.
    pub(super) fn take_back(&self, child: &Child) -> bool {
        let had_it = self.foreground() == Some(child.group());
        if had_it {
            self.give_back();
        }
        had_it
    }

    /// Returns `true` if the terminal is gone and the command had it. Then the kernel has sent SIGHUP to the command.
    pub(super) fn hung_up_on(&self, child: &Child) -> bool {
        let is_gone = self.tty.as_ref().is_some_and(|tty| tcgetpgrp(tty) == Err(Errno::IO));
        is_gone && self.given_to.get() == Some(child.group())
    }

    /// Returns the group in the foreground. Returns `None` if there is no terminal, or if another pid namespace has its
    /// foreground.
    fn foreground(&self) -> Option<Pid> {
        tcgetpgrp(self.tty.as_ref()?).ok()
    }

    fn is_ours(&self) -> bool {
        self.foreground().is_some_and(|foreground| Some(foreground) == own_group())
    }

    fn give_back(&self) {
        if let Some(group) = own_group() {
            self.give(group);
        }
    }

    fn give(&self, group: Pid) {
        let Some(tty) = &self.tty else {
            return;
        };
        // Unless SIGTTOU is blocked, the kernel stops this process's group when it takes the foreground back.
        let mut background_writes = SigSet::empty();
        background_writes.add(nix::sys::signal::Signal::SIGTTOU);
        let before = background_writes.thread_swap_mask(SigmaskHow::SIG_BLOCK);
        if tcsetpgrp(tty, group).is_ok() {
            self.given_to.set(Some(group));
        }
        if let Ok(before) = before {
            let _ = before.thread_set_mask();
        }
    }
}

/// Stops this process as SIGTSTP does by default, unless no shell would ever continue it.
pub(crate) fn stop_self() {
    if !is_orphaned() {
        let _ = process::kill_process(process::getpid(), Signal::STOP);
    }
}

/// Returns this process's group. Returns `None` if the group is of another pid namespace, as that of a container's first
/// process may be: the kernel says 0 then, which `rustix` takes for impossible in a group's or a session's id.
pub(crate) fn own_group() -> Option<Pid> {
    Pid::from_raw(unistd::getpgrp().as_raw())
}

/// Returns `true` if this process's group is orphaned: no parent of its members is in the same session, but in another
/// group. Looks at the ancestors of this process only, where a shell with job control is.
pub(super) fn is_orphaned() -> bool {
    // Groups and sessions of another pid namespace are 0 here. A process cannot join them from here, only inherit them.
    // So what is 0 for this process and for its ancestor is the same one.
    let (group, session) = (unistd::getpgrp(), unistd::getsid(None));
    let mut ancestor = process::getppid();
    while let Some(pid) = ancestor {
        let id = Some(unistd::Pid::from_raw(pid.as_raw_pid()));
        if unistd::getsid(id) != session {
            return true;
        }
        if unistd::getpgid(id) != Ok(group) {
            return false;
        }
        ancestor = procfs::parent(pid);
    }
    true
}
