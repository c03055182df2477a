//! The order of the claims to hold a lock: C1, C4, C7, C8.

use std::cmp::{max, min};

use super::{Checked, Weight, span};
use crate::clock::{bound, ms};
use crate::event::Event;
use crate::history::{Fault, History, Hold};

/// Checks C1: the claims of two guards of one lock never overlap, and no guard claims to hold after a loss.
///
/// A claim ends at the deadline that the library reports, so a paused holder is no excuse. A fault that the
/// storage's tier does not promise to survive is an excuse; such a finding is only counted.
pub fn c1_claim_overlap(history: &History) -> Checked {
    let mut checked = Checked { judged: history.holds.len(), ..Checked::default() };
    for holds in history.holds_by_lock().values() {
        // If any earlier claim overlaps, so does the one that ends last.
        let mut longest: Option<&Hold> = None;
        for hold in holds.iter().filter(|hold| hold.from() < hold.until) {
            if let Some(before) = longest.filter(|before| before.until > hold.from()) {
                let overlap = min(before.until, hold.until) - hold.from();
                let text = format!(
                    "two holders of {} for {}: worker {} with token {} and worker {} with token {}",
                    hold.lock(),
                    span(overlap),
                    before.ok.w,
                    before.token(),
                    hold.ok.w,
                    hold.token()
                );
                // The storage may have forgotten the earlier lease, and every lease granted before it.
                let beyond = history.beyond(before.from(), hold.from(), bound(1_000));
                let weight = beyond.and_then(Fault::excuse).map(|why| Weight::Excused(why.to_owned()));
                let events = story(before).into_iter().chain(story(hold));
                checked.add(weight.unwrap_or(Weight::Wrong), text, events);
            }
            longest =
                Some(longest.map_or(*hold, |before| if before.until >= hold.until { before } else { hold }));
        }
    }
    for hold in &history.holds {
        if let Some(revived) = &hold.revived {
            let text = format!("worker {} holds {} again after it was lost", hold.ok.w, hold.lock());
            checked.add(Weight::Wrong, text, story(hold).into_iter().chain([revived.clone()]));
        }
    }
    checked
}

/// Checks C4: the tokens of one lock are distinct, and a claim that is sent after a grant gets a larger token.
pub fn c4_token_order(history: &History) -> Checked {
    let mut checked = Checked { judged: history.holds.len(), ..Checked::default() };
    for holds in history.holds_by_lock().values() {
        let mut by_token = holds.clone();
        by_token.sort_by_key(|hold| hold.token());
        for pair in by_token.windows(2) {
            let [a, b] = pair else { continue };
            if a.token() == b.token() {
                let text = format!("two grants of {} with the token {}", a.lock(), a.token());
                checked.add(Weight::Wrong, text, story(a).into_iter().chain(story(b)));
            }
        }
        // In the order of the calls, compares with the largest token granted before.
        let (mut asked, mut granted) = (holds.clone(), holds.clone());
        asked.sort_by_key(|hold| hold.call.from());
        granted.sort_by_key(|hold| hold.from());
        let (mut granted, mut largest) = (granted.into_iter().peekable(), None::<&Hold>);
        for later in asked {
            while let Some(before) = granted.next_if(|before| before.from() < later.call.from()) {
                largest =
                    Some(largest.map_or(before, |l| if l.token() >= before.token() { l } else { before }));
            }
            if let Some(before) = largest.filter(|before| before.token() > later.token()) {
                let text = format!(
                    "the token of {} fell from {} to {}",
                    later.lock(),
                    before.token(),
                    later.token()
                );
                checked.add(Weight::Wrong, text, story(before).into_iter().chain(story(later)));
            }
        }
    }
    checked
}

