//! What remains after the run: C9, C10.

use super::{Checked, Weight};
use crate::event::Ev;
use crate::history::History;

/// Checks C9: once all clients are closed and the leases of killed workers have ended, the storage has no lease
/// and no waiter of the run, and grants every lock to a new client at once.
pub fn c9_nothing_left(history: &History) -> Checked {
    let mut checked = Checked::default();
    for probe in history.events.iter().filter(|event| event.ev == Ev::Probe) {
        checked.judged += 1;
        if probe.res != "clean" {
            let text = format!("left at the storage, lock {}: {}", probe.lock, probe.res);
            checked.add(Weight::Wrong, text, [probe.clone()]);
        }
    }
    checked
}

/// Checks C10: a client lists no lock without a guard, and has closed its descriptors when it is closed.
pub fn c10_client_leaks(history: &History) -> Checked {
    let mut checked = Checked::default();
    for look in history.events.iter().filter(|event| matches!(event.ev, Ev::Ledger | Ev::Left)) {
        checked.judged += 1;
        let n = look.v.unwrap_or(0);
        if n > 0 && look.ev == Ev::Ledger {
            let text = format!("worker {} holds nothing and lists {n} locks as held", look.w);
            checked.add(Weight::Wrong, text, [look.clone()]);
        } else if n > 0 {
            let text = format!("worker {} has left {n} descriptors open", look.w);
            checked.add(Weight::Wrong, text, [look.clone()]);
        }
    }
    checked
}

#[cfg(test)]
mod tests {
    use super::super::testing::{clean, none, only};
    use crate::event::{Ev, Event, NEMESIS};

    #[test]
    fn what_is_left_at_the_storage_breaks_c9() {
        let mut story = clean();
        let probe = Event { ev: Ev::Probe, lock: "a".into(), ..Event::default() };
        story.add(900, NEMESIS, Event { res: "clean".into(), ..probe.clone() });
        none(&story);
        story.add(901, NEMESIS, Event { res: "held by 1-1".into(), ..probe });
        only("C9", &story);
    }

    #[test]
    fn what_is_left_in_a_client_breaks_c10() {
        for ev in [Ev::Ledger, Ev::Left] {
            let mut story = clean();
            story.add(900, 1, Event { ev, v: Some(0), ..Event::default() });
            none(&story);
            story.add(901, 1, Event { ev, v: Some(2), ..Event::default() });
            only("C10", &story);
        }
    }
}
