//! The life of one lease, from its grant to its end. Pure: it is told the time and says what to do.
//!
//! The client believes for a shorter time than the storage does: the deadline counts from before the
//! request was sent, less a margin for clocks that run at different speeds (rule R2). It only moves by a
//! renewal that was sent and answered while the lease was alive, and a lost lease stays lost (R3).

use std::cmp::{max, min};
use std::time::Duration;

use super::attempt::{any_executable_until, by_a_slow_clock, executable_until};
use super::planted::{self, Bug};
use crate::clock::{Moment, nanos};
use crate::guard::Lost;
use crate::options::Renewal;
use crate::storage::{Owner, Renew};

/// What happens to a lease.
#[derive(Debug)]
pub(crate) enum Input {
    /// The moment that [`Lease::wake`] asked for has come.
    Wake,
    /// The renewal sent at `sent` was answered; `None` means that the outcome is unknown.
    Answer { sent: Moment, answer: Option<Renew> },
    /// Renew now, whatever the plan says.
    RenewNow,
    /// The storage may have forgotten it: only a renewal sent from now on tells.
    Verify,
    /// Replace the TTL and renew now.
    Extend(Duration),
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
    ttl: Duration,
    /// For how long it was granted, if that is less than was asked for, until it is renewed.
    curt: Option<Duration>,
    renewal: Renewal,
    deadline: Moment,
    hold_until: Moment,
    renew_at: Moment,
    call: Call,
    /// Renew again as soon as the present call is answered.
    again: bool,
    /// All leases are renewed at once, so that the renewals after these have to be spread anew.
    bunched: bool,
    /// The next call brings the end of the lease forward.
    shorten: bool,
    /// Calls that do so and may still be executed, for the first time or once more.
    shortened: Option<Shortened>,
    /// How often it was sent, answered, and, since the last answer, not answered.
    calls: u32,
    renewals: u32,
    failures: u32,
    /// The longest TTL that was ever asked for.
    longest: Duration,
    over: bool,
}

