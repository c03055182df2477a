//! What is done to a run, and when: decided by the seed alone, so that the same seed does the same.

use std::fmt;
use std::time::Duration;

use crate::dice::Dice;

/// Something that is done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Strike {
    /// When, counted from the start.
    pub at: Duration,
    /// What.
    pub fault: String,
    /// To which worker, by its place; to all if none.
    pub place: Option<usize>,
    /// To which lock, by its place, if it is done to one.
    pub lock: usize,
    /// For how long.
    pub span: Duration,
}

impl fmt::Display for Strike {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, span) = (self.at, self.span);
        let to = self.place.map_or("all".to_owned(), |place| format!("worker {place}"));
        write!(f, "{at:>10.3?} {:<20} {to:<10} for {span:.3?}", self.fault)
    }
}

/// What a schedule is made for.
#[derive(Clone, Debug)]
pub struct Terms<'a> {
    /// What can be done.
    pub faults: &'a [String],
    /// How many workers there are.
    pub workers: usize,
    /// How many locks there are.
    pub locks: usize,
    /// The TTL that spans are measured by.
    pub ttl: Duration,
    /// How long the run is.
    pub length: Duration,
    /// No calm: one fault after the other.
    pub restless: bool,
}

/// Makes the schedule of a seed: one fault at a time, of half to three TTLs, and calm between them, sometimes
/// for so long that everything must have recovered.
pub fn schedule(seed: u64, terms: &Terms<'_>) -> Vec<Strike> {
    let (mut dice, mut strikes) = (Dice::new(seed), Vec::new());
    if terms.faults.is_empty() {
        return strikes;
    }
    let mut at = if terms.restless { Duration::from_millis(100) } else { Duration::from_millis(1_500) };
    let ttl = u64::try_from(terms.ttl.as_millis()).unwrap_or(1_000);
    loop {
        let (fault, span) = (dice.of(terms.faults).clone(), dice.millis(ttl / 2, ttl * 3));
        let (everybody, place) = (dice.percent(40), dice.below(u64::try_from(terms.workers).unwrap_or(1)));
        let lock = usize::try_from(dice.below(u64::try_from(terms.locks).unwrap_or(1))).unwrap_or(0);
        let one = matches!(fault.as_str(), "kill" | "stop") || !everybody;
        let place = one.then(|| usize::try_from(place).unwrap_or(0));
        let span = match fault.as_str() {
            "kill" | "break" => Duration::ZERO,
            _ => span,
        };
        let calm = match (terms.restless, dice.percent(50)) {
            (true, _) => dice.millis(20, 20 + ttl / 5),
            (false, true) => dice.millis(100, 800),
            (false, false) => dice.millis(ttl * 2 + 3_000, ttl * 2 + 6_000),
        };
        if at + span > terms.length {
            return strikes;
        }
        strikes.push(Strike { at, fault, place, lock, span });
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
        let strikes = schedule(7, &terms);
        assert_eq!(strikes, schedule(7, &terms));
        assert_ne!(strikes, schedule(8, &terms));
        assert!(strikes.len() > 50, "{}", strikes.len());
        assert!(strikes.windows(2).all(|pair| pair[0].at + pair[0].span < pair[1].at), "one at a time");
        let longer = schedule(7, &Terms { length: length * 2, ..terms });
        assert!(longer.starts_with(&strikes), "a longer run begins like a shorter one");
    }
}
