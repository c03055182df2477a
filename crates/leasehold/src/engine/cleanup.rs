//! The cleanup: pays what is owed to the storage after the caller is gone. It repeats its task until the storage
//! answers, or until the lease has ended by itself. Pure: it is told the time and says what to do.
//!
//! A release can overtake the delayed claim that it undoes, and would then undo nothing. So where a claim's outcome
//! was unknown, the release is sent at once and once more when the claim is past executing: from then on no grant for
//! that owner is possible.
//!
//! | State | Input | Next state | Action |
//! |---|---|---|---|
//! | `Awaiting`: the claim is in flight | it has left nothing, and nothing else is unknown | | done |
//! | | it has left something, or that is unknown, or the answer is overdue | `Queued` | send |
//! | `Queued`: the task waits in its lane | it leaves ([`Cleanup::sent`]) | `Sent` | |
//! | `Sent`: the task is in flight | a definite answer, and no claim could be executed when it was sent | | done |
//! | | a definite answer | `Resting` until none can be | |
//! | | an unknown answer, or none in time | `Resting`, longer each time | |
//! | `Resting` | the pause is over | `Queued` | send |
//! | any | the lease has ended by itself | | done |

use std::cmp::{max, min};
use std::time::Duration;

use super::call::Call;
use super::timing::{CALL_LIMIT, jitter};
use crate::clock::Moment;
use crate::storage::Owner;

#[derive(Debug)]
pub(crate) struct Cleanup {
    owner: Owner,
    unknown_until: Moment,
    expires: Moment,
    state: State,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The claim is in flight; its answer will tell what there is to undo.
    Awaiting(Call),
    Queued,
    Sent {
        call: Call,
        until: Moment,
    },
    Resting(Moment),
}

/// What happens.
#[derive(Debug)]
pub(crate) enum Input {
    /// A claim was answered, and has left something, or not.
    Claim {
        call: Call,
        left: Left,
    },
    /// The task was answered: definitely, or not.
    Answer {
        call: Call,
        definite: bool,
    },
    Wake,
}

/// What a claim that was given up has left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    Something,
    /// That is unknown, and it may still be executed until then.
    Unknown(Moment),
}

/// What to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Rest,
    /// Send the task, and call [`Cleanup::sent`] when it leaves.
    Send,
    /// Nothing is owed any more.
    Done,
}

impl Cleanup {
    /// Starts with the task itself, or by waiting for the answer to a claim that is in flight; not if that answer is
    /// overdue, as it may be after a pause of this process.
    pub(crate) fn new(
        owner: Owner,
        now: Moment,
        awaiting: Option<Call>,
        unknown_until: Moment,
        expires: Moment,
    ) -> Self {
        let awaiting = awaiting.filter(|call| call.sent.after(CALL_LIMIT) > now);
        let state = awaiting.map_or(State::Queued, State::Awaiting);
        Self { owner, unknown_until, expires, state, failures: 0 }
    }

    /// Returns what to do first.
    pub(crate) fn begin(&self) -> Action {
        if self.state == State::Queued { Action::Send } else { Action::Rest }
    }

    pub(crate) fn wake(&self) -> Moment {
        let next = match self.state {
            State::Queued => Moment::FAR,
            State::Awaiting(call) => call.sent.after(CALL_LIMIT),
            State::Sent { until, .. } | State::Resting(until) => until,
        };
        min(next, self.expires)
    }

    /// The task leaves now, and is waited for until `until`.
    pub(crate) fn sent(&mut self, call: Call, until: Moment) {
        self.state = State::Sent { call, until };
    }

    pub(crate) fn step(&mut self, now: Moment, input: Input) -> Action {
        match input {
            Input::Claim { call, left } if self.state == State::Awaiting(call) => match left {
                Left::Nothing if self.unknown_until <= call.sent => Action::Done,
                Left::Nothing | Left::Something => self.send(),
                Left::Unknown(until) => {
                    self.unknown_until = max(self.unknown_until, until);
                    self.send()
                }
            },
            Input::Answer { call, definite: true } if self.is_for(call) => {
                if call.sent >= self.unknown_until {
                    return Action::Done;
                }
                self.state = State::Resting(self.unknown_until);
                Action::Rest
            }
            Input::Wake | Input::Answer { .. } if now >= self.expires => Action::Done,
            Input::Answer { call, .. } if self.is_for(call) => self.failed(now),
            // An answer to a call that was given up: a newer one knows better.
            Input::Claim { .. } | Input::Answer { .. } => Action::Rest,
            Input::Wake => match self.state {
                State::Resting(until) if now >= until => self.send(),
                State::Awaiting(call) if now >= call.sent.after(CALL_LIMIT) => self.send(),
                State::Sent { until, .. } if now >= until => self.failed(now),
                _ => Action::Rest,
            },
        }
    }

