//! The result of a run, as a table.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// What one fault has done. All times are those of the events.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// When it began.
    pub began: u64,
    /// When it ended.
    pub ended: u64,
    /// The longest time around it in which no leader acted.
    pub without_leader: u64,
    /// When the work of the next term began, if there was one.
    pub next: Option<u64>,
    /// When the work of the leader that was hit ended or was dropped, unless the leader was killed.
    pub stopped: Option<u64>,
}

/// A fault, and what it has done each time.
#[derive(Clone, Debug)]
pub struct Row {
    /// The fault.
    pub fault: String,
    /// What it has done.
    pub measured: Vec<Measured>,
}

impl Row {
    pub(super) fn new(fault: String) -> Self {
        Self { fault, measured: Vec::new() }
    }

    /// Returns the times without a leader, the shortest first.
    fn without_leader(&self) -> Vec<u64> {
        let mut all: Vec<_> = self.measured.iter().map(|hit| hit.without_leader).collect();
        all.sort_unstable();
        all
    }

    /// Returns how long a leader took to learn that it was lost after the end of the fault, the longest.
    fn told_after(&self) -> Option<u64> {
        let told = self.measured.iter().filter_map(|hit| hit.stopped?.checked_sub(hit.ended));
        if self.fault == "stop" { told.max() } else { None }
    }

    /// Returns how long before the next leader's work the last one's was over, the shortest.
    fn stopped_before(&self) -> Option<u64> {
        let before = self.measured.iter().map(|hit| hit.next?.checked_sub(hit.stopped?));
        if self.fault.starts_with("link") { before.min().flatten() } else { None }
    }
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The storage.
    pub url: String,
    /// The TTL of the leader's lease.
    pub ttl: Duration,
    /// The faults, and what they have done.
    pub rows: Vec<Row>,
    /// How many terms there were.
    pub terms: usize,
    /// How many acts of leaders there were.
    pub acts: usize,
    /// What is wrong.
    pub wrong: Vec<String>,
    /// The directory of the history.
    pub directory: PathBuf,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, ttl {:?}: {} terms, {} acts", self.url, self.ttl, self.terms, self.acts)?;
        writeln!(
            f,
            "| fault | times | new leader | without a leader: median | longest | the former one was over |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|")?;
        for row in &self.rows {
            let times = row.measured.len();
            let led = row.measured.iter().filter(|hit| hit.next.is_some()).count();
            let all = row.without_leader();
            let (median, longest) = (all.get(times / 2).copied(), all.last().copied());
            let over = match (row.told_after(), row.stopped_before()) {
                (Some(after), _) => format!("at most {} after it went on", show(Some(after))),
                (None, Some(before)) => format!("at least {} before", show(Some(before))),
                (None, None) => String::new(),
            };
            let fault = &row.fault;
            writeln!(f, "| {fault} | {times} | {led} | {} | {} | {over} |", show(median), show(longest))?;
        }
        self.wrong.iter().try_for_each(|wrong| writeln!(f, "WRONG: {wrong}"))
    }
}

/// Shows a time in milliseconds.
fn show(nanos: Option<u64>) -> String {
    nanos.map_or_else(
        || "-".to_owned(),
        |nanos| format!("{:.1} ms", Duration::from_nanos(nanos).as_secs_f64() * 1e3),
    )
}
