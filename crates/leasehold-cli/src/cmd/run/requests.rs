//! Requests to end: the command gets one signal for each, in however many ways the request reaches this program.
//!
//! A request can come more than once: `timeout` signals its child, and then its child's group; a launcher passes on
//! the Ctrl-C that the terminal sent to both. A request can also reach the command without this program: systemd and
//! batch systems signal every process of a service or a step. The guardian shows which it is: it is in a group of its own,
//! so it gets such a signal only if every process gets it.
//!
//! | State | Input | Next state | Action |
//! |---|---|---|---|
//! | idle | a signal that came within the last `SAME_REQUEST` already, or that every process got | idle | dropped |
//! | idle | another request | holding, for `HOLD`: the sender needs time to get to the guardian | |
//! | holding | another request | holding | held, too |
//! | holding | `HOLD` is over | asking, for `ANSWER` | the guardian is asked; it answers after its reports |
//! | asking | the guardian answers, or `ANSWER` is over | idle | what was held is passed on |
//! | any | the guardian reports a request: every process got it, and so did the command | idle | what was held is dropped |

use std::time::Duration;

use rustix::process::Signal;

use crate::signals;

/// How long after a request the same signal counts as the same request.
const SAME_REQUEST: Duration = Duration::from_millis(100);
/// The same for the other signals that end a program: most programs use them for something else.
const SAME_SIGNAL: Duration = Duration::from_millis(10);
/// The longest that a sender takes to signal one process after the other.
const HOLD: Duration = Duration::from_millis(10);
/// How long this program waits for the guardian's answer.
const ANSWER: Duration = Duration::from_secs(1);

/// The requests that came. All times are in nanoseconds since boot.
#[derive(Default)]
pub(super) struct Requests {
    /// The signals that were not dropped, each with the time when it last came.
    seen: Vec<(Signal, u64)>,
    /// The signals that are not passed on before the guardian has answered.
    held: Vec<Signal>,
    /// When `act` has something to do.
    due: Option<u64>,
    /// Whether the guardian was asked and has not answered.
    asked: bool,
    /// When the guardian was last sent a request.
    everyone: Option<u64>,
}

/// What to do when it is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Action {
    Ask,
    PassOn(Vec<Signal>),
}

impl Requests {
    /// Notes a signal that came. Returns `true` if the caller has to pass it on at once.
    pub(super) fn came(&mut self, signal: Signal, now: u64) -> bool {
        let is_request = signals::REQUESTS.contains(&signal);
        let window = match signal {
            _ if is_request => SAME_REQUEST,
            _ if signals::ends(signal) => SAME_SIGNAL,
            _ => return true,
        };
        if self.seen.iter().any(|(seen, at)| *seen == signal && is_within(window, *at, now)) {
            return false;
        }
        self.seen.retain(|(seen, _)| *seen != signal);
        self.seen.push((signal, now));
        if !is_request {
            return true;
        }
        if !self.everyone.is_some_and(|at| is_within(SAME_REQUEST, at, now)) {
            self.held.push(signal);
            self.due.get_or_insert(after(now, HOLD));
        }
        false
    }

    /// Returns when to call `act`, if at all.
    pub(super) fn due(&self) -> Option<u64> {
        self.due
    }

    /// Returns what to do now that it is due.
    pub(super) fn act(&mut self, now: u64) -> Action {
        if self.asked {
            return Action::PassOn(self.take());
        }
        self.asked = true;
        self.due = Some(after(now, ANSWER));
        Action::Ask
    }

    /// Returns what to pass on when the guardian has answered, or cannot answer.
    pub(super) fn answered(&mut self) -> Vec<Signal> {
        if self.asked { self.take() } else { Vec::new() }
    }

    /// Notes that the guardian got a request, and so every process did.
    pub(super) fn sent_to_every_process(&mut self, now: u64) {
        self.everyone = Some(now);
        self.take();
    }

    fn take(&mut self) -> Vec<Signal> {
        (self.due, self.asked) = (None, false);
        std::mem::take(&mut self.held)
    }
}

fn is_within(window: Duration, at: u64, now: u64) -> bool {
    now <= after(at, window)
}

fn after(now: u64, duration: Duration) -> u64 {
    now.saturating_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn request_that_comes_twice_is_passed_on_once() {
        let mut requests = Requests::default();
        assert!(!requests.came(Signal::TERM, 0));
        assert!(!requests.came(Signal::TERM, MS));
        assert_eq!(requests.due(), Some(10 * MS));
        assert_eq!(requests.act(10 * MS), Action::Ask);
        assert_eq!(requests.answered(), [Signal::TERM]);
        assert!(!requests.came(Signal::TERM, 90 * MS));
        assert_eq!(requests.due(), None);
        // Another request.
        assert!(!requests.came(Signal::TERM, 150 * MS));
        assert!(requests.due().is_some());
    }

    #[test]
    fn different_requests_are_both_passed_on() {
        let mut requests = Requests::default();
        requests.came(Signal::INT, 0);
        requests.came(Signal::TERM, MS);
        assert_eq!(requests.act(10 * MS), Action::Ask);
        // A guardian that does not answer does not hold them back.
        assert_eq!(requests.act(1_010 * MS), Action::PassOn(vec![Signal::INT, Signal::TERM]));
    }

    #[test]
    fn request_to_every_process_is_not_passed_on() {
        for guardian_first in [true, false] {
            let mut requests = Requests::default();
            if guardian_first {
                requests.sent_to_every_process(0);
            }
            assert!(!requests.came(Signal::TERM, MS));
            if !guardian_first {
                requests.sent_to_every_process(2 * MS);
            }
            assert_eq!((requests.due(), requests.answered()), (None, vec![]));
        }
    }

    #[test]
    fn what_is_no_request_to_end_is_passed_on_at_once() {
        let mut requests = Requests::default();
        assert!(requests.came(Signal::WINCH, 0) && requests.came(Signal::WINCH, 0));
        assert!(requests.came(Signal::USR1, 0));
        assert!(!requests.came(Signal::USR1, MS));
        assert!(requests.came(Signal::USR1, 20 * MS));
    }
}
