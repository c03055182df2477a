//! Time, CPU time and memory, as the system reports them.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::Result;

/// Returns `CLOCK_MONOTONIC` in nanoseconds, which all processes of the machine share.
pub(crate) fn now_ns() -> u64 {
    read(ClockId::Monotonic)
}

/// Returns the CPU time of all threads of this process.
pub(crate) fn cpu_ns() -> u64 {
    read(ClockId::ProcessCPUTime)
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the resident memory according to `/proc/self/statm`.
pub(crate) fn resident_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages: u64 = text.split(' ').nth(1).ok_or("no resident pages")?.parse()?;
    Ok(pages * u64::try_from(rustix::param::page_size())?)
}

fn read(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let (secs, nanos) = (u64::try_from(time.tv_sec).unwrap_or(0), u64::try_from(time.tv_nsec).unwrap_or(0));
    secs * 1_000_000_000 + nanos
}
