use std::time::Duration;

use leasehold::storage::Limits;

/// All durations of the cases. They are multiplied by `LEASEHOLD_TEST_TIME`, a factor for slow machines and
/// distant servers; the default is 1.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    factor: f64,
}

impl Timing {
    /// Reads the factor from the environment.
    ///
    /// # Panics
    ///
    /// If the variable is set to something other than a number.
    pub fn from_env() -> Self {
        let set = std::env::var("LEASEHOLD_TEST_TIME").unwrap_or_default();
        let factor = if set.is_empty() { Ok(1.0) } else { set.parse() };
        Self::times(
            factor.unwrap_or_else(|_| panic!("LEASEHOLD_TEST_TIME is a factor, such as 3; not {set:?}")),
        )
    }

    /// Uses this factor, clamped to 0.1 to 100.
    pub fn times(factor: f64) -> Self {
        Self { factor: factor.clamp(0.1, 100.0) }
    }

    /// Returns a TTL that never ends within a case.
    pub fn long(&self) -> Duration {
        self.scaled(120_000)
    }

    /// Returns a TTL that is short enough for a case to wait for its end.
    pub fn short(&self, limits: &Limits) -> Duration {
        std::cmp::max(self.scaled(400), limits.ttl_min)
    }

    /// Returns the tolerated delay of an expiry, a hint or an answer.
    pub fn slack(&self) -> Duration {
        self.scaled(3_000)
    }

    /// Returns how far the storage's clock may run ahead of the client's within `span`.
    pub fn drift(&self, span: Duration) -> Duration {
        Duration::from_millis(5) + span / 100
    }

    /// Returns the pause between two polls.
    pub fn pause(&self) -> Duration {
        self.scaled(10)
    }

    /// Returns how long clients compete for a lock.
    pub fn fight(&self) -> Duration {
        self.scaled(1_000)
    }

    /// Returns how long a whole case may take before it counts as hung.
    pub fn case(&self) -> Duration {
        self.scaled(60_000)
    }

    fn scaled(&self, millis: u64) -> Duration {
        Duration::from_millis(millis).mul_f64(self.factor)
    }
}
