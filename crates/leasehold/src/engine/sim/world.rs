//! One run: clients, a network and a storage under one virtual time. Everything that happens is drawn from a seed.

mod callers;
mod defects;
mod network;
mod text;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use self::network::Pending;
use super::Sabotage;
use super::client::{Client, Grant, START, Ticks};
use super::invariants::{Law, Laws, Violation, check_work};
use super::model::Model;
use super::schedule::{Conditions, MS, Random, SECOND, STEP_WITHIN};
use crate::engine::work;
use crate::storage::{Hint, Limits, Name, Owner};
use crate::ticket::Ticket;

/// The state of a run.
pub(super) struct World {
    /// The true time, which no client and no storage can read.
    pub(super) now: u64,
    /// The conditions of the whole run.
    pub(super) conditions: Conditions,
    pub(super) random: Random,
    /// A second source, for what was added later, so that older seeds keep their meaning.
    extra: Random,
    /// A third source, for the callers that take several locks at once.
    several: Random,
    /// A fourth source, for the candidates of elections.
    leaders: Random,
    pub(super) sabotage: Option<Sabotage>,
    pub(super) model: Model,
    /// By how much the storage's clock was set.
    set: i64,
    /// The storage executes nothing before this time.
    down_until: u64,
    pub(super) clients: Vec<Client>,
    pub(super) names: Vec<Name>,
    /// The planned events, by their time and by the order in which they were planned.
    events: BTreeMap<(u64, u64), Event>,
    pub(super) calls: HashMap<u64, Pending>,
    counter: u64,
    /// When all faults ended.
    pub(super) healed: Option<u64>,
    pub(super) owners: HashMap<Owner, Origin>,
    /// The owners for which a late renewal may have extended the lease, for a time that has no bound.
    pub(super) stretched: HashSet<Owner>,
    /// The tickets that no client has resumed yet.
    tickets: Vec<Ticket>,
    /// For which minimum time a lock is kept, by the owner that wants that.
    minima: HashMap<Owner, Duration>,
    /// The grants whose locks are kept for a minimum time.
    pub(super) kept: HashMap<Grant, Kept>,
    /// The grants for which a minimum time was ever set. Their leases end by themselves, as their releases ask for.
    pub(super) jobs: HashSet<Grant>,
    /// The owners that a planted defect has released, or has claimed once.
    released: HashSet<Owner>,
    /// The owners that were waiting when a hint arrived.
    hinted: HashSet<Owner>,
    pub(super) tally: Tally,
    pub(super) laws: Laws,
    /// The lines of the trace, if there is one.
    pub(super) trace: Option<Vec<String>>,
}

/// Where an acquisition began.
pub(super) struct Origin {
    pub(super) client: usize,
    pub(super) life: u32,
    /// `true` if its lease was left until its TTL on purpose.
    pub(super) detached: bool,
    pub(super) granted: bool,
}

/// A lock that is kept for a minimum time.
pub(super) struct Kept {
    pub(super) owner: Owner,
    /// When that time is over.
    pub(super) until: u64,
    /// `true` if its release has reported success.
    pub(super) released: bool,
}

/// The counts of a run.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) steps: u64,
    pub(super) grants: u64,
    pub(super) losses: u64,
    /// How many works of elected leaders have begun.
    pub(super) terms: u64,
    pub(super) attempts: u64,
    pub(super) acquires: u64,
    pub(super) releases: u64,
    pub(super) renews: u64,
    /// How often callers used a guard and kept it.
    pub(super) used: u64,
    pub(super) hints: u64,
    /// How long callers waited, in nanoseconds.
    pub(super) waited: u64,
    /// How long callers held a lock, in nanoseconds.
    pub(super) held: u64,
    /// How often a law was broken while a fault had suspended its assumption.
    pub(super) excused: u64,
}

