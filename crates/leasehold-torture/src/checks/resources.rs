//! The resources that the locks protect: C2, C3.

use std::collections::HashMap;

use super::claims::story;
use super::{Checked, Weight};
use crate::clock::bound;
use crate::event::{Ev, Event};
use crate::history::{Fault, History, Hold};

/// Checks C2: the register that checks tokens never accepts a write of an earlier holder after one of a later
/// holder, and never refuses the current one. No fault is an excuse.
pub fn c2_fenced_register(history: &History) -> Checked {
    let mut checked = Checked::default();
    let holds: HashMap<&str, &Hold> =
        history.holds.iter().map(|hold| (hold.ok.owner.as_str(), hold)).collect();
    let mut last: HashMap<&str, &Event> = HashMap::new();
    for write in history.events.iter().filter(|event| event.ev == Ev::Use) {
        checked.judged += 1;
        let (before, accepted) = (last.get(write.lock.as_str()).copied(), write.res == "accepted");
        let Some(before) = before else {
            last.insert(&write.lock, write);
            continue;
        };
        let events = [before.clone(), write.clone()];
        if accepted && write.tok < before.tok {
            let text = format!("a stale write to {} was accepted", write.lock);
            checked.add(Weight::Wrong, text, events);
        } else if accepted && write.tok == before.tok && write.owner != before.owner {
            let text = format!("two holders of {} wrote with one token", write.lock);
            checked.add(Weight::Wrong, text, events);
        } else if !accepted
            && let (Some(writer), Some(earlier)) =
                (holds.get(write.owner.as_str()), holds.get(before.owner.as_str()))
            && earlier.from() < writer.call.from()
        {
            let text = format!("the later holder of {} was refused", write.lock);
            checked.add(Weight::Wrong, text, story(earlier).into_iter().chain(story(writer)).chain(events));
        }
        if accepted {
            last.insert(&write.lock, write);
        }
    }
    checked
}

/// Checks C3: no update of the counter without tokens is overwritten. Overwritten updates are only counted where
/// holders were paused or their leases broken, because only tokens prevent those.
pub fn c3_unfenced_counter(history: &History) -> Checked {
    let mut checked = Checked::default();
    for update in history.events.iter().filter(|event| event.ev == Ev::Count) {
        checked.judged += 1;
        if update.was == update.tok {
            continue;
        }
        let since = update.t.saturating_sub(bound(3_000));
        let unfair = |fault: &&Fault| {
            let expected = matches!(fault.doing.as_str(), "stop" | "kill" | "break");
            (expected || fault.excuse().is_some()) && fault.touches(since, update.t, 0)
        };
        let stalled = history.stalled(since, update.t) > bound(30);
        let weight = match history.faults.iter().find(unfair) {
            Some(fault) => Weight::Excused(fault.doing.clone()),
            None if stalled => Weight::Excused("the machine stalled".to_owned()),
            None => Weight::Wrong,
        };
        let text = format!("an update of the counter of {} was lost", update.lock);
        let (lock, owner) = (&update.lock, &update.owner);
        let another = |event: &&Event| {
            event.ev == Ev::Count && event.lock == *lock && event.owner != *owner && event.t < update.t
        };
        let before = history.events.iter().rev().find(another).cloned();
        checked.add(weight, text, before.into_iter().chain([update.clone()]));
    }
    checked
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Story, clean, none, only};
    use super::*;

    fn write(tok: u64, owner: &str, res: &str) -> Event {
        let event =
            Event { ev: Ev::Use, lock: "a".into(), owner: owner.into(), tok: Some(tok), ..Event::default() };
        Event { res: res.into(), ..event }
    }

    fn count(was: u64, stood: u64, v: u64) -> Event {
        let event = Event { ev: Ev::Count, lock: "a".into(), owner: format!("{v}"), ..Event::default() };
        Event { was: Some(was), tok: Some(stood), v: Some(v), ..event }
    }

    fn after(writes: &[Event]) -> Story {
        let mut story = clean();
        for (t, event) in (150..).zip(writes) {
            story.resource(t, event.clone());
        }
        story
    }

    #[test]
    fn writes_in_order_pass_and_stale_ones_are_refused() {
        none(&after(&[
            write(10, "1-1", "accepted"),
            write(10, "1-1", "accepted"),
            write(20, "2-1", "accepted"),
            write(10, "1-1", "stale"),
        ]));
    }

    #[test]
    fn a_stale_write_that_is_accepted_breaks_c2() {
        only("C2", &after(&[write(20, "2-1", "accepted"), write(10, "1-1", "accepted")]));
    }

    #[test]
    fn two_writers_with_one_token_break_c2() {
        only("C2", &after(&[write(20, "1-1", "accepted"), write(20, "2-1", "accepted")]));
    }

    #[test]
    fn a_later_holder_that_is_refused_breaks_c2() {
        let mut story = clean();
        story.ask(210, 3, 1, "a", crate::event::Mode::Try, 0).ok(215, 3, 1, 30, 900).release(300, 3, 2, 1);
        story.resource(220, write(99, "2-1", "accepted")).resource(221, write(30, "3-1", "stale"));
        only("C2", &story);
    }

    #[test]
    fn an_update_that_is_lost_breaks_c3() {
        none(&after(&[count(0, 0, 1), count(1, 1, 2)]));
        only("C3", &after(&[count(0, 0, 1), count(0, 1, 1)]));
    }

    #[test]
    fn a_pause_excuses_a_lost_update() {
        let mut story = after(&[count(0, 0, 1), count(0, 1, 1)]);
        story.fault(100, 140, 1, "stop", Some(1));
        none(&story);
        assert_eq!(c3_unfenced_counter(&story.history()).excused(), 1);
    }
}
