//! The attempt: an acquisition from the call to a grant or a refusal. Pure: it is told the time and says what to do.
//!
//! The owner id is fixed before the first request, so an unknown outcome is asked again under the same id, and what is
//! given up is released by it. What may still be owed to the storage when the caller leaves is a [`Debt`], which the
//! cleanup pays.
//!
//! | State | Input | Next state | Action |
//! |---|---|---|---|
//! | `Behind`: others wait in the local queue | `Turn` | `Queued` | ask |
//! | `Queued`: the claim waits in its lane | it leaves ([`Attempt::sent`]) | `Asking` | |
//! | | `Held`: a claim of another caller was answered for this one | as for a refusal | |
//! | | the limit passes | `Over`; a poll: `Resting` | end; a poll: rest |
//! | `Asking`: the claim is in flight | granted, in time | `Over` | granted |
//! | | granted, but too little is left of it | `Queued`, thrice | ask |
//! | | held | a try: `Over`; a poll: `Resting`; in line: `Queued` once more, then `Resting` | |
//! | | unknown | a try: `Over`; else `Resting` | |
//! | | an error for good | `Over` | end |
//! | `Resting`: until a hint, or for a pause | `Hint` (in line only), or the pause is over | `Queued` | ask |
//! | any but `Over` | `Leave`, or the limit passes | `Over` | end |
//! | | `Silence`, if it waits without a limit | `Over` | end |

use std::cmp::{max, min};
use std::time::Duration;

use super::call::Call;
use super::planted::{self, Bug};
use super::timing::{by_a_slow_clock, executable_until, jitter, patience};
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::options::Wait;
use crate::storage::{AcquireReply, Holder, Owner, Token, WAITER_HEARTBEAT, WAITER_TTL};

/// What happens to an attempt.
#[derive(Debug)]
pub(crate) enum Input {
    /// It is its turn in the local queue. `subscribed` tells whether hints are subscribed to already, and `known` what
    /// the one ahead of it knew.
    Turn { subscribed: bool, known: Option<Known> },
    /// A claim was answered.
    Answer { call: Call, answer: Result<AcquireReply> },
    /// A claim of the same name that left after this one was made has found, or made, another holder.
    Held(Option<Holder>),
    /// It may be worth asking again.
    Hint,
    /// The moment that [`Attempt::wake`] asked for has come.
    Wake,
    /// The caller is gone.
    Leave,
    /// The storage was silent for too long, as the one ahead in the local queue has found. Its cause.
    Silence(Option<Error>),
}

/// What to do about it.
#[derive(Debug)]
pub(crate) enum Action {
    Rest,
    /// Send the claim, leaving a waiter's entry if `wait`; call [`Attempt::sent`] when it leaves.
    Ask {
        wait: bool,
    },
    /// The lock is granted to the claim that was sent at `sent`.
    Granted {
        sent: Moment,
        token: Token,
        ttl: Duration,
        unknown_until: Moment,
    },
    /// The attempt is over. Nothing follows.
    End {
        refusal: Refusal,
        debt: Debt,
    },
}

/// Why an attempt ended without the lock.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Another owner holds.
    Contended(Option<Holder>),
    /// Others of this process were ahead of it to the end, and the first of them knows why.
    Behind,
    /// The caller left; no answer is needed.
    Left,
    /// The storage refused the claim for good.
    Refused(Error),
    /// The storage did not answer. Its cause.
    Unavailable(Option<Error>),
    /// Another attempt has found that the storage does not answer. Its cause.
    Silence(Option<Error>),
}

/// What the first in a local queue knows, and the next one need not find out.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// Whether the storage has answered, and which holder it has named.
    answered: bool,
    seen: Option<Holder>,
    /// What it said instead of an answer, if it does not answer at present.
    error: Option<Error>,
    /// See [`Attempt::heard`].
    heard: Moment,
}

/// What may have to be undone at the storage.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Debt {
    Nothing,
    Owed {
        /// A claim that is not answered yet.
        awaiting: Option<Call>,
        /// Until then a claim whose answer was lost may still be executed.
        unknown_until: Moment,
        /// By then everything has ended by itself.
        expires: Moment,
    },
}

#[derive(Debug)]
pub(crate) struct Attempt {
    owner: Owner,
    ttl: Duration,
    plan: Plan,
    state: State,
    started: Moment,
    /// When it last wanted a claim to be sent.
    wanted: Moment,
    /// How often it has asked.
    asked: u32,
    /// Whether claims leave a waiter's entry.
    wait: bool,
    /// Whether a waiter's entry may have been left, or a lease that came too late to be used.
    left: bool,
    /// A hint came while a claim was in flight.
    hinted: bool,
    /// Whether any claim was answered for certain.
    answered: bool,
    /// How often a grant came when too little was left of it, and was not taken.
    stale: u32,
    first_sent: Moment,
    last_sent: Moment,
    unknown_until: Moment,
    /// Since when the storage is silent: when the first claim was made that it has not answered.
    heard: Moment,
    failures: u32,
    seen: Option<Holder>,
    error: Option<Error>,
    /// What the one ahead of it in the local queue knew.
    known: Option<Known>,
}

