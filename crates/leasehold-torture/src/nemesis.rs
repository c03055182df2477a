//! The schedule of faults. The seed alone decides it, so the same seed gives the same schedule.

use std::fmt;
use std::time::Duration;

use crate::random::Random;

/// A scheduled fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduledFault {
    /// Its start, relative to the start of the run.
    pub at: Duration,
    /// Its name.
    pub fault: String,
    /// The worker that it hits, by position; all workers if there is none.
    pub place: Option<usize>,
    /// The lock that it hits, by position, for a fault that hits one.
    pub lock: usize,
    /// Its duration.
    pub span: Duration,
}

impl fmt::Display for ScheduledFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, span) = (self.at, self.span);
        let to = self.place.map_or("all".to_owned(), |place| format!("worker {place}"));
        write!(f, "{at:>10.3?} {:<20} {to:<10} for {span:.3?}", self.fault)
    }
}

/// The parameters of a schedule.
#[derive(Clone, Debug)]
pub struct Terms<'a> {
    /// The possible faults.
    pub faults: &'a [String],
    /// The number of workers.
    pub workers: usize,
    /// The number of locks.
    pub locks: usize,
    /// The TTL that determines the durations.
    pub ttl: Duration,
    /// The length of the run.
    pub length: Duration,
    /// Whether one fault follows another without a pause.
    pub restless: bool,
}

/// Makes the schedule of a seed: one fault at a time, each lasting half a TTL to three TTLs, with pauses
/// between them. Some pauses are long enough for everything to recover.
pub fn schedule(seed: u64, terms: &Terms<'_>) -> Vec<ScheduledFault> {
    let (mut random, mut scheduled) = (Random::new(seed), Vec::new());
    if terms.faults.is_empty() {
        return scheduled;
    }
    let mut at = if terms.restless { Duration::from_millis(100) } else { Duration::from_millis(1_500) };
    let ttl = u64::try_from(terms.ttl.as_millis()).unwrap_or(1_000);
    loop {
        let (fault, span) = (random.of(terms.faults).clone(), random.millis(ttl / 2, ttl * 3));
        let (all, place) = (random.percent(40), random.below(u64::try_from(terms.workers).unwrap_or(1)));
        let lock = usize::try_from(random.below(u64::try_from(terms.locks).unwrap_or(1))).unwrap_or(0);
        let one = matches!(fault.as_str(), "kill" | "stop") || !all;
        let place = one.then(|| usize::try_from(place).unwrap_or(0));
        let span = match fault.as_str() {
            "kill" | "break" => Duration::ZERO,
            _ => span,
        };
        let calm = match (terms.restless, random.percent(50)) {
            (true, _) => random.millis(20, 20 + ttl / 5),
            (false, true) => random.millis(100, 800),
            (false, false) => random.millis(ttl * 2 + 3_000, ttl * 2 + 6_000),
        };
        if at + span > terms.length {
            return scheduled;
        }
        scheduled.push(ScheduledFault { at, fault, place, lock, span });
        at += span + calm;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything() {
        let faults = ["kill", "stop", "busy"].map(str::to_owned);
        let (ttl, length) = (Duration::from_secs(1), Duration::from_secs(600));
        let terms = Terms { faults: &faults, workers: 5, locks: 3, ttl, length, restless: false };
        let scheduled = schedule(7, &terms);
        assert_eq!(scheduled, schedule(7, &terms));
        assert_ne!(scheduled, schedule(8, &terms));
        assert!(scheduled.len() > 50, "{}", scheduled.len());
        assert!(scheduled.windows(2).all(|pair| pair[0].at + pair[0].span < pair[1].at), "one at a time");
        let longer = schedule(7, &Terms { length: length * 2, ..terms });
        assert!(longer.starts_with(&scheduled), "a longer run begins like a shorter one");
    }
}
