//! The rules of time that all stages of an acquisition share: how long a call may take, how late a request may still
//! be executed, and how much earlier than the storage the client considers a lease expired.

use std::cmp::max;
use std::time::Duration;

use super::planted::{self, Bug};
use crate::clock::{Moment, nanos};
use crate::storage::Owner;

/// The longest that a call which no lease limits may take.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(5);
/// How long `release` waits for an answer.
pub(crate) const RELEASE_LIMIT: Duration = Duration::from_secs(5);
/// How long `resume` waits for an answer.
pub(crate) const RESUME_LIMIT: Duration = Duration::from_secs(5);
/// How long `close` waits for the storage.
pub(crate) const CLOSE_LIMIT: Duration = Duration::from_secs(5);
/// How much longer than it should a span of the storage's clock may last, beside its drift.
const LATE: Duration = Duration::from_millis(20);

/// How late a storage may execute a claim, and how long its answer is waited for.
pub(crate) fn patience(ttl: Duration) -> Duration {
    (ttl / 2).clamp(Duration::from_millis(50), Duration::from_secs(4))
}

/// How long an answer to a renewal is waited for: there must be time for several tries.
pub(crate) fn renew_limit(ttl: Duration) -> Duration {
    (ttl / 6).clamp(Duration::from_millis(20), Duration::from_secs(5))
}

/// Returns until when a claim sent at `sent` may still be executed.
pub(crate) fn executable_until(sent: Moment, ttl: Duration) -> Moment {
    if planted::is(Bug::GhostAcquire) {
        return Moment::ZERO;
    }
    sent.after(by_a_slow_clock(patience(ttl)))
}

/// Returns until when any claim sent by `sent` may still be executed, even one that another client has sent.
pub(crate) fn any_executable_until(sent: Moment) -> Moment {
    executable_until(sent, Duration::MAX)
}

/// How long a span of the storage's clock may last here: that clock may run 1 % slower, and count roughly.
pub(crate) fn by_a_slow_clock(span: Duration) -> Duration {
    span + span / 64 + LATE
}

/// How much earlier than the storage the client considers the lease expired: 1 % for clocks that drift, at least
/// 10 ms, and 2 ms for storages that count in milliseconds.
pub(crate) fn margin(ttl: Duration) -> Duration {
    max(ttl / 100, Duration::from_millis(10)) + Duration::from_millis(2)
}

/// Returns when a lease is considered expired that a request sent at `sent` has given for `ttl`.
pub(crate) fn deadline(sent: Moment, ttl: Duration) -> Moment {
    sent.after(ttl.saturating_sub(margin(ttl)))
}

/// Returns `span`, shortened by up to a quarter.
pub(crate) fn jitter(owner: Owner, salt: u32, span: Duration) -> Duration {
    span - Duration::from_nanos(owner.spread(salt, nanos(span / 4)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_margin_is_never_less_than_what_short_leases_need() {
        assert_eq!(margin(Duration::from_millis(100)), Duration::from_millis(12));
        assert_eq!(margin(Duration::from_secs(10)), Duration::from_millis(102));
    }

    #[test]
    fn a_slow_clock_takes_longer_than_its_drift() {
        for span in [Duration::from_millis(50), Duration::from_secs(4), Duration::from_secs(86_400)] {
            assert!(by_a_slow_clock(span) > span * 101 / 100);
        }
    }
}
