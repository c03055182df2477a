//! The lease: an acquisition from its grant to its end.
//!
//! The client considers a lease expired before the storage does. The deadline counts from before the request was sent,
//! less a margin for clocks that run at different speeds. A lost lease stays lost.
//!
//! The machine keeps two things about the end of the lease at the storage: what the storage *confirmed* last, and the
//! *effects* of renewals that may still be executed, for the first time or once more. Each effect says until when it
//! is possible and for how long the lease lasts after it. The deadline is the earliest end that these allow. A renewal
//! that brings the end forward therefore counts from the moment it leaves. It stops to count when a renewal is
//! confirmed that was sent after the last moment at which the earlier one could be executed.
//!
//! The machine is pure: its caller passes the time and the input, and executes the returned action.
//!
//! | State of the renewal | Input | Next state | Action |
//! |---|---|---|---|
//! | `Idle` | it is time to renew, or `RenewNow`, `Verify`, `Extend` | `InLane` | renew |
//! | `InLane`: the renewal waits in its lane | it leaves ([`Lease::sent`]) | `InFlight` | |
//! | `InFlight`: the renewal was sent | renewed | `Idle`; if one sent later is demanded: `InLane` | none; renew |
//! | | unknown, or no answer in time | `Idle` until the next try; `InLane` as above | none; renew |
//! | | `RenewNow`, `Verify`, `Extend` | `InFlight`, and one sent later is demanded | |
//! | any | `Inspected`: another client has brought the end forward | `InLane`, if it renews by itself | renew |
//! | any | not held, or `Gone` | over | lost: taken |
//! | any | the deadline passes | over | lost: expired, or `max_hold` |

use std::cmp::{max, min};
use std::time::Duration;

use super::call::Call;
use super::planted::{self, Bug};
use super::timing::{
    any_executable_until, by_a_slow_clock, deadline, executable_until, jitter, margin, renew_limit,
};
use crate::clock::{Moment, nanos};
use crate::lost::Lost;
use crate::options::Renewal;
use crate::storage::{Owner, RenewReply};

/// What happens to a lease.
#[derive(Debug)]
pub(crate) enum Input {
    /// The moment that [`Lease::wake`] asked for has come.
    Wake,
    /// The reply to a renewal, or `None` if its outcome is unknown.
    Answer { call: Call, answer: Option<RenewReply> },
    /// The holder wants a renewal now, whatever the schedule says.
    RenewNow,
    /// The storage may have forgotten the lease. Only a renewal sent from now on tells.
    Verify,
    /// The holder wants another TTL, and a renewal now.
    Extend(Duration),
    /// An inspection that was sent at `sent` has shown this lease and its remaining time.
    Inspected { sent: Moment, remaining: Duration },
    /// An inspection has shown another holder, or none.
    Gone,
}

/// What the caller of [`Lease::step`] does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    None,
    /// Send a renewal, and call [`Lease::sent`] when it leaves.
    Renew,
    /// The lease is over. No action follows.
    Lost(Lost),
}

/// The state machine of a lease.
#[derive(Debug)]
pub(crate) struct Lease {
    owner: Owner,
    /// The TTL that the holder wants.
    ttl: Duration,
    /// The longest TTL that the holder ever wanted.
    longest_ttl: Duration,
    renewal: Renewal,
    confirmed: Confirmed,
    effects: Vec<Effect>,
    hold_until: Moment,
    /// Until when the lease lasts at the storage at least: no renewal brings its end forward to an earlier time.
    keep_until: Moment,
    renew_at: Moment,
    state: State,
    /// How many renewals must have been sent: `calls`, or one more if another one is demanded.
    demanded: u32,
    /// How many renewals were sent.
    calls: u32,
    /// How many renewals were answered.
    renewals: u32,
    /// How many renewals were not answered since one was.
    failures: u32,
    /// Until when the holder wants the lease at least, if the engine does not renew it: a storage that gives less than
    /// that is asked for the rest.
    wanted_until: Moment,
    /// Whether the next renewal is spread over its whole interval, because all leases were renewed at once.
    spread_next: bool,
    over: bool,
}

/// What the storage confirmed last: the lease lasts for `given` from when a request was executed that was sent at
/// `sent`.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    sent: Moment,
    given: Duration,
    /// The TTL that this request asked for.
    asked: Duration,
    /// Whether this is less than the holder wants, so that a renewal is needed to get the rest.
    partial: bool,
}

/// What a renewal does that may be executed at any time from `sent` to `until`, even more than once: the lease lasts
/// for `ttl` from then.
#[derive(Clone, Copy, Debug)]
struct Effect {
    sent: Moment,
    until: Moment,
    ttl: Duration,
    /// Whether it may bring the end of the lease forward.
    shortens: bool,
}

/// The state of the renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle,
    InLane,
    InFlight { call: Call, ttl: Duration, shortens: bool },
}

