//! The attempt: an acquisition from the call until it is granted or has failed.
//!
//! The owner id is fixed before the first claim is sent. So a claim without an answer is sent again under the
//! same id. An attempt that ends without the lock is undone by releasing that id. What it may have left at
//! the storage is returned as [`Leftovers`], for the cleanup.
//!
//! The machine is pure: its caller passes the time and the input, and executes the returned action.
//!
//! An attempt follows one of three plans. *Once* sends one claim. *Poll* sends a number of claims with a pause between
//! them. *Queue* waits in the local queue of its name until it is the head, and then in the queue of the storage.
//! If a try of the same caller was refused before, Poll begins with the pause, and Queue with a waiter's entry.
//!
//! | State | Input | Next state | Action |
//! |---|---|---|---|
//! | `InQueue`: others are ahead in the local queue | `Turn` | `InLane` | send the claim |
//! | `InLane`: the claim waits in its lane | it leaves ([`Attempt::sent`]) | `InFlight` | |
//! | | `SharedAnswer`: the lock is held | as for *held* below | |
//! | | the limit passes | `Over`; Poll: `Paused` | end; Poll: none |
//! | `InFlight`: the claim was sent | granted, in time | `Over` | granted |
//! | | granted, but half of the TTL is over | `InLane`; the third time `Over` | send again; end |
//! | | held, Once | `Over` | end |
//! | | held, Poll | `Paused`; after the last try `Over` | none; end |
//! | | held, Queue | `InLane` with a waiter's entry, then `Paused` | send again; none |
//! | | unavailable | `Paused`; Once, or the last try of Poll: `Over` | none; end |
//! | | another error | `Over` | end |
//! | `Paused`: until a hint, or until the pause is over | `Hint` (Queue only), or `Wake` in time | `InLane` | send the claim |
//! | any but `Over` | `Cancel`, or the limit passes | `Over` | end |
//! | | `Silence`, if it waits forever | `Over` | end |

use std::cmp::{max, min};
use std::time::Duration;

use super::call::Call;
use super::cleanup::Leftovers;
use super::planted::{self, Bug};
use super::timing::{by_a_slow_clock, executable_until, jitter, patience};
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::options::Wait;
use crate::storage::{AcquireReply, Holder, Owner, Token, WAITER_HEARTBEAT, WAITER_TTL};

/// What happens to an attempt.
#[derive(Debug)]
pub(crate) enum Input {
    /// It is the head of its local queue, or needs none. `subscribed` is `true` if the engine receives hints.
    /// `inherited` is what the previous head knew.
    Turn { subscribed: bool, inherited: Option<Knowledge> },
    /// The reply to a claim of this attempt.
    Answer { call: Call, answer: Result<AcquireReply> },
    /// The reply to another claim of the same name, sent after this attempt had made its own: the lock is held.
    SharedAnswer(Option<Holder>),
    /// A hint: the lock may be free.
    Hint,
    /// The moment that [`Attempt::wake`] asked for has come.
    Wake,
    /// The caller has dropped its future, or the client is closed.
    Cancel,
    /// The head of the local queue has found that the storage does not answer. The cause, if it is known.
    Silence(Option<Error>),
}

/// What the caller of [`Attempt::step`] does next.
#[derive(Debug)]
pub(crate) enum Action {
    None,
    /// Send the claim, with a waiter's entry if `wait`. Call [`Attempt::sent`] when it leaves.
    SendClaim {
        wait: bool,
    },
    /// The lock is granted to the claim that was sent at `sent`.
    Granted {
        sent: Moment,
        token: Token,
        ttl: Duration,
        unknown_until: Moment,
    },
    /// The attempt is over without the lock. No action follows.
    End {
        refusal: Refusal,
        leftovers: Option<Leftovers>,
    },
}

/// Why an attempt ended without the lock.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// Another owner holds the lock, or is ahead in the queue of the storage.
    Contended(Option<Holder>),
    /// Other attempts were ahead in the local queue until the end. The head of that queue knows why.
    BehindOthers,
    /// The caller has left. It needs no answer.
    Canceled,
    /// The storage answered with an error that a retry does not mend.
    Rejected(Error),
    /// The storage did not answer. The cause, if it is known.
    Unavailable(Option<Error>),
    /// The head of the local queue has found that the storage does not answer. The cause, if it is known.
    Silence(Option<Error>),
}