#[derive(Clone, Copy, Debug)]
enum Plan {
    Once,
    Poll { attempts: u32, interval: Duration },
    Line { until: Moment },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Behind,
    Queued,
    Asking(Call),
    Resting(Moment),
    Over,
}

impl Attempt {
    pub(crate) fn new(owner: Owner, ttl: Duration, wait: Wait, once: bool, now: Moment) -> Self {
        let plan = match wait {
            _ if once => Plan::Once,
            Wait::Attempts { attempts, interval } => Plan::Poll { attempts, interval },
            Wait::For(limit) => Plan::Line { until: now.after(limit) },
            Wait::Forever => Plan::Line { until: Moment::FAR },
        };
        Self {
            owner,
            ttl,
            plan,
            state: State::Behind,
            started: now,
            wanted: now,
            asked: 0,
            wait: false,
            left: false,
            hinted: false,
            answered: false,
            stale: 0,
            first_sent: Moment::ZERO,
            last_sent: Moment::ZERO,
            unknown_until: Moment::ZERO,
            heard: now,
            failures: 0,
            seen: None,
            error: None,
            known: None,
        }
    }

    /// Returns `true` if it stands in line, behind the others of this process.
    pub(crate) fn lines_up(&self) -> bool {
        matches!(self.plan, Plan::Line { .. })
    }

    /// Returns `true` if it asks once, and being refused is an answer.
    pub(crate) fn is_once(&self) -> bool {
        matches!(self.plan, Plan::Once)
    }

    /// Returns `true` if it waits without a limit.
    pub(crate) fn is_endless(&self) -> bool {
        matches!(self.plan, Plan::Line { until: Moment::FAR })
    }

    /// Returns `true` if the answer to another claim of the same name can answer it: it does not wait, and nothing of
    /// it can be at the storage.
    pub(crate) fn is_alike(&self) -> bool {
        !self.lines_up() && !self.left && self.unknown_until == Moment::ZERO
    }

    /// Returns `true` if its claim is in flight.
    pub(crate) fn is_asking(&self) -> bool {
        matches!(self.state, State::Asking(_))
    }

    /// Returns `true` if the storage has been silent for so long that a wait without a limit ends.
    pub(crate) fn is_silent(&self, now: Moment) -> bool {
        now >= self.heard.after(SILENCE)
    }

    pub(crate) fn waited(&self, now: Moment) -> Duration {
        now.since(self.started)
    }

    /// Returns `true` if the storage has said that another owner comes first.
    pub(crate) fn was_refused(&self) -> bool {
        self.answered
    }

    /// What the storage said instead of an answer, if it does not answer at present.
    pub(crate) fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// What it knows of the storage and the lock. One that has had no answer itself passes on what it was told.
    pub(crate) fn known(&self) -> Known {
        if !self.answered
            && self.error.is_none()
            && let Some(known) = &self.known
        {
            return known.clone();
        }
        let (seen, error) = (self.seen.clone(), self.error.clone());
        Known { answered: self.answered, seen, error, heard: self.heard }
    }

    /// Returns `true` if the storage should have answered by now, and has not, as far as is known.
    pub(crate) fn is_unanswered(&self, now: Moment) -> bool {
        !self.answered && !self.was_contended(now) && now >= self.heard.after(FIRST_ANSWER)
    }

    /// Returns `true` if the one ahead of it was refused by the storage, a moment ago.
    fn was_contended(&self, now: Moment) -> bool {
        self.known.as_ref().is_some_and(|known| {
            known.answered && known.error.is_none() && now < known.heard.after(WAITER_TTL)
        })
    }

    /// The last holder that was seen.
    pub(crate) fn seen(&self) -> Option<&Holder> {
        self.seen.as_ref()
    }

    pub(crate) fn wake(&self) -> Moment {
        match self.state {
            State::Resting(until) => min(until, self.limit()),
            State::Over => Moment::FAR,
            State::Behind | State::Queued | State::Asking(_) => self.limit(),
        }
    }

    /// The claim leaves now.
    pub(crate) fn sent(&mut self, call: Call) {
        self.state = State::Asking(call);
        if self.asked == 0 {
            self.first_sent = call.sent;
        }
        self.asked = self.asked.saturating_add(1);
        self.last_sent = call.sent;
        self.hinted = false;
        self.left |= self.wait;
    }

