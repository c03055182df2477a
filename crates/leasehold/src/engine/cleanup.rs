//! The cleanup: releases or detaches at the storage what an acquisition has left, after it is over for its caller. It
//! repeats that task until the storage answers, or until the lease has ended by itself.
//!
//! A release can overtake the delayed claim that it has to undo, and then it undoes nothing. So if the
//! outcome of a claim is unknown, the release is sent twice: at once, and when that claim cannot be executed
//! any more. From then on no grant for that owner is possible.
//!
//! The machine is pure: its caller passes the time and the input, and executes the returned action.
//!
//! | State | Input | Next state | Action |
//! |---|---|---|---|
//! | `AwaitingClaim`: the claim is in flight | it has left nothing, and no other claim is unknown | | done |
//! | | it has left something, or that is unknown, or the reply is overdue | `InLane` | send |
//! | `InLane`: the task waits in its lane | it leaves ([`Cleanup::sent`]) | `InFlight` | |
//! | `InFlight`: the task was sent | a definite reply, and no claim could be executed when it was sent | | done |
//! | | a definite reply | `Paused` until no claim can be executed | |
//! | | an unknown reply, or none in time | `Paused`, longer each time | |
//! | `Paused` | the pause is over | `InLane` | send |
//! | any | the lease has ended by itself | | done |

use std::cmp::{max, min};
use std::time::Duration;

use super::call::Call;
use super::timing::{CALL_LIMIT, jitter};
use crate::clock::Moment;
use crate::storage::Owner;

/// What an acquisition may have left at the storage when it is over for its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Leftovers {
    /// Its claim that is in flight.
    pub(crate) claim: Option<Call>,
    /// The moment until which a claim without an answer may still be executed.
    pub(crate) unknown_until: Moment,
    /// The moment by which everything has ended by itself.
    pub(crate) expires: Moment,
}

/// The state machine of a cleanup.
#[derive(Debug)]
pub(crate) struct Cleanup {
    owner: Owner,
    /// The moment until which a claim without an answer may still be executed.
    unknown_until: Moment,
    /// The moment by which everything has ended by itself.
    expires: Moment,
    state: State,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The claim is in flight. Its reply tells what there is to undo.
    AwaitingClaim(Call),
    InLane,
    InFlight {
        call: Call,
        until: Moment,
    },
    Paused(Moment),
}

/// What happens to a cleanup.
#[derive(Debug)]
pub(crate) enum Input {
    /// The claim that was in flight has left something at the storage, or not.
    Claim { call: Call, outcome: ClaimOutcome },
    /// The reply to the task. It is not definite if the storage may or may not have executed the task.
    Answer { call: Call, definite: bool },
    /// The moment that [`Cleanup::wake`] asked for has come.
    Wake,
}

/// What a claim has left at the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimOutcome {
    NothingLeft,
    SomethingLeft,
    /// That is unknown, and the claim may still be executed until then.
    Unknown(Moment),
}

/// What the caller of [`Cleanup::step`] does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    None,
    /// Send the task, and call [`Cleanup::sent`] when it leaves.
    Send,
    /// Nothing is left at the storage. No action follows.
    Done,
}

impl Cleanup {
    /// Makes a cleanup that begins with its task, or by waiting for the reply to the claim in flight. It does not wait
    /// for a reply that is overdue, as it may be after a pause of this process.
    pub(crate) fn new(owner: Owner, now: Moment, leftovers: Leftovers) -> Self {
        let Leftovers { claim, unknown_until, expires } = leftovers;
        let claim = claim.filter(|call| call.sent.after(CALL_LIMIT) > now);
        let state = claim.map_or(State::InLane, State::AwaitingClaim);
        Self { owner, unknown_until, expires, state, failures: 0 }
    }

    /// Returns the first action.
    pub(crate) fn begin(&self) -> Action {
        if self.state == State::InLane { Action::Send } else { Action::None }
    }

    /// Returns when it next needs [`Input::Wake`].
    pub(crate) fn wake(&self) -> Moment {
        let next = match self.state {
            State::InLane => Moment::FAR,
            State::AwaitingClaim(call) => call.sent.after(CALL_LIMIT),
            State::InFlight { until, .. } | State::Paused(until) => until,
        };
        min(next, self.expires)
    }

    /// Notes that the task leaves now. The cleanup waits for its reply until `until`.
    pub(crate) fn sent(&mut self, call: Call, until: Moment) {
        self.state = State::InFlight { call, until };
    }

