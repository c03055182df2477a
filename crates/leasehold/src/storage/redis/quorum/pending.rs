//! The requests to one server that may still be executed, and the releases that are not confirmed.
//!
//! A request whose reply is missing may be executed later. A release is final only if it was executed after every request
//! that could grant the lock to its owner.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::clock::Moment;
use crate::storage::{Claim, Name, Owner};

/// The requests to one server whose effect is not known.
#[derive(Default)]
pub(super) struct Pending(Mutex<State>);

#[derive(Default)]
struct State {
    /// The requests without a reply that may give a lock to an owner.
    in_flight: HashMap<Key, InFlight>,
    /// The owners whose leases are being cleaned up. They get no request until that is done.
    cleanups: HashSet<Key>,
    /// The number of requests in flight from which on expired ones are removed.
    in_flight_max: usize,
    /// When owners were last released. What began before must not be sent afterward.
    released: HashMap<Key, Moment>,
    /// The same, in the order in which it happened.
    released_in_order: VecDeque<(Moment, Key)>,
}

type Key = (Name, Owner);

struct InFlight {
    requests: u32,
    /// None of them is executed after that.
    until: Moment,
}

/// The number of requests in flight up to which none is removed.
const IN_FLIGHT_MIN: usize = 1024;
/// The age at which a release does not matter any more.
const RELEASED_AGE: Duration = Duration::from_secs(30);

impl Pending {
    /// Adds requests that are sent now. Returns for each claim whether it may be sent: not if its owner was released
    /// after `since`, or is being cleaned up.
    pub(super) fn begin(&self, claims: &[Claim], sent: Moment, since: Moment) -> Vec<bool> {
        let mut state = self.state();
        state.remove_expired(sent);
        let all = claims.iter().map(|claim| {
            let key = key(claim);
            let released = state.released.get(&key).is_some_and(|released| *released >= since);
            if released || state.cleanups.contains(&key) {
                return false;
            }
            let until = sent.after(by_a_slow_clock(claim.patience));
            let in_flight = state.in_flight.entry(key).or_insert(InFlight { requests: 0, until });
            // The earlier ones count as well, unless all have expired.
            in_flight.requests = if sent >= in_flight.until { 1 } else { in_flight.requests + 1 };
            in_flight.until = std::cmp::max(in_flight.until, until);
            true
        });
        all.collect()
    }

    /// Removes requests that were answered.
    pub(super) fn finish<'c>(&self, claims: impl IntoIterator<Item = &'c Claim>) {
        let mut state = self.state();
        for claim in claims {
            let key = key(claim);
            if let Some(in_flight) = state.in_flight.get_mut(&key) {
                in_flight.requests = in_flight.requests.saturating_sub(1);
                if in_flight.requests == 0 {
                    state.in_flight.remove(&key);
                }
            }
        }
    }

    /// Records that owners are released now.
    pub(super) fn release(&self, claims: &[Claim], now: Moment) {
        let mut state = self.state();
        state.remove_old_releases(now);
        for claim in claims {
            let key = key(claim);
            state.released_in_order.push_back((now, key.clone()));
            state.released.insert(key, now);
        }
    }

    /// Returns for each claim whether a release that was sent then, and was answered, is final: no request in flight can
    /// be executed after it.
    pub(super) fn are_final(&self, claims: &[Claim], sent: Moment) -> Vec<bool> {
        let mut state = self.state();
        let all = claims.iter().map(|claim| {
            let key = key(claim);
            let is_final = state.in_flight.get(&key).is_none_or(|in_flight| sent >= in_flight.until);
            if is_final {
                state.in_flight.remove(&key);
            }
            is_final
        });
        all.collect()
    }

    /// Begins cleanups, and removes from `claims` those that are being cleaned up already.
    pub(super) fn begin_cleanups(&self, claims: &mut Vec<Claim>) {
        let mut state = self.state();
        claims.retain(|claim| state.cleanups.insert(key(claim)));
    }

    pub(super) fn end_cleanups(&self, claims: &[Claim]) {
        let mut state = self.state();
        for claim in claims {
            state.cleanups.remove(&key(claim));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Removes the releases that are too old to matter. Returns how many entries it visited, to which the removed ones
    /// are proportional.
    fn remove_old_releases(&mut self, now: Moment) -> usize {
        let mut visited = 1;
        while let Some((at, key)) = self.released_in_order.front() {
            if now.since(*at) < RELEASED_AGE {
                break;
            }
            if self.released.get(key) == Some(at) {
                self.released.remove(key);
            }
            self.released_in_order.pop_front();
            visited += 1;
        }
        visited
    }

    /// Removes the requests that are too old to be executed, once there are twice as many as the last removal left: so
    /// the cost of each request does not depend on their number. Returns how many entries it visited.
    fn remove_expired(&mut self, now: Moment) -> usize {
        let visited = self.in_flight.len();
        if visited <= std::cmp::max(self.in_flight_max, IN_FLIGHT_MIN) {
            return 0;
        }
        self.in_flight.retain(|_, in_flight| now < in_flight.until);
        self.in_flight_max = self.in_flight.len() * 2;
        visited
    }
}

/// Returns how long a span of a server's clock may last here: that clock may be 1 % slower, and coarse.
pub(super) fn by_a_slow_clock(span: Duration) -> Duration {
    span + span / 64 + Duration::from_millis(20)
}

fn key(claim: &Claim) -> Key {
    (claim.name.clone(), claim.owner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cost_of_a_request_does_not_depend_on_the_number_of_pending_ones() {
        let (mut state, name) = (State::default(), Name::new("a").expect("valid"));
        let (mut releases, mut requests) = (0, 0);
        let all = 50_000;
        for n in 0..all {
            // A thousand a second. Each matters for half a minute.
            let now = Moment::from_nanos(n * 1_000_000);
            releases += state.remove_old_releases(now);
            requests += state.remove_expired(now);
            let key = (name.clone(), Owner::random());
            state.released_in_order.push_back((now, key.clone()));
            state.released.insert(key.clone(), now);
            state.in_flight.insert(key, InFlight { requests: 1, until: now.after(RELEASED_AGE) });
        }
        let all = usize::try_from(all).expect("fits");
        assert!(releases <= all * 2, "{releases} visits for {all} releases");
        assert!(requests <= all * 3, "{requests} visits for {all} requests");
        assert!(state.released.len() <= 30_001 && state.in_flight.len() <= 60_002);
        assert_eq!(state.released.len(), state.released_in_order.len());
    }
}