#[derive(Clone, Copy, Debug)]
struct Shortened {
    until: Moment,
    ttl: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    None,
    /// Asked for, not sent yet.
    Queued,
    Sent {
        at: Moment,
        /// The TTL to which it brings the end forward, if it does.
        shorten: Option<Duration>,
    },
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
            curt: None,
            renewal,
            deadline: deadline(sent, ttl),
            hold_until: max_hold.map_or(Moment::FAR, |most| sent.after(most)),
            renew_at: Moment::FAR,
            call: Call::None,
            again: false,
            bunched: false,
            shorten: false,
            shortened: None,
            calls: 0,
            renewals: 0,
            failures: 0,
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
            self.curt = Some(self.ttl);
            self.renew_at = min(self.renew_at, sent.after(min(self.ttl / 8, SOON)));
            (self.ttl, self.longest) = (ttl, ttl);
        }
        self
    }

    /// The same lease, resumed from a ticket for `ttl`. Whoever handed it over may have shortened it to that in
    /// a renewal that is still to be executed, so no more is believed until none can be.
    pub(crate) fn resumed(mut self, sent: Moment, ttl: Duration) -> Self {
        self.shortened = Some(Shortened { until: any_executable_until(sent), ttl });
        self.plan(sent);
        self
    }

    /// The end of what the holder may believe.
    pub(crate) fn deadline(&self) -> Moment {
        min(self.deadline, self.hold_until)
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
        self.curt.map_or(self.ttl, |curt| min(self.ttl, curt))
    }

    /// Whether it is renewed at all unless its holder asks for it.
    pub(crate) fn is_renewed(&self) -> bool {
        self.renewal != Renewal::Never
    }

    /// The TTL that a renewal is sure to give, whatever was executed late.
    pub(crate) fn sure(&self) -> Duration {
        self.shortened.map_or(self.ttl, |shortened| min(self.ttl, shortened.ttl))
    }

    /// Whether no renewal that brings the end forward can be executed from now on.
    pub(crate) fn is_settled(&self, now: Moment) -> bool {
        let under_way = matches!(self.call, Call::Sent { shorten: Some(_), .. });
        !self.shorten && !under_way && self.shortened.is_none_or(|shortened| now >= shortened.until)
    }

    /// Whether the next renewal brings the end of the lease forward.
    pub(crate) fn shortens(&self) -> bool {
        self.shorten
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
        let next = match self.call {
            Call::None => self.renew_at,
            Call::Queued => Moment::FAR,
            Call::Sent { at, .. } => self.answer_by(at),
        };
        if planted::is(Bug::LateRenewalRevives) {
            return next;
        }
        min(self.deadline(), next)
    }

    /// The renewal leaves now. If it brings the end forward, that counts from here: only its answer may be lost.
    pub(crate) fn sent(&mut self, now: Moment) {
        self.call = Call::Sent { at: now, shorten: self.shorten.then_some(self.ttl) };
        self.calls = self.calls.wrapping_add(1);
        if self.shorten {
            self.deadline = min(self.deadline, deadline(now, self.ttl));
        }
    }

    pub(crate) fn step(&mut self, now: Moment, input: Input) -> Action {
        if self.over {
            return Action::Rest;
        }
        let revives = planted::is(Bug::LateRenewalRevives);
        if let Input::Answer { answer: Some(Renew::NotHeld), .. } | Input::Gone = input {
            return self.lose(Lost::Taken);
        }
        if now >= self.deadline() && !revives {
            return self.lose(if self.hold_until <= self.deadline { Lost::MaxHold } else { Lost::Expired });
        }
        match input {
            Input::Wake => match self.call {
                Call::Sent { at, .. } if now >= self.answer_by(at) => self.failed(now),
                Call::None if now >= self.renew_at => self.renew(),
                _ => Action::Rest,
            },
            Input::Answer { sent, answer: Some(Renew::Renewed { ttl }) } if self.is_for(sent) => {
                // One that was asked for meanwhile decides for itself.
                self.shorten &= self.again;
                self.shortened = self.shortened.filter(|shortened| sent < shortened.until);
                self.note_shortened(now);
                (self.call, self.curt) = (Call::None, None);
                self.failures = 0;
                self.renewals = self.renewals.wrapping_add(1);
                let sure = self.shortened.map_or(ttl, |shortened| min(ttl, shortened.ttl));
                let sent = if planted::is(Bug::DeadlineFromReply) { now } else { sent };
                // A renewal never takes away what an earlier one gave, unless it says so.
                self.deadline =
                    if sure < ttl { deadline(sent, sure) } else { max(self.deadline, deadline(sent, ttl)) };
                self.plan(sent);
                if self.again { self.renew() } else { Action::Rest }
            }
            Input::Answer { sent, answer: None } if self.is_for(sent) => self.failed(now),
            // An answer to a call that was given up: whatever it says, a newer one knows better.
            Input::Answer { .. } => Action::Rest,
            Input::Extend(ttl) => {
                self.shorten = ttl < self.ttl || (self.shorten && ttl == self.ttl);
                self.ttl = ttl;
                self.longest = max(self.longest, ttl);
                self.renew_now()
            }
            Input::RenewNow => self.renew_now(),
            Input::Verify => {
                self.bunched = true;
                self.renew_now()
            }
            Input::Gone => Action::Rest,
        }
    }

    /// How long the answer to a renewal that was sent at `at` is waited for.
    fn answer_by(&self, at: Moment) -> Moment {
        at.after(renew_limit(self.lasts()))
    }

    fn renew_now(&mut self) -> Action {
        match self.call {
            Call::None => self.renew(),
            Call::Queued => Action::Rest,
            Call::Sent { .. } => {
                self.again = true;
                Action::Rest
            }
        }
    }

    fn renew(&mut self) -> Action {
        self.again = false;
        self.call = Call::Queued;
        Action::Renew
    }

    fn is_for(&self, sent: Moment) -> bool {
        matches!(self.call, Call::Sent { at, .. } if at == sent)
    }

    fn failed(&mut self, now: Moment) -> Action {
        self.note_shortened(now);
        self.call = Call::None;
        self.failures = self.failures.saturating_add(1);
        let left = self.deadline().since(now);
        let pause = (left / 8).clamp(RETRY_SHORTEST, RETRY_LONGEST);
        self.renew_at = match self.renewal {
            Renewal::Never if self.curt.is_none() => Moment::FAR,
            _ => now.after(jitter(self.owner, self.failures, pause)),
        };
        if self.again { self.renew() } else { Action::Rest }
    }

    /// Answered or not, a call that shortens may be executed until its patience is over: requests come late,
    /// and twice.
    fn note_shortened(&mut self, now: Moment) {
        if let Call::Sent { at, shorten: Some(ttl) } = self.call {
            let until = executable_until(at, ttl);
            let before = self.shortened.filter(|before| now < before.until);
            self.shortened = Some(before.map_or(Shortened { until, ttl }, |before| Shortened {
                until: max(until, before.until),
                ttl: min(ttl, before.ttl),
            }));
        }
    }

    fn plan(&mut self, sent: Moment) {
        let ttl = self.sure();
        // A longer TTL that was asked for meanwhile is sure only once it is asked for after that.
        let short = self.shortened.filter(|shortened| shortened.ttl < self.ttl);
        let due = short.map_or(Moment::FAR, |shortened| max(sent, shortened.until));
        let interval = match self.renewal {
            // Up to a quarter earlier, another part for each: many leases taken at once spread out.
            Renewal::Automatic => jitter(self.owner, self.renewals, ttl / 3),
            Renewal::Every(every) => min(every, ttl / 3 * 2),
            Renewal::Never => {
                self.renew_at = due;
                return;
            }
        };
        let interval = if std::mem::take(&mut self.bunched) {
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

/// How much earlier than the storage the client stops to believe: 1 % for clocks that drift, at least
/// 10 ms, and 2 ms for storages that count in milliseconds.
pub(crate) fn margin(ttl: Duration) -> Duration {
    max(ttl / 100, Duration::from_millis(10)) + Duration::from_millis(2)
}

/// How long an answer to a renewal is waited for: there must be time for several tries.
pub(crate) fn renew_limit(ttl: Duration) -> Duration {
    (ttl / 6).clamp(Duration::from_millis(20), Duration::from_secs(5))
}

fn deadline(sent: Moment, ttl: Duration) -> Moment {
    sent.after(ttl.saturating_sub(margin(ttl)))
}

/// `span`, shortened by up to a quarter.
fn jitter(owner: Owner, salt: u32, span: Duration) -> Duration {
    span - Duration::from_nanos(owner.spread(salt, nanos(span / 4)))
}

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
        Input::Answer { sent, answer: Some(Renew::Renewed { ttl: TTL }) }
    }

    #[test]
    fn verified_by_a_renewal_sent_from_now_on() {
        let mut lease = lease();
        assert_eq!(lease.step(at(1), Input::Verify), Action::Renew);
        assert_eq!(lease.step(at(2), Input::Verify), Action::Rest, "that one has not left yet");
        lease.sent(at(3));
        assert_eq!(lease.step(at(4), Input::Verify), Action::Rest);
        assert_eq!(lease.step(at(5), renewed(at(3))), Action::Renew, "it was sent before");
        lease.sent(at(6));
        assert_eq!(lease.step(at(7), renewed(at(6))), Action::Rest);
        assert_eq!(lease.deadline(), at(10_006 - 102));
    }

    #[test]
    fn renewals_that_were_bunched_spread_over_the_whole_interval_once() {
        let (mut early, mut late) = (0, 0);
        for _ in 0..1000 {
            let mut lease = lease();
            assert_eq!(lease.step(at(1), Input::Verify), Action::Renew);
            lease.sent(at(1));
            assert_eq!(lease.step(at(2), Input::Answer { sent: at(1), answer: None }), Action::Rest);
            assert_eq!(lease.step(at(600), Input::Wake), Action::Renew);
            lease.sent(at(600));
            assert_eq!(lease.step(at(601), renewed(at(600))), Action::Rest);
            let next = lease.wake();
            assert!(next > at(600) && next <= at(600 + 3_334), "{next:?}");
            early += u32::from(next < at(600 + 1_100));
            late += u32::from(next > at(600 + 2_200));
            assert_eq!(lease.step(next, Input::Wake), Action::Renew);
            lease.sent(next);
            lease.step(next, renewed(next));
            assert!(lease.wake() >= next.after(Duration::from_millis(2_489)), "as ever from then on");
        }
        assert!(early > 200 && late > 200, "{early} early, {late} late");
    }

    #[test]
    fn deadline_counts_from_before_the_request_less_the_margin() {
        assert_eq!(lease().deadline(), at(10_000 - 102));
        assert_eq!(margin(Duration::from_millis(100)), Duration::from_millis(12));
    }

    #[test]
    fn renews_within_a_third_and_moves_the_deadline_from_the_sending() {
        let mut lease = lease();
        let wake = lease.wake();
        assert!(wake >= at(2_490) && wake <= at(3_334), "{wake:?}");
        assert_eq!(wake.as_nanos() % 10_000_000, 0, "on the grid");
        assert_eq!(lease.step(wake, Input::Wake), Action::Renew);
        assert_eq!(lease.step(wake, Input::Wake), Action::Rest, "one at a time");
        lease.sent(at(3_400));
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
        lease.sent(at(3_400));
        assert_eq!(lease.step(at(3_500), Input::Answer { sent: at(3_400), answer: None }), Action::Rest);
        assert_eq!(lease.failures, 1);
        assert_eq!(lease.deadline(), before);
        assert!(lease.wake() <= at(4_000), "tries again soon");
        assert_eq!(lease.step(before, Input::Wake), Action::Lost(Lost::Expired));
    }

    #[test]
    fn a_call_without_answer_is_given_up_and_repeated() {
        let mut lease = lease();
        assert_eq!(lease.step(at(3_400), Input::Wake), Action::Renew);
        lease.sent(at(3_400));
        let limit = lease.wake();
        assert_eq!(limit, at(3_400).after(renew_limit(TTL)));
        assert_eq!(lease.step(limit, Input::Wake), Action::Rest);
        let again = lease.wake();
        assert_eq!(lease.step(again, Input::Wake), Action::Renew);
        lease.sent(again);
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
                lease.sent(now);
                assert_eq!(lease.wake(), now.after(renew_limit(given)), "there is time for several tries");
                assert_eq!(lease.step(lease.wake(), Input::Wake), Action::Rest);
                now = lease.wake();
            }
            assert_eq!(lease.step(now, Input::Wake), Action::Renew);
            lease.sent(now);
            assert_eq!(lease.step(now, renewed(now)), Action::Rest);
            assert_eq!(lease.deadline(), now.after(TTL - margin(TTL)));
            assert_eq!(lease.wake() == lease.deadline(), renewal == Renewal::Never);
        }
    }

    #[test]
    fn a_late_ok_does_not_revive() {
        let mut lease = lease();
        assert_eq!(lease.step(at(3_400), Input::Wake), Action::Renew);
        lease.sent(at(3_400));
        assert_eq!(lease.step(at(9_900), renewed(at(3_400))), Action::Lost(Lost::Expired));
        assert_eq!(lease.step(at(9_901), renewed(at(3_400))), Action::Rest);
    }

    #[test]
    fn not_held_is_lost_at_once_even_from_an_old_call() {
        let mut lease = lease();
        let answer = Input::Answer { sent: at(1), answer: Some(Renew::NotHeld) };
        assert_eq!(lease.step(at(5), answer), Action::Lost(Lost::Taken));
    }

    #[test]
    fn a_shorter_ttl_shortens_what_is_believed_before_anybody_answers() {
        let mut lease = lease();
        let short = Duration::from_secs(1);
        assert_eq!(lease.step(at(100), Input::Extend(short)), Action::Renew);
        lease.sent(at(110));
        assert_eq!(lease.deadline(), at(110).after(short - margin(short)));
    }

    #[test]
    fn a_shorter_ttl_may_come_again_after_its_answer() {
        for renewal in [Renewal::Automatic, Renewal::Never] {
            let mut lease = Lease::granted(Owner::random(), T0, TTL, renewal, None);
            let short = Duration::from_secs(1);
            assert_eq!(lease.step(at(100), Input::Extend(short)), Action::Renew);
            lease.sent(at(110));
            let answer = Some(Renew::Renewed { ttl: short });
            assert_eq!(lease.step(at(120), Input::Answer { sent: at(110), answer }), Action::Rest);
            assert_eq!(lease.step(at(130), Input::Extend(TTL)), Action::Renew);
            lease.sent(at(140));
            assert_eq!(lease.step(at(150), renewed(at(140))), Action::Rest);
            assert_eq!(lease.deadline(), at(140).after(short - margin(short)), "it may be executed twice");
            // Past its patience, the long one is asked for once more, and is sure.
            assert!(lease.wake() < lease.deadline());
            assert_eq!(lease.step(at(800), Input::Wake), Action::Renew);
            lease.sent(at(810));
            assert_eq!(lease.step(at(820), renewed(at(810))), Action::Rest);
            assert_eq!(lease.deadline(), at(810).after(TTL - margin(TTL)));
        }
    }

    #[test]
    fn a_shorter_ttl_that_nobody_confirmed_does_not_shorten_what_is_owed() {
        let mut lease = lease();
        assert_eq!(lease.step(at(100), Input::Extend(Duration::from_secs(1))), Action::Renew);
        lease.sent(at(110));
        assert!(lease.ended_by(at(110)) >= at(110).after(TTL), "the storage may have it for that long");
    }

    #[test]
    fn max_hold_ends_whatever_is_renewed() {
        let max_hold = Some(Duration::from_secs(4));
        let mut lease = Lease::granted(Owner::random(), T0, TTL, Renewal::Automatic, max_hold);
        assert_eq!(lease.step(at(3_400), Input::Wake), Action::Renew);
        lease.sent(at(3_400));
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
}
