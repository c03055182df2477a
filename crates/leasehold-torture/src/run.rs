//! A run: resources, workers and the nemesis; then a pause, a last inspection of the storage, and the
//! verdicts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use leasehold::Locks;
use leasehold::storage::{Guarantees, Tier};
use leasehold_defects::Defect;

use crate::checks::ALL;
use crate::clock::{self, bound, ms, nanos};
use crate::event::{Ev, Event, Log, NEMESIS};
use crate::history::History;
use crate::nemesis::{ScheduledFault, Terms, schedule};
use crate::report::Report;
use crate::resource;
use crate::target::{Injection, MemoryTarget, Running, ServersTarget, SqliteTarget, Target, Under};
use crate::worker::{Plan, Style, watch_stalls};

/// The parameters of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The storage.
    pub url: String,
    /// The duration.
    pub length: Duration,
    /// The seed of the schedule and of the workers.
    pub seed: u64,
    /// The number of workers.
    pub workers: usize,
    /// The number of tasks that share a worker's client.
    pub tasks: u64,
    /// The number of locks they compete for.
    pub locks: usize,
    /// The TTL.
    pub ttl: Duration,
    /// The faults to inject: all for `None`, none for an empty list.
    pub faults: Option<Vec<String>>,
    /// The habits of the workers.
    pub style: Style,
    /// Whether one fault follows another without a pause.
    pub restless: bool,
    /// The planted defect.
    pub defect: Option<Defect>,
    /// The checks that stop the run as soon as one of them fails.
    pub until: Vec<String>,
    /// The directory of the history, or `None` for a temporary one.
    pub directory: Option<PathBuf>,
    /// The path of this program.
    pub program: PathBuf,
}

/// The result of a run.
#[derive(Debug)]
pub struct Outcome {
    /// The verdicts.
    pub report: Report,
    /// The directory of the history.
    pub directory: PathBuf,
    /// The injected faults.
    pub scheduled: Vec<ScheduledFault>,
    /// The duration of the run.
    pub took: Duration,
}

/// Runs workers and faults, and checks the history.
///
/// # Errors
///
/// If the storage cannot be tortured, or the run cannot be set up or read.
pub fn run(options: &Options) -> io::Result<Outcome> {
    let under = Under {
        url: options.url.clone(),
        program: options.program.clone(),
        defect: options.defect,
        ttl: options.ttl,
    };
    match options.url.split(':').next() {
        Some("memory") => over(&MemoryTarget::new(under), options),
        Some("sqlite") => over(&SqliteTarget::new(under)?, options),
        Some("testbed") => over(&ServersTarget::new(under)?, options),
        _ => Err(io::Error::other("no such target; there are: memory: sqlite:PATH testbed:NAME")),
    }
}

/// How long the first acquisition of a run may take.
const FIRST: Duration = Duration::from_secs(60);
/// How long a worker may take to end.
const LAST_CALLS: Duration = Duration::from_secs(10);

fn over<T: Target>(target: &T, options: &Options) -> io::Result<Outcome> {
    let began = clock::now();
    let directory = empty_directory(options)?;
    // A directory of its own, because the path of a socket has to be short.
    let sockets = tempfile::tempdir()?;
    let socket = sockets.path().join("resources");
    resource::serve(&socket, &directory)?;
    let log = Arc::new(Log::open(&directory, NEMESIS)?);
    watch_stalls(&log);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let operator = runtime.block_on(target.operator()).map_err(io::Error::other)?;
    let tier = note_promises(&log, &operator);
    // A careful storage grants nothing until it knows that it has forgotten no holder.
    let first = operator.lock(format!("torture-{}/first", options.seed)).ttl(options.ttl).wait(FIRST);
    runtime
        .block_on(async { first.acquire().await?.release().await })
        .map_err(|error| io::Error::other(format!("no lock was granted before the run: {error}")))?;
    let start = clock::now();
    let scheduled = plan_faults(target, options)?;
    let mut run = Run {
        target,
        options,
        log,
        directory,
        locks: (0..options.locks).map(|n| format!("torture-{}/{n}", options.seed)).collect(),
        socket,
        operator,
        tier,
        runtime,
        places: Vec::new(),
        start,
        looked: 0,
    };
    run.execute(&scheduled)?;
    let history = History::read(&run.directory)?;
    let took = Duration::from_nanos(clock::now() - began);
    Ok(Outcome { report: Report::of(&history), directory: run.directory.clone(), scheduled, took })
}