/// Checks C7: of two waiters, the one that clearly came first is served first.
///
/// The check judges a pair only if no fault hit the first waiter meanwhile, because a dead or paused waiter
/// may be passed. It judges no storage without that promise.
pub fn c7_fifo(history: &History) -> Checked {
    let mut checked = Checked::default();
    if !history.fair {
        return checked;
    }
    let settled = bound(1_000);
    let in_line: Vec<_> = history.acquires().filter(|call| call.lines_up()).collect();
    for later in history.holds.iter().filter(|hold| hold.call.lines_up()) {
        let overtaken = in_line.iter().find(|first| {
            first.invoke.lock == later.lock()
                && first.invoke.w != later.ok.w
                && first.from().saturating_add(settled) < later.call.from()
                // The first waiter waited the whole time, and for longer than the winner's answer took.
                && first.to() > later.from().saturating_add(bound(20))
        });
        checked.judged += 1;
        let Some(first) = overtaken else { continue };
        if history.fault(first.from(), later.from(), settled).is_some()
            || history.stalled(first.from(), later.from()) > bound(200)
        {
            continue;
        }
        let text = format!(
            "worker {} was granted {} before worker {}, which had waited {} longer",
            later.ok.w,
            later.lock(),
            first.invoke.w,
            span(later.call.from() - first.from())
        );
        checked.add(Weight::Slow, text, [first.invoke.clone()].into_iter().chain(story(later)));
    }
    checked.tolerate(10, 1)
}

/// Checks C8: a lock is lost only if another client ended the lease, it was not renewed, or the storage was
/// unreachable.
pub fn c8_false_loss(history: &History) -> Checked {
    let mut checked = Checked { judged: history.holds.len(), ..Checked::default() };
    for hold in &history.holds {
        let Some(lost) = &hold.lost else { continue };
        let never_renewed = hold.call.invoke.why == "never";
        // A look at the lease may bring its deadline forward by as long as the look took, at most by the margin.
        let margin = std::cmp::max(hold.call.invoke.ttl_ms.unwrap_or(0) / 100, 10) + 2;
        let last_claim = hold.deadline.saturating_sub(ms(margin));
        if lost.why == "expired" && lost.t < last_claim {
            let early = span(hold.deadline - lost.t);
            let text = format!("worker {} lost {} {early} before its deadline", lost.w, hold.lock());
            checked.add(Weight::Wrong, text, story(hold));
            continue;
        }
        if hold.broken || lost.why == "closed" || (never_renewed && lost.why == "expired") {
            continue;
        }
        let since = lost.t.saturating_sub(hold.ttl + bound(1_000));
        let faulty = history.faults.iter().any(|fault| {
            // A stopped process may have been in a write, which blocks other clients of some storages.
            (fault.is_on(lost.w) || fault.doing == "stop")
                && !fault.doing.starts_with("hints")
                && fault.touches(since, lost.t, 0)
        });
        let breaking = history.faults.iter().any(|fault| {
            fault.doing == "break"
                && fault.event.lock == hold.lock()
                && fault.touches(since, lost.t, bound(100))
        });
        // Renewals are sent every third of the TTL and need a sixth, so a shorter stall cannot lose the
        // lock.
        if faulty || breaking || history.stalled(since, lost.t) > hold.call.ttl() / 6 {
            continue;
        }
        let text = format!("worker {} lost {} ({}) and nothing had happened", lost.w, hold.lock(), lost.why);
        checked.add(Weight::Slow, text, story(hold));
    }
    checked.tolerate(5, 1)
}