/// Something that is planned.
#[derive(Debug)]
enum Event {
    /// The storage restarts and has forgotten every lease.
    Forget,
    /// The answer to a call arrives.
    Answer { call: u64 },
    /// A client is killed.
    Crash { client: usize },
    /// The storage executes a request.
    Execute { call: u64, last: bool },
    /// A caller changes the TTL of a guard.
    Extend { client: usize, life: u32, owner: Owner },
    /// All faults end.
    Heal,
    /// A hint arrives.
    Hint { client: usize, life: u32, hint: Hint },
    /// The engine gives up a call.
    Limit { call: u64 },
    /// The storage cannot be reached.
    Outage { long: u64 },
    /// A client gets no processor time.
    Pause { client: usize, long: u64 },
    /// Lets engines take a turn.
    Proceed,
    /// A client starts after a crash.
    Start { client: usize },
    /// The storage's clock is set.
    Step { by: i64 },
    /// The callers of a client act.
    User { client: usize },
}

/// The most steps of a run. One that takes more does not come to rest.
const STEPS: u64 = 60_000;
/// How long after the faults a run may take.
const QUIET: u64 = 150 * SECOND;
/// How long late requests and answers may arrive after all callers have ended.
const AFTERMATH: u64 = 20 * SECOND;

impl World {
    pub(super) fn new(seed: u64, sabotage: Option<Sabotage>, traced: bool) -> Self {
        let mut random = Random::new(seed);
        let mut extra = Random::new(!seed);
        let conditions = Conditions::draw(&mut random).with_whims(&mut extra);
        let conditions = conditions.with_handovers(&mut Random::new(seed.swap_bytes()));
        let mut several = Random::new(!seed.swap_bytes());
        let conditions = conditions.with_several(&mut several);
        let mut leaders = Random::new(seed.rotate_left(32) ^ 0x1eade5);
        let conditions = conditions.with_elections(&mut leaders);
        let names = (0..conditions.names).map(|i| Name::new(format!("lock-{i}")).expect("valid")).collect();
        let model = Model {
            fair: conditions.fair,
            short_handovers: conditions.short_handovers,
            sabotage,
            ..Model::default()
        };
        let mut world = Self {
            now: START,
            laws: Laws::new(&conditions),
            random,
            extra,
            several,
            leaders,
            sabotage,
            model,
            set: 0,
            down_until: 0,
            clients: Vec::new(),
            names,
            events: BTreeMap::new(),
            calls: HashMap::new(),
            counter: 0,
            healed: None,
            owners: HashMap::new(),
            stretched: HashSet::new(),
            tickets: Vec::new(),
            minima: HashMap::new(),
            kept: HashMap::new(),
            jobs: HashSet::new(),
            released: HashSet::new(),
            hinted: HashSet::new(),
            tally: Tally::default(),
            trace: traced.then(Vec::new),
            conditions,
        };
        world.trace(|w| format!("{:?}", w.conditions));
        world.begin();
        world
    }

    /// Runs until all callers and engines have ended, and checks every law after every step.
    pub(super) fn run(&mut self) -> Result<Tally, Violation> {
        let mut quiet_since = None;
        loop {
            let (now, event) = self.next();
            if let Some(healed) = self.healed
                && now > healed + QUIET
            {
                return Err(self.never_ends());
            }
            let acquiring: usize = self.clients.iter().map(Client::waiting).sum();
            let guards: usize = self.clients.iter().map(Client::most_held).sum();
            self.tally.waited += (now - self.now) * count(acquiring);
            self.tally.held += (now - self.now) * count(guards);
            self.now = now;
            self.tally.steps += 1;
            if self.tally.steps > STEPS {
                return Err(Violation::new(Law::Rest, format!("not over after {STEPS} steps")));
            }
            match event {
                Some(event) => self.carry_out(event)?,
                None => self.wake(),
            }
            self.settle()?;
            self.check()?;
            if self.healed.is_some() && self.clients.iter().all(Client::is_idle) {
                // Late requests and answers may still arrive.
                let since = *quiet_since.get_or_insert(self.now);
                if self.calls.is_empty() || self.now > since + AFTERMATH {
                    self.check_end()?;
                    return Ok(self.tally);
                }
            } else {
                quiet_since = None;
            }
        }
    }

