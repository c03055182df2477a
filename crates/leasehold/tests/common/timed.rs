//! Time, for tests without a runtime.

use std::time::Duration;

use leasehold_testbed::scaled;

/// Longer than any test.
pub(crate) const LONG: Duration = Duration::from_secs(600);

/// So many milliseconds, times what a slow machine is given.
pub(crate) fn time(ms: u64) -> Duration {
    scaled(Duration::from_millis(ms))
}

/// Measures how long something takes.
#[expect(clippy::disallowed_methods, reason = "it decides nothing, and a test's machine does not sleep")]
pub(crate) fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let since = std::time::Instant::now();
    (work(), since.elapsed())
}
