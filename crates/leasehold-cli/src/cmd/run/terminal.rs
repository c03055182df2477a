//! Job control. The command runs in a background group of our terminal, so that a pipeline around us keeps the
//! foreground; it gets the foreground when it first asks for it, which stops it with SIGTTIN or SIGTTOU.

use std::cell::Cell;
use std::fs::{File, OpenOptions};

use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd;
use rustix::io::Errno;
use rustix::process::{self, Pid, Signal};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

use super::child::Child;
use super::procfs;

pub(super) struct Terminal {
    /// The controlling terminal, if there is one.
    tty: Option<File>,
    /// Whether the command had the foreground when it was last stopped.
    had_it: bool,
    /// The group that was last given the foreground here.
    given_to: Cell<Option<Pid>>,
}

impl Terminal {
    pub(super) fn open() -> Self {
        let tty = OpenOptions::new().read(true).write(true).open("/dev/tty").ok();
        Self { tty, had_it: false, given_to: Cell::new(None) }
    }

    /// The command was stopped: gives it the terminal if that is what it needs, or else stops with it.
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
            // Nobody would continue us. The kernel discards such stops, except for SIGSTOP; so do we.
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
            // The signal came through us: our group has had it.
            let _ = process::kill_process(process::getpid(), Signal::STOP);
        } else {
            // Whoever waits for us must see why, as another `run` around us does to give us its terminal.
            let _ = process::kill_current_process_group(if wants_it { by } else { Signal::STOP });
        }
    }

    /// We were continued: so is the command, with the terminal if it had it and we were given it.
    pub(super) fn continued(&mut self, child: &Child) {
        if self.had_it && self.is_ours() {
            self.give(child.group());
        }
        self.had_it = false;
        child.signal(Signal::CONT);
    }

    /// The command ended: what comes after us in the same job finds the terminal as it was. Says whether the
    /// command had it.
    pub(super) fn take_back(&self, child: &Child) -> bool {
        let had_it = self.foreground() == Some(child.group());
        if had_it {
            self.give_back();
        }
        had_it
    }

    /// Returns `true` if the terminal is gone, and the command had it: the kernel has sent it SIGHUP then.
    pub(super) fn hung_up_on(&self, child: &Child) -> bool {
        let is_gone = self.tty.as_ref().is_some_and(|tty| tcgetpgrp(tty) == Err(Errno::IO));
        is_gone && self.given_to.get() == Some(child.group())
    }

    /// None if there is no terminal, or if another pid namespace has its foreground.
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
        // Or else the kernel would stop our own group when we take the foreground back.
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

/// Stops this process as SIGTSTP does by default, unless nobody would ever continue it.
pub(crate) fn stop_self() {
    if !is_orphaned() {
        let _ = process::kill_process(process::getpid(), Signal::STOP);
    }
}

/// Our process group; none if it is of another pid namespace, as that of a container's first process may be. The
/// kernel says 0 then, which `rustix` takes for impossible in a group's or a session's id.
pub(crate) fn own_group() -> Option<Pid> {
    Pid::from_raw(unistd::getpgrp().as_raw())
}

/// Returns `true` if no process outside of our group, but inside our session, is the parent of one in our group.
/// Looks along our own ancestors, where a shell with job control is.
pub(super) fn is_orphaned() -> bool {
    // Those of another pid namespace are 0 here. Nobody can join them from here, only be born into them: what is 0
    // for us and for our ancestor is the same one.
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
