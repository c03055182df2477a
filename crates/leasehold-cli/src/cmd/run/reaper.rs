//! Reaps the children that this program did not start.
//!
//! The first process of a pid namespace, a subreaper, and a process whose launcher became it by `exec` get children
//! of others; when those end, they stay zombies until their parent asks for them. The guardian and the command are
//! left to the code that started them: until the command is reaped, the id of its group is not used again.

use std::sync::{Mutex, PoisonError};

use nix::errno::Errno;
use nix::sys::wait::{self, Id, WaitPidFlag};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitOptions};
use tokio::signal::unix;

use crate::exit::Result;
use crate::{launch, signals};

/// The children that this program started and has not reaped.
static OURS: Mutex<Vec<Pid>> = Mutex::new(Vec::new());

fn ours() -> std::sync::MutexGuard<'static, Vec<Pid>> {
    OURS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Leaves this child to the caller. Call it in the same turn of the event loop that has started the child.
pub(super) fn keep(child: Pid) {
    ours().push(child);
}

/// Forgets a child that the caller has reaped.
pub(super) fn forget(child: Pid) {
    ours().retain(|kept| *kept != child);
    // It may have stood before others, of whose end there is no more news.
    while reap_one() {}
}

/// Reaps from now on, as long as the runtime lives. The kernel does so itself while SIGCHLD is ignored.
pub(crate) fn reap_inherited() -> Result<()> {
    if !launch::is_ignored(Signal::CHILD) {
        start()?;
    }
    Ok(())
}

/// Reaps from now on.
pub(super) fn start() -> Result<()> {
    let news = signals::of_children()?;
    tokio::spawn(reap(news));
    Ok(())
}

async fn reap(mut news: unix::Signal) {
    loop {
        while reap_one() {}
        news.recv().await;
    }
}

/// Reaps a child that is not ours; returns `false` if there is none, or if one of ours stands before it.
fn reap_one() -> bool {
    let look = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    match wait::waitid(Id::All, look) {
        Ok(status) => {
            let Some(pid) = status.pid().and_then(|pid| Pid::from_raw(pid.as_raw())) else {
                return false;
            };
            !ours().contains(&pid) && rustix::process::waitpid(Some(pid), WaitOptions::NOHANG).is_ok()
        }
        // A real-time signal ended it; `nix` has no name for that, and so does not say which child it was.
        Err(Errno::EINVAL) if !ours().iter().any(|pid| has_ended(*pid)) => {
            rustix::process::wait(WaitOptions::NOHANG).is_ok_and(|reaped| reaped.is_some())
        }
        Err(_) => false,
    }
}

fn has_ended(child: Pid) -> bool {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(rustix::process::waitid(WaitId::Pid(child), look), Ok(None))
}
