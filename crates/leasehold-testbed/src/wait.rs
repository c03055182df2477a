//! The only module that waits for servers, with the only limit.

use std::time::{Duration, Instant};

use crate::{Error, Result};

/// How long a server may take for any operation. Starting on a loaded machine is the slowest.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two polls.
const PAUSE: Duration = Duration::from_millis(10);

/// Multiplies `duration` by `LEASEHOLD_TEST_TIME`, for slow machines.
#[must_use]
pub fn scaled(duration: Duration) -> Duration {
    let factor = std::env::var("LEASEHOLD_TEST_TIME").ok().and_then(|text| text.parse::<f64>().ok());
    duration.mul_f64(factor.filter(|factor| *factor > 0.0).unwrap_or(1.0))
}

/// Polls `look` until it succeeds. Its last error becomes part of the error.
///
/// Use it for a server's state that no event announces.
///
/// # Errors
///
/// If it does not succeed within a minute (times `LEASEHOLD_TEST_TIME`).
pub fn until<T>(what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let mut timer = Timer::start(PATIENCE);
    loop {
        match look() {
            Ok(found) => return Ok(found),
            Err(error) if timer.is_over() => {
                return Err(Error::new(format!("gave up waiting for {what}; the last answer: {error}")));
            }
            Err(_) => timer.pause(),
        }
    }
}

/// A stopwatch.
pub(crate) struct Timer {
    since: Instant,
    limit: Duration,
}

impl Timer {
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's patience is no lease; sleep of the machine may stop it"
    )]
    pub(crate) fn start(limit: Duration) -> Self {
        Self { since: Instant::now(), limit: scaled(limit) }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.since.elapsed() >= self.limit
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "servers are asked from outside; they send no event when they are ready"
    )]
    #[expect(clippy::needless_pass_by_ref_mut, reason = "pausing is part of waiting, not of looking at it")]
    pub(crate) fn pause(&mut self) {
        std::thread::sleep(PAUSE);
    }
}
