//! Answers to waiters and callers, and their time: C5, C6, C11, C12.

use std::cmp::{max, min};

use leasehold::storage::{WAITER_HEARTBEAT, WAITER_TTL};

use super::claims::story;
use super::{Checked, Weight, span};
use crate::clock::{bound, ms, nanos};
use crate::event::{Ev, Mode, Op};
use crate::history::{Call, Fault, History, Hold};

/// Checks C5: a claim is refused only while another client could hold the lock: from the moment that client asked
/// until the last moment at which the storage may remember it.
pub fn c5_false_busy(history: &History) -> Checked {
    let mut checked = Checked::default();
    let spans: Vec<_> = history.acquires().map(|call| (call, possible(history, call))).collect();
    for refused in history.acquires().filter(|call| call.was_refused()) {
        // At that time the storage grants nothing, to protect holders that it may have forgotten.
        let careful = |fault: &Fault| fault.event.wait_ms.is_some();
        if history.faults.iter().any(|f| careful(f) && f.touches(refused.from(), refused.to(), bound(500))) {
            continue;
        }
        checked.judged += 1;
        let has_other = spans.iter().any(|(other, until)| {
            other.invoke.lock == refused.invoke.lock
                && (other.invoke.w, other.invoke.i) != (refused.invoke.w, refused.invoke.i)
                // One claim with a definite refusal: this client never held the lock.
                && !(other.was_refused() && other.invoke.mode == Some(Mode::Try))
                && other.from() <= refused.to()
                && *until >= refused.from()
        });
        if !has_other {
            let text = format!(
                "worker {} was refused {} when no other client could hold it",
                refused.invoke.w, refused.invoke.lock
            );
            let latest = |(other, _): &&(&Call, u64)| {
                other.invoke.lock == refused.invoke.lock && other.from() < refused.from()
            };
            let before = spans.iter().filter(latest).max_by_key(|(_, until)| *until).map(|(call, _)| *call);
            let before = before.into_iter().flat_map(events);
            checked.add(Weight::Wrong, text, before.chain(events(refused)));
        }
    }
    checked
}

/// Returns until when the storage may remember an acquisition.
fn possible(history: &History, call: &Call) -> u64 {
    let w = call.invoke.w;
    // Returns `true` if a fault may have kept the cleanup from the storage.
    let delayed = |from: u64, to: u64| {
        let delays = |fault: &&Fault| {
            let harmless = ["acquire", "renew", "hints"].iter().any(|verb| fault.doing.starts_with(verb));
            !harmless && fault.is_on(w) && fault.touches(from, to, bound(1_000))
        };
        history.faults.iter().any(|fault| delays(&fault))
    };
    let held = history.holds.iter().find(|hold| hold.ok.w == w && hold.ok.i == call.invoke.i);
    if let Some(hold) = held {
        // The caller does not wait for the answer, but the engine releases the lock at once.
        let given_up = hold.release.as_ref().map(Call::to).or(hold.lost.as_ref().map(|lost| lost.t));
        let undone = given_up.unwrap_or(u64::MAX).saturating_add(bound(1_000));
        let over =
            if delayed(hold.from(), undone) { hold.surely_over() } else { min(hold.surely_over(), undone) };
        // A storage that was set back remembers leases and queue entries that are over.
        return match history.beyond(call.from(), undone, bound(1_000)) {
            Some(fault) => max(hold.lease_over(), fault.to.saturating_add(nanos(WAITER_TTL) + bound(1_000))),
            None => over,
        };
    }
    // A claim is executed within its patience or not at all, and is undone at once after that. If the
    // cleanup cannot reach the storage, the lease and the queue entry end by themselves, because neither is
    // renewed.
    let executed = call.to().saturating_add(patience(call));
    let undone = executed.saturating_add(bound(700));
    let (place, slack) = (if call.lines_up() { nanos(WAITER_TTL) } else { 0 }, bound(500));
    let ended = executed.saturating_add(max(call.ttl(), place)).saturating_add(slack);
    if let Some(fault) = history.beyond(call.from(), undone, slack) {
        return max(ended, fault.to.saturating_add(nanos(WAITER_TTL)).saturating_add(slack));
    }
    if delayed(call.from(), undone) { ended } else { undone }
}