    pub(crate) fn step(&mut self, now: Moment, input: Input) -> Action {
        match input {
            _ if self.state == State::Over => Action::Rest,
            Input::Leave => self.end(Refusal::Left),
            Input::Silence(cause) if self.is_endless() => self.end(Refusal::Silence(cause)),
            Input::Turn { subscribed, known } if self.state == State::Behind => {
                // The first claim of a process leaves no entry: most locks are free, and then there is no
                // need to subscribe to anything.
                self.wait = self.lines_up() && subscribed;
                self.heard = now;
                if let Some(known) = &known {
                    self.error.clone_from(&known.error);
                    // The silence that ends a wait without a limit is that of the storage, not of one claim.
                    if self.error.is_some() && self.is_endless() {
                        self.heard = known.heard;
                    }
                }
                self.known = known;
                self.ask(now)
            }
            Input::Answer { call, answer } if self.state == State::Asking(call) => {
                self.answered(now, call, answer)
            }
            Input::Held(holder) if self.state == State::Queued && self.is_alike() => {
                self.asked = self.asked.saturating_add(1);
                self.held(now, holder, None)
            }
            Input::Hint => match self.state {
                State::Resting(_) if self.lines_up() => self.ask(now),
                State::Queued | State::Asking(_) => {
                    self.hinted = true;
                    Action::Rest
                }
                _ => Action::Rest,
            },
            Input::Wake if self.overdue(now) => self.give_up_or_rest(now),
            Input::Wake => match self.state {
                State::Resting(until) if now >= until => {
                    self.excuse_pause(until, now);
                    self.ask(now)
                }
                _ => Action::Rest,
            },
            Input::Turn { .. } | Input::Answer { .. } | Input::Held(_) | Input::Silence(_) => Action::Rest,
        }
    }

