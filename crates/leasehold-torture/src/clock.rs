//! The one door for time: `CLOCK_MONOTONIC`, which all processes of a machine share.

use std::time::Duration;

/// Nanoseconds on the clock that the events of a history carry.
pub fn now() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let (secs, nanos) = (u64::try_from(now.tv_sec).unwrap_or(0), u64::try_from(now.tv_nsec).unwrap_or(0));
    secs * 1_000_000_000 + nanos
}

/// Nanoseconds of a duration.
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// Milliseconds of a duration.
pub fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds as nanoseconds.
pub const fn ms(millis: u64) -> u64 {
    millis.saturating_mul(1_000_000)
}

/// Sleeps. Workers and the nemesis are load, and load has a rhythm; no check waits by it.
pub fn pause(span: Duration) {
    #[expect(clippy::disallowed_methods, reason = "this is the door")]
    std::thread::sleep(span);
}

/// By how much every bound of the checks grows: `LEASEHOLD_TEST_TIME`, 1 unless set.
pub fn factor() -> f64 {
    let set = std::env::var("LEASEHOLD_TEST_TIME").ok().and_then(|text| text.parse::<f64>().ok());
    set.unwrap_or(1.0).clamp(0.1, 100.0)
}

/// A bound of so many milliseconds, grown by [`factor`], in nanoseconds.
pub fn bound(millis: u64) -> u64 {
    nanos(Duration::from_millis(millis).mul_f64(factor()))
}