    /// Returns what the storage's clock reads.
    pub(super) fn server(&self) -> u64 {
        self.now.checked_add_signed(self.set).expect("no century is passed")
    }

    /// Adds a line to the trace, if there is one.
    pub(super) fn trace(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let text = text(self);
            let at = Duration::from_nanos(self.now - START);
            if let Some(trace) = &mut self.trace {
                trace.push(format!("{at:>12.3?}  {text}"));
            }
        }
    }

    /// Starts the clients and plans the faults.
    fn begin(&mut self) {
        let drift = self.conditions.drift;
        for client in 0..self.conditions.clients {
            let millionths = if self.random.chance(500) { drift } else { -drift };
            // The whole drift is on the side of the client, because clients are compared with the storage.
            let ticks = Ticks { base: self.random.between(1, 1000) * SECOND, millionths };
            let seed = self.several.draw();
            self.clients.push(Client::new(ticks, self.limits(), 0, self.now, seed));
            let at = self.now + self.random.between(0, 20 * MS);
            self.plan(at, Event::User { client });
        }
        let chaos = self.conditions.chaos_for;
        let somewhere = |world: &mut Self| world.now + world.random.between(chaos / 20, chaos);
        for _ in 0..self.conditions.crashes {
            let (at, client) = (somewhere(self), self.random.index(self.conditions.clients));
            self.plan(at, Event::Crash { client });
        }
        for _ in 0..self.conditions.pauses {
            let (at, client) = (somewhere(self), self.random.index(self.conditions.clients));
            let long = self.random.between(MS, std::cmp::min(self.conditions.longest_ttl() * 2, 5 * SECOND));
            self.plan(at, Event::Pause { client, long });
        }
        for _ in 0..self.conditions.forgets {
            let at = somewhere(self);
            self.plan(at, Event::Forget);
        }
        for _ in 0..self.conditions.outages {
            let at = somewhere(self);
            let long =
                self.random.between(10 * MS, std::cmp::min(self.conditions.longest_ttl() * 3, 8 * SECOND));
            self.plan(at, Event::Outage { long });
        }
        let mut forward = true;
        for _ in 0..self.conditions.steps {
            let at = somewhere(self);
            let by = i64::try_from(self.conditions.step).expect("seconds");
            self.plan(at, Event::Step { by: if forward { by } else { -by } });
            forward = !forward;
        }
        self.plan(self.now + chaos, Event::Heal);
    }

    fn limits(&self) -> Limits {
        Limits {
            batch_max: self.conditions.batch_max,
            batches_in_flight: self.conditions.batches_in_flight,
            ..Limits::default()
        }
    }

    /// Plans an event.
    fn plan(&mut self, at: u64, event: Event) {
        self.counter += 1;
        self.events.insert((at, self.counter), event);
    }

    /// Returns the time of the next event, and the event. There is none if an engine has set an earlier time.
    fn next(&mut self) -> (u64, Option<Event>) {
        let wakes = self.clients.iter().map(|client| std::cmp::max(client.wake, client.paused_until));
        let wake = wakes.fold(u64::MAX, std::cmp::min);
        match self.events.first_key_value() {
            Some(((at, _), _)) if *at <= wake => {
                let ((at, _), event) = self.events.pop_first().expect("it was there");
                (std::cmp::max(at, self.now), Some(event))
            }
            _ if wake == u64::MAX => (self.now + SECOND, None),
            _ => (std::cmp::max(wake, self.now), None),
        }
    }

    /// Marks the engines that are due.
    fn wake(&mut self) {
        for client in &mut self.clients {
            client.dirty |= std::cmp::max(client.wake, client.paused_until) <= self.now;
        }
    }

    /// Lets every engine that has something to do take its turns.
    fn settle(&mut self) -> Result<(), Violation> {
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            if !client.dirty || !client.is_up() || client.paused_until > self.now {
                continue;
            }
            let _ = work::take(); // The work of the callers is not counted.
            let before = client.guards.len();
            let stages = self.trace.is_some().then(|| client.stages());
            let turned = client.turn(self.now);
            check_work()?;
            let Some(calls) = turned else {
                let text = format!("the engine of client {index} does not come to rest");
                return Err(Violation::new(Law::Rest, text));
            };
            // The system may schedule the thread a little late.
            if self.conditions.lag > 0 && self.healed.is_none() && client.wake != u64::MAX {
                client.wake += self.random.between(0, self.conditions.lag);
            }
            if client.wire.subscribed() {
                let (life, at) = (client.life, self.now + self.random.between(1, 50 * MS));
                if !self.conditions.no_hints {
                    self.plan(at, Event::Hint { client: index, life, hint: Hint::Any });
                }
            }
            if let Some(before) = stages {
                self.trace_stages(index, &before);
            }
            self.note_owners(index);
            for call in calls {
                self.depart(index, call);
            }
            self.note_guards(index, before);
            self.check_confirmed(index)?;
        }
        Ok(())
    }

    /// Adds the changes of stage of a client to the trace.
    fn trace_stages(&mut self, index: usize, before: &BTreeMap<Owner, &'static str>) {
        let after = self.clients[index].stages();
        let owners: BTreeSet<_> = before.keys().chain(after.keys()).copied().collect();
        for owner in owners {
            let (was, is) = (before.get(&owner), after.get(&owner));
            if was != is {
                let (was, is) = (was.unwrap_or(&"new"), is.unwrap_or(&"over"));
                self.trace(|w| format!("client {index} has {}: {was} -> {is}", w.short(owner)));
            }
        }
    }

    /// Records the owner ids that callers of several locks, and candidates, have just made.
    pub(super) fn note_owners(&mut self, index: usize) {
        let life = self.clients[index].life;
        self.tally.terms += std::mem::take(&mut self.clients[index].leading.begun);
        let client = &mut self.clients[index];
        for owner in client.together.take_fresh().into_iter().chain(client.leading.take_fresh()) {
            self.owners.insert(owner, Origin { client: index, life, detached: false, granted: false });
            self.tally.attempts += 1;
            self.trace(|w| format!("client {index} acquires with others, or to lead, {}", w.short(owner)));
        }
    }

    /// Records the guards that callers have just received.
    fn note_guards(&mut self, index: usize, before: usize) {
        for place in before..self.clients[index].guards.len() {
            let guard = &self.clients[index].guards[place].guard;
            let (owner, token) = (guard.owner(), guard.token());
            let life = self.clients[index].life;
            if let Some(origin) = self.owners.get_mut(&owner) {
                // A ticket does not carry a claim that may still be executed, so a resumed lease stays excused.
                let detached = origin.detached;
                *origin = Origin { client: index, life, detached, granted: true };
            }
            if let Some(least) = self.minima.remove(&owner) {
                let grant = (self.clients[index].guards[place].guard.name().clone(), token);
                // By the slowest clock.
                let until = self.now + crate::clock::nanos(least) / 100 * 98;
                self.jobs.insert(grant.clone());
                self.kept.insert(grant, Kept { owner, until, released: false });
                self.owners.entry(owner).and_modify(|origin| origin.detached = true);
            }
            self.trace(|w| format!("client {index} holds {} {token:?}", w.short(owner)));
        }
    }

    /// Carries out an event.
    fn carry_out(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Execute { call, last } => return self.execute(call, last),
            Event::Answer { call } => self.answer(call),
            Event::Limit { call } => self.limit(call),
            Event::Proceed => {}
            Event::Hint { client, life, hint } => self.hint(client, life, &hint),
            Event::Extend { client, life, owner } => self.extend_again(client, life, owner),
            Event::User { client } => self.user(client),
            Event::Crash { client } => self.crash(client),
            Event::Start { client } => self.start(client),
            Event::Pause { client, long } => {
                self.trace(|_| format!("client {client} pauses for {:?}", Duration::from_nanos(long)));
                self.clients[client].paused_until = self.now + long;
                self.plan(self.now + long, Event::Proceed);
            }
            Event::Forget => self.forget(),
            Event::Outage { long } => {
                self.trace(|_| format!("storage cannot be reached for {:?}", Duration::from_nanos(long)));
                self.down_until = std::cmp::max(self.down_until, self.now + long);
            }
            Event::Step { by } => self.step(by),
            Event::Heal => self.heal(),
        }
        Ok(())
    }

    fn crash(&mut self, client: usize) {
        if self.healed.is_none() {
            self.trace(|_| format!("client {client} crashes"));
            self.clients[client].crash();
            let at = self.now + self.random.between(0, 2 * SECOND);
            self.plan(at, Event::Start { client });
        }
    }

    fn start(&mut self, client: usize) {
        if !self.clients[client].is_up() && self.healed.is_none() {
            self.trace(|_| format!("client {client} starts again"));
            let (life, ticks) = (self.clients[client].life + 1, self.clients[client].ticks());
            let seed = self.several.draw();
            self.clients[client] = Client::new(ticks, self.limits(), life, self.now, seed);
        }
    }

    /// Restarts the storage, which forgets every lease.
    fn forget(&mut self) {
        self.trace(|_| "storage restarts and has forgotten everything".to_owned());
        self.model.forget();
        self.kept.clear();
        self.down_until = self.now + self.random.between(10 * MS, 500 * MS);
        let until = self.now + self.conditions.longest_ttl() * 103 / 100 + SECOND / 100;
        self.laws.excuse_all(until);
        self.send_restart_hints();
    }

    /// Sets the storage's clock.
    fn step(&mut self, by: i64) {
        self.trace(|_| format!("storage's clock is set by {by} ns"));
        self.set += by;
        // A small step, too, shifts the end of what is kept.
        self.kept.clear();
        if by.unsigned_abs() > STEP_WITHIN {
            let until = self.now + by.unsigned_abs() + 2 * self.conditions.longest_ttl() + 15 * SECOND;
            self.laws.excuse_all(until);
        }
    }

    /// Ends all faults.
    fn heal(&mut self) {
        self.trace(|_| "all faults are over".to_owned());
        self.healed = Some(self.now);
        self.down_until = 0;
        for index in 0..self.clients.len() {
            self.clients[index].paused_until = 0;
            if self.clients[index].is_up() {
                self.clients[index].dirty = true;
            }
            if !self.conditions.patient {
                while !self.clients[index].acquiring.is_empty() {
                    let owner = self.clients[index].leave(0);
                    self.trace(|w| format!("client {index} leaves {}", w.short(owner)));
                }
                while self.clients[index].together.waiting() > 0 {
                    self.clients[index].leave_together(0);
                    self.trace(|_| format!("client {index} leaves several"));
                }
            }
        }
        self.plan(self.now, Event::Proceed);
    }

    /// Hints to each client that the storage has restarted, once or twice, when it can be reached again.
    fn send_restart_hints(&mut self) {
        for client in 0..self.clients.len() {
            if self.conditions.no_hints || self.extra.chance(self.conditions.lose_hint / 2) {
                continue;
            }
            let life = self.clients[client].life;
            for _ in 0..self.extra.between(1, 2) {
                let at = self.down_until + self.extra.between(MS, 100 * MS);
                self.plan(at, Event::Hint { client, life, hint: Hint::Restarted });
            }
        }
    }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).expect("few")
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.grants += other.grants;
        self.losses += other.losses;
        self.terms += other.terms;
        self.attempts += other.attempts;
        self.acquires += other.acquires;
        self.releases += other.releases;
        self.renews += other.renews;
        self.used += other.used;
        self.hints += other.hints;
        self.waited += other.waited;
        self.held += other.held;
        self.excused += other.excused;
    }
}
