//! The events that workers, the nemesis and the resources record: one line of JSON per event.
//!
//! A line is written before each call and after its return, so that a kill loses no call that had an
//! effect.

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

/// One event. Which fields are set depends on its kind; see [`Ev`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// The time, in nanoseconds of `CLOCK_MONOTONIC`.
    pub t: u64,
    /// The number of the worker, or [`NEMESIS`] or [`RESOURCE`].
    pub w: i64,
    /// The number of the call within its worker, or of the fault within the nemesis.
    pub i: u64,
    /// The kind.
    pub ev: Ev,
    /// The called function.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub op: Option<Op>,
    /// The acquisition of the guard.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
    /// The lock.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub lock: String,
    /// The way of acquiring.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The longest time that the call may wait for other clients. For a fault: how long the storage grants
    /// nothing after it.
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
    /// The deadline until which the library reports the lock as held, on the clock of `t`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dl: Option<u64>,
    /// The reason of a failure, a loss or an excusing fault, as one word.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
    /// The answer of a call or of a resource.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub res: String,
    /// The written value, or a count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub v: Option<u64>,
    /// The value read before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<u64>,
    /// The action of the nemesis.
    #[serde(rename = "do", skip_serializing_if = "String::is_empty")]
    pub doing: String,
    /// The worker that the action hits; all workers if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<i64>,
}

/// The kind of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ev {
    /// A call is about to be made.
    #[default]
    Invoke,
    /// The call succeeded.
    Ok,
    /// The call certainly failed: `why` is `held`, or the fault of the caller.
    Fail,
    /// The outcome is unknown: the call was canceled, or the storage did not answer.
    Info,
    /// A guard reports the lock as held until `dl`.
    Claim,
    /// A guard reports the lock as lost.
    Lost,
    /// A write to the fenced register: `res` is `accepted` or `stale`.
    Use,
    /// A write to the unfenced counter: read as `was`, set to `v`, while it stood at `tok`.
    Count,
    /// The nemesis begins an action.
    Begin,
    /// The nemesis has ended an action.
    End,
    /// A final inspection of the storage: `res` is `clean`, or what remains.
    Probe,
    /// A thread slept `v` nanoseconds longer than it asked for.
    Stall,
    /// An idle client lists `v` locks as held.
    Ledger,
    /// A closed client has left `v` descriptors open.
    Left,
    /// The promises of the storage: `res` is its tier, `why` lists the others.
    Promise,
}

/// A called function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// `acquire`, `try_acquire`
    Acquire,
    /// `Guard::release`
    Release,
    /// A drop of the guard.
    Drop,
    /// `Guard::verify`
    Verify,
    /// `Guard::extend`
    Extend,
    /// `Locks::close`
    Close,
}

/// A way of acquiring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One try.
    Try,
    /// A few tries, without a place in the queue.
    Retry,
    /// A wait in the queue.
    Wait,
    /// A wait in the queue that is long enough to end with a grant.
    Patient,
}

/// A log that writes the events of one worker to a file of its own.
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
    /// If the file cannot be opened.
    pub fn open(directory: &Path, w: i64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(directory.join(file_name(w)))?;
        Ok(Self { w, calls: AtomicU64::new(1), file: Mutex::new(file) })
    }

    /// Returns the number of the next call.
    pub fn number(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }

    /// Writes an event that happens now, and returns its time.
    pub fn write(&self, event: Event) -> u64 {
        self.write_at(clock::now(), event)
    }

    /// Writes an event that happened at `t`.
    ///
    /// # Panics
    ///
    /// If the file cannot be written, because a history with gaps proves nothing.
    pub fn write_at(&self, t: u64, event: Event) -> u64 {
        let event = Event { t, w: self.w, ..event };
        let mut line = serde_json::to_string(&event).expect("BUG: an event has only plain fields");
        line.push('\n');
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        // A single write keeps the line whole.
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
