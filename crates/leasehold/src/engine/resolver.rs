//! Pays what is owed to the storage after the caller is gone: repeats an errand until the storage answers,
//! or until the lease has ended by itself. Pure: it is told the time and says what to do.
//!
//! A clean-up can overtake the delayed claim that it undoes, and would then undo nothing. So where a claim's
//! outcome was unknown, the release is sent at once and once more when the claim is past executing
//! (`reliability`, "late execution"): from then on no grant for that owner is possible.

use std::cmp::{max, min};
use std::time::Duration;

use crate::clock::{Moment, nanos};
use crate::storage::Owner;

#[derive(Debug)]
pub(crate) struct Resolver {
    owner: Owner,
    unknown_until: Moment,
    expires: Moment,
    state: State,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The claim is under way; its answer will tell what there is to undo.
    Awaiting {
        sent: Moment,
        until: Moment,
    },
    Queued,
    Sent {
        at: Moment,
        until: Moment,
    },
    Resting(Moment),
}

/// What happens.
#[derive(Debug)]
pub(crate) enum Input {
    /// The claim sent at `sent` was answered; whether it may have left anything.
    Claim {
        sent: Moment,
        left: Left,
    },
    /// The errand sent at `sent` was answered; whether definitely.
    Answer {
        sent: Moment,
        definite: bool,
    },
    Wake,
}

/// What a claim that was given up has left behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    Something,
    /// Nobody knows, and it may still be executed until then.
    Unknown(Moment),
}

/// What to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Rest,
    /// Send the errand, and call [`Resolver::sent`] when it leaves.
    Send,
    /// Nothing is owed any more.
    Done,
}

impl Resolver {
    /// Starts with the errand itself, or by waiting for the answer to a claim that is under way; not if that
    /// answer is overdue, as it may be after a pause of this process.
    pub(crate) fn new(
        owner: Owner,
        now: Moment,
        awaiting: Option<(Moment, Moment)>,
        unknown_until: Moment,
        expires: Moment,
    ) -> Self {
        let awaiting = awaiting.filter(|(_, until)| *until > now);
        let state = awaiting.map_or(State::Queued, |(sent, until)| State::Awaiting { sent, until });
        Self { owner, unknown_until, expires, state, failures: 0 }
    }

    /// What to do first.
    pub(crate) fn begin(&self) -> Action {
        if self.state == State::Queued { Action::Send } else { Action::Rest }
    }

    pub(crate) fn wake(&self) -> Moment {
        let next = match self.state {
            State::Queued => Moment::FAR,
            State::Awaiting { until, .. } | State::Sent { until, .. } | State::Resting(until) => until,
        };
        min(next, self.expires)
    }

    /// The errand leaves now and is waited for until `until`.
    pub(crate) fn sent(&mut self, now: Moment, until: Moment) {
        self.state = State::Sent { at: now, until };
    }

    pub(crate) fn step(&mut self, now: Moment, input: Input) -> Action {
        match input {
            Input::Claim { sent, left } => match self.state {
                State::Awaiting { sent: awaited, .. } if awaited == sent => match left {
                    Left::Nothing if self.unknown_until <= sent => Action::Done,
                    Left::Nothing | Left::Something => self.send(),
                    Left::Unknown(until) => {
                        self.unknown_until = max(self.unknown_until, until);
                        self.send()
                    }
                },
                _ => Action::Rest,
            },
            // An answer to a call that was given up, or to another errand: a newer one knows better.
            Input::Answer { sent, .. } if !matches!(self.state, State::Sent { at, .. } if at == sent) => {
                Action::Rest
            }
            Input::Answer { sent, definite: true } => {
                if sent >= self.unknown_until {
                    return Action::Done;
                }
                self.state = State::Resting(self.unknown_until);
                Action::Rest
            }
            _ if now >= self.expires => Action::Done,
            Input::Answer { .. } => self.failed(now),
            Input::Wake => match self.state {
                State::Resting(until) | State::Awaiting { until, .. } if now >= until => self.send(),
                State::Sent { until, .. } if now >= until => self.failed(now),
                _ => Action::Rest,
            },
        }
    }

    fn send(&mut self) -> Action {
        self.state = State::Queued;
        Action::Send
    }

    fn failed(&mut self, now: Moment) -> Action {
        self.failures = self.failures.saturating_add(1);
        let doubled = min(SHORTEST.saturating_mul(1 << min(self.failures, 10)), LONGEST);
        let early = self.owner.spread(self.failures, nanos(doubled / 4));
        self.state = State::Resting(now.after(doubled - Duration::from_nanos(early)));
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

    fn resolver(awaiting: Option<(Moment, Moment)>, unknown_until: Moment) -> Resolver {
        Resolver::new(Owner::random(), T0, awaiting, unknown_until, at(10_000))
    }

    #[test]
    fn one_definite_answer_is_enough_when_nothing_is_unknown() {
        let mut resolver = resolver(None, Moment::ZERO);
        assert_eq!(resolver.begin(), Action::Send);
        resolver.sent(at(0), at(500));
        assert_eq!(resolver.step(at(1), Input::Answer { sent: at(0), definite: true }), Action::Done);
    }

    #[test]
    fn releases_again_when_the_late_claim_is_past_executing() {
        let mut resolver = resolver(None, at(200));
        resolver.sent(at(0), at(500));
        assert_eq!(resolver.step(at(1), Input::Answer { sent: at(0), definite: true }), Action::Rest);
        assert_eq!(resolver.wake(), at(200));
        assert_eq!(resolver.step(at(200), Input::Wake), Action::Send);
        resolver.sent(at(200), at(700));
        assert_eq!(resolver.step(at(201), Input::Answer { sent: at(200), definite: true }), Action::Done);
    }

    #[test]
    fn waits_for_the_claim_under_way_before_it_undoes_it() {
        let mut resolver = resolver(Some((at(0), at(50))), Moment::ZERO);
        assert_eq!(resolver.begin(), Action::Rest);
        assert_eq!(resolver.step(at(5), Input::Claim { sent: at(0), left: Left::Something }), Action::Send);
        let mut resolver = self::resolver(Some((at(0), at(50))), Moment::ZERO);
        assert_eq!(resolver.step(at(5), Input::Claim { sent: at(0), left: Left::Nothing }), Action::Done);
    }

    #[test]
    fn an_answer_that_is_overdue_is_not_waited_for() {
        let (now, awaiting) = (at(6_000), Some((at(0), at(5_000))));
        let resolver = Resolver::new(Owner::random(), now, awaiting, Moment::ZERO, at(10_000));
        assert_eq!(resolver.begin(), Action::Send);
        assert!(resolver.wake() > now, "nobody is woken for what is over");
    }

    #[test]
    fn an_errand_without_answer_is_repeated_until_the_lease_has_ended() {
        let mut resolver = resolver(None, Moment::ZERO);
        let (mut now, mut sends) = (at(0), 0);
        resolver.sent(now, now.after(Duration::from_millis(100)));
        loop {
            now = resolver.wake();
            match resolver.step(now, Input::Wake) {
                Action::Send => {
                    sends += 1;
                    resolver.sent(now, now.after(Duration::from_millis(100)));
                }
                Action::Done => break,
                Action::Rest => {}
            }
        }
        assert_eq!(now, at(10_000));
        assert!((8..60).contains(&sends), "{sends}");
    }
}
