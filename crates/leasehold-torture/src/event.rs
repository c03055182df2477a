//! What a worker, the nemesis and the resources write down: one line of JSON per event.
//!
//! A line is written before a call and after its return, so that a kill loses nothing that had an effect.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::clock;

/// The worker number of the nemesis.
pub const NEMESIS: i64 = -1;
/// The worker number of the resources.
pub const RESOURCE: i64 = -2;

/// One event. Which fields are there depends on what it is; see [`Ev`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub t: u64,
    /// Which worker; [`NEMESIS`] and [`RESOURCE`] are none.
    pub w: i64,
    /// The number of the call within its worker, or of the fault within the nemesis.
    pub i: u64,
    /// What it is.
    pub ev: Ev,
    /// What is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<Op>,
    /// The acquisition whose guard is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// The lock.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub lock: String,
    /// How the lock is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The longest that the call may wait for somebody else; or for how long after a fault nobody is granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_ms: Option<u64>,
    /// The TTL of the lease.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
    /// The id of the acquisition.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// The fencing token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tok: Option<u64>,
    /// Until when the library says that the lock is held, on the clock of `t`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dl: Option<u64>,
    /// The reason of a failure or loss, as one word; or of what a fault excuses.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The answer of a call or of a resource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub res: String,
    /// A value that is written, or a number that is counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v: Option<u64>,
    /// The value that was read before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<u64>,
    /// What the nemesis does.
    #[serde(rename = "do", skip_serializing_if = "String::is_empty")]
    pub doing: String,
    /// The worker it does that to; all of them if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<i64>,
}

/// What an event is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ev {
    /// A call is about to be made.
    #[default]
    Invoke,
    /// It succeeded.
    Ok,
    /// It did not, for certain: `why` is `held`, or what the caller did wrong.
    Fail,
    /// Nobody knows whether it did: it was cancelled, or the storage did not answer.
    Info,
    /// A guard says that it holds until `dl`.
    Claim,
    /// A guard says that its lock is lost.
    Lost,
    /// The fenced register was written: `res` is `accepted` or `stale`.
    Use,
    /// The unfenced counter, which was read as `was`, is set to `v`; it stood at `tok` at that moment.
    Count,
    /// The nemesis begins something.
    Begin,
    /// The nemesis has ended it.
    End,
    /// A look at the storage when everything is over: `res` is `clean`, or what is left.
    Probe,
    /// A thread that wanted to sleep for a moment slept `v` nanoseconds longer.
    Stall,
    /// A client that nobody uses lists `v` locks as held.
    Ledger,
    /// A client that was closed has left `v` descriptors open.
    Left,
    /// What the storage promises: `res` is its tier, `why` says what else.
    Promise,
}

/// What is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// `acquire`, `try_acquire`
    Acquire,
    /// `Guard::release`
    Release,
    /// The guard is dropped.
    Drop,
    /// `Guard::verify`
    Verify,
    /// `Guard::extend`
    Extend,
    /// `Locks::close`
    Close,
}

/// How a lock is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Once.
    Try,
    /// A few times, without a place in line.
    Retry,
    /// In line.
    Wait,
    /// In line, for so long that it should be granted.
    Patient,
}

/// Writes the events of one worker to a file of its own.
#[derive(Debug)]
pub struct Log {
    w: i64,
    calls: AtomicU64,
    file: Mutex<File>,
}

impl Log {
    /// Opens the file of a worker in the directory of a history.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub fn open(directory: &Path, w: i64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(directory.join(file_name(w)))?;
        Ok(Self { w, calls: AtomicU64::new(1), file: Mutex::new(file) })
    }

    /// The number of the next call.
    pub fn number(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes an event that happens now; when that was.
    pub fn write(&self, event: Event) -> u64 {
        self.write_at(clock::now(), event)
    }

    /// Writes an event that happened then.
    ///
    /// # Panics
    ///
    /// If the file cannot be written: a history with holes proves nothing.
    pub fn write_at(&self, t: u64, event: Event) -> u64 {
        let event = Event { t, w: self.w, ..event };
        let mut line = serde_json::to_string(&event).expect("BUG: an event has only plain fields");
        line.push('\n');
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // One write, so that the line is there as a whole or not at all.
        file.write_all(line.as_bytes()).expect("the history can be written");
        t
    }
}

fn file_name(w: i64) -> String {
    match w {
        NEMESIS => "nemesis.jsonl".to_owned(),
        RESOURCE => "resources.jsonl".to_owned(),
        w => format!("worker-{w}.jsonl"),
    }
}