/// Checks C6: a lock that is released while another client waits is granted within half a second as a rule. It is
/// always granted within the waiter's heartbeat, even without a hint.
///
/// The check judges a handover only if nothing but hints was disturbed.
pub fn c6_bounded_handover(history: &History) -> Checked {
    let mut checked = Checked::default();
    let (prompt, always) = (bound(PROMPT), nanos(WAITER_HEARTBEAT).saturating_add(bound(2_500)));
    for (lock, holds) in history.holds_by_lock() {
        for hold in &holds {
            let Some((freed, event)) = freed(hold) else { continue };
            // The next client may be granted the lock before the previous one gets the answer to its
            // release.
            let asked = hold.release.as_ref().map_or(freed, Call::from);
            let granted = holds.iter().map(|next| next.from()).filter(|from| *from > asked).min();
            let granted = granted.unwrap_or(u64::MAX);
            if granted <= freed {
                checked.judged += 1;
                continue;
            }
            // Returns the time during which a call waited while the lock was free.
            let waited = |call: &Call| {
                let since = max(freed, call.from().saturating_add(bound(100)));
                (since, min(min(call.to(), granted), history.end()))
            };
            let waiters = history.acquires().filter(|call| {
                let (since, until) = waited(call);
                call.lines_up() && call.invoke.lock == lock && since < until
            });
            let longest =
                waiters.map(|call| (call, waited(call))).max_by_key(|(_, (since, until))| until - since);
            let Some((waiter, (since, until))) = longest else { continue };
            let took = until - since;
            let disturbed =
                |fault: &&Fault| fault.touches(freed.saturating_sub(prompt), until, hold.ttl + bound(1_500));
            let mut faults = history.faults.iter().filter(disturbed).peekable();
            let hints_only = faults.peek().is_some();
            if faults.any(|fault| !fault.doing.starts_with("hints")) {
                continue;
            }
            checked.judged += 1;
            let weight = match took {
                took if took > always.saturating_add(history.stalled(freed, until)) => Weight::Wrong,
                took if took > prompt
                    && history.push
                    && !hints_only
                    && history.stalled(freed, until) < bound(100) =>
                {
                    Weight::Slow
                }
                _ => continue,
            };
            let text =
                format!("{lock} was free for {} while worker {} stood in line", span(took), waiter.invoke.w);
            checked.add(weight, text, story(hold).into_iter().chain([event]).chain(events(waiter)));
        }
    }
    checked.tolerate(50, 3)
}

/// How soon a released lock is granted to the next waiter, in milliseconds.
const PROMPT: u64 = 500;

/// Returns when a holder released the lock, if that is known.
fn freed(hold: &Hold) -> Option<(u64, crate::event::Event)> {
    let release = hold.release.as_ref()?;
    let dead =
        hold.lost.as_ref().is_some_and(|lost| lost.t <= release.from()) || hold.deadline <= release.from();
    match (release.op, &release.end) {
        (Op::Release, Some(end)) if end.ev == Ev::Ok => Some((end.t, end.clone())),
        (Op::Drop, Some(end)) if !dead => Some((end.t, end.clone())),
        _ => None,
    }
}

/// Checks C11: every call returns within its time limit, even if the storage does not answer.
pub fn c11_deadline_honesty(history: &History) -> Checked {
    let mut checked = Checked::default();
    for call in &history.calls {
        let Some(limit) = limit(call) else { continue };
        checked.judged += 1;
        let to = min(call.to(), history.end());
        if call.killed.is_some() {
            continue;
        }
        // No call returns while its worker is stopped.
        let stopped =
            history.faults.iter().filter(|fault| fault.doing == "stop" && fault.is_on(call.invoke.w));
        let stopped: u64 =
            stopped.map(|fault| min(fault.to, to).saturating_sub(max(fault.from, call.from()))).sum();
        let took = (to - call.from()).saturating_sub(stopped);
        let stalled = history.stalled(call.from(), to);
        let text = || {
            let (w, op, lock) = (call.invoke.w, call.op, &call.invoke.lock);
            format!("{op:?} {lock} of worker {w} took {} instead of at most {}", span(took), span(limit))
        };
        // Each of the three tries may wait for an answer that does not come.
        let retry = call.invoke.mode == Some(Mode::Retry);
        let silence = if retry { patience(call) * 3 } else { 0 };
        if took > (limit + silence).saturating_add(bound(2_000)).saturating_add(stalled) {
            checked.add(Weight::Wrong, text(), events(call));
        } else if retry
            && took > limit.saturating_add(bound(150))
            && stalled < bound(50)
            && history.fault_on(call.invoke.w, call.from(), to, bound(500)).is_none()
        {
            checked.add(Weight::Slow, text(), events(call));
        }
    }
    let retries = history.acquires().filter(|call| call.invoke.mode == Some(Mode::Retry)).count();
    checked.tolerated = max(retries / 10, 1);
    checked
}

/// Returns how long a claim's answer is awaited, which is also how late it may be executed.
fn patience(call: &Call) -> u64 {
    ms((call.invoke.ttl_ms.unwrap_or(0) / 2).clamp(50, 4_000))
}

