//! `leasehold __exec PARENT PIPE CMD…`: becomes the command, after it has asked the kernel to end it with its
//! parent, and has told the guardian, through the parent's pipe, which group it heads.
//!
//! Between fork and exec only `unsafe` code could do that; so the program starts itself again to do it.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use rustix::fs::{Mode, OFlags};
use rustix::process;

use super::guardian;
use crate::exit::Exit;
use crate::output::complain;
use crate::refusal;

pub(super) const VERB: &str = "__exec";

/// Returns only if the command cannot be executed.
pub(super) fn main(args: &[OsString]) -> Exit {
    let [parent, pipe, program, args @ ..] = args else {
        return Exit::Usage;
    };
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = process::set_parent_process_death_signal(Some(process::Signal::KILL)) {
        complain(&format!("cannot tie the command to this process error=`{error}`"));
        return Exit::Bug;
    }
    // The parent may have died before the kernel was asked; then nobody holds the lock any more.
    let now = process::getppid().map(|pid| pid.as_raw_nonzero().get().to_string());
    if now.as_deref().map(OsStr::new) != Some(parent) {
        return Exit::Lost;
    }
    tell_guardian(parent, pipe);
    if let Some(why) = refusal::foreign(program, args) {
        complain(&why);
        return Exit::NotExecutable;
    }
    let error = Command::new(program).args(args).exec();
    let (exit, why) = refusal::explain(program, &error);
    complain(&why);
    exit
}

/// The parent tells it too, but it may be killed before it gets to that; the command must not run by then.
fn tell_guardian(parent: &OsStr, pipe: &OsStr) {
    // In a pid namespace without a /proc of its own, that number is another process there.
    let own = process::getpid().as_raw_nonzero().to_string();
    if !std::fs::read_link("/proc/self").is_ok_and(|number| number.as_os_str() == own.as_str()) {
        return;
    }
    let path = Path::new("/proc").join(parent).join("fd").join(pipe);
    // Without waiting: a guardian that is gone reads nothing.
    let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    if let Ok(pipe) = rustix::fs::open(path, flags, Mode::empty()) {
        let line = guardian::group_line(process::getpid());
        let _ = rustix::io::write(pipe, line.as_bytes());
    }
}
