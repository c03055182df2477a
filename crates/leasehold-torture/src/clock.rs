//! The only module that reads a clock: `CLOCK_MONOTONIC`, which all processes of a machine share.

use std::time::Duration;

/// Returns the current time of the clock that events use, in nanoseconds.
pub fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (secs, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    secs * 1_000_000_000 + nanos
}

/// Returns a duration in nanoseconds.
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns a duration in milliseconds.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Converts milliseconds to nanoseconds.
pub const fn ms(millis: u64) -> u64 {
    millis.saturating_mul(1_000_000)
}

/// Sleeps. Workers and the nemesis need pauses to shape their load; no check relies on them.
pub fn pause(span: Duration) {
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    std::thread::sleep(span);
}

/// Returns the factor for every bound of the checks: `LEASEHOLD_TEST_TIME`, or 1 if it is not set.
pub fn factor() -> f64 {
    let set = std::env::var("LEASEHOLD_TEST_TIME").ok().and_then(|text| text.parse::<f64>().ok());
    set.unwrap_or(1.0).clamp(0.1, 100.0)
}

/// Returns a bound of this many milliseconds times [`factor`], in nanoseconds.
pub fn bound(millis: u64) -> u64 {
    nanos(Duration::from_millis(millis).mul_f64(factor()))
}