impl Confirmed {
    fn deadline(&self) -> Moment {
        deadline(self.sent, self.given)
    }
}

impl Lease {
    /// Makes a lease that was granted for `ttl` to a claim sent at `sent`.
    pub(crate) fn granted(
        owner: Owner,
        sent: Moment,
        ttl: Duration,
        renewal: Renewal,
        max_hold: Option<Duration>,
    ) -> Self {
        let mut lease = Self {
            owner,
            ttl,
            longest_ttl: ttl,
            renewal,
            confirmed: Confirmed { sent, given: ttl, asked: ttl, partial: false },
            effects: Vec::new(),
            hold_until: max_hold.map_or(Moment::FAR, |most| sent.after(most)),
            keep_until: Moment::ZERO,
            renew_at: Moment::FAR,
            state: State::Idle,
            demanded: 0,
            calls: 0,
            renewals: 0,
            failures: 0,
            wanted_until: sent.after(ttl),
            spread_next: false,
            over: false,
        };
        lease.schedule(sent);
        lease
    }

    /// Sets the TTL that the claim asked for. A lease that was granted for less is renewed soon. That is not at once,
    /// because many leases are over by then.
    pub(crate) fn claimed_for(mut self, sent: Moment, ttl: Duration) -> Self {
        if ttl > self.ttl {
            self.confirmed.partial = true;
            self.renew_at = min(self.renew_at, sent.after(min(self.ttl / 8, SOON)));
            (self.ttl, self.longest_ttl) = (ttl, ttl);
            self.wanted_until = sent.after(ttl);
        }
        self
    }

    /// Marks the lease as one that the storage keeps until that moment at least.
    pub(crate) fn kept_until(mut self, keep_until: Moment) -> Self {
        self.keep_until = keep_until;
        self
    }

    /// Marks the lease as resumed from a ticket for `ttl`. The previous holder may have shortened it to that TTL by a
    /// renewal that is still to be executed. The lease relies on no more until no such renewal is possible.
    pub(crate) fn resumed_for(mut self, sent: Moment, ttl: Duration) -> Self {
        self.effects.push(Effect { sent, until: any_executable_until(sent), ttl, shortens: true });
        self.schedule(sent);
        self
    }

    /// Returns when the client considers the lease expired.
    pub(crate) fn deadline(&self) -> Moment {
        min(self.storage_deadline(), self.hold_until)
    }

    /// Returns the earliest end that the lease may have at the storage, less the margin, without regard to `max_hold`.
    fn storage_deadline(&self) -> Moment {
        let confirmed = &self.confirmed;
        let shortened =
            self.shortening().map(|effect| deadline(max(effect.sent, confirmed.sent), effect.ttl));
        shortened.fold(confirmed.deadline(), min)
    }

    fn shortening(&self) -> impl Iterator<Item = &Effect> {
        self.effects.iter().filter(|effect| effect.shortens)
    }

    /// Returns when `max_hold` ends the lease.
    pub(crate) fn hold_until(&self) -> Moment {
        self.hold_until
    }

    /// Returns the TTL that the holder wants.
    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Returns how long the lease lasts from its grant or last renewal. The next call has a part of that time.
    pub(crate) fn lasts(&self) -> Duration {
        if self.confirmed.partial { min(self.ttl, self.confirmed.given) } else { self.ttl }
    }

    /// Returns `true` if the engine renews it by itself.
    pub(crate) fn is_renewed(&self) -> bool {
        self.renewal != Renewal::Never
    }

    /// Returns the TTL that a renewal gives for certain, even if an earlier renewal is executed late.
    pub(crate) fn certain_ttl(&self) -> Duration {
        self.shortening().map(|effect| effect.ttl).fold(self.ttl, min)
    }

    /// Returns `true` if no renewal that brings the end forward can be executed from now on.
    pub(crate) fn is_settled(&self, now: Moment) -> bool {
        !self.shortens() && self.shortening().all(|effect| effect.until <= now)
    }

    /// Returns `true` if a renewal that leaves now brings the end of the lease forward. However late it is executed, that
    /// is not to a moment before `keep_until`.
    pub(crate) fn shortens_at(&self, now: Moment) -> bool {
        self.shortens() && now.after(self.ttl) >= self.keep_until
    }

    /// Returns `true` if the lease may end later than the holder wants: the storage has confirmed a longer TTL, or may be
    /// about to give it.
    fn shortens(&self) -> bool {
        let lengthening = self.effects.iter().filter(|effect| !effect.shortens);
        self.ttl < lengthening.map(|effect| effect.ttl).fold(self.confirmed.asked, max)
    }

    /// Returns when the lease has ended at the storage, whatever was executed late or not answered.
    pub(crate) fn ended_by(&self, now: Moment) -> Moment {
        now.after(by_a_slow_clock(self.longest_ttl.saturating_mul(2)))
    }

