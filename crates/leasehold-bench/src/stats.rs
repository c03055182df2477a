//! Arithmetic on the measured figures.

use serde_json::{Value, json};

/// A sorted set of times, in nanoseconds.
#[derive(Debug, Default)]
pub(crate) struct Times(Vec<u64>);

impl Times {
    pub(crate) fn new(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        Self(nanos)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the percentile in microseconds, or 0 for an empty set.
    pub(crate) fn us(&self, percent: usize) -> f64 {
        let at = (self.0.len() * percent / 100).saturating_sub(usize::from(percent == 100));
        self.0.get(at).map_or(0.0, |nanos| float(*nanos) / 1000.0)
    }

    pub(crate) fn json(&self) -> Value {
        json!({ "p50": self.us(50), "p90": self.us(90), "p99": self.us(99), "max": self.us(100) })
    }
}

pub(crate) fn per_second(count: usize, nanos: u64) -> f64 {
    ratio(float(u64::try_from(count).unwrap_or(u64::MAX)) * 1e9, float(nanos))
}

/// Returns `a / b`, or 0 if `b` is 0.
pub(crate) fn ratio(a: f64, b: f64) -> f64 {
    if b == 0.0 { 0.0 } else { a / b }
}

/// Converts a count to a figure for people, for which the last bits of a large number do not matter.
#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub(crate) fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let times = Times::new((1..=100).rev().map(|us| us * 1000).collect());
        assert_eq!((times.us(50), times.us(99), times.us(100)), (51.0, 100.0, 100.0));
        assert_eq!(Times::default().us(50), 0.0);
    }
}
