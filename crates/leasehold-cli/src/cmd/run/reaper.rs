//! Reaps the children that this program did not start.
//!
//! Three kinds of processes inherit the children of others: the first process of a pid namespace, a subreaper, and a
//! process into which its launcher turned by `exec`. When such a child ends, it stays a zombie until its new parent reaps it.
//! The code that started the guardian and the command reaps those two: until the command is reaped, the id of its group
//! is not reused.

use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::wait::{self, Id, WaitPidFlag};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use tokio::signal::unix;

use crate::exit::Result;
use crate::{launch, signals};

/// The children that this program started and has not reaped.
static STARTED_HERE: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn started_here() -> std::sync::MutexGuard<'static, Vec<Pid>> {
    STARTED_HERE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves this child to the caller. Call it in the same turn of the event loop that has started the child.
pub(super) fn keep(child: Pid) {
    started_here().push(child);
}

/// Forgets a child that the caller has reaped.
pub(super) fn forget(child: Pid) {
    started_here().retain(|kept| *kept != child);
    // Its zombie may have hidden others, and their SIGCHLD has come already.
    while reap_one() {}
}

/// Reaps from now on, as long as the runtime lives. While SIGCHLD is ignored, the kernel reaps.
pub(crate) fn reap_inherited() -> Result<()> {
    if !launch::is_ignored(Signal::CHILD) {
        start()?;
    }
    Ok(())
}

/// Reaps from now on.
pub(super) fn start() -> Result<()> {
    let child_signals = signals::of_children()?;
    tokio::spawn(reap(child_signals));
    Ok(())
}

async fn reap(mut child_signals: unix::Signal) {
    loop {
        while reap_one() {}
        child_signals.recv().await;
    }
}

/// Reaps a child that this program did not start. Returns `false` if there is none, or if the kernel reports a child
/// that this program started first.
fn reap_one() -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match wait::waitid(Id::All, look) {
        Ok(status) => {
            let Some(pid) = status.pid().and_then(|pid| Pid::from_raw(pid.as_raw())) else {
                return false;
            };
            !started_here().contains(&pid) && rustix::process::waitpid(Some(pid), WaitOptions::NOHANG).is_ok()
        }
        // A real-time signal ended it. `nix` has no name for that signal, and so does not say which child it was.
        Err(Errno::EINVAL) if !started_here().iter().any(|pid| has_ended(*pid)) => {
            rustix::process::wait(WaitOptions::NOHANG).is_ok_and(|reaped| reaped.is_some())
        }
        Err(_) => false,
    }
}

fn has_ended(child: Pid) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(rustix::process::waitid(WaitId::Pid(child), look), Ok(None))
}
