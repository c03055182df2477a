//! The rules for a history. Each check is a function over the history, and names the events that break its
//! rule.

mod claims;
mod clients;
mod resources;
mod service;

use std::fmt;

pub use self::claims::{c1_claim_overlap, c4_token_order, c7_fifo, c8_false_loss};
pub use self::clients::{c9_nothing_left, c10_client_leaks};
pub use self::resources::{c2_fenced_register, c3_unfenced_counter};
pub use self::service::{c5_false_busy, c6_bounded_handover, c11_deadline_honesty, c12_progress};
use crate::event::Event;
use crate::history::History;

/// A rule, and the function that looks for violations.
#[derive(Clone, Copy)]
pub struct Check {
    /// The short name.
    pub name: &'static str,
    /// The rule.
    pub rule: &'static str,
    /// Looks for violations.
    pub run: fn(&History) -> Checked,
}

/// All checks, in the order of their numbers.
pub const ALL: [Check; 12] = [
    Check {
        name: "C1",
        rule: "claims of one lock never overlap, and a loss is final",
        run: c1_claim_overlap,
    },
    Check { name: "C2", rule: "the fenced register accepts no stale write", run: c2_fenced_register },
    Check { name: "C3", rule: "the unfenced counter loses no update", run: c3_unfenced_counter },
    Check { name: "C4", rule: "tokens are distinct and grow", run: c4_token_order },
    Check { name: "C5", rule: "a refusal has a holder", run: c5_false_busy },
    Check { name: "C6", rule: "a free lock reaches a waiter in time", run: c6_bounded_handover },
    Check { name: "C7", rule: "waiters are served in their order", run: c7_fifo },
    Check { name: "C8", rule: "a loss has a cause", run: c8_false_loss },
    Check { name: "C9", rule: "nothing is left at the storage", run: c9_nothing_left },
    Check { name: "C10", rule: "nothing is left in a client", run: c10_client_leaks },
    Check { name: "C11", rule: "every call returns in its time", run: c11_deadline_honesty },
    Check { name: "C12", rule: "a patient waiter is granted", run: c12_progress },
];

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The findings of a check, and the number of cases it judged.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    /// How many cases could be judged.
    pub judged: usize,
    /// The violations of the rule.
    pub findings: Vec<Finding>,
    /// How many findings of weight [`Weight::Slow`] are tolerated.
    pub tolerated: usize,
}

/// A violation of a rule.
#[derive(Clone, Debug)]
pub struct Finding {
    /// The description, on one line.
    pub text: String,
    /// The events that prove it.
    pub events: Vec<Event>,
    /// The weight of the finding.
    pub weight: Weight,
}

/// The weight of a finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Weight {
    /// A finding that fails the check.
    Wrong,
    /// A finding that fails the check only together with many others, because a loaded machine can cause
    /// one.
    Slow,
    /// A finding that is counted and reported, because an assumption of the rule did not hold. The text
    /// says which.
    Excused(String),
}

impl Checked {
    /// Returns `true` if the rule holds.
    pub fn passed(&self) -> bool {
        self.count(&Weight::Wrong) == 0 && self.count(&Weight::Slow) <= self.tolerated
    }

    /// Returns how many findings of this weight there are.
    pub fn count(&self, weight: &Weight) -> usize {
        self.findings.iter().filter(|finding| finding.weight == *weight).count()
    }

    /// Returns how many findings were excused.
    pub fn excused(&self) -> usize {
        self.findings.iter().filter(|finding| matches!(finding.weight, Weight::Excused(_))).count()
    }

    fn add(&mut self, weight: Weight, text: String, events: impl IntoIterator<Item = Event>) {
        self.findings.push(Finding { text, events: events.into_iter().collect(), weight });
    }

    /// Tolerates this many per thousand cases, or `at_least`, if that is more.
    fn tolerate(mut self, of_a_thousand: usize, at_least: usize) -> Self {
        self.tolerated = std::cmp::max(self.judged * of_a_thousand / 1000, at_least);
        self
    }
}

/// Formats nanoseconds for a person.
fn span(nanos: u64) -> String {
    format!("{:.1?}", std::time::Duration::from_nanos(nanos))
}

#[cfg(test)]
mod testing {
    //! Histories made by hand. Times are in milliseconds.

    use crate::clock::ms;
    use crate::event::{Ev, Event, Mode, NEMESIS, Op, RESOURCE};
    use crate::history::History;

