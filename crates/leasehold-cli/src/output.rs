//! What is printed: results on stdout, as text or JSON; one line per failure on stderr.

use std::io::ErrorKind;
use std::time::Duration;

use leasehold::Holder;
use serde::Serialize;

use crate::exit::{Exit, Failure, Result};
use crate::writing::{Patience, write_all};
use crate::{signals, stdout};

/// Prints results in one of two shapes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    pub(crate) quiet: bool,
}

/// Whether what is printed next would be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    There,
    /// It closed its end of the pipe, as `head` does: it has what it wants, which is no failure of the command.
    Gone,
}

impl Output {
    /// Prints one result: `json` as an object on a line of its own, or `text` for people.
    pub(crate) fn result(self, json: &impl Serialize, text: impl FnOnce() -> String) -> Result<Reader> {
        if self.json {
            let json = serde_json::to_string(json);
            line(&json.map_err(|e| Failure::system("cannot print a result", e))?)
        } else {
            line(&text())
        }
    }

    /// Prints what only confirms the exit code: not with `--quiet`, unless as JSON.
    pub(crate) fn status(self, json: &impl Serialize, text: impl FnOnce() -> String) -> Result<Reader> {
        if self.quiet && !self.json { Ok(Reader::There) } else { self.result(json, text) }
    }
}

/// Prints one line. One that cannot be printed is a failure of every command alike, whatever else it has done.
pub(crate) fn line(line: &str) -> Result<Reader> {
    match stdout::write(format!("{line}\n").as_bytes()) {
        Ok(()) => Ok(Reader::There),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Reader::Gone),
        Err(error) if error.kind() == ErrorKind::TimedOut => Err(Failure {
            exit: signals::ended_so_far().unwrap_or(Exit::Bug),
            ..Failure::system("the result could not be printed", "nothing has read it before a signal came")
        }),
        Err(error) => Err(Failure::system("the result could not be printed", error)),
    }
}

/// Says something on stderr, on one line, as the last thing that is done. That nothing can read it is no reason to fail.
pub(crate) fn complain(text: &str) {
    say(text, Patience::UntilSignal);
}

/// Says something on stderr, on one line, while there are signals or a command to look after.
pub(crate) fn warn(text: &str) {
    say(text, Patience::Moment);
}

fn say(text: &str, patience: Patience) {
    let line = format!("leasehold: {}\n", safe(text.trim_end()));
    let _ = write_all(rustix::stdio::stderr(), line.as_bytes(), patience);
}

/// A holder, as `inspect`, `list`, `watch` and `break` print it.
#[derive(Debug, Serialize)]
pub(crate) struct HolderJson<'a> {
    token: String,
    owner: String,
    label: Option<&'a str>,
    /// `null` if the lease has no end.
    remaining_ms: Option<u64>,
    waiters: Option<u64>,
}

impl<'a> From<&'a Holder> for HolderJson<'a> {
    fn from(holder: &'a Holder) -> Self {
        Self {
            token: holder.token.to_string(),
            owner: holder.owner.to_string(),
            label: holder.label.as_deref(),
            remaining_ms: remaining_ms(holder),
            waiters: holder.waiters,
        }
    }
}

/// Returns the holders to report one by one, or one `None` if the lock is free.
pub(crate) fn one_or_none(holders: &[Holder]) -> Vec<Option<&Holder>> {
    if holders.is_empty() { vec![None] } else { holders.iter().map(Some).collect() }
}

/// Says in what state a lock is: its holders, or that it is free.
pub(crate) fn state(holders: &[Holder]) -> String {
    if holders.is_empty() {
        return "free".to_owned();
    }
    holders.iter().map(describe).collect::<Vec<_>>().join("; ")
}

/// A holder on one line: `held by LABEL for 3s, 8s left, 2 waiting, token 17…`.
pub(crate) fn describe(holder: &Holder) -> String {
    let held_for = holder.held_for.map(|d| format!(" for {}", short(d))).unwrap_or_default();
    let waiters = holder.waiters.map(|n| format!(", {n} waiting")).unwrap_or_default();
    format!("held by {}{held_for}, {}{waiters}, token {}", label(holder), left(holder), holder.token)
}

/// Returns how much of a lease is left: `8s left`, or `no end`.
pub(crate) fn left(holder: &Holder) -> String {
    match holder.remaining {
        Duration::MAX => "no end".to_owned(),
        remaining => format!("{} left", short(remaining)),
    }
}

/// Returns how many milliseconds of a lease are left; `None` if it has no end.
pub(crate) fn remaining_ms(holder: &Holder) -> Option<u64> {
    (holder.remaining < Duration::MAX).then(|| millis(holder.remaining))
}

/// The label, safe to print on a terminal.
pub(crate) fn label(holder: &Holder) -> String {
    match holder.label.as_deref().filter(|label| !label.is_empty()) {
        Some(label) => safe(label),
        None => "(no label)".to_owned(),
    }
}

/// The text with everything escaped that could end the line or command a terminal.
pub(crate) fn safe(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\'' | '"' | '\\' => safe.push(c),
            _ => safe.extend(c.escape_debug()),
        }
    }
    safe
}

/// A duration as people read it: `40µs`, `850ms`, `8.2s`, `3m 20s`.
pub(crate) fn short(duration: Duration) -> String {
    if duration.is_zero() {
        "0s".to_owned()
    } else if duration < Duration::from_millis(1) {
        format!("{}µs", duration.as_micros())
    } else if duration < Duration::from_secs(1) {
        format!("{}ms", duration.as_millis())
    } else if duration < Duration::from_secs(60) {
        format!("{:.1}s", duration.as_secs_f64())
    } else {
        humantime::format_duration(Duration::from_secs(duration.as_secs())).to_string()
    }
}

/// Whole milliseconds, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_end_is_no_end() {
        let name = leasehold::storage::Name::new("job").expect("valid");
        let (owner, token) = (leasehold::storage::Owner::random(), leasehold::storage::Token::new(7));
        let holder = |remaining| Holder::new(name.clone(), owner, token, remaining);
        let (endless, short) = (holder(Duration::MAX), holder(Duration::from_secs(8)));
        assert_eq!(describe(&endless), "held by (no label), no end, token 7");
        assert_eq!(describe(&short), "held by (no label), 8.0s left, token 7");
        let json = |holder| serde_json::to_string(&HolderJson::from(holder)).expect("json");
        assert!(json(&endless).contains("\"remaining_ms\":null"), "{}", json(&endless));
        assert!(json(&short).contains("\"remaining_ms\":8000"), "{}", json(&short));
    }

    #[test]
    fn what_is_printed_stays_on_its_line() {
        assert_eq!(safe("it's \"ä\"\n\u{1b}[2J\u{202e}"), "it's \"ä\"\\n\\u{1b}[2J\\u{202e}");
    }

    #[test]
    fn durations_read_well() {
        assert_eq!(short(Duration::ZERO), "0s");
        assert_eq!(short(Duration::from_micros(40)), "40µs");
        assert_eq!(short(Duration::from_millis(850)), "850ms");
        assert_eq!(short(Duration::from_millis(8200)), "8.2s");
        assert_eq!(short(Duration::from_millis(200_999)), "3m 20s");
    }
}
