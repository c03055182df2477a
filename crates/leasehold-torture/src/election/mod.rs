//! An elected service under torture: a few replicas stand for election, faults hit the leader and the servers, and the
//! acts of the leaders show whether two ever led at a time, and for how long there was no leader.

mod acts;
pub mod replica;
mod table;

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use leasehold::storage::Tier;

use self::acts::Acts;
pub use self::table::Outcome;
use self::table::{Measured, Row};
use crate::clock::{self, bound, nanos};
use crate::event::{Ev, Event, Log, NEMESIS};
use crate::target::{Injection, Running, ServersTarget, SqliteTarget, Target, Under};
use crate::worker::{Plan, Style};

/// The parameters of a run.
#[derive(Clone, Debug)]
pub struct Options {
    /// The storage.
    pub url: String,
    /// How often each fault is injected.
    pub rounds: usize,
    /// The TTL of the leader's lease.
    pub ttl: Duration,
    /// The faults to inject: all for `None`.
    pub faults: Option<Vec<String>>,
    /// The directory of the history, or `None` for a temporary one.
    pub directory: Option<PathBuf>,
    /// The path of this program.
    pub program: PathBuf,
}

/// How many replicas the service has.
const REPLICAS: usize = 3;
/// The name of the election.
const NAME: &str = "elected-service";
/// How long a leader may take to appear.
const LONGEST: u64 = 60_000;
/// How long a leader acts undisturbed before the next fault.
const CALM: Duration = Duration::from_millis(500);

/// Runs the service, injects the faults one after the other, and measures.
///
/// # Errors
///
/// If the storage cannot be tortured, or no leader appears.
pub fn run(options: &Options) -> io::Result<Outcome> {
    let under =
        Under { url: options.url.clone(), program: options.program.clone(), defect: None, ttl: options.ttl };
    match options.url.split(':').next() {
        Some("sqlite") => over(&SqliteTarget::new(under)?, options),
        Some("testbed") => over(&ServersTarget::new(under)?, options),
        _ => Err(io::Error::other("no such target; there are: sqlite:PATH testbed:NAME")),
    }
}

fn over<T: Target>(target: &T, options: &Options) -> io::Result<Outcome> {
    let directory = match &options.directory {
        Some(directory) => directory.clone(),
        None => tempfile::Builder::new().prefix("leasehold-election-").tempdir()?.keep(),
    };
    fs::create_dir_all(&directory)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let operator = runtime.block_on(target.operator()).map_err(io::Error::other)?;
    let tier = operator.guarantees().tier;
    let log = Log::open(&directory, NEMESIS)?;
    let acts = Acts::new(directory.clone());
    let mut service =
        Service { target, options, log, acts, directory, tier, replicas: Vec::new(), started: 0 };
    for _ in 0..REPLICAS {
        let replica = service.replica()?;
        service.replicas.push(replica);
    }
    service.acts.await_act(clock::now(), bound(LONGEST))?;
    let mut rows: Vec<_> = service.faults()?.into_iter().map(Row::new).collect();
    for _ in 0..options.rounds {
        for row in &mut rows {
            let measured = service.hit(&row.fault)?;
            row.measured.push(measured);
        }
    }
    service.finish(rows)
}

/// A service that runs, and what is known of its leaders.
struct Service<'a, T> {
    target: &'a T,
    options: &'a Options,
    log: Log,
    acts: Acts,
    directory: PathBuf,
    tier: Tier,
    replicas: Vec<Replica>,
    /// How many replicas were started.
    started: i64,
}

struct Replica {
    worker: Box<dyn Running>,
    w: i64,
}