    fn answered(&mut self, now: Moment, call: Call, answer: Result<AcquireReply>) -> Action {
        self.state = State::Resting(now);
        match answer {
            Ok(AcquireReply::Granted { ttl, .. }) if now >= call.sent.after(ttl / 2) => {
                self.granted_late(now)
            }
            Ok(AcquireReply::Granted { token, ttl }) => {
                self.state = State::Over;
                (self.answered, self.heard, self.seen, self.error) = (true, now, None, None);
                Action::Granted { sent: call.sent, token, ttl, unknown_until: self.unknown_until }
            }
            Ok(AcquireReply::Held { holder, retry_after }) => self.held(now, holder, retry_after),
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.unknown_until = executable_until(call.sent, self.ttl);
                self.failures = self.failures.saturating_add(1);
                self.error = Some(error);
                self.excuse_pause(call.sent.after(patience(self.ttl)), now);
                self.unanswered(now)
            }
            Err(error) => {
                if !error.is_definite() {
                    self.unknown_until = executable_until(call.sent, self.ttl);
                }
                self.end(Refusal::Refused(error))
            }
        }
    }

    /// Too little is left to be worth having. Asking again gives a full TTL.
    fn granted_late(&mut self, now: Moment) -> Action {
        self.left = true;
        self.stale = self.stale.saturating_add(1);
        let over = matches!(self.plan, Plan::Line { until } if now >= until);
        if self.stale < STALE_MAX && !over {
            return self.ask(now);
        }
        let text = "the storage answers so slowly that its leases are over; take a longer ttl";
        self.end(Refusal::Unavailable(Some(Error::new(ErrorKind::Unavailable, text))))
    }

    fn held(&mut self, now: Moment, holder: Option<Holder>, retry_after: Option<Duration>) -> Action {
        self.heard = now;
        self.answered = true;
        self.failures = 0;
        self.error = None;
        self.seen = holder;
        self.refused(now, retry_after)
    }

    fn refused(&mut self, now: Moment, retry_after: Option<Duration>) -> Action {
        match self.plan {
            Plan::Once => self.give_up(now),
            Plan::Poll { attempts, interval } if planted::is(Bug::IntervalAfterLastTry) => {
                if self.asked > attempts { self.give_up(now) } else { self.rest(now.after(interval)) }
            }
            Plan::Poll { attempts, .. } if self.asked >= attempts => self.give_up(now),
            Plan::Poll { interval, .. } => self.rest(now.after(max(interval, INTERVAL_SHORTEST))),
            Plan::Line { .. } if self.overdue(now) => self.give_up(now),
            // Subscribed first, asked again after, and only then at rest: a release in between is not missed.
            Plan::Line { .. } if !self.wait => {
                self.wait = true;
                self.ask(now)
            }
            Plan::Line { .. } if self.hinted => self.ask(now),
            Plan::Line { .. } if planted::is(Bug::NoRecheck) => self.rest(Moment::FAR),
            Plan::Line { .. } => {
                let pause = retry_after.map_or(WAITER_HEARTBEAT, |after| after.saturating_add(ROUNDING));
                self.rest(now.after(min(pause, jitter(self.owner, self.asked, WAITER_HEARTBEAT))))
            }
        }
    }

    fn unanswered(&mut self, now: Moment) -> Action {
        match self.plan {
            Plan::Once => self.give_up(now),
            Plan::Poll { attempts, .. } if self.asked >= attempts => self.give_up(now),
            Plan::Poll { interval, .. } => self.rest(now.after(max(interval, INTERVAL_SHORTEST))),
            Plan::Line { .. } if self.overdue(now) || self.is_silent(now) => self.give_up(now),
            Plan::Line { .. } => {
                let doubled = BACKOFF_SHORTEST.saturating_mul(1 << min(self.failures, 10));
                self.rest(now.after(jitter(self.owner, self.asked, min(doubled, BACKOFF_LONGEST))))
            }
        }
    }

    /// The limit has passed. A poll whose claim could not leave in time has polled in vain, and may do so again.
    fn give_up_or_rest(&mut self, now: Moment) -> Action {
        if matches!(self.plan, Plan::Poll { .. }) {
            self.asked = self.asked.saturating_add(1);
            return self.unanswered(now);
        }
        if self.is_endless() && self.excuse_pause(self.limit(), now) {
            self.wanted = now;
            return Action::Rest;
        }
        self.give_up(now)
    }

    /// Counts the silence anew if the engine is told much later than it should have been: it was paused, or the machine
    /// slept, and the storage was not asked meanwhile. Returns `true` if so.
    fn excuse_pause(&mut self, due: Moment, now: Moment) -> bool {
        let paused = now >= due.after(PAUSE);
        if paused {
            self.heard = now;
        }
        paused
    }

    fn ask(&mut self, now: Moment) -> Action {
        self.state = State::Queued;
        self.wanted = now;
        if self.failures == 0 && self.error.is_none() {
            self.heard = now;
        }
        Action::Ask { wait: self.wait }
    }

    fn rest(&mut self, until: Moment) -> Action {
        self.state = State::Resting(until);
        Action::Rest
    }

    fn overdue(&self, now: Moment) -> bool {
        now >= self.limit()
    }

    /// When the wait is over, at the present state. A wait shorter than a round trip still gets its first answer. A
    /// claim that cannot even leave the lane is given up: the storage is silent, or has no room.
    fn limit(&self) -> Moment {
        match (self.plan, self.state) {
            // The last claim, too, has time to leave.
            (Plan::Line { until: Moment::FAR }, State::Queued) => {
                max(self.heard.after(SILENCE), self.wanted.after(patience(self.ttl)))
            }
            (Plan::Line { until }, State::Queued | State::Asking(_)) if !self.answered => {
                let first = if self.asked == 0 { self.started } else { self.first_sent };
                max(until, first.after(FIRST_ANSWER))
            }
            (Plan::Line { until }, _) => until,
            (Plan::Once, State::Queued | State::Asking(_)) | (Plan::Poll { .. }, State::Queued) => {
                self.wanted.after(patience(self.ttl))
            }
            (Plan::Once | Plan::Poll { .. }, _) => Moment::FAR,
        }
    }

    fn give_up(&mut self, now: Moment) -> Action {
        let refusal = match (&self.error, self.seen.clone()) {
            _ if self.state == State::Behind => Refusal::Behind,
            (Some(error), _) => Refusal::Unavailable(Some(error.clone())),
            (None, None) if !self.answered && self.was_contended(now) => {
                Refusal::Contended(self.known.as_ref().and_then(|known| known.seen.clone()))
            }
            (None, None) if !self.answered => Refusal::Unavailable(None),
            (None, seen) => Refusal::Contended(seen),
        };
        self.end(refusal)
    }

    fn end(&mut self, refusal: Refusal) -> Action {
        let awaiting = match self.state {
            State::Asking(call) => Some(call),
            _ => None,
        };
        self.state = State::Over;
        // A definite answer to a claim sent after the last unknown one could be executed settles that one too.
        let unknown = self.unknown_until >= self.last_sent && self.unknown_until > Moment::ZERO;
        let left = self.left && !planted::is(Bug::CancelledWaiterStays);
        let debt = if awaiting.is_some() || left || unknown {
            // A waiter's entry may outlive the lease that it waits for, and would keep others from it.
            let leaves = if self.left { max(self.ttl, WAITER_TTL) } else { self.ttl };
            let expires = self.last_sent.after(by_a_slow_clock(leaves + patience(self.ttl)));
            Debt::Owed { awaiting, unknown_until: self.unknown_until, expires }
        } else {
            Debt::Nothing
        };
        Action::End { refusal, debt }
    }
}

