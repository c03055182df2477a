//! The resume: a ticket that is taken up. The lease is looked at first, to compare the token, and then renewed. Pure:
//! it is told the time and says what to do.
//!
//! | State | Input | Next state | Action |
//! |---|---|---|---|
//! | `Resting`: nothing is in flight | the pause is over | `Looking`, or `Queued` once the lease was seen | look, or renew |
//! | `Looking`: a look is in flight | it shows this lease | `Queued` | renew |
//! | | it shows another holder, none, or another token | `Over` | end |
//! | | unknown | `Resting` | |
//! | `Queued`: the renewal waits in its lane | it leaves ([`Resume::sent`]) | `Renewing` | |
//! | `Renewing`: the renewal is in flight | renewed | `Over` | granted |
//! | | not held | `Over` | end |
//! | | unknown | `Resting` | |
//! | any but `Over` | the limit passes, or an error for good | `Over` | end |

use std::time::Duration;

use super::call::{Call, CallId};
use super::timing::RESUME_LIMIT;
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::lost::Lost;
use crate::storage::{Holder, Name, Owner, RenewReply, Token};

/// How long `resume` pauses between two tries.
const RESUME_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(crate) struct Resume {
    owner: Owner,
    name: Name,
    token: Token,
    until: Moment,
    /// Whether the storage has shown this lease.
    seen: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Resting(Moment),
    Looking(CallId),
    Queued,
    Renewing(Call),
    Over,
}

/// What happens.
#[derive(Debug)]
pub(crate) enum Input {
    Wake,
    /// A look was answered.
    Seen {
        look: CallId,
        seen: Result<Option<Holder>>,
    },
    /// A renewal was answered.
    Answer {
        call: Call,
        answer: Result<RenewReply>,
    },
}

/// What to do about it.
#[derive(Debug)]
pub(crate) enum Action {
    Rest,
    /// Look at the lease, and call [`Resume::looks`].
    Look,
    /// Send a renewal, and call [`Resume::sent`] when it leaves.
    Renew,
    /// The lease is the caller's, for `ttl` from `sent`.
    Granted {
        sent: Moment,
        ttl: Duration,
    },
    /// It is over. Nothing follows.
    End(Error),
}

impl Resume {
    pub(crate) fn new(owner: Owner, name: Name, token: Token, now: Moment) -> Self {
        let until = now.after(RESUME_LIMIT);
        Self { owner, name, token, until, seen: false, state: State::Resting(now) }
    }

    pub(crate) fn token(&self) -> Token {
        self.token
    }

    pub(crate) fn wake(&self) -> Moment {
        match self.state {
            State::Resting(until) => std::cmp::min(until, self.until),
            State::Over => Moment::FAR,
            State::Looking(_) | State::Queued | State::Renewing(_) => self.until,
        }
    }

    /// A look leaves now.
    pub(crate) fn looks(&mut self, look: CallId) {
        self.state = State::Looking(look);
    }

    /// The renewal leaves now.
    pub(crate) fn sent(&mut self, call: Call) {
        self.state = State::Renewing(call);
    }

    pub(crate) fn step(&mut self, now: Moment, input: Input) -> Action {
        match (input, self.state) {
            (_, State::Over) => Action::Rest,
            (Input::Seen { look, seen }, State::Looking(asked)) if look == asked => self.found(now, seen),
            (Input::Answer { call, answer }, State::Renewing(asked)) if call == asked => match answer {
                Ok(RenewReply::Renewed { ttl }) => {
                    self.state = State::Over;
                    Action::Granted { sent: call.sent, ttl }
                }
                Ok(RenewReply::NotHeld) => self.end(Error::lost_for(&self.name, Lost::Taken)),
                Err(error) => self.failed(now, error),
            },
            (Input::Wake, _) if now >= self.until => {
                self.end(Error::unavailable(&self.name, RESUME_LIMIT, None))
            }
            (Input::Wake, State::Resting(until)) if now >= until => {
                if self.seen {
                    self.renew()
                } else {
                    Action::Look
                }
            }
            // The answer to a call that was given up.
            (Input::Wake | Input::Seen { .. } | Input::Answer { .. }, _) => Action::Rest,
        }
    }

