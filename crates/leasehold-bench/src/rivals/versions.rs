//! What was measured, on what.

use leasehold_testbed::Redis;

use crate::Result;

/// One line: the machine, the server and its persistence, the crates.
pub(super) fn describe(redis: &Redis, durable: bool) -> Result<String> {
    let info = redis.info("server")?;
    let server = info.lines().find_map(|line| line.strip_prefix("redis_version:")).unwrap_or("?").trim();
    let persistence = if durable { "appendfsync always" } else { "no persistence" };
    let cores = std::thread::available_parallelism()?;
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpu.lines().find(|line| line.starts_with("model name"));
    let cpu = cpu.and_then(|line| line.split(": ").nth(1)).unwrap_or("?");
    Ok(format!(
        "Redis {server} on loopback, {persistence}; leasehold {}, rslock {}, redis-rs {}, tokio {} with {cores} workers; \
         {cores} × {cpu}",
        env!("CARGO_PKG_VERSION"),
        locked("rslock"),
        locked("redis"),
        locked("tokio"),
    ))
}

/// The version of a crate that this was built with.
fn locked(name: &str) -> &'static str {
    let lock = include_str!("../../../../Cargo.lock");
    let package =
        lock.split("[[package]]\n").find(|package| package.starts_with(&format!("name = \"{name}\"\n")));
    package.and_then(|package| package.split('"').nth(3)).unwrap_or("?")
}
