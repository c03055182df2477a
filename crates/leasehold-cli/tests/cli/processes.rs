//! Looks at the processes that a `run` is made of.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::harness::eventually;

pub(crate) fn pid(text: &str) -> Pid {
    text.trim().parse().ok().and_then(Pid::from_raw).expect("a process id")
}

pub(crate) fn signal(pid: Pid, signal: Signal) {
    // What is gone needs no signal.
    let _ = rustix::process::kill_process(pid, signal);
}

/// The children of a process, each with its arguments.
pub(crate) fn children(of: Pid) -> Vec<(Pid, String)> {
    let of = of.as_raw_nonzero();
    let list = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).unwrap_or_default();
    let arguments = |id: &str| fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
    list.split_whitespace().map(|id| (pid(id), arguments(id).replace('\0', " "))).collect()
}

/// The guardian of a `run`, once there is one that is not `before`.
pub(crate) fn guardian(run: Pid, before: Option<Pid>) -> Pid {
    let mut found = None;
    eventually("the guardian", || {
        let mut children = children(run).into_iter();
        found = children.find(|(pid, args)| args.contains("__guard") && Some(*pid) != before);
        found.is_some()
    });
    found.expect("just seen").0
}

/// Waits until a process reads what is in its pipe no more, but waits for something to come.
pub(crate) fn waits(pid: Pid) {
    let path = format!("/proc/{}/wchan", pid.as_raw_nonzero());
    eventually("the wait", || fs::read_to_string(&path).is_ok_and(|place| place.contains("poll")));
}

/// Whether this machine lets us do what needs rights: no container does, and not each user may.
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
pub(crate) fn is_allowed(program: &str, args: &[&str]) -> bool {
    let allowed = Command::new(program).args(args).output().is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("not run: this machine does not allow `{program} {}`", args.join(" "));
    }
    allowed
}

/// The user that a process runs as, if it is there.
pub(crate) fn user(id: &str) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(format!("/proc/{id}")).ok().map(|found| found.uid())
}

/// Measures how long something takes.
#[expect(clippy::disallowed_methods, reason = "the machine does not sleep during a test")]
pub(crate) fn took(work: impl FnOnce()) -> Duration {
    let start = std::time::Instant::now();
    work();
    start.elapsed()
}
