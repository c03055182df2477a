use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use leasehold::storage::{Name, Token};
use tokio::time::Instant;

/// A record of all holds. It finds overlaps, and tokens that do not grow. All clones are one history.
#[derive(Clone, Debug, Default)]
pub struct History(Arc<Mutex<Vec<Hold>>>);

/// One hold, from its holder's point of view.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Hold {
    /// The lock.
    pub name: Name,
    /// The fencing token of the hold.
    pub token: Token,
    /// When the grant was answered. The holder may work from here on.
    pub from: Instant,
    /// When the holder stopped: just before it sent the release, or at its deadline.
    pub until: Instant,
}

impl Hold {
    /// Makes a hold.
    pub fn new(name: Name, token: Token, from: Instant, until: Instant) -> Self {
        Self { name, token, from, until }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.until.saturating_duration_since(self.from);
        write!(f, "name=`{}` token=`{}` held=`{length:?}`", self.name, self.token)
    }
}

impl History {
    /// Makes an empty history.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a completed hold. Ignores a hold that ended before its grant was answered.
    pub fn add(&self, hold: Hold) {
        if hold.from < hold.until {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(hold);
        }
    }

    /// Returns how many holds were recorded.
    pub fn len(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Returns `true` if no hold was recorded.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the first two holds of one lock that overlap.
    pub fn overlap(&self) -> Option<(Hold, Hold)> {
        self.neighbors(|earlier, later| later.from < earlier.until)
    }

    /// Returns the first two holds of one lock between which the token does not grow.
    pub fn stale_token(&self) -> Option<(Hold, Hold)> {
        self.neighbors(|earlier, later| later.token <= earlier.token)
    }

    /// Returns the first pair of successive holds of one lock for which `wrong` is true. That is enough for
    /// both checks: between any wrong pair there is a successive pair that is wrong too.
    fn neighbors(&self, wrong: impl Fn(&Hold, &Hold) -> bool) -> Option<(Hold, Hold)> {
        let mut holds = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        holds.sort_by(|a, b| (&a.name, a.from).cmp(&(&b.name, b.from)));
        let mut pairs = holds.windows(2).filter_map(|pair| match pair {
            [earlier, later] if earlier.name == later.name => Some((earlier, later)),
            _ => None,
        });
        pairs
            .find(|(earlier, later)| wrong(earlier, later))
            .map(|(earlier, later)| (earlier.clone(), later.clone()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn history(holds: &[(&str, u64, u64, u64)]) -> History {
        let (history, start) = (History::new(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        for &(name, token, from, until) in holds {
            let name = Name::new(name).expect("valid");
            history.add(Hold::new(name, Token::new(token), at(from), at(until)));
        }
        history
    }

    #[test]
    fn a_clean_history_passes() {
        let clean = history(&[("a", 2, 10, 20), ("a", 1, 0, 10), ("b", 9, 5, 15), ("a", 1, 7, 7)]);
        assert_eq!(clean.len(), 3);
        assert!(clean.overlap().is_none() && clean.stale_token().is_none());
    }

    #[test]
    fn an_overlap_is_found() {
        let long = history(&[("a", 1, 0, 100), ("a", 2, 10, 20), ("a", 3, 30, 40)]);
        let (first, second) = long.overlap().expect("found");
        assert_eq!((first.token.get(), second.token.get()), (1, 2));
    }

    #[test]
    fn a_token_that_does_not_grow_is_found() {
        for tokens in [[5, 5], [5, 4]] {
            let [a, b] = tokens;
            assert!(history(&[("a", a, 0, 10), ("a", b, 10, 20)]).stale_token().is_some());
        }
    }
}