/// Returns the events of a hold that explain a finding.
pub(super) fn story(hold: &Hold) -> Vec<Event> {
    let mut events = vec![hold.call.invoke.clone(), hold.ok.clone()];
    events.extend(hold.lost.clone());
    if let Some(release) = &hold.release {
        events.push(release.invoke.clone());
        events.extend(release.end.clone());
    }
    if let Some(end) = &hold.ended_by
        && !events.contains(end)
    {
        events.push(end.clone());
    }
    events.sort_by_key(|event| event.t);
    debug_assert!(hold.until <= max(hold.deadline, hold.until), "a claim ends with its deadline");
    events
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, clean, none, only};
    use super::*;
    use crate::event::{Ev, Mode, Op};

    #[test]
    fn two_claims_that_overlap_break_c1() {
        let mut story = clean();
        story.ask(110, 3, 1, "a", Mode::Try, 0).ok(150, 3, 1, 30, 180);
        only("C1", &story);
        let found = c1_claim_overlap(&story.history());
        assert!(found.findings[0].text.contains("worker 2") && found.findings[0].text.contains("worker 3"));
        assert_eq!(found.findings[0].events.len(), 6, "both grants, with what came before and after");
    }

    #[test]
    fn a_long_claim_over_several_short_ones_is_found() {
        let mut story = Story::default();
        story.ask(0, 1, 1, "a", Mode::Try, 0).ok(1, 1, 1, 1, 500);
        story.ask(10, 2, 1, "a", Mode::Try, 0).ok(11, 2, 1, 2, 20);
        story.ask(30, 3, 1, "a", Mode::Try, 0).ok(31, 3, 1, 3, 40);
        assert_eq!(c1_claim_overlap(&story.history()).findings.len(), 2);
    }

    #[test]
    fn who_asked_first_need_not_be_granted_first() {
        let mut story = Story::default();
        story.ask(0, 1, 1, "a", Mode::Patient, 20_000);
        story.ask(10, 2, 1, "a", Mode::Try, 0).ok(11, 2, 1, 1, 500).release(20, 2, 2, 1);
        story.ok(30, 1, 1, 2, 500).release(40, 1, 2, 1);
        none(&story);
    }

    #[test]
    fn what_the_tier_does_not_promise_to_survive_excuses_an_overlap() {
        let mut story = Story::default();
        story.ask(0, 1, 1, "a", Mode::Try, 0).ok(1, 1, 1, 1, 900).fault(100, 200, 1, "failover", None);
        story.ask(210, 2, 1, "a", Mode::Try, 0).ok(211, 2, 1, 2, 950);
        only("C1", &story);
        let begin = story.0.iter_mut().find(|event| event.ev == Ev::Begin).expect("there");
        begin.why = "failover, which crash-safe does not promise to survive".into();
        none(&story);
        assert_eq!(c1_claim_overlap(&story.history()).excused(), 1);
        // A lease that was granted after the fault has no excuse.
        story.ask(2_000, 1, 2, "a", Mode::Try, 0).ok(2_001, 1, 2, 3, 2_900);
        story.ask(2_100, 2, 2, "a", Mode::Try, 0).ok(2_101, 2, 2, 4, 2_900);
        only("C1", &story);
    }

    #[test]
    fn a_renewed_claim_goes_on_and_a_deadline_ends_it() {
        let mut story = Story::default();
        story.ask(0, 1, 1, "a", Mode::Try, 0).ok(1, 1, 1, 1, 300).claim(100, 1, 1, 600);
        story.ask(400, 2, 1, "a", Mode::Try, 0).ok(401, 2, 1, 2, 900);
        only("C1", &story);
        // The same without a renewal: a paused holder claims nothing after its deadline.
        let mut story = Story::default();
        story.ask(0, 1, 1, "a", Mode::Try, 0).ok(1, 1, 1, 1, 300);
        story.ask(400, 2, 1, "a", Mode::Try, 0).ok(401, 2, 1, 2, 900);
        assert!(c1_claim_overlap(&story.history()).findings.is_empty());
    }

    #[test]
    fn a_kill_a_break_and_a_shorter_ttl_end_a_claim() {
        let mut killed = Story::default();
        killed.ask(0, 1, 1, "a", Mode::Try, 0).ok(1, 1, 1, 1, 900).fault(100, 101, 1, "kill", Some(1));
        killed.ask(110, 2, 1, "a", Mode::Try, 0).ok(111, 2, 1, 2, 900).release(300, 2, 2, 1);
        none(&killed);
        let mut broken = Story::default();
        broken.ask(0, 1, 1, "a", Mode::Try, 0).ok(1, 1, 1, 1, 900).fault(100, 105, 1, "break", Some(9));
        broken.0.last_mut().expect("there").owner = "1-1".into();
        broken.lost(130, 1, 1, "taken");
        broken.ask(80, 2, 1, "a", Mode::Try, 0).ok(104, 2, 1, 2, 900).release(300, 2, 2, 1);
        none(&broken);
        let mut shorter = Story::default();
        shorter.ask(0, 1, 1, "a", Mode::Try, 0).ok(1, 1, 1, 1, 900).of(100, 1, 2, Op::Extend, 1);
        shorter.ask(250, 2, 1, "a", Mode::Try, 0).ok(251, 2, 1, 2, 900);
        assert!(c1_claim_overlap(&shorter.history()).findings.is_empty());
    }

    #[test]
    fn a_claim_after_the_loss_breaks_c1() {
        let mut story = clean();
        story.ask(300, 1, 3, "a", Mode::Try, 0).ok(301, 1, 3, 30, 600);
        story.fault(400, 700, 1, "renew fail", Some(1));
        story.lost(600, 1, 3, "expired").claim(610, 1, 3, 800);
        only("C1", &story);
    }

    #[test]
    fn a_token_that_falls_breaks_c4() {
        let mut story = clean();
        story.ask(210, 3, 1, "a", Mode::Try, 0).ok(215, 3, 1, 15, 900).release(300, 3, 2, 1);
        only("C4", &story);
    }

    #[test]
    fn a_token_that_is_given_twice_breaks_c4() {
        let mut story = clean();
        story.ask(210, 3, 1, "a", Mode::Try, 0).ok(215, 3, 1, 20, 900).release(300, 3, 2, 1);
        only("C4", &story);
        // Claims that were sent before the other grant may get any order of tokens, and each lock counts
        // for itself.
        let mut story = clean();
        story.ask(101, 3, 1, "a", Mode::Wait, 1000).ok(215, 3, 1, 15, 900).release(300, 3, 2, 1);
        story.ask(210, 4, 1, "b", Mode::Try, 0).ok(215, 4, 1, 1, 900).release(300, 4, 2, 1);
        none(&story);
    }

    #[test]
    fn waiters_that_are_overtaken_again_and_again_break_c7() {
        let mut story = Story::default();
        story.ask(0, 1, 1, "a", Mode::Patient, 20_000);
        for (i, t) in [(1, 2_000), (3, 3_000), (5, 4_000)] {
            story.ask(t, 2, i, "a", Mode::Wait, 500).ok(t + 100, 2, i, t, t + 600).release(
                t + 200,
                2,
                i + 1,
                i,
            );
        }
        story.ok(4_202, 1, 1, 9_000, 5_000).release(4_300, 1, 2, 1);
        let found = c7_fifo(&story.history());
        assert!(!found.passed(), "{found:?}");
        // A paused waiter may be passed.
        story.fault(50, 4_100, 1, "stop", Some(1));
        assert!(c7_fifo(&story.history()).findings.is_empty());
    }

    #[test]
    fn losses_without_a_cause_break_c8() {
        let mut story = Story::default();
        for i in [1, 3] {
            let t = i * 5_000;
            story.ask(t, 1, i, "a", Mode::Try, 0).ok(t + 1, 1, i, i, t + 900).lost(t + 300, 1, i, "taken");
        }
        only("C8", &story);
        story.fault(4_800, 15_000, 1, "renew fail", Some(1));
        none(&story);
    }

    #[test]
    fn a_loss_before_the_deadline_breaks_c8() {
        let mut story = clean();
        story.ask(300, 1, 3, "a", Mode::Try, 0).ok(301, 1, 3, 30, 900);
        story.fault(400, 700, 1, "renew fail", Some(1)).lost(600, 1, 3, "expired");
        only("C8", &story);
        assert_eq!(story.history().holds[0].call.outcome(), Some(Ev::Ok));
    }
}
