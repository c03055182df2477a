//! The lease: an acquisition from its grant to its end. Pure: it is told the time and says what to do.
//!
//! The client considers a lease expired before the storage does: the deadline counts from before the request was sent,
//! less a margin for clocks that run at different speeds. A lost lease stays lost.
//!
//! What is known of the end at the storage is kept as two things: what the storage has *confirmed* last, and the
//! *effects* of calls that may still be executed, for the first time or once more, each until when and to which end.
//! The deadline is the earliest end that these allow, so an effect that brings the end forward counts from the moment
//! it leaves, until a renewal is confirmed that was sent when it could not be executed any more.
//!
//! | State of the call | Input | Next state | Action |
//! |---|---|---|---|
//! | `None` | it is time to renew, or `RenewNow`, `Verify`, `Extend` | `Queued` | renew |
//! | `Queued`: the renewal waits in its lane | it leaves ([`Lease::sent`]) | `Sent` | |
//! | `Sent`: the renewal is in flight | renewed | `None`, or `Queued` if one is demanded that is sent later | |
//! | | unknown, or no answer in time | `None` until the next try, or `Queued` as above | |
//! | | `RenewNow`, `Verify`, `Extend` | `Sent`, and one more is demanded | |
//! | any | `Seen`: another client has brought the end forward | `Queued`, if it renews by itself | renew |
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
    /// A renewal was answered; `None` means that the outcome is unknown.
    Answer { call: Call, answer: Option<RenewReply> },
    /// Renew now, whatever the plan says.
    RenewNow,
    /// The storage may have forgotten it: only a renewal sent from now on tells.
    Verify,
    /// Replace the TTL and renew now.
    Extend(Duration),
    /// A look that was sent then has shown this lease, and how much of it is left.
    Seen { sent: Moment, remaining: Duration },
    /// The storage was seen to have another holder, or none.
    Gone,
}

/// What to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Rest,
    /// Send a renewal, and call [`Lease::sent`] when it leaves.
    Renew,
    /// The lease is over. Nothing follows.
    Lost(Lost),
}

#[derive(Debug)]
pub(crate) struct Lease {
    owner: Owner,
    /// The TTL that the holder wants.
    ttl: Duration,
    renewal: Renewal,
    confirmed: Confirmed,
    effects: Vec<Effect>,
    hold_until: Moment,
    renew_at: Moment,
    state: State,
    /// How many renewals must have left: one more than have, if one is to follow the present one.
    demanded: u32,
    /// How often one was sent, answered, and, since the last answer, not answered.
    calls: u32,
    renewals: u32,
    failures: u32,
    /// All leases are renewed at once, so the next renewal of each is spread over the whole interval.
    spread: bool,
    /// The longest TTL that was ever asked for.
    longest: Duration,
    over: bool,
}

/// What the storage has said last: the lease lasted for `given` when a request was executed that left at `sent`.
#[derive(Clone, Copy, Debug)]
struct Confirmed {
    sent: Moment,
    given: Duration,
    /// The TTL that was asked for then.
    asked: Duration,
    /// It is for less than the holder wants, and a renewal makes it whole.
    partial: bool,
}

/// What a call does that may be executed from `sent` to `until`, however often: it lets the lease last for `ttl` from
/// then.
#[derive(Clone, Copy, Debug)]
struct Effect {
    sent: Moment,
    until: Moment,
    ttl: Duration,
    /// Also if it lasts longer.
    shortens: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    None,
    Queued,
    Sent { call: Call, ttl: Duration, shortens: bool },
}

impl Confirmed {
    fn deadline(&self) -> Moment {
        deadline(self.sent, self.given)
    }
}

