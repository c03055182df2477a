//! The history of a run, built from all events: calls with their results, holds with their claims, faults
//! with their durations.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::{fs, io};

use crate::clock::{bound, ms};
use crate::event::{Ev, Event, Mode, Op};

/// Everything that happened in a run.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// All events, ordered by time.
    pub events: Vec<Event>,
    /// All calls, in the order in which they were made.
    pub calls: Vec<Call>,
    /// All grants, in the order in which their callers received them.
    pub holds: Vec<Hold>,
    /// The faults that the nemesis injected.
    pub faults: Vec<Fault>,
    /// The times at which the machine kept threads from running: from, to.
    pub stalls: Vec<(u64, u64)>,
    /// Which faults the storage promises to survive, as a word.
    pub tier: String,
    /// Whether the storage promises to serve waiters in order.
    pub fair: bool,
    /// Whether the storage promises to wake waiters.
    pub push: bool,
}

/// A call and its result.
#[derive(Clone, Debug)]
pub struct Call {
    /// The called function.
    pub op: Op,
    /// The event before the call.
    pub invoke: Event,
    /// The event after the call. `None` if its worker was killed or hangs.
    pub end: Option<Event>,
    /// When the worker was killed, if that ended the call.
    pub killed: Option<u64>,
}

/// A grant, and for how long its guard claimed to hold.
#[derive(Clone, Debug)]
pub struct Hold {
    /// The acquisition.
    pub call: Call,
    /// The grant.
    pub ok: Event,
    /// Until when the lock was claimed to be held: the earliest event that ends a claim.
    pub until: u64,
    /// The event that ended the claim.
    pub ended_by: Option<Event>,
    /// The last claimed deadline.
    pub deadline: u64,
    /// The longest TTL of the lease.
    pub ttl: u64,
    /// The release, or the drop of the guard.
    pub release: Option<Call>,
    /// The loss.
    pub lost: Option<Event>,
    /// A claim made after the loss.
    pub revived: Option<Event>,
    /// Whether another client ended the lease on purpose.
    pub broken: bool,
}

/// A fault that the nemesis injected.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Its name.
    pub doing: String,
    /// The worker that it hit, or `None` for all.
    pub target: Option<i64>,
    /// Its start.
    pub from: u64,
    /// Its end, or `u64::MAX` if it never ended.
    pub to: u64,
    /// The event of its start.
    pub event: Event,
}

impl Call {
    /// Returns when the call was made.
    pub fn from(&self) -> u64 {
        self.invoke.t
    }

    /// Returns when the call returned or was killed, or `u64::MAX` if neither happened.
    pub fn to(&self) -> u64 {
        self.end.as_ref().map(|end| end.t).or(self.killed).unwrap_or(u64::MAX)
    }

    /// Returns the kind of its result.
    pub fn outcome(&self) -> Option<Ev> {
        self.end.as_ref().map(|end| end.ev)
    }

    /// Returns `true` if the call waits in the queue.
    pub fn lines_up(&self) -> bool {
        matches!(self.invoke.mode, Some(Mode::Wait | Mode::Patient))
    }

    /// Returns its TTL, in nanoseconds.
    pub fn ttl(&self) -> u64 {
        ms(self.invoke.ttl_ms.unwrap_or(0))
    }

    fn why(&self) -> &str {
        self.end.as_ref().map_or("", |end| &end.why)
    }

    /// Returns `true` if the answer was that another client holds the lock.
    pub fn was_refused(&self) -> bool {
        self.op == Op::Acquire && self.outcome() == Some(Ev::Fail) && self.why() == "held"
    }

    /// Returns `true` if its caller dropped it.
    pub fn was_canceled(&self) -> bool {
        self.outcome() == Some(Ev::Info) && self.why() == "canceled"
    }
}

impl Hold {
    /// Returns the name of the lock.
    pub fn lock(&self) -> &str {
        &self.call.invoke.lock
    }

    /// Returns the fencing token.
    pub fn token(&self) -> u64 {
        self.ok.tok.unwrap_or(0)
    }

    /// Returns since when the lock was claimed to be held.
    pub fn from(&self) -> u64 {
        self.ok.t
    }

    /// Returns the time from which the storage may have ended the lease on request: a definite answer to a
    /// release, or the end of the lease.
    pub fn surely_over(&self) -> u64 {
        match &self.release {
            Some(Call { op: Op::Release, end: Some(end), .. }) if end.ev != Ev::Info => end.t,
            _ => self.lease_over(),
        }
    }

    /// Returns when the storage has ended the lease by itself, however late it was renewed.
    pub fn lease_over(&self) -> u64 {
        let last = std::cmp::max(self.deadline, self.until);
        let ended = std::cmp::max(last, self.release.as_ref().map_or(0, Call::from));
        ended.saturating_add(self.ttl).saturating_add(bound(500))
    }
}

