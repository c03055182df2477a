//! Process groups: signaling them, and seeing whether they have ended.

use rustix::io::Errno;
use rustix::process::{self, Pid, Signal};

use super::procfs;

/// Signals a process group, as far as that is allowed.
pub(super) fn signal(group: Pid, signal: Signal) {
    let _ = process::kill_process_group(group, signal);
}

/// Signals a process group after its head was reaped.
pub(super) fn signal_without_leader(group: Pid, signal: Signal) {
    if lives_without_leader(group) {
        self::signal(group, signal);
    }
}

/// Returns `true` if a group has a member after its head was reaped. The kernel answers this without `/proc`, and hides no
/// process: a member that may not be signaled counts, and so does a zombie that its parent does not reap.
pub(super) fn lives_without_leader(group: Pid) -> bool {
    // A process that has the group's id now is a new one: the kernel does not reuse the id of a group that has members.
    let is_used_again = process::test_kill_process(group) != Err(Errno::SRCH);
    process::test_kill_process_group(group) != Err(Errno::SRCH) && !is_used_again
}

/// Returns `true` if a group has a member, which may be a zombie.
pub(super) fn has_members(group: Pid, is_reaped: bool) -> bool {
    if is_reaped {
        lives_without_leader(group)
    } else {
        process::test_kill_process_group(group) != Err(Errno::SRCH)
    }
}

/// Returns `true` if a member of a group may still run. Zombies do not run, and stay where the first process of a
/// container reaps nothing.
pub(super) fn has_running_members(group: Pid) -> bool {
    procfs::group_runs(group).unwrap_or(true)
}