    /// Returns how many renewals were sent.
    pub(crate) fn calls(&self) -> u32 {
        self.calls
    }

    /// Returns how many renewals were answered.
    pub(crate) fn renewals(&self) -> u32 {
        self.renewals
    }

    /// Returns how many renewals were not answered since one was.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// Returns when it next needs [`Input::Wake`].
    pub(crate) fn wake(&self) -> Moment {
        let next = match self.state {
            State::Idle => self.renew_at,
            State::InLane => Moment::FAR,
            State::InFlight { call, .. } => self.answer_by(call),
        };
        if planted::is(Bug::LateRenewalRevives) {
            return next;
        }
        min(self.deadline(), next)
    }

    /// Notes that the renewal leaves now. If it brings the end forward, that counts from here: its answer may be lost.
    pub(crate) fn sent(&mut self, call: Call) {
        let (sent, ttl, shortens) = (call.sent, self.ttl, self.shortens_at(call.sent));
        self.state = State::InFlight { call, ttl, shortens };
        self.calls = self.calls.wrapping_add(1);
        let until = executable_until(sent, ttl);
        match self.effects.iter_mut().find(|effect| effect.ttl == ttl && effect.shortens == shortens) {
            // An effect counts from the first renewal that has it.
            Some(effect) => effect.until = max(effect.until, until),
            None => self.effects.push(Effect { sent, until, ttl, shortens }),
        }
    }

    /// Processes an input. Returns what to do next.
    pub(crate) fn step(&mut self, now: Moment, input: Input) -> Action {
        if self.over {
            return Action::None;
        }
        if let Input::Answer { answer: Some(RenewReply::NotHeld), .. } | Input::Gone = input {
            return self.lose(Lost::Taken);
        }
        if let Some(lost) = self.expire(now) {
            return lost;
        }
        match input {
            Input::Wake => match self.state {
                State::InFlight { call, .. } if now >= self.answer_by(call) => self.failed(now),
                State::Idle if now >= self.renew_at => self.renew(),
                _ => Action::None,
            },
            Input::Answer { call, answer } => self.answered(now, call, answer),
            Input::Extend(ttl) => {
                self.ttl = ttl;
                self.longest_ttl = max(self.longest_ttl, ttl);
                self.wanted_until = now.after(ttl);
                self.renew_now()
            }
            Input::RenewNow => {
                self.wanted_until = now.after(self.ttl);
                self.renew_now()
            }
            Input::Verify => {
                self.spread_next = true;
                self.renew_now()
            }
            Input::Inspected { sent, remaining } => self.inspected(now, sent, remaining),
            Input::Gone => Action::None,
        }
    }

    fn answered(&mut self, now: Moment, call: Call, answer: Option<RenewReply>) -> Action {
        match (self.state, answer) {
            (
                State::InFlight { call: sent, ttl: asked, shortens },
                Some(RenewReply::Renewed { ttl: given }),
            ) if sent == call => self.renewed(now, call.sent, asked, given, shortens),
            (State::InFlight { call: sent, .. }, _) if sent == call => self.failed(now),
            // The reply to a renewal that was given up: the reply to a later one supersedes it.
            _ => Action::None,
        }
    }

    fn expire(&mut self, now: Moment) -> Option<Action> {
        if now < self.deadline() || planted::is(Bug::LateRenewalRevives) {
            return None;
        }
        let why = if self.hold_until <= self.storage_deadline() { Lost::MaxHold } else { Lost::Expired };
        Some(self.lose(why))
    }

    /// Notes that a renewal for `asked` was confirmed. Unless it shortens, it never takes away what an earlier one gave.
    /// A storage that cannot give it all is asked again while that lasts which it gave.
    fn renewed(
        &mut self,
        now: Moment,
        sent: Moment,
        asked: Duration,
        given: Duration,
        shortens: bool,
    ) -> Action {
        self.effects.retain(|effect| effect.shortens && sent < effect.until);
        let sent = if planted::is(Bug::DeadlineFromReply) { now } else { sent };
        // Less than the margin is a matter of the storage's resolution.
        let partial = given.saturating_add(margin(asked)) < asked;
        let renewed = Confirmed { sent, given, asked, partial };
        if shortens || renewed.deadline() >= self.confirmed.deadline() {
            self.confirmed = renewed;
        } else {
            (self.confirmed.asked, self.confirmed.partial) = (asked, partial);
        }
        self.state = State::Idle;
        self.failures = 0;
        self.renewals = self.renewals.wrapping_add(1);
        self.schedule(sent);
        self.renew_if_demanded()
    }