impl<T: Target> Service<'_, T> {
    /// Returns the faults that are injected: those of replicas, the two ways to cut a leader off, and those of servers.
    fn faults(&self) -> io::Result<Vec<String>> {
        let known = self.target.faults();
        let of_servers = |fault: &&str| {
            fault.starts_with("failover")
                || [" kill", " restart", " stop"].iter().any(|end| fault.ends_with(end))
        };
        let of_links = |fault: &&str| ["link down", "link black-hole"].contains(fault);
        let others = known.iter().copied().filter(|fault| of_links(fault) || of_servers(fault));
        let mut usual: Vec<String> =
            ["kill", "stop", "resign"].into_iter().chain(others).map(str::to_owned).collect();
        usual.sort_by_key(|fault| fault.starts_with("server") || fault.contains("failover"));
        usual.dedup();
        let Some(wanted) = &self.options.faults else { return Ok(usual) };
        match wanted.iter().find(|fault| *fault != "resign" && !known.contains(&fault.as_str())) {
            Some(unknown) => Err(io::Error::other(format!(
                "no such fault: {unknown}; there are: resign, {}",
                known.join(", ")
            ))),
            None => Ok(wanted.clone()),
        }
    }

    /// Starts one more replica.
    fn replica(&mut self) -> io::Result<Replica> {
        let w = self.started;
        self.started += 1;
        let plan = Plan {
            w,
            seed: 0,
            locks: vec![NAME.to_owned()],
            style: Style::Elected,
            ttl_ms: clock::millis(self.options.ttl),
            tasks: 1,
            directory: self.directory.clone(),
            socket: PathBuf::new(),
        };
        Ok(Replica { worker: self.target.start(&plan)?, w })
    }

    /// Injects a fault while a leader acts, waits until one acts again, and measures.
    fn hit(&mut self, fault: &str) -> io::Result<Measured> {
        clock::pause(CALM);
        let before = self.acts.await_act(clock::now(), bound(LONGEST))?;
        let place = self.replicas.iter().position(|replica| replica.w == before.w);
        let place = place.ok_or_else(|| io::Error::other("a replica acts that was not started"))?;
        let i = self.log.number();
        let event = Event { i, doing: fault.to_owned(), target: Some(before.w), ..Event::default() };
        let began = self.log.write(Event { ev: Ev::Begin, ..event.clone() });
        let ended = self.inject(fault, place, before.w)?;
        self.log.write_at(ended, Event { ev: Ev::End, ..event });
        self.acts.await_act(ended, bound(LONGEST))?;
        // The former leader may not have been told yet.
        clock::pause(CALM);
        self.acts.read()?;
        Ok(self.acts.measure(before.term, began, ended))
    }

    /// Injects a fault, and returns when it was over.
    fn inject(&mut self, fault: &str, place: usize, w: i64) -> io::Result<u64> {
        // The lease ends, and the next leader has begun, long before this is over.
        let span = self.options.ttl * 2;
        let worker = &mut self.replicas[place].worker;
        match fault {
            "kill" => {
                worker.kill();
                self.replicas[place] = self.replica()?;
            }
            "stop" => {
                worker.stop();
                clock::pause(span);
                let ended = clock::now();
                self.replicas[place].worker.go_on();
                return Ok(ended);
            }
            "resign" => fs::write(replica::resign_file(&self.directory, w), "")?,
            _ => {
                let on = self.target.reaches_one(fault).then_some(w);
                let heal = self.target.inject(&Injection { fault, on, lock: NAME, span })?;
                clock::pause(if fault.ends_with("restart") { Duration::ZERO } else { span });
                heal()?;
            }
        }
        Ok(clock::now())
    }

    /// Ends all replicas, and checks what they have done.
    fn finish(mut self, rows: Vec<Row>) -> io::Result<Outcome> {
        let mut wrong = Vec::new();
        for replica in &mut self.replicas {
            if !replica.worker.finish(Duration::from_nanos(bound(10_000))) {
                wrong.push(format!("replica {} did not end", replica.w));
            }
        }
        self.acts.read()?;
        let is_promised = |row: &&Row| self.tier >= self.target.needs(&row.fault);
        let excused = rows.iter().filter(|row| !is_promised(row)).flat_map(|row| &row.measured);
        let after = nanos(self.options.ttl) * 2;
        let excused: Vec<_> = excused.map(|hit| (hit.began, hit.ended + after)).collect();
        wrong.extend(self.acts.check(&excused));
        let (terms, acts) = self.acts.counts();
        Ok(Outcome {
            url: self.options.url.clone(),
            ttl: self.options.ttl,
            rows,
            terms,
            acts,
            wrong,
            directory: self.directory,
        })
    }
}
