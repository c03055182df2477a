//! Durations for tests without a runtime.

use std::time::Duration;

use leasehold_testbed::scaled;

/// A duration longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// Returns so many milliseconds, times the factor for a slow machine.
pub(crate) fn time(ms: u64) -> Duration {
    scaled(Duration::from_millis(ms))
}

/// Measures how long some work takes.
#[expect(clippy::disallowed_methods, reason = "a test measures a duration, and its machine is not suspended")]
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let since = std::time::Instant::now();
    (work(), since.elapsed())
}
