//! The timing rules that all stages of an acquisition share. They say how long a call may take and how late a
//! request may still be executed. They also say how much earlier than the storage the client considers a
//! lease expired.

use std::cmp::max;
use std::time::Duration;

use super::planted::{self, Bug};
use crate::clock::{Moment, nanos};
use crate::storage::Owner;

/// The limit of a call that no TTL limits.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(5);
/// How long `release` waits for a reply.
pub(crate) const RELEASE_LIMIT: Duration = Duration::from_secs(5);
/// How long `resume` waits for a reply.
pub(crate) const RESUME_LIMIT: Duration = Duration::from_secs(5);
/// How much longer, besides its drift, a span of the storage's clock may last here.
const LATE: Duration = Duration::from_millis(20);

/// Returns how late a storage may execute a claim. The client waits for the reply for as long.
pub(crate) fn patience(ttl: Duration) -> Duration {
    (ttl / 2).clamp(Duration::from_millis(50), Duration::from_secs(4))
}

/// Returns how long the client waits for the reply to a renewal. A TTL leaves time for several tries.
pub(crate) fn renew_limit(ttl: Duration) -> Duration {
    (ttl / 6).clamp(Duration::from_millis(20), Duration::from_secs(5))
}

/// Returns the moment until which a claim sent at `sent` may still be executed.
pub(crate) fn executable_until(sent: Moment, ttl: Duration) -> Moment {
    if planted::is(Bug::GhostAcquire) {
        return Moment::ZERO;
    }
    sent.after(by_a_slow_clock(patience(ttl)))
}

/// Returns the moment until which any claim sent by `sent` may still be executed, even one of another client.
pub(crate) fn any_executable_until(sent: Moment) -> Moment {
    executable_until(sent, Duration::MAX)
}

/// Returns how long a span of the storage's clock may last here. That clock may run 1 % slower and have a
/// coarse resolution.
pub(crate) fn by_a_slow_clock(span: Duration) -> Duration {
    span + span / 64 + LATE
}

/// Returns how much earlier than the storage the client considers the lease expired: 1 % for clocks that
/// drift, at least 10 ms, and 2 ms for storages that count in milliseconds.
pub(crate) fn margin(ttl: Duration) -> Duration {
    max(ttl / 100, Duration::from_millis(10)) + Duration::from_millis(2)
}

/// Returns when the client considers a lease expired that a request sent at `sent` has given for `ttl`.
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
    fn the_margin_is_at_least_twelve_milliseconds() {
        assert_eq!(margin(Duration::from_millis(100)), Duration::from_millis(12));
        assert_eq!(margin(Duration::from_secs(10)), Duration::from_millis(102));
    }

    #[test]
    fn the_allowance_for_a_slow_clock_exceeds_its_drift() {
        for span in [Duration::from_millis(50), Duration::from_secs(4), Duration::from_secs(86_400)] {
            assert!(by_a_slow_clock(span) > span * 101 / 100);
        }
    }
}
