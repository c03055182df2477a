use std::time::Duration;

use leasehold::storage::Limits;

/// Holds every duration that the cases use. All of them grow with `LEASEHOLD_TEST_TIME`, a factor for slow
/// machines and far servers; 1 unless set.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    factor: f64,
}

impl Timing {
    /// Reads the factor from the environment.
    ///
    /// # Panics
    ///
    /// If it is set to something that is not a number.
    pub fn from_env() -> Self {
        let set = std::env::var("LEASEHOLD_TEST_TIME").unwrap_or_default();
        let factor = if set.is_empty() { Ok(1.0) } else { set.parse() };
        Self::times(
            factor.unwrap_or_else(|_| panic!("LEASEHOLD_TEST_TIME is a factor, such as 3; not {set:?}")),
        )
    }

    /// Uses a factor, between 0.1 and 100.
    pub fn times(factor: f64) -> Self {
        Self { factor: factor.clamp(0.1, 100.0) }
    }

    /// Returns a TTL that never ends within a case.
    pub fn long(&self) -> Duration {
        self.scaled(120_000)
    }

    /// Returns a TTL whose end a case waits for.
    pub fn short(&self, limits: &Limits) -> Duration {
        std::cmp::max(self.scaled(400), limits.ttl_min)
    }

    /// Returns how late a storage may be: with an expiry, a hint, an answer.
    pub fn slack(&self) -> Duration {
        self.scaled(3_000)
    }

    /// Returns how far the storage's clock may run ahead of ours within `span`.
    pub fn drift(&self, span: Duration) -> Duration {
        Duration::from_millis(5) + span / 100
    }

    /// Returns the pause between two looks at something that is about to happen.
    pub fn pause(&self) -> Duration {
        self.scaled(10)
    }

    /// Returns for how long clients fight for a lock.
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