/// Returns how long a call may take.
fn limit(call: &Call) -> Option<u64> {
    let (wait, ttl) = (ms(call.invoke.wait_ms.unwrap_or(0)), call.invoke.ttl_ms.unwrap_or(10_000));
    match (call.op, call.invoke.mode) {
        (Op::Acquire, Some(Mode::Try)) => Some(patience(call)),
        (Op::Acquire, Some(Mode::Retry)) => Some(wait),
        (Op::Acquire, _) => Some(max(wait, ms(1_000))),
        (Op::Release | Op::Verify | Op::Close, _) => Some(ms(5_000)),
        (Op::Extend, _) => Some(ms(max(ttl, 5_000))),
        (Op::Drop, _) => Some(ms(100)),
    }
}

/// Checks C12: of the patient waiters, 99 of 100 are granted the lock.
pub fn c12_progress(history: &History) -> Checked {
    let mut checked = Checked::default();
    for call in
        history.acquires().filter(|call| call.invoke.mode == Some(Mode::Patient) && !call.was_canceled())
    {
        let (Some(outcome), Some(end)) = (call.outcome(), &call.end) else { continue };
        checked.judged += 1;
        if outcome == Ev::Ok || end.why == "closed" {
            continue;
        }
        let disturbed = history.faults.iter().filter(|fault| {
            fault.is_on(call.invoke.w)
                && !fault.doing.starts_with("hints")
                && fault.touches(call.from(), call.to(), 0)
        });
        let disturbed: u64 =
            disturbed.map(|f| min(f.to, call.to()).saturating_sub(max(f.from, call.from()))).sum();
        let took = call.to() - call.from();
        let (w, lock) = (call.invoke.w, &call.invoke.lock);
        let text = format!("worker {w} waited {} for {lock} without a grant: {}", span(took), end.why);
        let excuse = format!("the storage was disturbed for {}", span(disturbed));
        let weight = if disturbed > took / 2 { Weight::Excused(excuse) } else { Weight::Slow };
        checked.add(weight, text, events(call));
    }
    checked.tolerate(10, 0)
}

