//! `leasehold __exec PARENT PIPE CMD…`: the helper that becomes the command.
//!
//! 1. It asks the kernel to kill it when its parent dies, and exits if its parent is another process by now.
//! 2. It stops itself. `run`, its parent, tells the guardian which group it heads, takes over the signals that the
//!    command had to inherit as the launcher had them, and continues it.
//! 3. It executes the command, with SIGPIPE ignored or not, as the launcher had it (PIPE).
//!
//! Between fork and exec, only `unsafe` code could do this. So the program starts itself again.

use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::io::Errno;
use rustix::process::{self, Signal};

use crate::exit::Exit;
use crate::launch;
use crate::output::report_failure;
use crate::refusal::{self, Foreign};

pub(super) const VERB: &str = "__exec";

/// The value of PIPE that ignores SIGPIPE.
pub(super) const IGNORED: &str = "ignored";

/// Becomes the command. Returns only if the command cannot be executed.
pub(super) fn main(args: &[OsString]) -> Exit {
    let [parent, pipe, program, args @ ..] = args else {
        return Exit::Usage;
    };
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = process::set_parent_process_death_signal(Some(Signal::KILL)) {
        report_failure(&format!("cannot tie the command to this process error=`{error}`"));
        return Exit::Bug;
    }
    // If the parent has died before the request to the kernel, the lock is not held any more.
    if !is_parent(parent) {
        return Exit::Lost;
    }
    if let Err(error) = process::kill_process(process::getpid(), Signal::STOP) {
        report_failure(&format!("cannot wait for this process error=`{error}`"));
        return Exit::Bug;
    }
    // On other systems the kernel takes no such request. There, the guardian continues this process after the parent's
    // death.
    if !is_parent(parent) {
        return Exit::Lost;
    }
    let foreign = refusal::foreign(program);
    let error = exec(program, args, foreign.as_ref(), pipe == IGNORED);
    let (exit, why) = match foreign {
        Some(foreign) if error.raw_os_error() == Some(Errno::NOEXEC.raw_os_error()) => {
            (Exit::NotExecutable, foreign.explain())
        }
        _ => refusal::explain(program, &error),
    };
    report_failure(&why);
    exit
}

fn is_parent(parent: &OsStr) -> bool {
    let now = process::getppid().map(|pid| pid.as_raw_nonzero().get().to_string());
    now.as_deref().map(OsStr::new) == Some(parent)
}

/// Executes the command, with SIGPIPE ignored or at its default action. Returns only if that fails.
fn exec(program: &OsStr, args: &[OsString], foreign: Option<&Foreign>, ignore_pipe: bool) -> io::Error {
    if !ignore_pipe {
        // Rust's runtime ignores SIGPIPE, which would be inherited. A handler becomes the default action.
        let _ = signal_hook::flag::register(Signal::PIPE.as_raw(), Arc::new(AtomicBool::new(false)));
    }
    let c = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::from);
    let words = std::iter::once(program).chain(args.iter().map(OsString::as_os_str));
    let words = words.map(|word| c(word.as_bytes().to_vec())).collect::<io::Result<Vec<_>>>();
    let variables = std::env::vars_os().filter(|(key, _)| key != launch::VARIABLE);
    let variables = variables.map(|(key, value)| c([key.into_vec(), value.into_vec()].join(&b'=')));
    let (words, variables) = match (words, variables.collect::<io::Result<Vec<_>>>()) {
        (Ok(words), Ok(variables)) => (words, variables),
        (Err(error), _) | (_, Err(error)) => return error,
    };
    let failed = match foreign.map(|foreign| c(foreign.path.as_os_str().as_bytes().to_vec())) {
        Some(Ok(path)) => nix::unistd::execve(&path, &words, &variables),
        Some(Err(error)) => return error,
        #[cfg(target_os = "linux")]
        None => nix::unistd::execvpe(&words[0], &words, &variables),
        // The variable goes on to the command, for which it means nothing.
        #[cfg(not(target_os = "linux"))]
        None => nix::unistd::execvp(&words[0], &words),
    };
    match failed {
        Err(error) => error.into(),
        Ok(never) => match never {},
    }
}
