//! The verdicts of a run, formatted for a person.

use std::fmt::{self, Write};

use crate::checks::{ALL, Check, Checked, Weight};
use crate::event::{Event, NEMESIS, RESOURCE};
use crate::history::History;

/// The results of all checks of a history.
#[derive(Debug)]
pub struct Report {
    verdicts: Vec<(Check, Checked)>,
    start: u64,
    summary: String,
    /// Whether tolerated findings are shown, too.
    pub everything: bool,
}

/// How many findings of a check are shown.
const SHOWN: usize = 3;

impl Report {
    /// Runs all checks.
    pub fn of(history: &History) -> Self {
        let (calls, holds, faults) = (history.calls.len(), history.holds.len(), history.faults.len());
        let start = history.events.first().map_or(0, |event| event.t);
        let stalls = history.stalls.len();
        let length = std::time::Duration::from_nanos(history.end() - start);
        let summary = format!(
            "{calls} calls, {holds} holds, {faults} faults, {stalls} stalls in {length:.0?}; {}{}{}",
            history.tier,
            if history.fair { ", fair" } else { "" },
            if history.push { ", push" } else { "" },
        );
        Self {
            verdicts: ALL.map(|check| (check, (check.run)(history))).into(),
            start,
            summary,
            everything: false,
        }
    }

    /// Returns `true` if every check passed.
    pub fn passed(&self) -> bool {
        self.failed().is_empty()
    }

    /// Returns the names of the failed checks.
    pub fn failed(&self) -> Vec<&'static str> {
        let failed = self.verdicts.iter().filter(|(_, checked)| !checked.passed());
        failed.map(|(check, _)| check.name).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary)?;
        for (check, checked) in &self.verdicts {
            let verdict = match checked {
                checked if !checked.passed() => "FAILED",
                checked if checked.judged == 0 => "nothing to judge",
                checked if checked.excused() > 0 => "passed, and counted",
                _ => "passed",
            };
            writeln!(f, "{:<4} {verdict:<20} {} ({} judged)", check.name, check.rule, checked.judged)?;
            let (slow, excused) = (checked.count(&Weight::Slow), checked.excused());
            if slow > 0 {
                writeln!(
                    f,
                    "     {slow} that a loaded machine can cause, of which {} are let pass",
                    checked.tolerated
                )?;
            }
            if excused > 0 {
                writeln!(f, "     {excused} where a fault broke what the rule assumes{}", reasons(checked))?;
            }
            if checked.passed() && !self.everything {
                continue;
            }
            let excused = |weight: &Weight| matches!(weight, Weight::Excused(_));
            let worst =
                checked.findings.iter().filter(|finding| self.everything || !excused(&finding.weight));
            for finding in worst.clone().take(SHOWN) {
                writeln!(f, "     - {}", finding.text)?;
                for event in &finding.events {
                    writeln!(f, "         {}", line(event, self.start))?;
                }
            }
            let more = worst.count().saturating_sub(SHOWN);
            if more > 0 {
                writeln!(f, "     and {more} more")?;
            }
        }
        Ok(())
    }
}

fn reasons(checked: &Checked) -> String {
    let mut reasons: Vec<_> = checked
        .findings
        .iter()
        .filter_map(|finding| match &finding.weight {
            Weight::Excused(reason) => Some(reason.as_str()),
            _ => None,
        })
        .collect();
    reasons.sort_unstable();
    reasons.dedup();
    reasons.truncate(SHOWN);
    if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) }
}

/// Formats an event on one line, with its time relative to the start.
fn line(event: &Event, start: u64) -> String {
    let at = |t: u64| format!("{:+.4}s", (i128::from(t) - i128::from(start)) as f64 / 1e9);
    let actor = match event.w {
        NEMESIS => "nemesis".to_owned(),
        RESOURCE => "resource".to_owned(),
        w => format!("worker {w}"),
    };
    let mut text = format!("{:>12} {actor:<10} #{} {:?}", at(event.t), event.i, event.ev).to_lowercase();
    let mut add = |name: &str, value: String| {
        if !value.is_empty() {
            let _infallible = write!(text, " {name}=`{value}`");
        }
    };
    let shown = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    add("op", event.op.map(|op| format!("{op:?}").to_lowercase()).unwrap_or_default());
    add("mode", event.mode.map(|mode| format!("{mode:?}").to_lowercase()).unwrap_or_default());
    add("lock", event.lock.clone());
    add("of", shown(event.of));
    add("ttl_ms", shown(event.ttl_ms));
    add("wait_ms", shown(event.wait_ms));
    add("token", shown(event.tok));
    add("deadline", event.dl.map(at).unwrap_or_default());
    add("owner", event.owner.chars().take(8).collect());
    add("why", event.why.clone());
    add("answer", event.res.clone());
    add("value", shown(event.v));
    add("was", shown(event.was));
    add("do", event.doing.clone());
    add("to", event.target.map(|w| format!("worker {w}")).unwrap_or_default());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ms;
    use crate::event::{Ev, Op};

    #[test]
    fn a_person_sees_which_two_holds_overlapped() {
        let hold = |w, t, token| {
            let ask =
                Event { t: ms(t), w, i: 1, op: Some(Op::Acquire), lock: "a".into(), ..Event::default() };
            let (tok, dl) = (Some(token), Some(ms(t + 900)));
            [ask, Event { t: ms(t + 1), w, i: 1, ev: Ev::Ok, tok, dl, ..Event::default() }]
        };
        let events = [hold(1, 1_000, 7), hold(2, 1_500, 8)].concat();
        let report = Report::of(&History::of(events));
        assert_eq!(report.failed(), ["C1"]);
        let text = report.to_string();
        assert!(
            text.contains("two holders of a for 399.0ms: worker 1 with token 7 and worker 2 with token 8")
        );
        assert!(text.contains("+0.5010s worker 2   #1 ok token=`8` deadline=`+1.4000s`"), "{text}");
    }
}