/// Returns the directory of the history, which is empty.
fn empty_directory(options: &Options) -> io::Result<PathBuf> {
    let directory = match &options.directory {
        Some(directory) => directory.clone(),
        None => tempfile::Builder::new().prefix("leasehold-torture-").tempdir()?.keep(),
    };
    fs::create_dir_all(&directory)?;
    if fs::read_dir(&directory)?.next().is_some() {
        return Err(io::Error::other("the directory of a history is empty before the run"));
    }
    Ok(directory)
}

/// Writes what the storage promises into the history, and returns its tier.
fn note_promises(log: &Log, operator: &Locks) -> Tier {
    let Guarantees { tier, fair, push, .. } = operator.guarantees();
    let words = [(fair, "fair"), (push, "push")].into_iter().filter(|(is, _)| *is);
    let why = words.map(|(_, word)| word).collect::<Vec<_>>().join(" ");
    log.write(Event { ev: Ev::Promise, res: tier.to_string(), why, ..Event::default() });
    tier
}

/// Schedules the faults of the target, or those of them that the options name.
fn plan_faults<T: Target>(target: &T, options: &Options) -> io::Result<Vec<ScheduledFault>> {
    let known: Vec<String> = target.faults().into_iter().map(str::to_owned).collect();
    let faults = options.faults.as_ref().unwrap_or(&known);
    if let Some(unknown) = faults.iter().find(|fault| !known.contains(fault)) {
        let text = format!("no such fault: {unknown}; there are: {}", known.join(", "));
        return Err(io::Error::other(text));
    }
    let terms = Terms {
        faults,
        workers: options.workers,
        locks: options.locks,
        ttl: options.ttl,
        length: options.length,
        restless: options.restless,
    };
    let mut scheduled = schedule(options.seed, &terms);
    for planned in scheduled.iter_mut().filter(|planned| !target.reaches_one(&planned.fault)) {
        planned.place = None;
    }
    Ok(scheduled)
}

struct Run<'a, T> {
    target: &'a T,
    options: &'a Options,
    log: Arc<Log>,
    directory: PathBuf,
    locks: Vec<String>,
    socket: PathBuf,
    operator: Locks,
    /// The tier of the storage.
    tier: Tier,
    runtime: tokio::runtime::Runtime,
    places: Vec<Place>,
    start: u64,
    /// The time of the last check.
    looked: u64,
}

/// A slot for one worker. A killed worker is replaced by another one.
struct Place {
    worker: Box<dyn Running>,
    w: i64,
    generation: usize,
}

