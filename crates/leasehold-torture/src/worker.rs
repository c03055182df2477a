//! A worker: acquires locks in every way, uses what they protect, ends its leases in every way, and records
//! all of it. It uses the library's public API only.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use leasehold::{ErrorKind, Guard, Lock, Locks, Renewal};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::clock::{self, ms, nanos};
use crate::event::{Ev, Event, Log, Mode, Op};
use crate::random::Random;
use crate::resource::Resources;

/// The parameters of a worker.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Its number.
    pub w: i64,
    /// The seed of its random numbers.
    pub seed: u64,
    /// The locks that all workers compete for.
    pub locks: Vec<String>,
    /// The TTL; some leases have twice as much.
    pub ttl_ms: u64,
    /// Its habits.
    pub style: Style,
    /// The number of tasks that share the client.
    pub tasks: u64,
    /// The directory of the history.
    pub directory: PathBuf,
    /// The socket of the resources.
    pub socket: PathBuf,
}

/// The habits of a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
pub enum Style {
    /// A mixture of everything.
    #[default]
    Mixed,
    /// Long holds, often without renewal, so that leases expire.
    Clingy,
    /// Long holds that are neither verified nor extended, so that only renewals at their usual times repair a lease.
    Steady,
    /// No waiting, and short holds.
    Hasty,
    /// No waiting, and holds until a renewal is due.
    Brisk,
    /// Waiting in the queue, and short holds.
    Orderly,
    /// A replica of an elected service.
    #[value(skip)]
    Elected,
}