/// What the head of a local queue knows of the storage. The next head inherits it.
#[derive(Clone, Debug)]
pub(crate) struct Knowledge {
    /// Whether the storage has answered a claim.
    answered: bool,
    /// The holder that the storage named.
    holder: Option<Holder>,
    /// The last error, if the storage does not answer at present.
    error: Option<Error>,
    /// See [`Attempt::silent_since`].
    silent_since: Moment,
}

/// The state machine of an attempt.
#[derive(Debug)]
pub(crate) struct Attempt {
    owner: Owner,
    ttl: Duration,
    plan: Plan,
    state: State,
    started: Moment,
    /// When it last asked for a claim to be sent.
    wanted: Moment,
    /// How often it has tried: claims sent, shared answers, and polls that could not send their claim.
    tries: u32,
    /// Whether its claims leave a waiter's entry.
    wait: bool,
    /// Whether an earlier acquisition of the same caller was refused a moment ago.
    tried: bool,
    /// Whether a waiter's entry may be at the storage, or a lease that was granted too late to be used.
    may_have_left: bool,
    /// Whether a hint came while a claim was in its lane or in flight.
    hinted: bool,
    /// Whether the storage has answered a claim.
    answered: bool,
    /// How many grants came too late to be used.
    late_grants: u32,
    first_sent: Moment,
    last_sent: Moment,
    /// The moment until which a claim without an answer may still be executed.
    unknown_until: Moment,
    /// Since when the storage is silent: when the first claim was made that it has not answered.
    silent_since: Moment,
    /// How many claims in a row were not answered.
    failures: u32,
    holder: Option<Holder>,
    error: Option<Error>,
    /// What the previous head of the local queue knew.
    inherited: Option<Knowledge>,
}

#[derive(Clone, Copy, Debug)]
enum Plan {
    Once { until: Moment },
    Poll { attempts: u32, interval: Duration },
    Queue { until: Moment },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InQueue,
    InLane,
    InFlight(Call),
    Paused(Moment),
    Over,
}

impl Attempt {
    pub(crate) fn new(owner: Owner, ttl: Duration, wait: Wait, once: bool, now: Moment) -> Self {
        let plan = match wait {
            Wait::For(limit) if once => Plan::Once { until: now.after(limit) },
            _ if once => Plan::Once { until: Moment::FAR },
            Wait::Attempts { attempts, interval } => Plan::Poll { attempts, interval },
            Wait::For(limit) => Plan::Queue { until: now.after(limit) },
            Wait::Forever => Plan::Queue { until: Moment::FAR },
        };
        Self {
            owner,
            ttl,
            plan,
            state: State::InQueue,
            started: now,
            wanted: now,
            tries: 0,
            wait: false,
            tried: false,
            may_have_left: false,
            hinted: false,
            answered: false,
            late_grants: 0,
            first_sent: Moment::ZERO,
            last_sent: Moment::ZERO,
            unknown_until: Moment::ZERO,
            silent_since: now,
            failures: 0,
            holder: None,
            error: None,
            inherited: None,
        }
    }

    /// Begins as if its first claim had been refused: an earlier acquisition of the same caller was, a moment ago.
    pub(crate) fn after_try(mut self, now: Moment) -> Self {
        self.tried = true;
        if let Plan::Poll { interval, .. } = self.plan {
            (self.tries, self.answered) = (1, true);
            self.state = State::Paused(now.after(max(interval, INTERVAL_SHORTEST)));
        }
        self
    }

    /// Returns `true` if it waits in the local queue of its name.
    pub(crate) fn joins_queue(&self) -> bool {
        matches!(self.plan, Plan::Queue { .. })
    }

    /// Returns `true` if its wait has no limit.
    pub(crate) fn waits_forever(&self) -> bool {
        matches!(self.plan, Plan::Queue { until: Moment::FAR })
    }

    /// Returns `true` if the reply to another claim of the same name may answer this one, too: it does not queue, and
    /// nothing of it can be at the storage.
    pub(crate) fn is_shareable(&self) -> bool {
        !self.joins_queue() && !self.may_have_left && self.unknown_until == Moment::ZERO
    }

    /// Returns `true` if its claim is in flight.
    pub(crate) fn is_in_flight(&self) -> bool {
        matches!(self.state, State::InFlight(_))
    }

    /// Returns `true` if the storage has been silent for so long that a wait without a limit ends.
    pub(crate) fn is_silent(&self, now: Moment) -> bool {
        now >= self.silent_since.after(SILENCE_LIMIT)
    }