impl Fault {
    /// Returns `true` if the fault lasted between these moments, or ended less than `after` before them.
    pub fn touches(&self, from: u64, to: u64, after: u64) -> bool {
        self.from <= to && self.to.saturating_add(after) >= from
    }

    /// Returns the reason why the fault may make the storage forget holders: it does not promise to survive
    /// the fault.
    pub fn excuse(&self) -> Option<&str> {
        Some(self.event.why.as_str()).filter(|why| !why.is_empty())
    }

    /// Returns `true` if the fault hit that worker, or all.
    pub fn is_on(&self, w: i64) -> bool {
        self.target.is_none_or(|target| target == w)
    }
}

impl History {
    /// Reads all files of a directory.
    ///
    /// # Errors
    ///
    /// If a file cannot be read, or a line other than its last one is no event.
    pub fn read(directory: &Path) -> io::Result<Self> {
        let mut events = Vec::new();
        let mut paths: Vec<_> = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
        paths.sort_by_key(fs::DirEntry::path);
        for path in
            paths.iter().map(fs::DirEntry::path).filter(|path| path.extension().is_some_and(|e| e == "jsonl"))
        {
            let text = fs::read_to_string(&path)?;
            let mut lines = text.lines().peekable();
            while let Some(line) = lines.next() {
                match serde_json::from_str(line) {
                    Ok(event) => events.push(event),
                    // The process was killed while it wrote its last line.
                    Err(_) if lines.peek().is_none() => {}
                    Err(error) => return Err(io::Error::other(format!("{}: {error}", path.display()))),
                }
            }
        }
        Ok(Self::of(events))
    }

    /// Builds the history from the events.
    pub fn of(mut events: Vec<Event>) -> Self {
        // The sort is stable, so the events of one file keep their order.
        events.sort_by_key(|event| event.t);
        let (mut calls, faults) = (calls(&events), faults(&events));
        for call in calls.iter_mut().filter(|call| call.end.is_none()) {
            let kills = |fault: &&Fault| fault.doing == "kill" && fault.target == Some(call.invoke.w);
            call.killed = faults.iter().find(kills).map(|fault| fault.from);
        }
        let holds = holds(&events, &calls, &faults);
        let stalls = events.iter().filter(|event| event.ev == Ev::Stall);
        let stalls = stalls.map(|event| (event.t.saturating_sub(event.v.unwrap_or(0)), event.t)).collect();
        let promise = events.iter().find(|event| event.ev == Ev::Promise);
        let (tier, why) = promise.map_or(("unknown", "fair push"), |event| (&event.res, &event.why));
        let (tier, fair, push) = (tier.to_owned(), why.contains("fair"), why.contains("push"));
        Self { events, calls, holds, faults, stalls, tier, fair, push }
    }

    /// Returns the acquisitions of all locks.
    pub fn acquires(&self) -> impl Iterator<Item = &Call> {
        self.calls.iter().filter(|call| call.op == Op::Acquire)
    }

    /// Returns the holds of each lock, in the order of their grants.
    pub fn holds_by_lock(&self) -> BTreeMap<&str, Vec<&Hold>> {
        let mut locks: BTreeMap<&str, Vec<&Hold>> = BTreeMap::new();
        for hold in &self.holds {
            locks.entry(hold.lock()).or_default().push(hold);
        }
        locks
    }

    /// Returns a fault of this worker between these moments, or that ended less than `after` before them.
    pub fn fault_on(&self, w: i64, from: u64, to: u64, after: u64) -> Option<&Fault> {
        self.faults.iter().find(|fault| fault.is_on(w) && fault.touches(from, to, after))
    }

    /// Returns a fault of any worker between these moments, or that ended less than `after` before them.
    pub fn fault(&self, from: u64, to: u64, after: u64) -> Option<&Fault> {
        self.faults.iter().find(|fault| fault.touches(from, to, after))
    }

    /// Returns a fault that the storage does not promise to survive, if one began between these moments or
    /// ended less than `after` before them.
    pub fn beyond(&self, from: u64, to: u64, after: u64) -> Option<&Fault> {
        self.faults.iter().find(|fault| fault.excuse().is_some() && fault.touches(from, to, after))
    }

    /// Returns for how long the machine kept threads from running between these moments.
    pub fn stalled(&self, from: u64, to: u64) -> u64 {
        let overlap = |&(a, b): &(u64, u64)| std::cmp::min(b, to).saturating_sub(std::cmp::max(a, from));
        self.stalls.iter().map(overlap).max().unwrap_or(0)
    }