    fn is_for(&self, call: Call) -> bool {
        matches!(self.state, State::Sent { call: sent, .. } if sent == call)
    }

    fn send(&mut self) -> Action {
        self.state = State::Queued;
        Action::Send
    }

    fn failed(&mut self, now: Moment) -> Action {
        self.failures = self.failures.saturating_add(1);
        let doubled = min(SHORTEST.saturating_mul(1 << min(self.failures, 10)), LONGEST);
        self.state = State::Resting(now.after(jitter(self.owner, self.failures, doubled)));
        Action::Rest
    }
}

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Moment = Moment::from_nanos(1_000_000_000_000);

    fn at(millis: u64) -> Moment {
        T0.after(Duration::from_millis(millis))
    }

    fn cleanup(awaiting: Option<Call>, unknown_until: Moment) -> Cleanup {
        Cleanup::new(Owner::random(), T0, awaiting, unknown_until, at(10_000))
    }

    #[test]
    fn one_definite_answer_is_enough_when_nothing_is_unknown() {
        let mut cleanup = cleanup(None, Moment::ZERO);
        assert_eq!(cleanup.begin(), Action::Send);
        cleanup.sent(Call::at(at(0)), at(500));
        assert_eq!(
            cleanup.step(at(1), Input::Answer { call: Call::at(at(0)), definite: true }),
            Action::Done
        );
    }

    #[test]
    fn releases_again_when_the_late_claim_is_past_executing() {
        let mut cleanup = cleanup(None, at(200));
        cleanup.sent(Call::at(at(0)), at(500));
        assert_eq!(
            cleanup.step(at(1), Input::Answer { call: Call::at(at(0)), definite: true }),
            Action::Rest
        );
        assert_eq!(cleanup.wake(), at(200));
        assert_eq!(cleanup.step(at(200), Input::Wake), Action::Send);
        cleanup.sent(Call::at(at(200)), at(700));
        assert_eq!(
            cleanup.step(at(201), Input::Answer { call: Call::at(at(200)), definite: true }),
            Action::Done
        );
    }

    #[test]
    fn waits_for_the_claim_under_way_before_it_undoes_it() {
        let mut cleanup = cleanup(Some(Call::at(at(0))), Moment::ZERO);
        assert_eq!(cleanup.begin(), Action::Rest);
        assert_eq!(
            cleanup.step(at(5), Input::Claim { call: Call::at(at(0)), left: Left::Something }),
            Action::Send
        );
        let mut cleanup = self::cleanup(Some(Call::at(at(0))), Moment::ZERO);
        assert_eq!(
            cleanup.step(at(5), Input::Claim { call: Call::at(at(0)), left: Left::Nothing }),
            Action::Done
        );
    }

    #[test]
    fn an_answer_that_is_overdue_is_not_waited_for() {
        let (now, awaiting) = (at(6_000), Some(Call::at(at(0))));
        let cleanup = Cleanup::new(Owner::random(), now, awaiting, Moment::ZERO, at(10_000));
        assert_eq!(cleanup.begin(), Action::Send);
        assert!(cleanup.wake() > now, "nothing is woken for what is over");
    }

    #[test]
    fn a_task_without_answer_is_repeated_until_the_lease_has_ended() {
        let mut cleanup = cleanup(None, Moment::ZERO);
        let (mut now, mut sends) = (at(0), 0);
        cleanup.sent(Call::at(now), now.after(Duration::from_millis(100)));
        loop {
            now = cleanup.wake();
            match cleanup.step(now, Input::Wake) {
                Action::Send => {
                    sends += 1;
                    cleanup.sent(Call::at(now), now.after(Duration::from_millis(100)));
                }
                Action::Done => break,
                Action::Rest => {}
            }
        }
        assert_eq!(now, at(10_000));
        assert!((8..60).contains(&sends), "{sends}");
    }
}