    /// Returns how long it has taken so far.
    pub(crate) fn waited(&self, now: Moment) -> Duration {
        now.since(self.started)
    }

    /// Returns `true` if the storage has answered that another owner comes first.
    pub(crate) fn was_refused(&self) -> bool {
        self.answered
    }

    /// Returns how many claims in a row were not answered.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns the last error, if the storage does not answer at present.
    pub(crate) fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    /// Returns what the next head of the local queue inherits. An attempt that had no answer passes on what it
    /// inherited itself.
    pub(crate) fn knowledge(&self) -> Knowledge {
        if !self.answered
            && self.error.is_none()
            && let Some(inherited) = &self.inherited
        {
            return inherited.clone();
        }
        let (holder, error) = (self.holder.clone(), self.error.clone());
        Knowledge { answered: self.answered, holder, error, silent_since: self.silent_since }
    }

    /// Returns `true` if the storage should have answered by now and, as far as is known, has not.
    pub(crate) fn is_unanswered(&self, now: Moment) -> bool {
        !self.answered && !self.was_contended(now) && now >= self.silent_since.after(FIRST_ANSWER_LIMIT)
    }

    /// Returns `true` if the storage answered the previous head of the local queue a moment ago: the lock was held.
    fn was_contended(&self, now: Moment) -> bool {
        self.inherited.as_ref().is_some_and(|inherited| {
            inherited.answered && inherited.error.is_none() && now < inherited.silent_since.after(WAITER_TTL)
        })
    }

    /// Returns the holder that the storage named last.
    pub(crate) fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    /// Returns when it next needs [`Input::Wake`].
    pub(crate) fn wake(&self) -> Moment {
        match self.state {
            State::Paused(until) => min(until, self.limit()),
            State::Over => Moment::FAR,
            State::InQueue | State::InLane | State::InFlight(_) => self.limit(),
        }
    }

    /// Notes that the claim leaves now.
    pub(crate) fn sent(&mut self, call: Call) {
        self.state = State::InFlight(call);
        if self.tries == 0 {
            self.first_sent = call.sent;
        }
        self.tries = self.tries.saturating_add(1);
        self.last_sent = call.sent;
        self.hinted = false;
        self.may_have_left |= self.wait;
    }

    /// Processes an input. Returns what to do next.
    pub(crate) fn step(&mut self, now: Moment, input: Input) -> Action {
        match input {
            _ if self.state == State::Over => Action::None,
            Input::Cancel => self.end(Refusal::Canceled),
            Input::Silence(cause) if self.waits_forever() => self.end(Refusal::Silence(cause)),
            Input::Turn { subscribed, inherited } if self.state == State::InQueue => {
                self.take_turn(now, subscribed, inherited)
            }
            Input::Answer { call, answer } if self.state == State::InFlight(call) => {
                self.answered(now, call, answer)
            }
            Input::SharedAnswer(holder) if self.state == State::InLane && self.is_shareable() => {
                self.tries = self.tries.saturating_add(1);
                self.held(now, holder, None)
            }
            Input::Hint => self.hinted(now),
            Input::Wake if self.is_past_limit(now) => self.limit_passed(now),
            Input::Wake => match self.state {
                State::Paused(until) if now >= until => {
                    self.forgive_pause(until, now);
                    self.send_claim(now)
                }
                _ => Action::None,
            },
            // An input for another state: a reply to a claim that was given up, or a turn that was taken.
            Input::Turn { .. } | Input::Answer { .. } | Input::SharedAnswer(_) | Input::Silence(_) => {
                Action::None
            }
        }
    }

    fn take_turn(&mut self, now: Moment, subscribed: bool, inherited: Option<Knowledge>) -> Action {
        // The first claim of a process leaves no waiter's entry: most locks are free, and then the engine need not
        // subscribe to hints.
        self.wait = self.joins_queue() && (subscribed || self.tried);
        self.silent_since = now;
        if let Some(inherited) = &inherited {
            self.error.clone_from(&inherited.error);
            // A wait without a limit ends when the storage is silent for too long, not when one claim is.
            if self.error.is_some() && self.waits_forever() {
                self.silent_since = inherited.silent_since;
            }
        }
        self.inherited = inherited;
        self.send_claim(now)
    }

    fn hinted(&mut self, now: Moment) -> Action {
        match self.state {
            State::Paused(_) if self.joins_queue() => self.send_claim(now),
            State::InLane | State::InFlight(_) => {
                self.hinted = true;
                Action::None
            }
            _ => Action::None,
        }
    }

