//! Processes: the parts of a `run`, their states, and signals to them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::harness::eventually;

/// Reads a process id, as `$$` prints it.
pub(crate) fn pid(text: &str) -> Pid {
    text.trim().parse().ok().and_then(Pid::from_raw).expect("a process id")
}

/// Signals a process. Does nothing if it has ended.
pub(crate) fn signal(pid: Pid, signal: Signal) {
    let _ = rustix::process::kill_process(pid, signal);
}

/// Signals a process group. Does nothing if it has ended.
pub(crate) fn signal_group(group: Pid, signal: Signal) {
    let _ = rustix::process::kill_process_group(group, signal);
}

/// Stops a process, and waits until it has stopped.
pub(crate) fn stop(pid: Pid) {
    signal(pid, Signal::STOP);
    eventually("the stop", || is_stopped(pid));
}

/// Waits until a stopped process was continued.
pub(crate) fn await_continued(pid: Pid) {
    eventually("the continuation", || lives(pid) && !is_stopped(pid));
}

/// Waits until a process has handled all signals that it was sent.
pub(crate) fn await_handled(pid: Pid) {
    eventually("the handling of the signal", || pending(pid) == 0);
}

/// Waits until a process has ended.
pub(crate) fn await_end(pid: Pid) {
    eventually("the end of a process", || !lives(pid));
}

/// Returns `true` if a process exists and is no zombie.
pub(crate) fn lives(pid: Pid) -> bool {
    state(pid).is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

/// Returns `true` if a process is stopped, or traced (`t`).
pub(crate) fn is_stopped(pid: Pid) -> bool {
    matches!(state(pid), Some('T' | 't'))
}

fn state(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(file_of(pid, "stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}

/// Returns the set of signals that a process was sent and has not handled. The set of an ended process is empty.
pub(crate) fn pending(pid: Pid) -> u64 {
    let status = fs::read_to_string(file_of(pid, "status")).unwrap_or_default();
    let masks =
        status.lines().filter_map(|line| line.strip_prefix("ShdPnd:").or(line.strip_prefix("SigPnd:")));
    masks.map(|mask| u64::from_str_radix(mask.trim(), 16).expect("a number")).fold(0, |all, mask| all | mask)
}

/// Returns the path of a file that describes a process.
pub(crate) fn file_of(pid: Pid, file: &str) -> PathBuf {
    Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join(file)
}

/// Returns the children of a process, each with its arguments.
pub(crate) fn children(parent: Pid) -> Vec<(Pid, String)> {
    let list = file_of(parent, &format!("task/{}/children", parent.as_raw_nonzero()));
    let list = fs::read_to_string(list).unwrap_or_default();
    let arguments = |id: &str| fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap_or_default();
    list.split_whitespace().map(|id| (pid(id), arguments(id).replace('\0', " "))).collect()
}

/// Waits until a `run` has a guardian that is not `before`, and returns it.
pub(crate) fn guardian(run: Pid, before: Option<Pid>) -> Pid {
    let mut found = None;
    eventually("the guardian", || {
        let mut children = children(run).into_iter();
        found = children.find(|(pid, args)| args.contains("__guard") && Some(*pid) != before);
        found.is_some()
    });
    found.expect("just seen").0
}

/// Waits until a process waits for events. Then a guardian has read all messages that it has got, and a `run` with a new
/// guardian has written them.
pub(crate) fn await_idle(process: Pid) {
    let path = file_of(process, "wchan");
    eventually("the wait", || fs::read_to_string(&path).is_ok_and(|place| place.contains("poll")));
}

/// Returns `true` if this machine allows a program that needs privileges. No container does, and not each user may.
#[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
pub(crate) fn is_allowed(program: &str, args: &[&str]) -> bool {
    let allowed = Command::new(program).args(args).output().is_ok_and(|output| output.status.success());
    if !allowed {
        eprintln!("not run: this machine does not allow `{program} {}`", args.join(" "));
    }
    allowed
}

/// Returns the user as which a process runs, if it exists.
pub(crate) fn user(pid: Pid) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    fs::metadata(file_of(pid, "")).ok().map(|found| found.uid())
}

/// Measures how long something takes.
#[expect(clippy::disallowed_methods, reason = "the machine does not sleep during a test")]
pub(crate) fn took(work: impl FnOnce()) -> Duration {
    let start = std::time::Instant::now();
    work();
    start.elapsed()
}
