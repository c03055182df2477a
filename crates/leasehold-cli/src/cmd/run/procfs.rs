//! What `/proc` says about processes, where it can be trusted.

use std::fs;

use rustix::process::{self, Pid};

/// Returns `true` if there is a `/proc`, and it is that of this process's pid namespace. A namespace may have been made
/// without one of its own; then the numbers in `/proc` are those of other processes.
pub(super) fn is_own() -> bool {
    let own = process::getpid().as_raw_nonzero().to_string();
    fs::read_link("/proc/self").is_ok_and(|number| number.as_os_str() == own.as_str())
}

/// Returns the parent of a process, if that can be known.
pub(super) fn parent(pid: Pid) -> Option<Pid> {
    if !is_own() {
        return None;
    }
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // pid (name, which may contain anything) state parent …
    let parent = stat.rsplit(')').next()?.split_whitespace().nth(1)?;
    Pid::from_raw(parent.parse().ok()?)
}

/// Returns whether a process of this group runs, or `None` if that cannot be known.
pub(super) fn group_runs(group: Pid) -> Option<bool> {
    // Where the first process is hidden, others may be hidden, too.
    if !is_own() || fs::read_to_string("/proc/1/stat").is_err() {
        return None;
    }
    let group = group.as_raw_nonzero().to_string();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let stats = processes.filter_map(|process| fs::read_to_string(process.path().join("stat")).ok());
    let mut members = stats.filter_map(|stat| {
        // pid (name, which may contain anything) state parent group …, and 14 fields later the number of threads
        let mut fields = stat.rsplit(')').next()?.split_ascii_whitespace();
        let (state, of, threads) = (fields.next()?, fields.nth(1)?, fields.nth(14)?);
        let runs = !matches!(state, "Z" | "X") || threads.parse::<u32>().is_ok_and(|threads| threads > 1);
        (of == group).then_some(runs)
    });
    Some(members.any(|runs| runs))
}

/// Returns the first process that `wanted` accepts, among `root` and its descendants, as far as they can be known.
pub(super) fn find_in_tree(root: Pid, wanted: impl Fn(Pid) -> bool) -> Option<Pid> {
    let (is_own, mut left) = (is_own(), vec![root]);
    while let Some(pid) = left.pop() {
        if wanted(pid) {
            return Some(pid);
        }
        if is_own {
            left.extend(children(pid));
        }
    }
    None
}

fn children(pid: Pid) -> Vec<Pid> {
    let Ok(threads) = fs::read_dir(format!("/proc/{}/task", pid.as_raw_nonzero())) else {
        return Vec::new();
    };
    let lists = threads.flatten().map(|thread| fs::read_to_string(thread.path().join("children")));
    let ids = |list: String| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<i32>>();
    lists.flatten().flat_map(ids).filter_map(Pid::from_raw).collect()
}