    /// Returns when the run ended.
    pub fn end(&self) -> u64 {
        self.events.last().map_or(0, |event| event.t)
    }
}

fn calls(events: &[Event]) -> Vec<Call> {
    let (mut calls, mut open) = (Vec::<Call>::new(), HashMap::new());
    for event in events.iter().filter(|event| event.w >= 0) {
        match (event.ev, event.op) {
            (Ev::Invoke, Some(op)) => {
                open.insert((event.w, event.i), calls.len());
                calls.push(Call { op, invoke: event.clone(), end: None, killed: None });
            }
            (Ev::Ok | Ev::Fail | Ev::Info, _) => {
                let call = open.remove(&(event.w, event.i)).and_then(|at| calls.get_mut(at));
                if let Some(call) = call {
                    call.end = Some(event.clone());
                }
            }
            _ => {}
        }
    }
    calls
}

fn faults(events: &[Event]) -> Vec<Fault> {
    let mut faults: Vec<Fault> = Vec::new();
    for event in events {
        match event.ev {
            Ev::Begin => faults.push(Fault {
                doing: event.doing.clone(),
                target: event.target,
                from: event.t,
                to: u64::MAX,
                event: event.clone(),
            }),
            Ev::End => {
                if let Some(fault) = faults.iter_mut().rev().find(|fault| fault.event.i == event.i) {
                    fault.to = event.t;
                    fault.event.owner.clone_from(&event.owner);
                }
            }
            _ => {}
        }
    }
    faults
}

fn holds(events: &[Event], calls: &[Call], faults: &[Fault]) -> Vec<Hold> {
    let (mut holds, mut at) = (Vec::<Hold>::new(), HashMap::new());
    let granted = |call: &&Call| call.op == Op::Acquire && call.outcome() == Some(Ev::Ok);
    for call in calls.iter().filter(granted) {
        let Some(ok) = call.end.clone() else { continue };
        let deadline = ok.dl.unwrap_or(ok.t);
        at.insert((ok.w, ok.i), holds.len());
        holds.push(Hold {
            call: call.clone(),
            until: u64::MAX,
            ended_by: None,
            deadline,
            ttl: call.ttl(),
            release: None,
            lost: None,
            revived: None,
            broken: false,
            ok,
        });
    }
    for event in events.iter().filter(|event| event.w >= 0) {
        let Some(hold) = event.of.and_then(|of| at.get(&(event.w, of))).and_then(|at| holds.get_mut(*at))
        else {
            continue;
        };
        hold.note(event);
    }
    for call in calls.iter().filter(|call| matches!(call.op, Op::Release | Op::Drop)) {
        let hold =
            call.invoke.of.and_then(|of| at.get(&(call.invoke.w, of))).and_then(|at| holds.get_mut(*at));
        if let Some(hold) = hold {
            hold.release = Some(call.clone());
        }
    }
    for hold in &mut holds {
        hold.end_by_faults(faults);
        hold.until = std::cmp::min(hold.until, hold.deadline);
    }
    holds.sort_by_key(Hold::from);
    holds
}

impl Hold {
    /// Applies an event of the hold.
    fn note(&mut self, event: &Event) {
        match (event.ev, event.op) {
            (Ev::Claim, _) => match (event.dl, &self.lost) {
                (Some(dl), Some(_)) if dl > event.t => self.revived = Some(event.clone()),
                (Some(dl), None) => self.deadline = dl,
                _ => {}
            },
            (Ev::Lost, _) => {
                self.lost.get_or_insert_with(|| event.clone());
                self.end(event);
            }
            (Ev::Invoke, Some(Op::Release | Op::Drop)) => self.end(event),
            // After the TTL is replaced by a shorter one, the remaining time is unknown until the answer.
            (Ev::Invoke, Some(Op::Extend)) => {
                self.deadline = std::cmp::min(self.deadline, event.t);
                self.ttl = std::cmp::max(self.ttl, ms(event.ttl_ms.unwrap_or(0)));
            }
            _ => {}
        }
    }

    /// Ends the hold with its worker, or when an operator breaks the lock.
    fn end_by_faults(&mut self, faults: &[Fault]) {
        let asked = self.call.from();
        for fault in faults.iter().filter(|fault| fault.from >= asked) {
            let killed = fault.doing == "kill" && fault.target == Some(self.ok.w);
            let broken =
                fault.doing == "break" && fault.event.owner == self.ok.owner && !self.ok.owner.is_empty();
            self.broken |= broken;
            if killed || broken {
                self.end(&fault.event);
            }
        }
    }

    fn end(&mut self, by: &Event) {
        if by.t < self.until {
            (self.until, self.ended_by) = (by.t, Some(by.clone()));
        }
    }
}