    /// A history under construction.
    #[derive(Default)]
    pub(crate) struct Story(pub(crate) Vec<Event>);

    impl Story {
        pub(crate) fn add(&mut self, t: u64, w: i64, event: Event) -> &mut Self {
            // Starts long after the boot of the machine, so that no time before an event is negative.
            self.0.push(Event { t: ms(1_000_000 + t), w, ..event });
            self
        }

        pub(crate) fn ask(&mut self, t: u64, w: i64, i: u64, lock: &str, mode: Mode, wait: u64) -> &mut Self {
            let event =
                Event { i, op: Some(Op::Acquire), lock: lock.into(), mode: Some(mode), ..Event::default() };
            self.add(t, w, Event { wait_ms: Some(wait), ttl_ms: Some(1000), ..event })
        }

        pub(crate) fn ok(&mut self, t: u64, w: i64, i: u64, tok: u64, dl: u64) -> &mut Self {
            let owner = format!("{w}-{i}");
            let dl = Some(ms(1_000_000 + dl));
            self.add(t, w, Event { i, ev: Ev::Ok, owner, tok: Some(tok), dl, ..Event::default() })
        }

        pub(crate) fn end(&mut self, t: u64, w: i64, i: u64, ev: Ev, why: &str) -> &mut Self {
            self.add(t, w, Event { i, ev, why: why.into(), ..Event::default() })
        }

        /// Adds a release that is answered after a millisecond.
        pub(crate) fn release(&mut self, t: u64, w: i64, i: u64, of: u64) -> &mut Self {
            self.of(t, w, i, Op::Release, of).end(t + 1, w, i, Ev::Ok, "")
        }

        pub(crate) fn of(&mut self, t: u64, w: i64, i: u64, op: Op, of: u64) -> &mut Self {
            self.add(t, w, Event { i, op: Some(op), of: Some(of), ..Event::default() })
        }

        pub(crate) fn claim(&mut self, t: u64, w: i64, of: u64, dl: u64) -> &mut Self {
            let dl = Some(ms(1_000_000 + dl));
            self.add(t, w, Event { ev: Ev::Claim, of: Some(of), dl, ..Event::default() })
        }

        pub(crate) fn lost(&mut self, t: u64, w: i64, of: u64, why: &str) -> &mut Self {
            self.add(t, w, Event { ev: Ev::Lost, of: Some(of), why: why.into(), ..Event::default() })
        }

        pub(crate) fn fault(
            &mut self,
            from: u64,
            to: u64,
            i: u64,
            doing: &str,
            target: Option<i64>,
        ) -> &mut Self {
            let event = Event { i, doing: doing.into(), target, ..Event::default() };
            self.add(from, NEMESIS, Event { ev: Ev::Begin, ..event.clone() });
            self.add(to, NEMESIS, Event { ev: Ev::End, ..event })
        }

        pub(crate) fn resource(&mut self, t: u64, event: Event) -> &mut Self {
            self.add(t, RESOURCE, event)
        }

        pub(crate) fn history(&self) -> History {
            History::of(self.0.clone())
        }
    }

    /// Makes a history of two workers in succession, without violations.
    pub(crate) fn clean() -> Story {
        let mut story = Story::default();
        story.ask(0, 1, 1, "a", Mode::Try, 0).ok(5, 1, 1, 10, 900).release(100, 1, 2, 1);
        story.ask(40, 2, 1, "a", Mode::Patient, 20_000).ok(102, 2, 1, 20, 1000).release(200, 2, 2, 1);
        story
    }

    #[test]
    fn every_check_passes_a_clean_history() {
        let history = clean().history();
        for check in super::ALL {
            let checked = (check.run)(&history);
            assert!(checked.passed() && checked.findings.is_empty(), "{check:?}: {checked:?}");
        }
    }

    /// Asserts that exactly this check fails.
    pub(crate) fn only(name: &str, story: &Story) {
        let history = story.history();
        let failed = super::ALL.iter().filter(|check| !(check.run)(&history).passed());
        let failed: Vec<_> = failed.map(|check| check.name).collect();
        assert_eq!(failed, [name]);
    }

    /// Asserts that no check fails.
    pub(crate) fn none(story: &Story) {
        let history = story.history();
        for check in super::ALL {
            let checked = (check.run)(&history);
            assert!(checked.passed(), "{check:?}: {checked:?}");
        }
    }
}