    fn answered(&mut self, now: Moment, call: Call, answer: Result<AcquireReply>) -> Action {
        self.state = State::Paused(now);
        match answer {
            Ok(AcquireReply::Granted { ttl, .. }) if now >= call.sent.after(ttl / 2) => {
                self.granted_late(now)
            }
            Ok(AcquireReply::Granted { token, ttl }) => {
                self.state = State::Over;
                (self.answered, self.silent_since, self.holder, self.error) = (true, now, None, None);
                Action::Granted { sent: call.sent, token, ttl, unknown_until: self.unknown_until }
            }
            Ok(AcquireReply::Held { holder, retry_after }) => self.held(now, holder, retry_after),
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.unknown_until = executable_until(call.sent, self.ttl);
                self.failures = self.failures.saturating_add(1);
                self.error = Some(error);
                self.forgive_pause(call.sent.after(patience(self.ttl)), now);
                self.unavailable(now)
            }
            Err(error) => {
                if !error.is_definite() {
                    self.unknown_until = executable_until(call.sent, self.ttl);
                }
                self.end(Refusal::Rejected(error))
            }
        }
    }

    /// Rejects a grant of which too little is left. Claiming again gives a full TTL.
    fn granted_late(&mut self, now: Moment) -> Action {
        self.may_have_left = true;
        self.late_grants = self.late_grants.saturating_add(1);
        let over = matches!(self.plan, Plan::Queue { until } if now >= until);
        if self.late_grants < LATE_GRANTS_MAX && !over {
            return self.send_claim(now);
        }
        let text = "the storage answers so slowly that its leases are over; take a longer ttl";
        self.end(Refusal::Unavailable(Some(Error::new(ErrorKind::Unavailable, text))))
    }

    fn held(&mut self, now: Moment, holder: Option<Holder>, retry_after: Option<Duration>) -> Action {
        self.silent_since = now;
        self.answered = true;
        self.failures = 0;
        self.error = None;
        self.holder = holder;
        match self.plan {
            Plan::Once { .. } => self.give_up(now),
            Plan::Poll { attempts, interval } if planted::is(Bug::IntervalAfterLastTry) => {
                if self.tries > attempts { self.give_up(now) } else { self.pause(now.after(interval)) }
            }
            Plan::Poll { attempts, interval } => self.poll_again(now, attempts, interval),
            Plan::Queue { .. } if self.is_past_limit(now) => self.give_up(now),
            // The order matters: subscribe to hints, claim again, and only then pause. A release in between is then
            // not missed.
            Plan::Queue { .. } if !self.wait => {
                self.wait = true;
                self.send_claim(now)
            }
            Plan::Queue { .. } if self.hinted => self.send_claim(now),
            Plan::Queue { .. } if planted::is(Bug::NoRecheck) => self.pause(Moment::FAR),
            Plan::Queue { .. } => {
                let pause = retry_after.map_or(WAITER_HEARTBEAT, |after| after.saturating_add(ROUNDING));
                self.pause(now.after(min(pause, jitter(self.owner, self.tries, WAITER_HEARTBEAT))))
            }
        }
    }

    fn unavailable(&mut self, now: Moment) -> Action {
        match self.plan {
            Plan::Once { .. } => self.give_up(now),
            Plan::Poll { attempts, interval } => self.poll_again(now, attempts, interval),
            Plan::Queue { .. } if self.is_past_limit(now) || self.is_silent(now) => self.give_up(now),
            Plan::Queue { .. } => {
                let doubled = BACKOFF_SHORTEST.saturating_mul(1 << min(self.failures, 10));
                self.pause(now.after(jitter(self.owner, self.tries, min(doubled, BACKOFF_LONGEST))))
            }
        }
    }

    fn poll_again(&mut self, now: Moment, attempts: u32, interval: Duration) -> Action {
        if self.tries >= attempts {
            return self.give_up(now);
        }
        self.pause(now.after(max(interval, INTERVAL_SHORTEST)))
    }

    /// Ends the attempt, as its limit has passed. A poll that could not send its claim in time has used up
    /// one try.
    fn limit_passed(&mut self, now: Moment) -> Action {
        if matches!(self.plan, Plan::Poll { .. }) {
            self.tries = self.tries.saturating_add(1);
            return self.unavailable(now);
        }
        if self.waits_forever() && self.forgive_pause(self.limit(), now) {
            self.wanted = now;
            return Action::None;
        }
        self.give_up(now)
    }

    /// Restarts the measurement of silence if the engine runs much later than it should: the process was paused, or
    /// the machine slept, and the storage received no claim meanwhile. Returns `true` if so.
    fn forgive_pause(&mut self, due: Moment, now: Moment) -> bool {
        let paused = now >= due.after(PAUSE);
        if paused {
            self.silent_since = now;
        }
        paused
    }

    fn send_claim(&mut self, now: Moment) -> Action {
        self.state = State::InLane;
        self.wanted = now;
        if self.failures == 0 && self.error.is_none() {
            self.silent_since = now;
        }
        Action::SendClaim { wait: self.wait }
    }

    fn pause(&mut self, until: Moment) -> Action {
        self.state = State::Paused(until);
        Action::None
    }

    fn is_past_limit(&self, now: Moment) -> bool {
        now >= self.limit()
    }

    /// Returns when the attempt ends in its present state. Even a wait shorter than a round trip gets its first answer.
    /// An attempt that cannot send its claim ends, too: the storage is silent, or overloaded.
    fn limit(&self) -> Moment {
        match (self.plan, self.state) {
            // The last claim gets time to leave, too.
            (Plan::Queue { until: Moment::FAR }, State::InLane) => {
                max(self.silent_since.after(SILENCE_LIMIT), self.wanted.after(patience(self.ttl)))
            }
            (Plan::Queue { until }, State::InLane | State::InFlight(_)) if !self.answered => {
                let first = if self.tries == 0 { self.started } else { self.first_sent };
                max(until, first.after(FIRST_ANSWER_LIMIT))
            }
            (Plan::Queue { until }, _) => until,
            (Plan::Once { until }, State::InLane | State::InFlight(_)) => {
                let first = max(until, self.started.after(FIRST_ANSWER_LIMIT));
                min(first, self.wanted.after(patience(self.ttl)))
            }
            (Plan::Poll { .. }, State::InLane) => self.wanted.after(patience(self.ttl)),
            (Plan::Once { .. } | Plan::Poll { .. }, _) => Moment::FAR,
        }
    }

    fn give_up(&mut self, now: Moment) -> Action {
        let refusal = match (&self.error, self.holder.clone()) {
            _ if self.state == State::InQueue => Refusal::BehindOthers,
            (Some(error), _) => Refusal::Unavailable(Some(error.clone())),
            (None, None) if !self.answered && self.was_contended(now) => {
                Refusal::Contended(self.inherited.as_ref().and_then(|inherited| inherited.holder.clone()))
            }
            (None, None) if !self.answered => Refusal::Unavailable(None),
            (None, holder) => Refusal::Contended(holder),
        };
        self.end(refusal)
    }

    fn end(&mut self, refusal: Refusal) -> Action {
        let claim = match self.state {
            State::InFlight(call) => Some(call),
            _ => None,
        };
        self.state = State::Over;
        // A definite answer settles every earlier claim, if its own claim was sent when none of those could be executed
        // any more.
        let unknown = self.unknown_until >= self.last_sent && self.unknown_until > Moment::ZERO;
        let left = self.may_have_left && !planted::is(Bug::CanceledWaiterStays);
        let leftovers = (claim.is_some() || left || unknown).then(|| {
            // A waiter's entry may outlive the lease that it waits for, and would keep other owners out.
            let lasts = if self.may_have_left { max(self.ttl, WAITER_TTL) } else { self.ttl };
            let expires = self.last_sent.after(by_a_slow_clock(lasts + patience(self.ttl)));
            Leftovers { claim, unknown_until: self.unknown_until, expires }
        });
        Action::End { refusal, leftovers }
    }
}

/// By how much a storage may round the remaining time of a lease.
const ROUNDING: Duration = Duration::from_millis(1);
/// How many grants may come too late before an attempt gives up.
const LATE_GRANTS_MAX: u32 = 3;
/// The shortest pause between two polls.
const INTERVAL_SHORTEST: Duration = Duration::from_millis(1);
/// How long even a wait of zero length waits for its one answer.
const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(1);
/// How long a storage may be silent before a wait without a limit ends.
const SILENCE_LIMIT: Duration = Duration::from_secs(30);
/// How late the engine has to run before the attempt assumes that the process was paused.
const PAUSE: Duration = Duration::from_secs(5);
const BACKOFF_SHORTEST: Duration = Duration::from_millis(10);
const BACKOFF_LONGEST: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests;
