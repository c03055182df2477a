//! The server's clock, as far as its answers show it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::{Moment, nanos};

/// Bounds of the server's wall clock, in microseconds, from the times in its answers.
///
/// A request is sent at `a` and answered at `b`, by our clock. The server's time `s` in the answer was read at some
/// moment between them. So at `t` the server's clock shows at least `s + (t - b)` and at most `s + (t - a)`. The bounds of
/// several answers hold at the same time, unless the clock is set (Marzullo, 1984).
#[derive(Debug, Default)]
pub(in crate::storage) struct ServerClock(Mutex<Option<Bounds>>);

/// The bounds of the server's clock minus ours, in microseconds.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    low: i64,
    high: i64,
    at: Moment,
}

/// How much two clocks may drift apart, in millionths.
const DRIFT_PPM: u64 = 500;

impl ServerClock {
    /// Learns from an answer.
    pub(in crate::storage) fn learn(&self, sent: Moment, received: Moment, server_us: u64) {
        let server = i64::try_from(server_us).unwrap_or(i64::MAX);
        let new = Bounds {
            low: server.saturating_sub(micros(received)),
            high: server.saturating_sub(micros(sent)),
            at: received,
        };
        self.narrow(new);
    }

    fn narrow(&self, new: Bounds) {
        let mut bounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let narrowed = bounds.map(|old| old.at(new.at)).map(|old| Bounds {
            low: std::cmp::max(old.low, new.low),
            high: std::cmp::min(old.high, new.high),
            at: new.at,
        });
        // If the bounds contradict each other, the clock was set, and only the new ones count.
        *bounds = Some(narrowed.filter(|both| both.low <= both.high).unwrap_or(new));
    }

    /// Learns from other bounds of the same clock.
    pub(in crate::storage) fn learn_from(&self, other: &Self) {
        let bounds = *other.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bounds) = bounds {
            self.narrow(bounds);
        }
    }

    /// Forgets the bounds, because another server answers.
    pub(in crate::storage) fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Returns the server's time, in microseconds, up to which a claim that is sent at `now` may be executed.
    ///
    /// At that time, no more than `patience` has passed since `now`, wherever in its bounds the server's clock is.
    /// `None` before any answer.
    pub(in crate::storage) fn not_after(&self, now: Moment, patience: Duration) -> Option<u64> {
        let bounds = self.0.lock().unwrap_or_else(PoisonError::into_inner).map(|bounds| bounds.at(now))?;
        let patience = i64::try_from(patience.as_micros()).unwrap_or(i64::MAX);
        let limit = bounds.low.saturating_add(micros(now)).saturating_add(patience);
        Some(u64::try_from(limit).unwrap_or(0))
    }
}

impl Bounds {
    /// Returns the same bounds at a later moment: wider by the drift that the clocks may have.
    fn at(self, now: Moment) -> Self {
        let drift = nanos(now.since(self.at)) / 1000 * DRIFT_PPM / 1_000_000;
        let drift = i64::try_from(drift).unwrap_or(i64::MAX);
        Self { low: self.low.saturating_sub(drift), high: self.high.saturating_add(drift), at: now }
    }
}

fn micros(moment: Moment) -> i64 {
    i64::try_from(moment.as_nanos() / 1000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::from_nanos(ms * 1_000_000)
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_lower_bound_is_never_late() {
        let clock = ServerClock::default();
        assert_eq!(clock.not_after(at(0), SECOND), None);
        // The server's clock is 50 s ahead. It answered at 100 ms; the answer took until 130 ms.
        clock.learn(at(90), at(130), 50_100_000);
        let limit = clock.not_after(at(130), SECOND).expect("known");
        assert_eq!(limit, 50_100_000 + 1_000_000);
        // A faster answer narrows the bounds, a slower one does not widen them.
        clock.learn(at(200), at(201), 50_200_500);
        clock.learn(at(300), at(400), 50_310_000);
        let limit = clock.not_after(at(400), SECOND).expect("known");
        assert!((51_399_000..=51_400_500).contains(&limit), "{limit}");
    }

    #[test]
    fn a_clock_that_was_set_is_followed_at_once() {
        let clock = ServerClock::default();
        clock.learn(at(0), at(1), 3_600_000_000);
        for server in [7_200_000_000, 60_000_000] {
            clock.learn(at(10), at(11), server);
            assert_eq!(clock.not_after(at(11), Duration::ZERO), Some(server));
        }
    }

    #[test]
    fn another_servers_clock_is_forgotten() {
        let (clock, new) = (ServerClock::default(), ServerClock::default());
        // The old clock is ahead by less than the answer of the new one took, so their bounds do not contradict each
        // other. Together they would show a new clock that is as far ahead.
        clock.learn(at(0), at(1), 1_900_000);
        new.learn(at(10), at(1_010), 1_010_000);
        clock.forget();
        assert_eq!(clock.not_after(at(1_010), SECOND), None);
        clock.learn_from(&new);
        assert_eq!(clock.not_after(at(1_010), SECOND), Some(1_010_000 + 1_000_000));
    }

    #[test]
    fn the_bounds_of_an_old_answer_are_wider() {
        let clock = ServerClock::default();
        clock.learn(at(0), at(0), 1_000_000);
        let limit = clock.not_after(at(1_000_000), Duration::ZERO).expect("known");
        assert_eq!(limit, 1_000_000 + 1_000_000_000 - 500_000);
    }
}