    /// Notes that an inspection, executed between `sent` and now, has shown `remaining`. If that is less than what was
    /// confirmed, and than what a renewal of its own may have left, another client has brought the end forward.
    ///
    /// The remaining time of a fast inspection counts from when it was sent. For a lease that nothing has shortened,
    /// that costs no more than the duration of the inspection. A slow inspection has to show an end that is too early
    /// even if it was executed just now: a slow inspection alone must not lose a lease.
    fn inspected(&mut self, now: Moment, sent: Moment, remaining: Duration) -> Action {
        let relied_on = self.storage_deadline();
        let seen = Confirmed { sent, given: remaining, asked: self.confirmed.asked, partial: true };
        if sent < self.confirmed.sent || seen.deadline() >= relied_on {
            return Action::None;
        }
        let shortened = now.after(remaining) < relied_on;
        let slow = now.since(sent) > margin(self.ttl);
        if !shortened && slow {
            return if self.is_renewed() { self.renew_now() } else { Action::None };
        }
        if !shortened {
            let partial = self.confirmed.partial;
            self.confirmed = Confirmed { partial, ..seen };
            return Action::None;
        }
        self.confirmed = seen;
        if let Some(lost) = self.expire(now) {
            return lost;
        }
        // The renewal in flight may have been executed before the inspection. Its reply says nothing of the new end.
        if matches!(self.state, State::InFlight { .. }) {
            self.state = State::Idle;
        }
        if self.is_renewed() { self.renew_now() } else { Action::None }
    }

    /// Returns until when it waits for the reply to a renewal.
    fn answer_by(&self, call: Call) -> Moment {
        call.sent.after(renew_limit(self.lasts()))
    }

    fn renew_now(&mut self) -> Action {
        self.demanded = self.calls.wrapping_add(1);
        match self.state {
            State::Idle => self.renew(),
            State::InLane | State::InFlight { .. } => Action::None,
        }
    }

    fn renew_if_demanded(&mut self) -> Action {
        if self.demanded == self.calls.wrapping_add(1) { self.renew() } else { Action::None }
    }

    fn renew(&mut self) -> Action {
        self.state = State::InLane;
        Action::Renew
    }

    fn failed(&mut self, now: Moment) -> Action {
        self.state = State::Idle;
        self.failures = self.failures.saturating_add(1);
        let left = self.deadline().since(now);
        let pause = (left / 8).clamp(RETRY_SHORTEST, RETRY_LONGEST);
        self.renew_at = match self.renewal {
            Renewal::Never if !self.is_owed(now) => Moment::FAR,
            _ => now.after(jitter(self.owner, self.failures, pause)),
        };
        self.renew_if_demanded()
    }

    /// Returns `true` if the storage has given less than the holder wants, who wants it still.
    fn is_owed(&self, now: Moment) -> bool {
        self.confirmed.partial && now < self.wanted_until
    }

    /// Returns the time that the next renewal is a part of, after a request that was sent at `sent`.
    fn renewable(&self, sent: Moment) -> Duration {
        let ttl = min(self.certain_ttl(), self.lasts());
        if self.confirmed.partial { min(ttl, self.storage_deadline().since(sent)) } else { ttl }
    }

    /// Schedules the next renewal after a request that was sent at `sent`.
    fn schedule(&mut self, sent: Moment) {
        let ttl = self.renewable(sent);
        // A longer TTL that the holder wants is certain only after a renewal that is sent when no shorter one can be
        // executed any more.
        let due = self.shortening().filter(|effect| effect.ttl < self.ttl).map(|effect| effect.until);
        let due = due.fold(Moment::ZERO, max);
        let due = if due == Moment::ZERO { Moment::FAR } else { max(sent, due) };
        let interval = match self.renewal {
            // Each lease renews earlier by its own part of a quarter: many leases granted at once spread out.
            Renewal::Automatic => jitter(self.owner, self.renewals, ttl / 3),
            Renewal::Every(every) => min(every, ttl / 3 * 2),
            Renewal::Never if self.is_owed(sent) => jitter(self.owner, self.renewals, ttl / 3),
            Renewal::Never => {
                self.renew_at = due;
                return;
            }
        };
        let interval = if std::mem::take(&mut self.spread_next) {
            interval - Duration::from_nanos(self.owner.spread(self.renewals, nanos(interval / 8 * 7)))
        } else {
            interval
        };
        // Rounded to a grid, so that renewals that fall due close together leave in one batch.
        let grid = min(ttl / GRID, interval / 16);
        self.renew_at = min(sent.after(interval).floor(grid), due);
    }

    fn lose(&mut self, lost: Lost) -> Action {
        self.over = true;
        Action::Lost(lost)
    }
}

/// How many steps of the renewal grid fit into a TTL.
const GRID: u32 = 1000;
/// When a lease is renewed that was granted for less than the claim asked for.
const SOON: Duration = Duration::from_millis(50);
const RETRY_SHORTEST: Duration = Duration::from_millis(10);
const RETRY_LONGEST: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