/// Storages round what is left of a lease.
const ROUNDING: Duration = Duration::from_millis(1);
/// How many grants may come too late before an attempt gives up.
const STALE_MAX: u32 = 3;
/// The shortest pause between two attempts.
const INTERVAL_SHORTEST: Duration = Duration::from_millis(1);
/// How long a wait of no time at all waits for its one answer.
const FIRST_ANSWER: Duration = Duration::from_secs(1);
/// How long a storage may be silent before a wait without limit ends.
const SILENCE: Duration = Duration::from_secs(30);
/// How late the engine is told of what it waits for if it was paused meanwhile.
const PAUSE: Duration = Duration::from_secs(5);
const BACKOFF_SHORTEST: Duration = Duration::from_millis(10);
const BACKOFF_LONGEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Name;

    const TTL: Duration = Duration::from_secs(10);
    const T0: Moment = Moment::from_nanos(1_000_000_000_000);

    fn at(millis: u64) -> Moment {
        T0.after(Duration::from_millis(millis))
    }

    fn attempt(wait: Wait, once: bool) -> Attempt {
        Attempt::new(Owner::random(), TTL, wait, once, T0)
    }

    fn held(sent: Moment) -> Input {
        let name = Name::new("a").expect("valid");
        let holder = Holder::new(name, Owner::random(), Token::new(1), Duration::from_secs(9));
        let retry_after = Some(holder.remaining);
        Input::Answer {
            call: Call::at(sent),
            answer: Ok(AcquireReply::Held { holder: Some(holder), retry_after }),
        }
    }

    fn granted(sent: Moment) -> Input {
        Input::Answer {
            call: Call::at(sent),
            answer: Ok(AcquireReply::Granted { token: Token::new(7), ttl: TTL }),
        }
    }

    fn silence(sent: Moment) -> Input {
        Input::Answer { call: Call::at(sent), answer: Err(Error::new(ErrorKind::Unavailable, "silence")) }
    }

    /// Takes its turn and sends the first claim.
    fn asked(attempt: &mut Attempt, subscribed: bool) -> bool {
        let Action::Ask { wait } = attempt.step(T0, Input::Turn { subscribed, known: None }) else {
            panic!("does not ask")
        };
        attempt.sent(Call::at(T0));
        wait
    }

    #[test]
    fn a_free_lock_takes_one_claim_and_no_subscription() {
        let mut attempt = attempt(Wait::Forever, false);
        assert!(!asked(&mut attempt, false));
        assert!(matches!(
            attempt.step(at(1), granted(T0)),
            Action::Granted { unknown_until: Moment::ZERO, .. }
        ));
    }

    #[test]
    fn subscribes_then_asks_again_then_rests() {
        let mut attempt = attempt(Wait::Forever, false);
        assert!(!asked(&mut attempt, false));
        assert!(matches!(attempt.step(at(1), held(T0)), Action::Ask { wait: true }));
        attempt.sent(Call::at(at(1)));
        assert!(matches!(attempt.step(at(2), held(at(1))), Action::Rest));
        assert!(attempt.wake() <= at(2).after(WAITER_HEARTBEAT));
        assert!(matches!(attempt.step(at(3), Input::Hint), Action::Ask { wait: true }));
    }

    #[test]
    fn a_hint_while_asking_is_not_forgotten() {
        let mut attempt = attempt(Wait::Forever, false);
        asked(&mut attempt, true);
        assert!(matches!(attempt.step(at(1), Input::Hint), Action::Rest));
        assert!(matches!(attempt.step(at(2), held(T0)), Action::Ask { .. }));
    }

    #[test]
    fn the_wait_ends_in_time_and_the_entry_is_owed() {
        let mut attempt = attempt(Wait::For(Duration::from_secs(1)), false);
        asked(&mut attempt, true);
        assert!(matches!(attempt.step(at(1), held(T0)), Action::Rest));
        assert_eq!(attempt.wake(), at(1_000));
        let Action::End { refusal: Refusal::Contended(Some(_)), debt } = attempt.step(at(1_000), Input::Wake)
        else {
            panic!("does not end")
        };
        assert!(matches!(debt, Debt::Owed { awaiting: None, unknown_until: Moment::ZERO, .. }));
    }

    #[test]
    fn no_time_at_all_still_gets_one_answer() {
        let mut attempt = attempt(Wait::For(Duration::ZERO), false);
        asked(&mut attempt, true);
        assert!(matches!(attempt.step(T0, Input::Wake), Action::Rest));
        assert!(matches!(
            attempt.step(at(5), held(T0)),
            Action::End { refusal: Refusal::Contended(Some(_)), .. }
        ));
    }

    #[test]
    fn a_refused_try_owes_nothing() {
        let mut attempt = attempt(Wait::Forever, true);
        assert!(!asked(&mut attempt, true), "a try leaves no entry");
        let Action::End { debt, .. } = attempt.step(at(1), held(T0)) else { panic!("does not end") };
        assert_eq!(debt, Debt::Nothing);
    }

    #[test]
    fn leaving_while_a_claim_is_under_way_owes_its_answer() {
        let mut attempt = attempt(Wait::Forever, false);
        asked(&mut attempt, false);
        let Action::End { refusal: Refusal::Left, debt } = attempt.step(at(1), Input::Leave) else {
            panic!("stays")
        };
        assert!(matches!(debt, Debt::Owed { awaiting: Some(call), .. } if call == Call::at(T0)));
    }

    #[test]
    fn leaving_before_anything_was_sent_owes_nothing() {
        let mut attempt = attempt(Wait::Forever, false);
        let Action::End { debt, .. } = attempt.step(at(1), Input::Leave) else { panic!("stays") };
        assert_eq!(debt, Debt::Nothing);
    }

    #[test]
    fn silence_is_asked_again_under_the_same_owner_and_stays_unknown_in_the_grant() {
        let mut attempt = attempt(Wait::Forever, false);
        asked(&mut attempt, false);
        assert!(matches!(attempt.step(at(100), silence(T0)), Action::Rest));
        let again = attempt.wake();
        assert!(matches!(attempt.step(again, Input::Wake), Action::Ask { .. }));
        attempt.sent(Call::at(again));
        let Action::Granted { unknown_until, .. } = attempt.step(again, granted(again)) else {
            panic!("not granted")
        };
        assert_eq!(unknown_until, executable_until(T0, TTL), "the first claim may still be executed");
    }

    #[test]
    fn endless_silence_ends_a_wait_without_limit() {
        let mut attempt = attempt(Wait::Forever, false);
        asked(&mut attempt, false);
        let (mut now, mut sent) = (at(100), T0);
        let refusal = loop {
            match attempt.step(now, silence(sent)) {
                Action::Rest => {}
                Action::End { refusal, .. } => break refusal,
                other => panic!("{other:?}"),
            }
            sent = attempt.wake();
            assert!(matches!(attempt.step(sent, Input::Wake), Action::Ask { .. }));
            assert!(attempt.wake() > sent, "it is not woken in vain");
            attempt.sent(Call::at(sent));
            now = sent.after(Duration::from_millis(100));
        };
        assert!(matches!(refusal, Refusal::Unavailable(Some(_))));
        assert!(now >= T0.after(SILENCE) && now <= T0.after(SILENCE + Duration::from_secs(2)), "{now:?}");
    }

    #[test]
    fn a_machine_that_has_slept_says_nothing_of_the_storage() {
        let (hour, soon) = (Duration::from_secs(3600), Duration::from_millis(100));
        // Asleep between two claims, and while one is in flight: the connections have not survived it.
        let mut attempt = attempt(Wait::Forever, false);
        asked(&mut attempt, true);
        assert!(matches!(attempt.step(at(1), held(T0)), Action::Rest));
        let awake = attempt.wake().after(hour);
        assert!(matches!(attempt.step(awake, Input::Wake), Action::Ask { .. }));
        attempt.sent(Call::at(awake));
        assert!(matches!(attempt.step(awake.after(soon), silence(awake)), Action::Rest), "asked once");
        let sent = attempt.wake();
        assert!(matches!(attempt.step(sent, Input::Wake), Action::Ask { .. }));
        attempt.sent(Call::at(sent));
        assert!(matches!(attempt.step(sent.after(hour), silence(sent)), Action::Rest), "asked twice");
        // And while one waits for a claim of another lock to land.
        let sent = attempt.wake();
        assert!(matches!(attempt.step(sent, Input::Wake), Action::Ask { .. }));
        assert!(matches!(attempt.step(sent.after(hour), Input::Wake), Action::Rest));
        assert!(attempt.wake() > sent.after(hour), "it is not woken in vain");
        let Action::End { refusal: Refusal::Unavailable(_), .. } = attempt.step(attempt.wake(), Input::Wake)
        else {
            panic!("silence still ends it")
        };
    }

    #[test]
    fn what_the_one_ahead_knew_is_known_to_the_next() {
        let limit = Wait::For(Duration::from_secs(1));
        let next = |ahead: &Attempt, wait: Wait, now: Moment| {
            let mut next = attempt(wait, false);
            let turn = Input::Turn { subscribed: true, known: Some(ahead.known()) };
            assert!(matches!(next.step(now, turn), Action::Ask { .. }));
            next
        };
        let mut refused = attempt(limit, false);
        asked(&mut refused, true);
        assert!(matches!(refused.step(at(1), held(T0)), Action::Rest));
        assert!(matches!(refused.step(at(1_000), Input::Wake), Action::End { .. }));
        let mut behind = next(&refused, limit, at(1_000));
        let Action::End { refusal: Refusal::Contended(Some(_)), .. } = behind.step(at(1_000), Input::Wake)
        else {
            panic!("the storage has answered")
        };
        let mut third = next(&behind, limit, at(1_000));
        let Action::End { refusal: Refusal::Contended(Some(_)), .. } = third.step(at(1_000), Input::Wake)
        else {
            panic!("so it has for the one behind that")
        };
        let mut silent = attempt(Wait::For(Duration::from_secs(25)), false);
        asked(&mut silent, true);
        assert!(matches!(silent.step(at(100), silence(T0)), Action::Rest));
        assert!(matches!(silent.step(at(25_000), Input::Wake), Action::End { .. }));
        let mut behind = next(&silent, limit, at(25_000));
        let Action::End { refusal: Refusal::Unavailable(Some(_)), .. } = behind.step(at(25_000), Input::Wake)
        else {
            panic!("the storage does not answer")
        };
        let mut endless = next(&silent, Wait::Forever, at(25_000));
        endless.sent(Call::at(at(25_000)));
        let answer = endless.step(at(30_000), silence(at(25_000)));
        assert!(matches!(answer, Action::End { refusal: Refusal::Unavailable(Some(_)), .. }), "{answer:?}");
    }

    #[test]
    fn attempts_counts_all_tries_and_does_not_pause_after_the_last() {
        let mut attempt = attempt(Wait::Attempts { attempts: 3, interval: Duration::from_secs(1) }, false);
        assert!(!asked(&mut attempt, true));
        let mut sent = T0;
        for _ in 0..2 {
            assert!(matches!(attempt.step(sent, held(sent)), Action::Rest));
            sent = attempt.wake();
            assert!(matches!(attempt.step(sent, Input::Wake), Action::Ask { wait: false }));
            attempt.sent(Call::at(sent));
        }
        assert!(matches!(
            attempt.step(sent, held(sent)),
            Action::End { refusal: Refusal::Contended(Some(_)), .. }
        ));
        assert_eq!(sent, at(2_000));
    }

    #[test]
    fn a_grant_that_arrives_late_is_asked_for_again() {
        let mut attempt = attempt(Wait::Forever, false);
        asked(&mut attempt, false);
        assert!(matches!(attempt.step(at(5_000), granted(T0)), Action::Ask { .. }));
    }

    #[test]
    fn a_grant_that_arrives_late_is_undone_by_who_leaves_before_asking_again() {
        let mut attempt = attempt(Wait::Forever, false);
        asked(&mut attempt, false);
        assert!(matches!(attempt.step(at(5_000), granted(T0)), Action::Ask { .. }));
        let Action::End { debt, .. } = attempt.step(at(5_001), Input::Leave) else { panic!("stays") };
        assert!(matches!(debt, Debt::Owed { awaiting: None, .. }), "the storage has granted it: {debt:?}");
    }

    #[test]
    fn what_a_clock_that_runs_slower_keeps_is_waited_for() {
        let waiters_entry = {
            let mut attempt = attempt(Wait::Forever, false);
            asked(&mut attempt, true);
            match attempt.step(at(1), Input::Leave) {
                Action::End { debt: Debt::Owed { expires, .. }, .. } => expires,
                other => panic!("{other:?}"),
            }
        };
        let latest = (TTL + patience(TTL)) * 101 / 100;
        assert!(waiters_entry.since(T0) > latest, "{waiters_entry:?}");
        assert!(executable_until(T0, TTL).since(T0) > patience(TTL) * 101 / 100);
    }

    #[test]
    fn a_refusal_for_good_is_not_asked_again() {
        let mut attempt = attempt(Wait::Forever, false);
        asked(&mut attempt, false);
        let answer = Err(Error::new(ErrorKind::Unsupported, "no"));
        let Action::End { refusal: Refusal::Refused(_), debt } =
            attempt.step(at(1), Input::Answer { call: Call::at(T0), answer })
        else {
            panic!("asks again")
        };
        assert!(
            matches!(debt, Debt::Owed { awaiting: None, .. }),
            "`Err` means unknown to the clean-up: {debt:?}"
        );
    }

    #[test]
    fn a_definite_refusal_owes_what_earlier_claims_may_have_left_and_no_more() {
        let no = || Err(Error::new(ErrorKind::Unsupported, "no").definite());
        for (silent, queued, owed) in [(false, false, false), (true, false, true), (false, true, true)] {
            let mut attempt = attempt(Wait::Forever, false);
            asked(&mut attempt, queued);
            let mut sent = T0;
            if silent {
                assert!(matches!(attempt.step(at(1), silence(T0)), Action::Rest));
                sent = attempt.wake();
                assert!(matches!(attempt.step(sent, Input::Wake), Action::Ask { .. }));
                attempt.sent(Call::at(sent));
            }
            let answer = Input::Answer { call: Call::at(sent), answer: no() };
            let Action::End { refusal: Refusal::Refused(_), debt } =
                attempt.step(sent.after(Duration::from_millis(1)), answer)
            else {
                panic!("asks again")
            };
            assert_eq!(debt != Debt::Nothing, owed, "{debt:?}");
            let unknown = matches!(debt, Debt::Owed { unknown_until, .. } if unknown_until > Moment::ZERO);
            assert_eq!(unknown, silent, "{debt:?}");
        }
    }

    #[test]
    fn a_try_that_cannot_leave_answers_within_its_patience() {
        let mut attempt = attempt(Wait::Forever, true);
        assert!(matches!(
            attempt.step(T0, Input::Turn { subscribed: true, known: None }),
            Action::Ask { .. }
        ));
        assert_eq!(attempt.wake(), T0.after(patience(TTL)));
        let Action::End { refusal: Refusal::Unavailable(None), debt } =
            attempt.step(attempt.wake(), Input::Wake)
        else {
            panic!("does not end")
        };
        assert_eq!(debt, Debt::Nothing, "nothing was sent");
    }

    #[test]
    fn a_try_in_flight_answers_within_its_patience_from_when_it_was_made() {
        let mut attempt = attempt(Wait::Forever, true);
        assert!(matches!(
            attempt.step(T0, Input::Turn { subscribed: true, known: None }),
            Action::Ask { .. }
        ));
        attempt.sent(Call::at(at(3_000)));
        assert_eq!(attempt.wake(), T0.after(patience(TTL)));
        assert!(matches!(
            attempt.step(attempt.wake(), Input::Wake),
            Action::End { refusal: Refusal::Unavailable(None), debt: Debt::Owed { awaiting: Some(_), .. } }
        ));
    }

    #[test]
    fn an_answer_to_another_claim_answers_a_try_and_owes_nothing() {
        let mut attempt = attempt(Wait::Forever, true);
        assert!(matches!(
            attempt.step(T0, Input::Turn { subscribed: true, known: None }),
            Action::Ask { .. }
        ));
        assert!(matches!(
            attempt.step(at(1), Input::Held(None)),
            Action::End { refusal: Refusal::Contended(None), debt: Debt::Nothing }
        ));
    }

    #[test]
    fn what_may_be_at_the_storage_asks_for_itself() {
        let mut attempt = attempt(Wait::Attempts { attempts: 3, interval: Duration::from_secs(1) }, false);
        assert!(attempt.is_alike());
        asked(&mut attempt, true);
        assert!(matches!(attempt.step(at(100), silence(T0)), Action::Rest));
        assert!(matches!(attempt.step(attempt.wake(), Input::Wake), Action::Ask { .. }));
        assert!(!attempt.is_alike(), "its first claim may have been granted");
        assert!(matches!(attempt.step(at(1_200), Input::Held(None)), Action::Rest));
        attempt.sent(Call::at(at(1_300)));
        assert!(matches!(attempt.step(at(1_400), granted(at(1_300))), Action::Granted { .. }));
    }

    #[test]
    fn a_late_answer_to_an_earlier_claim_is_dropped() {
        let mut attempt = attempt(Wait::Forever, false);
        asked(&mut attempt, true);
        assert!(matches!(attempt.step(at(100), silence(T0)), Action::Rest));
        let again = attempt.wake();
        assert!(matches!(attempt.step(again, Input::Wake), Action::Ask { .. }));
        attempt.sent(Call::at(again));
        assert!(matches!(attempt.step(again, granted(T0)), Action::Rest));
    }

    #[test]
    fn a_wait_without_limit_whose_claim_cannot_leave_ends_after_the_silence() {
        let mut attempt = attempt(Wait::Forever, false);
        assert!(matches!(
            attempt.step(T0, Input::Turn { subscribed: true, known: None }),
            Action::Ask { .. }
        ));
        assert_eq!(attempt.wake(), T0.after(SILENCE));
        assert!(matches!(
            attempt.step(attempt.wake(), Input::Wake),
            Action::End { refusal: Refusal::Unavailable(None), .. }
        ));
    }
}