    /// Processes an input. Returns what to do next.
    pub(crate) fn step(&mut self, now: Moment, input: Input) -> Action {
        match input {
            Input::Claim { call, outcome } if self.state == State::AwaitingClaim(call) => match outcome {
                ClaimOutcome::NothingLeft if self.unknown_until <= call.sent => Action::Done,
                ClaimOutcome::NothingLeft | ClaimOutcome::SomethingLeft => self.send(),
                ClaimOutcome::Unknown(until) => {
                    self.unknown_until = max(self.unknown_until, until);
                    self.send()
                }
            },
            Input::Answer { call, definite: true } if self.is_for(call) => {
                if call.sent >= self.unknown_until {
                    return Action::Done;
                }
                self.state = State::Paused(self.unknown_until);
                Action::None
            }
            Input::Wake | Input::Answer { .. } if now >= self.expires => Action::Done,
            Input::Answer { call, .. } if self.is_for(call) => self.failed(now),
            // The reply to a call that was given up: the reply to a later one supersedes it.
            Input::Claim { .. } | Input::Answer { .. } => Action::None,
            Input::Wake => match self.state {
                State::Paused(until) if now >= until => self.send(),
                State::AwaitingClaim(call) if now >= call.sent.after(CALL_LIMIT) => self.send(),
                State::InFlight { until, .. } if now >= until => self.failed(now),
                _ => Action::None,
            },
        }
    }

    /// Returns `true` if it waits for the reply to this call.
    pub(crate) fn is_for(&self, call: Call) -> bool {
        matches!(self.state, State::InFlight { call: sent, .. } if sent == call)
    }

    fn send(&mut self) -> Action {
        self.state = State::InLane;
        Action::Send
    }

    fn failed(&mut self, now: Moment) -> Action {
        self.failures = self.failures.saturating_add(1);
        let doubled = min(PAUSE_SHORTEST.saturating_mul(1 << min(self.failures, 10)), PAUSE_LONGEST);
        self.state = State::Paused(now.after(jitter(self.owner, self.failures, doubled)));
        Action::None
    }
}

const PAUSE_SHORTEST: Duration = Duration::from_millis(10);
const PAUSE_LONGEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Moment = Moment::from_nanos(1_000_000_000_000);

    fn at(millis: u64) -> Moment {
        T0.after(Duration::from_millis(millis))
    }

    fn cleanup(claim: Option<Call>, unknown_until: Moment) -> Cleanup {
        Cleanup::new(Owner::random(), T0, Leftovers { claim, unknown_until, expires: at(10_000) })
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
    fn releases_again_when_the_late_claim_cannot_be_executed_any_more() {
        let mut cleanup = cleanup(None, at(200));
        cleanup.sent(Call::at(at(0)), at(500));
        assert_eq!(
            cleanup.step(at(1), Input::Answer { call: Call::at(at(0)), definite: true }),
            Action::None
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
    fn waits_for_the_claim_in_flight_before_it_undoes_it() {
        let mut cleanup = cleanup(Some(Call::at(at(0))), Moment::ZERO);
        assert_eq!(cleanup.begin(), Action::None);
        assert_eq!(
            cleanup.step(at(5), Input::Claim { call: Call::at(at(0)), outcome: ClaimOutcome::SomethingLeft }),
            Action::Send
        );
        let mut cleanup = self::cleanup(Some(Call::at(at(0))), Moment::ZERO);
        assert_eq!(
            cleanup.step(at(5), Input::Claim { call: Call::at(at(0)), outcome: ClaimOutcome::NothingLeft }),
            Action::Done
        );
    }

    #[test]
    fn does_not_wait_for_a_reply_that_is_overdue() {
        let (now, claim) = (at(6_000), Some(Call::at(at(0))));
        let cleanup = Cleanup::new(
            Owner::random(),
            now,
            Leftovers { claim, unknown_until: Moment::ZERO, expires: at(10_000) },
        );
        assert_eq!(cleanup.begin(), Action::Send);
        assert!(cleanup.wake() > now, "it is not woken up for what is over");
    }

    #[test]
    fn a_task_without_a_reply_is_repeated_until_the_lease_has_ended() {
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
                Action::None => {}
            }
        }
        assert_eq!(now, at(10_000));
        assert!((8..60).contains(&sends), "{sends}");
    }
}