impl Lease {
    /// A lease granted for `ttl` to a claim that was sent at `sent`.
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
            renewal,
            confirmed: Confirmed { sent, given: ttl, asked: ttl, partial: false },
            effects: Vec::new(),
            hold_until: max_hold.map_or(Moment::FAR, |most| sent.after(most)),
            renew_at: Moment::FAR,
            state: State::None,
            demanded: 0,
            calls: 0,
            renewals: 0,
            failures: 0,
            spread: false,
            longest: ttl,
            over: false,
        };
        lease.plan(sent);
        lease
    }

    /// The same lease, granted to a claim for `ttl`. If it was given less, it is renewed soon: not at once, since many
    /// are over by then.
    pub(crate) fn claimed(mut self, sent: Moment, ttl: Duration) -> Self {
        if ttl > self.ttl {
            self.confirmed.partial = true;
            self.renew_at = min(self.renew_at, sent.after(min(self.ttl / 8, SOON)));
            (self.ttl, self.longest) = (ttl, ttl);
        }
        self
    }

    /// The same lease, resumed from a ticket for `ttl`. The holder before may have shortened it to that in a renewal
    /// that is still to be executed, so no more is relied on until none can be.
    pub(crate) fn resumed(mut self, sent: Moment, ttl: Duration) -> Self {
        self.effects.push(Effect { sent, until: any_executable_until(sent), ttl, shortens: true });
        self.plan(sent);
        self
    }

    /// When the client considers the lease expired.
    pub(crate) fn deadline(&self) -> Moment {
        min(self.storage_deadline(), self.hold_until)
    }

    /// The same, whatever `max_hold` says: the earliest end that the storage may have, less the margin.
    fn storage_deadline(&self) -> Moment {
        let confirmed = &self.confirmed;
        let shortened =
            self.shortening().map(|effect| deadline(max(effect.sent, confirmed.sent), effect.ttl));
        shortened.fold(confirmed.deadline(), min)
    }

    fn shortening(&self) -> impl Iterator<Item = &Effect> {
        self.effects.iter().filter(|effect| effect.shortens)
    }

    /// When `max_hold` is over.
    pub(crate) fn hold_until(&self) -> Moment {
        self.hold_until
    }

    pub(crate) fn ttl(&self) -> Duration {
        self.ttl
    }

    /// How long it lasts from its grant or last renewal: what the next call has time for.
    pub(crate) fn lasts(&self) -> Duration {
        if self.confirmed.partial { min(self.ttl, self.confirmed.given) } else { self.ttl }
    }

    /// Returns `true` if it is renewed without being asked to by its holder.
    pub(crate) fn is_renewed(&self) -> bool {
        self.renewal != Renewal::Never
    }

    /// The TTL that a renewal is sure to give, whatever is executed late.
    pub(crate) fn sure(&self) -> Duration {
        self.shortening().map(|effect| effect.ttl).fold(self.ttl, min)
    }

    /// Returns `true` if no renewal that brings the end forward can be executed from now on.
    pub(crate) fn is_settled(&self, now: Moment) -> bool {
        !self.shortens() && self.shortening().all(|effect| effect.until <= now)
    }

    /// Returns `true` if the next renewal brings the end of the lease forward: the storage has confirmed a longer TTL
    /// than is wanted, or may be about to give it.
    pub(crate) fn shortens(&self) -> bool {
        let lengthening = self.effects.iter().filter(|effect| !effect.shortens);
        self.ttl < lengthening.map(|effect| effect.ttl).fold(self.confirmed.asked, max)
    }

    /// When it has ended at the storage, whatever was executed late or not answered.
    pub(crate) fn ended_by(&self, now: Moment) -> Moment {
        now.after(by_a_slow_clock(self.longest.saturating_mul(2)))
    }

    /// How often a renewal was sent.
    pub(crate) fn calls(&self) -> u32 {
        self.calls
    }

    /// How often a renewal was answered.
    pub(crate) fn renewals(&self) -> u32 {
        self.renewals
    }

    /// How often a renewal was not answered since one was.
    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// When it wants to be woken at the latest.
    pub(crate) fn wake(&self) -> Moment {
        let next = match self.state {
            State::None => self.renew_at,
            State::Queued => Moment::FAR,
            State::Sent { call, .. } => self.answer_by(call),
        };
        if planted::is(Bug::LateRenewalRevives) {
            return next;
        }
        min(self.deadline(), next)
    }

    /// The renewal leaves now. If it brings the end forward, that counts from here: only its answer may be lost.
    pub(crate) fn sent(&mut self, call: Call) {
        let (sent, ttl, shortens) = (call.sent, self.ttl, self.shortens());
        self.state = State::Sent { call, ttl, shortens };
        self.calls = self.calls.wrapping_add(1);
        let until = executable_until(sent, ttl);
        match self.effects.iter_mut().find(|effect| effect.ttl == ttl && effect.shortens == shortens) {
            // It counts from the first on.
            Some(effect) => effect.until = max(effect.until, until),
            None => self.effects.push(Effect { sent, until, ttl, shortens }),
        }
    }

    pub(crate) fn step(&mut self, now: Moment, input: Input) -> Action {
        if self.over {
            return Action::Rest;
        }
        if let Input::Answer { answer: Some(RenewReply::NotHeld), .. } | Input::Gone = input {
            return self.lose(Lost::Taken);
        }
        if let Some(lost) = self.expired(now) {
            return lost;
        }
        match input {
            Input::Wake => match self.state {
                State::Sent { call, .. } if now >= self.answer_by(call) => self.failed(now),
                State::None if now >= self.renew_at => self.renew(),
                _ => Action::Rest,
            },
            Input::Answer { call, answer } => match (self.state, answer) {
                (State::Sent { call: sent, ttl: asked, shortens }, answer) if sent == call => match answer {
                    Some(RenewReply::Renewed { ttl: given }) => {
                        self.renewed(now, call.sent, asked, given, shortens)
                    }
                    _ => self.failed(now),
                },
                // An answer to a call that was given up: whatever it says, a newer one knows better.
                _ => Action::Rest,
            },
            Input::Extend(ttl) => {
                self.ttl = ttl;
                self.longest = max(self.longest, ttl);
                self.renew_now()
            }
            Input::RenewNow => self.renew_now(),
            Input::Verify => {
                self.spread = true;
                self.renew_now()
            }
            Input::Seen { sent, remaining } => self.seen(now, sent, remaining),
            Input::Gone => Action::Rest,
        }
    }

    fn expired(&mut self, now: Moment) -> Option<Action> {
        if now < self.deadline() || planted::is(Bug::LateRenewalRevives) {
            return None;
        }
        let why = if self.hold_until <= self.storage_deadline() { Lost::MaxHold } else { Lost::Expired };
        Some(self.lose(why))
    }

    /// A renewal that asked for `asked` was confirmed. It never takes away what an earlier one gave, unless it says so.
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
        let renewed = Confirmed { sent, given, asked, partial: false };
        if shortens || renewed.deadline() >= self.confirmed.deadline() {
            self.confirmed = renewed;
        } else {
            (self.confirmed.asked, self.confirmed.partial) = (asked, false);
        }
        self.state = State::None;
        self.failures = 0;
        self.renewals = self.renewals.wrapping_add(1);
        self.plan(sent);
        self.renew_if_demanded()
    }

    /// A look was executed between `sent` and now, and has shown that `remaining` was left then. If that is less than
    /// what was confirmed, another client has brought the end forward.
    ///
    /// A look that took a moment only is taken at its word, counted from when it was sent: that costs a lease that
    /// nothing has shortened no more than that moment. One that took longer has to show an end that is too early even
    /// if it was executed just now: a slow look alone must not lose a lease.
    fn seen(&mut self, now: Moment, sent: Moment, remaining: Duration) -> Action {
        let relied_on = self.confirmed.deadline();
        let seen = Confirmed { sent, given: remaining, asked: self.confirmed.asked, partial: true };
        if sent < self.confirmed.sent || seen.deadline() >= relied_on {
            return Action::Rest;
        }
        let shortened = now.after(remaining) < relied_on;
        let slow = now.since(sent) > margin(self.ttl);
        if !shortened && slow {
            return if self.is_renewed() { self.renew_now() } else { Action::Rest };
        }
        if !shortened {
            let partial = self.confirmed.partial;
            self.confirmed = Confirmed { partial, ..seen };
            return Action::Rest;
        }
        self.confirmed = seen;
        if let Some(lost) = self.expired(now) {
            return lost;
        }
        // What is in flight may have been executed before: its answer says nothing of the new end.
        if matches!(self.state, State::Sent { .. }) {
            self.state = State::None;
        }
        if self.is_renewed() { self.renew_now() } else { Action::Rest }
    }

    /// How long the answer to a renewal is waited for.
    fn answer_by(&self, call: Call) -> Moment {
        call.sent.after(renew_limit(self.lasts()))
    }

    fn renew_now(&mut self) -> Action {
        self.demanded = self.calls.wrapping_add(1);
        match self.state {
            State::None => self.renew(),
            State::Queued | State::Sent { .. } => Action::Rest,
        }
    }

    fn renew_if_demanded(&mut self) -> Action {
        if self.demanded == self.calls.wrapping_add(1) { self.renew() } else { Action::Rest }
    }

    fn renew(&mut self) -> Action {
        self.state = State::Queued;
        Action::Renew
    }

    fn failed(&mut self, now: Moment) -> Action {
        self.state = State::None;
        self.failures = self.failures.saturating_add(1);
        let left = self.deadline().since(now);
        let pause = (left / 8).clamp(RETRY_SHORTEST, RETRY_LONGEST);
        self.renew_at = match self.renewal {
            Renewal::Never if !self.confirmed.partial => Moment::FAR,
            _ => now.after(jitter(self.owner, self.failures, pause)),
        };
        self.renew_if_demanded()
    }

    fn plan(&mut self, sent: Moment) {
        let ttl = self.sure();
        // A longer TTL that was asked for meanwhile is sure only once it is asked for after that.
        let due = self.shortening().filter(|effect| effect.ttl < self.ttl).map(|effect| effect.until);
        let due = due.fold(Moment::ZERO, max);
        let due = if due == Moment::ZERO { Moment::FAR } else { max(sent, due) };
        let interval = match self.renewal {
            // Up to a quarter earlier, another part for each: many leases taken at once spread out.
            Renewal::Automatic => jitter(self.owner, self.renewals, ttl / 3),
            Renewal::Every(every) => min(every, ttl / 3 * 2),
            Renewal::Never => {
                self.renew_at = due;
                return;
            }
        };
        let interval = if std::mem::take(&mut self.spread) {
            interval - Duration::from_nanos(self.owner.spread(self.renewals, nanos(interval / 8 * 7)))
        } else {
            interval
        };
        // On a grid, so that renewals which fall due close together leave together.
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
/// When a lease is renewed that was given less than was asked for.
const SOON: Duration = Duration::from_millis(50);
const RETRY_SHORTEST: Duration = Duration::from_millis(10);
const RETRY_LONGEST: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(10);
    const T0: Moment = Moment::from_nanos(1_000_000_000_000);

    fn at(millis: u64) -> Moment {
        T0.after(Duration::from_millis(millis))
    }

    fn lease() -> Lease {
        Lease::granted(Owner::random(), T0, TTL, Renewal::Automatic, None)
    }

    fn renewed(sent: Moment) -> Input {
        Input::Answer { call: Call::at(sent), answer: Some(RenewReply::Renewed { ttl: TTL }) }
    }

    #[test]
    fn verified_by_a_renewal_sent_from_now_on() {
        let mut lease = lease();
        assert_eq!(lease.step(at(1), Input::Verify), Action::Renew);
        assert_eq!(lease.step(at(2), Input::Verify), Action::Rest, "that one has not left yet");
        lease.sent(Call::at(at(3)));
        assert_eq!(lease.step(at(4), Input::Verify), Action::Rest);
        assert_eq!(lease.step(at(5), renewed(at(3))), Action::Renew, "it was sent before");
        lease.sent(Call::at(at(6)));
        assert_eq!(lease.step(at(7), renewed(at(6))), Action::Rest);
        assert_eq!(lease.deadline(), at(10_006 - 102));
    }

    #[test]
    fn renewals_that_a_sweep_brought_together_spread_over_the_whole_interval_once() {
        let (mut early, mut late) = (0, 0);
        for _ in 0..1000 {
            let mut lease = lease();
            assert_eq!(lease.step(at(1), Input::Verify), Action::Renew);
            lease.sent(Call::at(at(1)));
            assert_eq!(
                lease.step(at(2), Input::Answer { call: Call::at(at(1)), answer: None }),
                Action::Rest
            );
            assert_eq!(lease.step(at(600), Input::Wake), Action::Renew);
            lease.sent(Call::at(at(600)));
            assert_eq!(lease.step(at(601), renewed(at(600))), Action::Rest);
            let next = lease.wake();
            assert!(next > at(600) && next <= at(600 + 3_334), "{next:?}");
            early += u32::from(next < at(600 + 1_100));
            late += u32::from(next > at(600 + 2_200));
            assert_eq!(lease.step(next, Input::Wake), Action::Renew);
            lease.sent(Call::at(next));
            lease.step(next, renewed(next));
            assert!(lease.wake() >= next.after(Duration::from_millis(2_489)), "as ever from then on");
        }
        assert!(early > 200 && late > 200, "{early} early, {late} late");
    }

    #[test]
    fn deadline_counts_from_before_the_request_less_the_margin() {
        assert_eq!(lease().deadline(), at(10_000 - 102));
    }

    #[test]
    fn renews_within_a_third_and_moves_the_deadline_from_the_sending() {
        let mut lease = lease();
        let wake = lease.wake();
        assert!(wake >= at(2_490) && wake <= at(3_334), "{wake:?}");
        assert_eq!(wake.as_nanos() % 10_000_000, 0, "on the grid");
        assert_eq!(lease.step(wake, Input::Wake), Action::Renew);
        assert_eq!(lease.step(wake, Input::Wake), Action::Rest, "one at a time");
        lease.sent(Call::at(at(3_400)));
        assert_eq!(lease.step(at(4_000), renewed(at(3_400))), Action::Rest);
        assert_eq!(lease.deadline(), at(3_400 + 10_000 - 102));
    }

    #[test]
    fn phases_spread() {
        let wakes: Vec<_> = (0..1000).map(|_| lease().wake().since(T0)).collect();
        let early = wakes.iter().filter(|wake| **wake < Duration::from_millis(2_917)).count();
        assert!((350..650).contains(&early), "{early} of 1000 in the earlier half");
    }

    #[test]
    fn unknown_is_neither_held_for_longer_nor_lost() {
        let mut lease = lease();
        let before = lease.deadline();
        assert_eq!(lease.step(at(3_400), Input::Wake), Action::Renew);
        lease.sent(Call::at(at(3_400)));
        assert_eq!(
            lease.step(at(3_500), Input::Answer { call: Call::at(at(3_400)), answer: None }),
            Action::Rest
        );
        assert_eq!(lease.failures, 1);
        assert_eq!(lease.deadline(), before);
        assert!(lease.wake() <= at(4_000), "tries again soon");
        assert_eq!(lease.step(before, Input::Wake), Action::Lost(Lost::Expired));
    }

    #[test]
    fn a_call_without_answer_is_given_up_and_repeated() {
        let mut lease = lease();
        assert_eq!(lease.step(at(3_400), Input::Wake), Action::Renew);
        lease.sent(Call::at(at(3_400)));
        let limit = lease.wake();
        assert_eq!(limit, at(3_400).after(renew_limit(TTL)));
        assert_eq!(lease.step(limit, Input::Wake), Action::Rest);
        let again = lease.wake();
        assert_eq!(lease.step(again, Input::Wake), Action::Renew);
        lease.sent(Call::at(again));
        let deadline = lease.deadline();
        assert_eq!(lease.step(again, renewed(at(3_400))), Action::Rest, "an answer to the old call");
        assert_eq!(lease.deadline(), deadline);
    }

    #[test]
    fn a_lease_that_was_given_less_is_made_whole_soon_and_until_it_is() {
        for renewal in [Renewal::Automatic, Renewal::Never] {
            let given = Duration::from_secs(4);
            let mut lease = Lease::granted(Owner::random(), T0, given, renewal, None).claimed(T0, TTL);
            assert_eq!((lease.ttl(), lease.deadline()), (TTL, T0.after(given - margin(given))));
            let mut now = lease.wake();
            assert_eq!(now, T0.after(SOON));
            for _ in 0..2 {
                assert_eq!(lease.step(now, Input::Wake), Action::Renew);
                lease.sent(Call::at(now));
                assert_eq!(lease.wake(), now.after(renew_limit(given)), "there is time for several tries");
                assert_eq!(lease.step(lease.wake(), Input::Wake), Action::Rest);
                now = lease.wake();
            }
            assert_eq!(lease.step(now, Input::Wake), Action::Renew);
            lease.sent(Call::at(now));
            assert_eq!(lease.step(now, renewed(now)), Action::Rest);
            assert_eq!(lease.deadline(), now.after(TTL - margin(TTL)));
            assert_eq!(lease.wake() == lease.deadline(), renewal == Renewal::Never);
        }
    }

    #[test]
    fn a_late_ok_does_not_revive() {
        let mut lease = lease();
        assert_eq!(lease.step(at(3_400), Input::Wake), Action::Renew);
        lease.sent(Call::at(at(3_400)));
        assert_eq!(lease.step(at(9_900), renewed(at(3_400))), Action::Lost(Lost::Expired));
        assert_eq!(lease.step(at(9_901), renewed(at(3_400))), Action::Rest);
    }

    #[test]
    fn not_held_is_lost_at_once_even_from_an_old_call() {
        let mut lease = lease();
        let answer = Input::Answer { call: Call::at(at(1)), answer: Some(RenewReply::NotHeld) };
        assert_eq!(lease.step(at(5), answer), Action::Lost(Lost::Taken));
    }

    #[test]
    fn a_shorter_ttl_shortens_what_is_believed_before_it_is_answered() {
        let mut lease = lease();
        let short = Duration::from_secs(1);
        assert_eq!(lease.step(at(100), Input::Extend(short)), Action::Renew);
        lease.sent(Call::at(at(110)));
        assert_eq!(lease.deadline(), at(110).after(short - margin(short)));
    }

    #[test]
    fn a_shorter_ttl_may_come_again_after_its_answer() {
        for renewal in [Renewal::Automatic, Renewal::Never] {
            let mut lease = Lease::granted(Owner::random(), T0, TTL, renewal, None);
            let short = Duration::from_secs(1);
            assert_eq!(lease.step(at(100), Input::Extend(short)), Action::Renew);
            lease.sent(Call::at(at(110)));
            let answer = Some(RenewReply::Renewed { ttl: short });
            assert_eq!(lease.step(at(120), Input::Answer { call: Call::at(at(110)), answer }), Action::Rest);
            assert_eq!(lease.step(at(130), Input::Extend(TTL)), Action::Renew);
            lease.sent(Call::at(at(140)));
            assert_eq!(lease.step(at(150), renewed(at(140))), Action::Rest);
            assert_eq!(lease.deadline(), at(140).after(short - margin(short)), "it may be executed twice");
            // Past its patience, the long one is asked for once more, and is sure.
            assert!(lease.wake() < lease.deadline());
            assert_eq!(lease.step(at(800), Input::Wake), Action::Renew);
            lease.sent(Call::at(at(810)));
            assert_eq!(lease.step(at(820), renewed(at(810))), Action::Rest);
            assert_eq!(lease.deadline(), at(810).after(TTL - margin(TTL)));
        }
    }

    #[test]
    fn a_shorter_ttl_without_an_answer_does_not_shorten_what_is_owed() {
        let mut lease = lease();
        assert_eq!(lease.step(at(100), Input::Extend(Duration::from_secs(1))), Action::Renew);
        lease.sent(Call::at(at(110)));
        assert!(lease.ended_by(at(110)) >= at(110).after(TTL), "the storage may have it for that long");
    }

    #[test]
    fn max_hold_ends_whatever_is_renewed() {
        let max_hold = Some(Duration::from_secs(4));
        let mut lease = Lease::granted(Owner::random(), T0, TTL, Renewal::Automatic, max_hold);
        assert_eq!(lease.step(at(3_400), Input::Wake), Action::Renew);
        lease.sent(Call::at(at(3_400)));
        assert_eq!(lease.step(at(3_500), renewed(at(3_400))), Action::Rest);
        assert_eq!(lease.deadline(), at(4_000));
        assert_eq!(lease.step(at(4_000), Input::Wake), Action::Lost(Lost::MaxHold));
    }

    #[test]
    fn never_renews_when_told_so() {
        let mut lease = Lease::granted(Owner::random(), T0, TTL, Renewal::Never, None);
        assert_eq!(lease.wake(), lease.deadline());
        assert_eq!(lease.step(at(1_000), Input::RenewNow), Action::Renew, "but the caller may");
    }

    fn seen(lease: &mut Lease, now: Moment, sent: Moment, remaining: Duration) -> Action {
        lease.step(now, Input::Seen { sent, remaining })
    }

    #[test]
    fn a_lease_that_another_client_has_shortened_ends_by_its_new_end_and_is_renewed() {
        let mut lease = lease();
        let left = Duration::from_millis(200);
        assert_eq!(seen(&mut lease, at(1_005), at(1_000), left), Action::Renew);
        assert_eq!(lease.deadline(), at(1_000).after(left - margin(left)));
        lease.sent(Call::at(at(1_006)));
        assert_eq!(lease.deadline(), at(1_000).after(left - margin(left)), "until the renewal is confirmed");
        assert_eq!(lease.step(at(1_010), renewed(at(1_006))), Action::Rest);
        assert_eq!(lease.deadline(), at(1_006 + 10_000 - 102));
    }

    #[test]
    fn one_that_does_not_renew_by_itself_ends_by_its_new_end() {
        let mut lease = Lease::granted(Owner::random(), T0, TTL, Renewal::Never, None);
        let left = Duration::from_millis(200);
        assert_eq!(seen(&mut lease, at(1_005), at(1_000), left), Action::Rest);
        assert_eq!(lease.step(lease.wake(), Input::Wake), Action::Lost(Lost::Expired));
        assert_eq!(lease.deadline(), at(1_000).after(left - margin(left)));
    }

    #[test]
    fn a_renewal_in_flight_may_be_older_than_what_was_seen() {
        let mut lease = lease();
        assert_eq!(lease.step(at(900), Input::RenewNow), Action::Renew);
        lease.sent(Call::at(at(900)));
        let left = Duration::from_millis(200);
        assert_eq!(seen(&mut lease, at(1_005), at(1_000), left), Action::Renew);
        assert_eq!(lease.step(at(1_006), renewed(at(900))), Action::Rest, "executed before or after?");
        assert_eq!(lease.deadline(), at(1_000).after(left - margin(left)));
    }

    #[test]
    fn a_slow_look_does_not_lose_a_lease_that_nothing_has_shortened() {
        let mut lease = lease();
        // Executed at the last moment: 4 s of 10 are left then, and the look took 5.9 s.
        let before = lease.deadline();
        assert_eq!(seen(&mut lease, at(6_000), at(100), Duration::from_secs(4)), Action::Renew, "to be sure");
        assert_eq!(lease.deadline(), before);
    }

    #[test]
    fn a_look_that_shows_what_is_known_changes_nothing() {
        let mut lease = lease();
        let before = lease.deadline();
        assert_eq!(seen(&mut lease, at(1_001), at(1_000), Duration::from_millis(9_000)), Action::Rest);
        assert!(before.since(lease.deadline()) < Duration::from_millis(1), "{:?}", lease.deadline());
        // One that was sent before the last renewal knows less.
        assert_eq!(lease.step(at(2_000), Input::RenewNow), Action::Renew);
        lease.sent(Call::at(at(2_000)));
        assert_eq!(lease.step(at(2_001), renewed(at(2_000))), Action::Rest);
        assert_eq!(seen(&mut lease, at(2_002), at(1_900), Duration::from_millis(100)), Action::Rest);
        assert_eq!(lease.deadline(), at(2_000 + 10_000 - 102));
    }

    #[test]
    fn effects_of_renewals_that_fail_do_not_pile_up() {
        let mut lease = lease();
        let mut now = T0;
        for _ in 0..100 {
            now = now.after(Duration::from_millis(40));
            if lease.step(now, Input::RenewNow) == Action::Renew {
                lease.sent(Call::at(now));
            }
            lease.step(now, Input::Answer { call: Call::at(now), answer: None });
        }
        assert_eq!(lease.effects.len(), 1, "{:?}", lease.effects);
    }
}