    fn found(&mut self, now: Moment, seen: Result<Option<Holder>>) -> Action {
        match seen {
            Ok(Some(holder)) if holder.owner == self.owner && holder.token == self.token => {
                self.seen = true;
                self.renew()
            }
            Ok(Some(holder)) if holder.owner == self.owner => self.end(Error::new(
                ErrorKind::Invalid,
                format!(
                    "the token in this ticket is not the lease's; the ticket was changed name=`{}`",
                    self.name
                ),
            )),
            Ok(_) => self.end(Error::lost_for(&self.name, Lost::Taken)),
            Err(error) => self.failed(now, error),
        }
    }

    fn renew(&mut self) -> Action {
        self.state = State::Queued;
        Action::Renew
    }

    fn failed(&mut self, now: Moment, error: Error) -> Action {
        if now >= self.until || error.kind() != ErrorKind::Unavailable {
            return self.end(error);
        }
        self.state = State::Resting(now.after(RESUME_PAUSE));
        Action::Rest
    }

    fn end(&mut self, error: Error) -> Action {
        self.state = State::Over;
        Action::End(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Moment = Moment::from_nanos(1_000_000_000_000);

    fn resume() -> (Resume, Holder) {
        let (owner, name, token) = (Owner::random(), Name::new("a").expect("valid"), Token::new(7));
        let holder = Holder::new(name.clone(), owner, token, Duration::from_secs(9));
        (Resume::new(owner, name, token, T0), holder)
    }

    #[test]
    fn looks_and_then_renews() {
        let (mut resume, holder) = resume();
        assert!(matches!(resume.step(T0, Input::Wake), Action::Look));
        resume.looks(CallId(1));
        let seen = Input::Seen { look: CallId(1), seen: Ok(Some(holder)) };
        assert!(matches!(resume.step(T0, seen), Action::Renew));
        resume.sent(Call::at(T0));
        let answer = Ok(RenewReply::Renewed { ttl: Duration::from_secs(10) });
        assert!(matches!(
            resume.step(T0, Input::Answer { call: Call::at(T0), answer }),
            Action::Granted { sent: T0, .. }
        ));
    }

    #[test]
    fn an_answer_to_another_look_is_dropped() {
        let (mut resume, holder) = resume();
        assert!(matches!(resume.step(T0, Input::Wake), Action::Look));
        resume.looks(CallId(2));
        for seen in [Ok(None), Ok(Some(holder)), Err(Error::new(ErrorKind::Internal, "no"))] {
            assert!(matches!(resume.step(T0, Input::Seen { look: CallId(1), seen }), Action::Rest));
        }
    }

    #[test]
    fn a_look_that_comes_back_while_it_renews_is_dropped() {
        let (mut resume, holder) = resume();
        resume.step(T0, Input::Wake);
        resume.looks(CallId(1));
        resume.step(T0, Input::Seen { look: CallId(1), seen: Ok(Some(holder)) });
        assert!(matches!(resume.step(T0, Input::Seen { look: CallId(1), seen: Ok(None) }), Action::Rest));
    }

    #[test]
    fn a_ticket_that_was_changed_is_refused() {
        let (mut resume, mut holder) = resume();
        resume.step(T0, Input::Wake);
        resume.looks(CallId(1));
        holder.token = Token::new(8);
        let seen = Input::Seen { look: CallId(1), seen: Ok(Some(holder)) };
        assert!(matches!(resume.step(T0, seen), Action::End(error) if error.kind() == ErrorKind::Invalid));
    }

    #[test]
    fn silence_ends_it_in_time() {
        let (mut resume, _) = resume();
        let mut now = T0;
        loop {
            match resume.step(now, Input::Wake) {
                Action::Look => resume.looks(CallId(now.as_nanos())),
                Action::End(error) => break assert_eq!(error.kind(), ErrorKind::Unavailable),
                _ => {}
            }
            let look = CallId(now.as_nanos());
            let seen = Err(Error::new(ErrorKind::Unavailable, "silence"));
            resume.step(now, Input::Seen { look, seen });
            now = resume.wake();
        }
        assert_eq!(now, T0.after(RESUME_LIMIT));
    }
}