fn events(call: &Call) -> Vec<crate::event::Event> {
    [Some(call.invoke.clone()), call.end.clone()].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, clean, none, only};
    use super::*;

    #[test]
    fn to_be_refused_because_of_nobody_breaks_c5() {
        let mut story = clean();
        story.ask(5_000, 3, 1, "a", Mode::Try, 0).end(5_005, 3, 1, Ev::Fail, "held");
        only("C5", &story);
    }

    #[test]
    fn to_be_refused_because_of_somebody_is_right() {
        let mut story = clean();
        story.ask(150, 3, 1, "a", Mode::Try, 0).end(155, 3, 1, Ev::Fail, "held");
        // An acquisition with an unknown outcome is an excuse as long as its claim may be executed.
        story.ask(5_000, 4, 1, "a", Mode::Try, 0).end(5_300, 4, 1, Ev::Info, "unavailable");
        story.ask(5_600, 3, 3, "a", Mode::Try, 0).end(5_605, 3, 3, Ev::Fail, "held");
        none(&story);
        story.ask(8_000, 3, 4, "a", Mode::Try, 0).end(8_005, 3, 4, Ev::Fail, "held");
        only("C5", &story);
    }

    #[test]
    fn a_lock_that_was_dropped_or_lost_refuses_nobody_for_long() {
        let mut story = clean();
        story.ask(300, 1, 3, "b", Mode::Try, 0).ok(301, 1, 3, 1, 1_100);
        story.of(400, 1, 4, Op::Drop, 3).end(400, 1, 4, Ev::Ok, "");
        story.ask(800, 3, 1, "b", Mode::Try, 0).end(801, 3, 1, Ev::Fail, "held");
        none(&story);
        story.ask(1_500, 3, 2, "b", Mode::Try, 0).end(1_501, 3, 2, Ev::Fail, "held");
        only("C5", &story);
        // If releases are disturbed, it may take as long as the lease lasts.
        story.fault(390, 500, 1, "release fail", Some(1));
        none(&story);
    }

    #[test]
    fn a_lock_that_stays_free_while_somebody_waits_breaks_c6() {
        let mut story = clean();
        story.ask(210, 1, 3, "b", Mode::Try, 0).ok(211, 1, 3, 1, 1_100).release(400, 1, 4, 3);
        story.ask(220, 2, 3, "b", Mode::Wait, 9_000).ok(6_000, 2, 3, 2, 6_900).release(6_100, 2, 4, 3);
        only("C6", &story);
        // If the storage is disturbed, there is no bound.
        story.fault(300, 6_000, 1, "acquire fail", None);
        none(&story);
    }

    #[test]
    fn the_next_may_be_served_before_the_release_is_answered() {
        let mut story = clean();
        story.ask(210, 1, 3, "b", Mode::Try, 0).ok(211, 1, 3, 1, 1_100);
        story.ask(220, 2, 3, "b", Mode::Wait, 9_000).ok(401, 2, 3, 2, 10_400);
        story.of(400, 1, 4, Op::Release, 3).end(402, 1, 4, Ev::Ok, "");
        story.ask(410, 1, 5, "b", Mode::Wait, 20_000).ok(9_001, 1, 5, 3, 9_900).release(9_100, 1, 6, 5);
        story.release(9_000, 2, 4, 3);
        none(&story);
    }

    #[test]
    fn a_waiter_that_was_killed_waits_no_more() {
        let mut story = clean();
        story.ask(220, 2, 3, "b", Mode::Wait, 90_000).fault(300, 301, 1, "kill", Some(2));
        story.ask(9_000, 1, 3, "b", Mode::Try, 0).ok(9_001, 1, 3, 1, 9_900).release(9_400, 1, 4, 3);
        story.ask(20_000, 1, 5, "b", Mode::Try, 0).ok(20_001, 1, 5, 2, 20_900).release(20_400, 1, 6, 5);
        none(&story);
    }

    #[test]
    fn a_dropped_guard_must_free_the_lock_too() {
        let mut story = clean();
        story.ask(210, 1, 3, "b", Mode::Try, 0).ok(211, 1, 3, 1, 1_100);
        story.of(400, 1, 4, Op::Drop, 3).end(400, 1, 4, Ev::Ok, "");
        story.ask(220, 2, 3, "b", Mode::Wait, 9_000).end(9_220, 2, 3, Ev::Fail, "held");
        only("C6", &story);
    }

    #[test]
    fn handovers_that_are_slow_as_a_rule_break_c6() {
        let mut story = Story::default();
        for n in 0..6 {
            let t = n * 10_000;
            let i = n * 10 + 1;
            story.ask(t, 1, i, "b", Mode::Try, 0).ok(t + 1, 1, i, t + 1, t + 900).release(
                t + 400,
                1,
                i + 1,
                i,
            );
            story.ask(t + 20, 2, i, "b", Mode::Wait, 9_000).ok(t + 2_100, 2, i, t + 2, t + 2_900);
            story.release(t + 2_200, 2, i + 1, i);
        }
        only("C6", &story);
        // That is the bound without hints.
        story.fault(0, 60_000, 1, "hints drop", None);
        none(&story);
    }

    #[test]
    fn a_call_that_returns_late_breaks_c11() {
        let mut story = clean();
        story.ask(300, 1, 3, "b", Mode::Wait, 2_000).end(6_000, 1, 3, Ev::Info, "unavailable");
        only("C11", &story);
        story.fault(400, 5_000, 1, "stop", Some(1));
        none(&story);
    }

    #[test]
    fn a_call_that_never_returns_breaks_c11_unless_its_worker_was_killed() {
        let mut story = clean();
        story.ask(300, 1, 3, "b", Mode::Wait, 2_000);
        story.ask(60_000, 2, 3, "c", Mode::Try, 0).ok(60_001, 2, 3, 1, 60_900).release(60_002, 2, 4, 3);
        only("C11", &story);
        story.fault(400, 401, 1, "kill", Some(1));
        none(&story);
    }

    #[test]
    fn tries_may_wait_for_their_answers() {
        let mut story = clean();
        story.fault(290, 2_600, 1, "all hang", None);
        story.ask(300, 1, 3, "b", Mode::Retry, 500).end(2_700, 1, 3, Ev::Info, "unavailable");
        none(&story);
        story.ask(3_000, 1, 4, "b", Mode::Retry, 500).end(8_000, 1, 4, Ev::Info, "unavailable");
        only("C11", &story);
    }

    #[test]
    fn a_pause_after_the_last_try_breaks_c11() {
        let mut story = clean();
        story.ask(0, 4, 1, "b", Mode::Try, 0).ok(1, 4, 1, 5, 99_000).release(90_000, 4, 2, 1);
        for n in 0..3 {
            let t = 300 + n * 2_000;
            story.ask(t, 1, n + 3, "b", Mode::Retry, 600).end(t + 900, 1, n + 3, Ev::Fail, "held");
        }
        only("C11", &story);
    }

    #[test]
    fn patient_waiters_that_are_not_granted_break_c12() {
        let mut story = clean();
        story.ask(0, 4, 1, "b", Mode::Try, 0).ok(1, 4, 1, 5, 99_000).release(90_000, 4, 2, 1);
        story.ask(300, 1, 3, "b", Mode::Patient, 20_000).end(20_300, 1, 3, Ev::Fail, "held");
        only("C12", &story);
        story.fault(400, 15_000, 1, "acquire hang", Some(1));
        none(&story);
    }
}
