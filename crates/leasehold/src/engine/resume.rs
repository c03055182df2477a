//! The resume: an acquisition that begins with a ticket. It inspects the lock first, to compare the token, and then
//! renews the lease.
//!
//! The machine is pure: its caller passes the time and the input, and executes the returned action.
//!
//! | State | Input | Next state | Action |
//! |---|---|---|---|
//! | `Paused`: nothing is in flight | the pause is over | `Inspecting`; once the lease was found: `InLane` | inspect; renew |
//! | `Inspecting`: an inspection is in flight | it shows this lease | `InLane` | renew |
//! | | it shows another holder, none, or another token | `Over` | end |
//! | | unavailable | `Paused` | |
//! | `InLane`: the renewal waits in its lane | it leaves ([`Resume::sent`]) | `InFlight` | |
//! | `InFlight`: the renewal was sent | renewed | `Over` | granted |
//! | | not held | `Over` | end |
//! | | unavailable | `Paused` | |
//! | any but `Over` | the limit passes, or another error | `Over` | end |

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
    /// When it gives up.
    until: Moment,
    /// Whether an inspection has shown this lease.
    found: bool,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Paused(Moment),
    Inspecting(CallId),
    InLane,
    InFlight(Call),
    Over,
}

/// What happens to a resume.
#[derive(Debug)]
pub(crate) enum Input {
    /// The moment that [`Resume::wake`] asked for has come.
    Wake,
    /// The reply to an inspection.
    Inspected { id: CallId, found: Result<Option<Holder>> },
    /// The reply to a renewal.
    Answer { call: Call, answer: Result<RenewReply> },
}

/// What the caller of [`Resume::step`] does next.
#[derive(Debug)]
pub(crate) enum Action {
    None,
    /// Inspect the lock, and call [`Resume::inspects`].
    Inspect,
    /// Send a renewal, and call [`Resume::sent`] when it leaves.
    Renew,
    /// The caller holds the lease, for `ttl` from `sent`.
    Granted {
        sent: Moment,
        ttl: Duration,
    },
    /// The resume has failed. No action follows.
    End(Error),
}

impl Resume {
    pub(crate) fn new(owner: Owner, name: Name, token: Token, now: Moment) -> Self {
        let until = now.after(RESUME_LIMIT);
        Self { owner, name, token, until, found: false, state: State::Paused(now) }
    }

    /// Returns the token of the ticket.
    pub(crate) fn token(&self) -> Token {
        self.token
    }

    /// Returns when it next needs [`Input::Wake`].
    pub(crate) fn wake(&self) -> Moment {
        match self.state {
            State::Paused(until) => std::cmp::min(until, self.until),
            State::Over => Moment::FAR,
            State::Inspecting(_) | State::InLane | State::InFlight(_) => self.until,
        }
    }

    /// Notes that an inspection leaves now.
    pub(crate) fn inspects(&mut self, id: CallId) {
        self.state = State::Inspecting(id);
    }

    /// Notes that the renewal leaves now.
    pub(crate) fn sent(&mut self, call: Call) {
        self.state = State::InFlight(call);
    }

    /// Processes an input. Returns what to do next.
    pub(crate) fn step(&mut self, now: Moment, input: Input) -> Action {
        match (input, self.state) {
            (_, State::Over) => Action::None,
            (Input::Inspected { id, found }, State::Inspecting(sent)) if id == sent => {
                self.inspected(now, found)
            }
            (Input::Answer { call, answer }, State::InFlight(sent)) if call == sent => match answer {
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
            (Input::Wake, State::Paused(until)) if now >= until => {
                if self.found {
                    self.renew()
                } else {
                    Action::Inspect
                }
            }
            // The reply to a call that was given up.
            (Input::Wake | Input::Inspected { .. } | Input::Answer { .. }, _) => Action::None,
        }
    }

    fn inspected(&mut self, now: Moment, found: Result<Option<Holder>>) -> Action {
        match found {
            Ok(Some(holder)) if holder.owner == self.owner && holder.token == self.token => {
                self.found = true;
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
        self.state = State::InLane;
        Action::Renew
    }

    fn failed(&mut self, now: Moment, error: Error) -> Action {
        if now >= self.until || error.kind() != ErrorKind::Unavailable {
            return self.end(error);
        }
        self.state = State::Paused(now.after(RESUME_PAUSE));
        Action::None
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
    fn inspects_and_then_renews() {
        let (mut resume, holder) = resume();
        assert!(matches!(resume.step(T0, Input::Wake), Action::Inspect));
        resume.inspects(CallId(1));
        let inspected = Input::Inspected { id: CallId(1), found: Ok(Some(holder)) };
        assert!(matches!(resume.step(T0, inspected), Action::Renew));
        resume.sent(Call::at(T0));
        let answer = Ok(RenewReply::Renewed { ttl: Duration::from_secs(10) });
        assert!(matches!(
            resume.step(T0, Input::Answer { call: Call::at(T0), answer }),
            Action::Granted { sent: T0, .. }
        ));
    }

    #[test]
    fn the_reply_to_another_inspection_is_dropped() {
        let (mut resume, holder) = resume();
        assert!(matches!(resume.step(T0, Input::Wake), Action::Inspect));
        resume.inspects(CallId(2));
        for found in [Ok(None), Ok(Some(holder)), Err(Error::new(ErrorKind::Internal, "no"))] {
            assert!(matches!(resume.step(T0, Input::Inspected { id: CallId(1), found }), Action::None));
        }
    }

    #[test]
    fn the_reply_to_an_inspection_is_dropped_while_it_renews() {
        let (mut resume, holder) = resume();
        resume.step(T0, Input::Wake);
        resume.inspects(CallId(1));
        resume.step(T0, Input::Inspected { id: CallId(1), found: Ok(Some(holder)) });
        assert!(matches!(resume.step(T0, Input::Inspected { id: CallId(1), found: Ok(None) }), Action::None));
    }

    #[test]
    fn a_ticket_that_was_changed_is_refused() {
        let (mut resume, mut holder) = resume();
        resume.step(T0, Input::Wake);
        resume.inspects(CallId(1));
        holder.token = Token::new(8);
        let inspected = Input::Inspected { id: CallId(1), found: Ok(Some(holder)) };
        assert!(
            matches!(resume.step(T0, inspected), Action::End(error) if error.kind() == ErrorKind::Invalid)
        );
    }

    #[test]
    fn silence_ends_it_in_time() {
        let (mut resume, _) = resume();
        let mut now = T0;
        loop {
            match resume.step(now, Input::Wake) {
                Action::Inspect => resume.inspects(CallId(now.as_nanos())),
                Action::End(error) => break assert_eq!(error.kind(), ErrorKind::Unavailable),
                _ => {}
            }
            let id = CallId(now.as_nanos());
            let found = Err(Error::new(ErrorKind::Unavailable, "silence"));
            resume.step(now, Input::Inspected { id, found });
            now = resume.wake();
        }
        assert_eq!(now, T0.after(RESUME_LIMIT));
    }
}
