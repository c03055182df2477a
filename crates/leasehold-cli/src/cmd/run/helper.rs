//! The hidden commands: this program starts itself again for what one process cannot do alone.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use super::{exec, guardian};
use crate::exit::Exit;

/// Does the work of a hidden command. Returns `None` if the arguments are not those of one.
pub(crate) fn run(args: &[OsString]) -> Option<Exit> {
    match args.get(1)?.to_str()? {
        exec::VERB => Some(exec::main(&args[2..])),
        guardian::VERB => Some(guardian::main(&args[2..])),
        _ => None,
    }
}

/// Returns a command that starts this program again, even if its file was replaced or deleted.
pub(super) fn this_program() -> Command {
    let mut command = Command::new(path());
    command.arg0("leasehold");
    command
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn path() -> PathBuf {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    use std::path::Path;
    let running = Path::new("/proc/self/exe");
    if running.exists() {
        return running.to_owned();
    }
    // Without `/proc`: the path by which it was executed.
    OsStr::from_bytes(rustix::param::linux_execfn().to_bytes()).into()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn path() -> PathBuf {
    std::env::current_exe().unwrap_or_else(|_| "leasehold".into())
}
