//! The versions of what was measured, and the machine.

use crate::Result;

/// Returns the versions of Leasehold and the runtime, and the machine.
pub(super) fn ours() -> Result<String> {
    let cores = std::thread::available_parallelism()?;
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find(|line| line.starts_with("model name"));
    let cpu = cpu.and_then(|line| line.split(": ").nth(1)).unwrap_or("?");
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("?");
    Ok(format!(
        "leasehold {}, tokio {} with {cores} workers; {cores} × {cpu}, load at the end {load}",
        env!("CARGO_PKG_VERSION"),
        locked("tokio"),
    ))
}

/// Returns the version of a crate in the lock file of the workspace.
pub(super) fn locked(name: &str) -> &'static str {
    let lock = include_str!("../../../../Cargo.lock");
    let package =
        lock.split("[[package]]\n").find(|package| package.starts_with(&format!("name = \"{name}\"\n")));
    package.and_then(|package| package.split('"').nth(3)).unwrap_or("?")
}