/// Works until told to stop, then closes the client.
pub async fn work(plan: Plan, locks: Locks, log: Arc<Log>, stop: watch::Receiver<bool>) {
    let tasks = (0..plan.tasks).map(|task| {
        let (plan, locks, log, stop) = (plan.clone(), locks.clone(), Arc::clone(&log), stop.clone());
        let random = Random::new(plan.seed.wrapping_add(task << 32));
        tokio::spawn(async move {
            let Ok(resources) = Resources::connect(&plan.socket) else { return };
            Worker { alone: plan.tasks == 1, plan, locks, log, random, resources, stop }.run().await;
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        // A panic has been printed already, and the checks see calls without an end.
        drop(task.await);
    }
    let i = log.number();
    log.write(Event { i, op: Some(Op::Close), ..Event::default() });
    let end = match locks.close().await {
        Ok(()) => Event { ev: Ev::Ok, ..Event::default() },
        Err(error) => Event { ev: Ev::Info, why: word(error.kind()), ..Event::default() },
    };
    log.write(Event { i, ..end });
}

/// Returns how many descriptors this process has open.
pub fn descriptors() -> u64 {
    fs::read_dir(Path::new("/proc/self/fd")).map_or(0, |open| open.count()).try_into().unwrap_or(0)
}

/// Records for how long this process was kept from running, for as long as another user of the log exists.
pub fn watch_stalls(log: &Arc<Log>) {
    const BEAT: Duration = Duration::from_millis(10);
    let log = Arc::downgrade(log);
    std::thread::spawn(move || {
        loop {
            let before = clock::now();
            clock::pause(BEAT);
            let Some(log) = log.upgrade() else { return };
            let now = clock::now();
            let over = (now - before).saturating_sub(nanos(BEAT));
            if over > ms(20) {
                log.write_at(now, Event { ev: Ev::Stall, v: Some(over), ..Event::default() });
            }
        }
    });
}

struct Worker {
    plan: Plan,
    locks: Locks,
    log: Arc<Log>,
    random: Random,
    resources: Resources,
    stop: watch::Receiver<bool>,
    /// Whether no other task uses this client.
    alone: bool,
}

/// The result of an acquisition.
enum Asked {
    Granted(Held),
    Refused,
    /// The caller did not wait for the answer.
    Left,
}

/// A lock that was granted.
struct Held {
    /// The number of the acquisition.
    of: u64,
    guard: Guard,
    /// Whether it is not renewed.
    never: bool,
}

impl Worker {
    async fn run(&mut self) {
        while !*self.stop.borrow() {
            sleep(self.random.millis(0, 40)).await;
            let lock = self.random.of(&self.plan.locks).clone();
            match self.acquire(&lock).await {
                Asked::Granted(held) => self.hold(&lock, held).await,
                Asked::Refused => {}
                // The lock may be granted at this moment. The engine undoes that at once, but only after
                // this call.
                Asked::Left => continue,
            }
            self.ledger();
        }
    }

    /// Acquires a lock in one of the possible ways.
    async fn acquire(&mut self, lock: &str) -> Asked {
        let ttl_ms = if self.random.percent(75) { self.plan.ttl_ms } else { self.plan.ttl_ms * 2 };
        let never = self.random.percent(if self.plan.style == Style::Clingy { 50 } else { 20 });
        let renewal = if never { Renewal::Never } else { Renewal::Automatic };
        let wanted = self.locks.lock(lock).ttl(Duration::from_millis(ttl_ms)).renewal(renewal);
        let (mode, wait_ms) = match self.random.below(100) {
            _ if matches!(self.plan.style, Style::Hasty | Style::Brisk) => (Mode::Try, 0),
            _ if self.plan.style == Style::Orderly => (Mode::Patient, PATIENT),
            0..30 => (Mode::Try, 0),
            30..40 => (Mode::Retry, 500),
            40..65 => (Mode::Wait, 20 + self.random.below(2 * self.plan.ttl_ms)),
            _ => (Mode::Patient, PATIENT),
        };
        let wanted = match mode {
            Mode::Try => wanted,
            // Three tries and two pauses.
            Mode::Retry => wanted.retries(2).interval(Duration::from_millis(wait_ms / 2)),
            Mode::Wait | Mode::Patient => wanted.wait(Duration::from_millis(wait_ms)),
        };
        let leaves = self.random.percent(15).then(|| self.random.millis(0, self.plan.ttl_ms));
        let i = self.log.number();
        let why = if never { "never" } else { "" }.to_owned();
        let event =
            Event { i, op: Some(Op::Acquire), lock: lock.to_owned(), mode: Some(mode), ..Event::default() };
        self.log.write(Event { wait_ms: Some(wait_ms), ttl_ms: Some(ttl_ms), why, ..event });
        let answer = self.ask(&wanted, mode, leaves).await;
        let end = |ev, why: &str| Event { i, ev, why: why.to_owned(), ..Event::default() };
        match answer {
            Some(Ok(Some(guard))) => {
                let (t, owner, tok) = (clock::now(), guard.owner().to_string(), Some(guard.token().get()));
                let dl = Some(t + nanos(guard.remaining()));
                self.log.write_at(t, Event { owner, tok, dl, ..end(Ev::Ok, "") });
                return Asked::Granted(Held { of: i, guard, never });
            }
            Some(Ok(None)) => self.log.write(end(Ev::Fail, "held")),
            Some(Err(error)) => match error.kind() {
                ErrorKind::Contended => self.log.write(end(Ev::Fail, "held")),
                ErrorKind::Closed => self.log.write(end(Ev::Fail, "closed")),
                kind => self.log.write(end(Ev::Info, &word(kind))),
            },
            None => {
                self.log.write(end(Ev::Info, "canceled"));
                return Asked::Left;
            }
        };
        Asked::Refused
    }

    /// Returns the answer, or `None` if the caller left before: after that time, or because the run ends.
    async fn ask(
        &self,
        wanted: &Lock,
        mode: Mode,
        leaves: Option<Duration>,
    ) -> Option<leasehold::Result<Option<Guard>>> {
        let asked = async {
            match mode {
                Mode::Try => wanted.try_acquire().await,
                _ => wanted.acquire().await.map(Some),
            }
        };
        let leaving = async {
            match leaves {
                Some(after) => sleep(after).await,
                None => std::future::pending().await,
            }
        };
        let mut stop = self.stop.clone();
        tokio::select! {
            answer = asked => Some(answer),
            () = leaving => None,
            _ = stop.wait_for(|stop| *stop) => None,
        }
    }

    /// Holds a lock for a while, and ends the hold in one of the possible ways.
    async fn hold(&mut self, lock: &str, Held { of, guard, never }: Held) {
        let ttl = self.plan.ttl_ms;
        let planned = match self.random.below(100) {
            _ if matches!(self.plan.style, Style::Hasty | Style::Orderly) => self.random.millis(1, 20),
            _ if self.plan.style == Style::Brisk => self.random.millis(ttl / 4, ttl * 2 / 3),
            0..70 if matches!(self.plan.style, Style::Clingy | Style::Steady) => {
                self.random.millis(ttl / 2, ttl * 3)
            }
            0..78 => self.random.millis(1, 50),
            78..94 => self.random.millis(ttl / 5, ttl),
            _ => self.random.millis(ttl, ttl * 5 / 2),
        };
        let (until, mut claimed) = (clock::now() + nanos(planned), 0);
        while clock::now() < until && !*self.stop.borrow() {
            let beat = self.random.millis(2, 25);
            let lost = tokio::select! {
                lost = guard.lost() => Some(lost),
                () = sleep(beat) => None,
            };
            if let Some(lost) = lost {
                let why = format!("{lost:?}").to_lowercase();
                self.log.write(Event { ev: Ev::Lost, of: Some(of), why, ..Event::default() });
                self.after_loss(of, &guard).await;
                break;
            }
            claimed = self.claim(of, &guard, claimed);
            self.use_it(of, lock, &guard, never).await;
        }
        self.give_up(of, guard).await;
    }

    /// Records until when the guard claims to hold the lock, if that has changed. Returns it.
    fn claim(&self, of: u64, guard: &Guard, claimed: u64) -> u64 {
        let t = clock::now();
        let left = nanos(guard.remaining());
        if left == 0 || (t + left).abs_diff(claimed) < ms(2) {
            return claimed;
        }
        self.log.write_at(t, Event { ev: Ev::Claim, of: Some(of), dl: Some(t + left), ..Event::default() });
        t + left
    }

    async fn use_it(&mut self, of: u64, lock: &str, guard: &Guard, never: bool) {
        let (owner, token) = (guard.owner().to_string(), guard.token().get());
        match self.random.below(100) {
            0..35 if guard.is_held() => drop(self.resources.write(lock, &owner, token)),
            35..65 => {
                let Ok(was) = self.resources.count(lock) else { return };
                sleep(self.random.millis(0, 15)).await;
                if guard.remaining() > SPARE {
                    // An error means that the run is over.
                    drop(self.resources.set(lock, &owner, was));
                }
            }
            _ if self.plan.style == Style::Steady => {}
            65..72 => {
                let event = Event { op: Some(Op::Verify), of: Some(of), ..Event::default() };
                self.call(event, guard.verify()).await;
            }
            // A lease without renewal is meant to expire.
            72..78 if !never => {
                let ttl = self.random.millis(self.plan.ttl_ms / 2, self.plan.ttl_ms * 2);
                let ttl_ms = Some(clock::millis(ttl));
                let event = Event { op: Some(Op::Extend), of: Some(of), ttl_ms, ..Event::default() };
                self.call(event, guard.extend(ttl)).await;
                self.claim(of, guard, 0);
            }
            _ => {}
        }
    }

    /// Checks that a lost lock stays lost and is not listed as held.
    async fn after_loss(&self, of: u64, guard: &Guard) {
        self.ledger();
        for _ in 0..8 {
            self.claim(of, guard, 0);
            sleep(Duration::from_millis(8)).await;
        }
    }

    async fn give_up(&mut self, of: u64, guard: Guard) {
        let event = Event { op: Some(Op::Release), of: Some(of), ..Event::default() };
        match self.random.below(100) {
            0..60 => self.call(event, guard.release()).await,
            60..90 => {
                let i = self.log.number();
                self.log.write(Event { i, op: Some(Op::Drop), ..event });
                drop(guard);
                self.log.write(Event { i, ev: Ev::Ok, ..Event::default() });
            }
            _ => {
                let i = self.log.number();
                self.log.write(Event { i, ..event });
                let patience = self.random.millis(0, 5);
                let end = match tokio::time::timeout(patience, guard.release()).await {
                    Ok(Ok(())) => Event { ev: Ev::Ok, ..Event::default() },
                    Ok(Err(error)) => failed(error.kind()),
                    Err(_) => Event { ev: Ev::Info, why: "canceled".to_owned(), ..Event::default() },
                };
                self.log.write(Event { i, ..end });
            }
        }
    }

    async fn call(&self, event: Event, call: impl Future<Output = leasehold::Result<()>>) {
        let i = self.log.number();
        self.log.write(Event { i, ..event });
        let end = match call.await {
            Ok(()) => Event { ev: Ev::Ok, ..Event::default() },
            Err(error) => failed(error.kind()),
        };
        self.log.write(Event { i, ..end });
    }

    /// Checks that a client without guards lists nothing as held.
    fn ledger(&self) {
        let held = self.locks.held().len().try_into().unwrap_or(0);
        if self.alone {
            self.log.write(Event { ev: Ev::Ledger, v: Some(held), ..Event::default() });
        }
    }
}

/// How long a patient worker waits, in milliseconds.
const PATIENT: u64 = 20_000;
/// The remaining time of a lease that an update without a token requires.
const SPARE: Duration = Duration::from_millis(60);

fn failed(kind: ErrorKind) -> Event {
    let ev = if kind == ErrorKind::Unavailable { Ev::Info } else { Ev::Fail };
    Event { ev, why: word(kind), ..Event::default() }
}

fn word(kind: ErrorKind) -> String {
    format!("{kind:?}").to_lowercase()
}