impl<T: Target> Run<'_, T> {
    /// Runs workers under the scheduled faults, and looks at what is left when they have ended.
    fn execute(&mut self, scheduled: &[ScheduledFault]) -> io::Result<()> {
        for place in 0..self.options.workers {
            let worker = self.worker(place, 0)?;
            self.places.push(worker);
        }
        self.await_workers()?;
        self.inject_all(scheduled)?;
        let (mut ended, killed) = (true, self.places.iter().any(|place| place.generation > 0));
        for mut place in std::mem::take(&mut self.places) {
            ended &= place.worker.finish(LAST_CALLS);
        }
        if !ended {
            let res = "a worker did not end".to_owned();
            self.log.write(Event { ev: Ev::Probe, res, ..Event::default() });
        }
        self.probe(killed);
        self.probe_servers();
        Ok(())
    }

    fn worker(&self, place: usize, generation: usize) -> io::Result<Place> {
        let n = place + self.options.workers * generation;
        let w = i64::try_from(n).unwrap_or(i64::MAX);
        let plan = Plan {
            w,
            seed: self.options.seed.wrapping_mul(1_000_003).wrapping_add(u64::try_from(n).unwrap_or(0)),
            locks: self.locks.clone(),
            style: self.options.style,
            ttl_ms: clock::millis(self.options.ttl),
            tasks: self.options.tasks,
            directory: self.directory.clone(),
            socket: self.socket.clone(),
        };
        Ok(Place { worker: self.target.start(&plan)?, w, generation })
    }

    /// Waits until every worker has made a call, and starts the clock of the schedule.
    fn await_workers(&mut self) -> io::Result<()> {
        let until = clock::now() + nanos(FIRST);
        let mut awaited: Vec<_> = (0..self.options.workers).collect();
        while !awaited.is_empty() && clock::now() < until {
            clock::pause(Duration::from_millis(10));
            let events = History::read(&self.directory)?.events;
            awaited.retain(|w| {
                !events.iter().any(|event| i64::try_from(*w) == Ok(event.w) && event.op.is_some())
            });
        }
        if !awaited.is_empty() {
            return Err(io::Error::other(format!("these workers did not begin: {awaited:?}")));
        }
        self.start = clock::now();
        Ok(())
    }

    /// Injects the scheduled faults until the time is over, or until one of the `until` checks fails.
    fn inject_all(&mut self, scheduled: &[ScheduledFault]) -> io::Result<()> {
        // Servers take time to fail over and to come back, and the pause after that keeps its length.
        let mut late = 0;
        for planned in scheduled {
            let at = self.start + nanos(planned.at) + late;
            if self.rest_until(at)? || at + nanos(planned.span) > self.start + nanos(self.options.length) {
                break;
            }
            self.inject(planned)?;
            late += clock::now().saturating_sub(at + nanos(planned.span));
        }
        self.rest_until(self.start + nanos(self.options.length)).map(drop)
    }

    /// Waits until then. Returns `true` if one of the `until` checks has failed.
    fn rest_until(&mut self, until: u64) -> io::Result<bool> {
        while clock::now() < until {
            let left = Duration::from_nanos(until.saturating_sub(clock::now()));
            clock::pause(std::cmp::min(left, Duration::from_millis(100)));
            if !self.options.until.is_empty() && clock::now() > self.looked + ms(700) {
                self.looked = clock::now();
                if self.looked > self.start + ms(1_500) && self.enough()? {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn enough(&self) -> io::Result<bool> {
        // The files grow while they are read one after the other, so only events that all files contain
        // count.
        let seen = clock::now().saturating_sub(bound(100));
        let mut events = History::read(&self.directory)?.events;
        events.retain(|event| event.t <= seen);
        let history = History::of(events);
        let wanted = ALL.iter().filter(|check| self.options.until.iter().any(|name| name == check.name));
        Ok(wanted.into_iter().any(|check| !(check.run)(&history).passed()))
    }

    fn inject(&mut self, planned: &ScheduledFault) -> io::Result<()> {
        let target = planned.place.and_then(|place| self.places.get(place)).map(|place| place.w);
        let i = self.log.number();
        let event = Event { i, doing: planned.fault.clone(), target, ..Event::default() };
        let hit = self.target;
        let why = if self.tier < hit.needs(&planned.fault) {
            format!("{}, which {} does not promise to survive", planned.fault, self.tier)
        } else {
            String::new()
        };
        let refuses = hit.refuses_after(&planned.fault);
        let wait_ms = Some(clock::millis(refuses)).filter(|wait| *wait > 0);
        let lock = self.locks.get(planned.lock).cloned().unwrap_or_default();
        let broken = planned.fault == "break";
        let begin = Event { ev: Ev::Begin, why, wait_ms, ..event.clone() };
        // A break ends one hold; it hits no worker.
        let begin = if broken { Event { lock: lock.clone(), target: Some(NEMESIS), ..begin } } else { begin };
        self.log.write(begin);
        let mut owner = String::new();
        match (planned.fault.as_str(), planned.place) {
            ("kill", Some(place)) => return self.replace(place, Event { ev: Ev::End, ..event }),
            ("stop", Some(place)) => {
                if let Some(place) = self.places.get_mut(place) {
                    place.worker.stop();
                }
                self.rest_until(clock::now() + nanos(planned.span))?;
                if let Some(place) = self.places.get_mut(place) {
                    place.worker.go_on();
                }
            }
            ("break", _) => {
                for holder in self.runtime.block_on(self.operator.break_lock(&lock)).into_iter().flatten() {
                    owner = holder.owner.to_string();
                }
            }
            (fault, _) => {
                let over = hit.inject(&Injection { fault, on: target, lock: &lock, span: planned.span })?;
                self.rest_until(clock::now() + nanos(planned.span))?;
                over()?;
                self.rest_until(clock::now() + nanos(refuses))?;
            }
        }
        let end = Event { ev: Ev::End, owner, ..event };
        self.log.write(if broken { Event { lock, target: Some(NEMESIS), ..end } } else { end });
        Ok(())
    }

    /// Kills a worker, writes the end of that fault, and starts another worker in its place.
    fn replace(&mut self, place: usize, end: Event) -> io::Result<()> {
        let old = self.places.get_mut(place).ok_or_else(|| io::Error::other("no such worker"))?;
        old.worker.kill();
        let generation = old.generation + 1;
        self.log.write(end);
        let new = self.worker(place, generation)?;
        if let Some(old) = self.places.get_mut(place) {
            *old = new;
        }
        Ok(())
    }

    /// Checks that nothing is left when all workers are gone.
    fn probe(&self, killed: bool) {
        let ttl = nanos(self.options.ttl) * 2;
        // A clean shutdown leaves nothing. After a kill, the lease and the queue entry end with their TTLs.
        let waiters = nanos(leasehold::storage::WAITER_TTL);
        let until = clock::now() + bound(2_000) + ttl + if killed { waiters } else { 0 };
        for lock in &self.locks {
            let res = loop {
                let res = self.runtime.block_on(self.look(lock));
                if res == "clean" || clock::now() > until {
                    break res;
                }
                clock::pause(Duration::from_millis(20));
            };
            self.log.write(Event { ev: Ev::Probe, lock: lock.clone(), res, ..Event::default() });
        }
        // An error leaves the rest to the TTL; no client comes after this one.
        drop(self.runtime.block_on(self.operator.close()));
    }

    /// Checks that nothing is left at the servers when the last client is gone.
    fn probe_servers(&self) {
        let until =
            clock::now() + bound(2_000) + nanos(leasehold::storage::WAITER_TTL) + nanos(self.options.ttl) * 2;
        let left = loop {
            match self.target.left() {
                Ok(left) if left.is_empty() => break vec!["clean".to_owned()],
                Ok(left) if clock::now() > until => break left,
                Err(error) if clock::now() > until => break vec![error.to_string()],
                _ => clock::pause(Duration::from_millis(200)),
            }
        };
        for res in left {
            self.log.write(Event { ev: Ev::Probe, lock: "any".to_owned(), res, ..Event::default() });
        }
    }

    async fn look(&self, lock: &str) -> String {
        match self.operator.inspect(lock).await {
            Ok(holders) if !holders.is_empty() => return format!("held by {}", holders[0].owner),
            Err(error) => return error.to_string(),
            Ok(_) => {}
        }
        match self.operator.lock(lock).ttl(self.options.ttl * 2).try_acquire().await {
            Ok(Some(guard)) => match guard.release().await {
                Ok(()) => "clean".to_owned(),
                Err(error) => error.to_string(),
            },
            Ok(None) => "the queue entry of a waiter that is gone blocks the lock".to_owned(),
            Err(error) => error.to_string(),
        }
    }
}

/// Checks an existing history.
///
/// # Errors
///
/// If the history cannot be read.
pub fn check(directory: &Path) -> io::Result<Report> {
    Ok(Report::of(&History::read(directory)?))
}
