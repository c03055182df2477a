//! One run: clients, a network and a storage under one virtual time, as a seed decides.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::sync::oneshot;

use super::Sabotage;
use super::client::{Client, Farewell, START, Ticks};
use super::invariants::{Law, Laws, Violation, check_work};
use super::model::Model;
use super::schedule::{Dice, MS, SECOND, STEP_WITHIN, Weather};
use super::wire::{Answer, Ask, Call};
use crate::clock::nanos;
use crate::engine::timing::{margin, patience, renew_limit};
use crate::engine::work;
use crate::error::{Error, ErrorKind, Result};
use crate::options::{Options, Renewal, Wait};
use crate::storage::{AcquireReply, Claim, Hint, Limits, Name, Owner, ReleaseReply, RenewReply};
use crate::ticket::Ticket;

pub(super) struct World {
    /// True time, which nobody in here can see.
    pub(super) now: u64,
    pub(super) weather: Weather,
    pub(super) dice: Dice,
    /// Decides on late answers and changed TTLs alone.
    whims: Dice,
    pub(super) sabotage: Option<Sabotage>,
    pub(super) model: Model,
    /// By how much the storage's clock was set.
    set: i64,
    down_until: u64,
    pub(super) clients: Vec<Client>,
    pub(super) names: Vec<Name>,
    agenda: BTreeMap<(u64, u64), What>,
    pub(super) calls: HashMap<u64, Pending>,
    counter: u64,
    /// All faults are over.
    pub(super) healed: Option<u64>,
    pub(super) owners: HashMap<Owner, Origin>,
    /// Their leases may have been renewed long after the request was given up: nothing bounds that.
    pub(super) stretched: HashSet<Owner>,
    tickets: Vec<Ticket>,
    released: HashSet<Owner>,
    hinted: HashSet<Owner>,
    pub(super) tally: Tally,
    pub(super) laws: Laws,
    pub(super) trace: Option<Vec<String>>,
}

/// Where an acquisition began.
pub(super) struct Origin {
    pub(super) client: usize,
    pub(super) life: u32,
    /// Its lease was left to its TTL on purpose.
    pub(super) detached: bool,
    pub(super) granted: bool,
}

/// What a run came to.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    pub(super) steps: u64,
    pub(super) grants: u64,
    pub(super) losses: u64,
    pub(super) attempts: u64,
    pub(super) acquires: u64,
    pub(super) releases: u64,
    pub(super) renews: u64,
    /// How often callers did something with a guard.
    pub(super) tended: u64,
    pub(super) hints: u64,
    /// How long callers waited, in all.
    pub(super) waited: u64,
    pub(super) held: u64,
    /// Two who held, or a ghost, where an assumption was broken on purpose.
    pub(super) excused: u64,
}

pub(super) struct Pending {
    client: usize,
    life: u32,
    ask: Ask,
    reply: Option<oneshot::Sender<Answer>>,
    answer: Option<Answer>,
    /// The storage's time after which a claim is refused that patience binds.
    not_after: Vec<u64>,
    left: u64,
    sent: u64,
    /// How long the answer is under way.
    back: u64,
}

#[derive(Debug)]
enum What {
    Amnesia,
    Answer { call: u64 },
    Crash { client: usize },
    Execute { call: u64, last: bool },
    Extend { client: usize, life: u32, owner: Owner },
    Heal,
    Hint { client: usize, life: u32, hint: Hint },
    Limit { call: u64 },
    Outage { long: u64 },
    Pause { client: usize, long: u64 },
    Proceed,
    Start { client: usize },
    Step { by: i64 },
    User { client: usize },
}

/// The most steps of a run that is not caught in a circle.
const STEPS: u64 = 60_000;
/// By when everything is over after the faults have ended.
const QUIET: u64 = 150 * SECOND;
/// How long the network may still surprise after everybody has gone.
const AFTERMATH: u64 = 20 * SECOND;

impl World {
    pub(super) fn new(seed: u64, sabotage: Option<Sabotage>, traced: bool) -> Self {
        let mut dice = Dice::new(seed);
        let mut whims = Dice::new(!seed);
        let weather = Weather::draw(&mut dice).with_whims(&mut whims);
        let weather = weather.with_handovers(&mut Dice::new(seed.swap_bytes()));
        let names = (0..weather.names).map(|i| Name::new(format!("lock-{i}")).expect("valid")).collect();
        let model = Model { fair: weather.fair, curt: weather.curt, sabotage, ..Model::default() };
        let mut world = Self {
            now: START,
            laws: Laws::new(&weather),
            dice,
            whims,
            sabotage,
            model,
            set: 0,
            down_until: 0,
            clients: Vec::new(),
            names,
            agenda: BTreeMap::new(),
            calls: HashMap::new(),
            counter: 0,
            healed: None,
            owners: HashMap::new(),
            stretched: HashSet::new(),
            tickets: Vec::new(),
            released: HashSet::new(),
            hinted: HashSet::new(),
            tally: Tally::default(),
            trace: traced.then(Vec::new),
            weather,
        };
        world.trace(|w| format!("{:?}", w.weather));
        world.begin();
        world
    }

    /// Runs until everything is over.
    pub(super) fn run(&mut self) -> Result<Tally, Violation> {
        let mut quiet_since = None;
        loop {
            let (now, what) = self.next();
            if let Some(healed) = self.healed
                && now > healed + QUIET
            {
                return Err(self.never_ends());
            }
            let seekers: usize = self.clients.iter().map(|client| client.seekers.len()).sum();
            let guards: usize = self.clients.iter().map(|client| client.guards.len()).sum();
            self.tally.waited += (now - self.now) * count(seekers);
            self.tally.held += (now - self.now) * count(guards);
            self.now = now;
            self.tally.steps += 1;
            if self.tally.steps > STEPS {
                return Err(Violation::new(Law::Rest, format!("not over after {STEPS} steps")));
            }
            match what {
                Some(what) => self.happen(what)?,
                None => self.wake(),
            }
            self.settle()?;
            self.check()?;
            if self.healed.is_some() && self.clients.iter().all(Client::is_idle) {
                // Whatever is still in the network may come now.
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

    /// The storage's clock.
    pub(super) fn server(&self) -> u64 {
        self.now.checked_add_signed(self.set).expect("no century is passed")
    }

    pub(super) fn trace(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.trace.is_some() {
            let text = text(self);
            let at = Duration::from_nanos(self.now - START);
            if let Some(trace) = &mut self.trace {
                trace.push(format!("{at:>12.3?}  {text}"));
            }
        }
    }

    // ── time ───────────────────────────────────────────────────────────────────────────────────────────

    fn begin(&mut self) {
        let drift = self.weather.drift;
        for client in 0..self.weather.clients {
            let millionths = if self.dice.strikes(500) { drift } else { -drift };
            // Only one side may be off by the whole drift, as clients are compared with the storage.
            let ticks = Ticks { base: self.dice.between(1, 1000) * SECOND, millionths };
            self.clients.push(Client::new(ticks, self.limits(), 0, self.now));
            let at = self.now + self.dice.between(0, 20 * MS);
            self.plan(at, What::User { client });
        }
        let chaos = self.weather.chaos_for;
        let somewhere = |world: &mut Self| world.now + world.dice.between(chaos / 20, chaos);
        for _ in 0..self.weather.crashes {
            let (at, client) = (somewhere(self), self.dice.index(self.weather.clients));
            self.plan(at, What::Crash { client });
        }
        for _ in 0..self.weather.pauses {
            let (at, client) = (somewhere(self), self.dice.index(self.weather.clients));
            let long = self.dice.between(MS, std::cmp::min(self.weather.longest_ttl() * 2, 5 * SECOND));
            self.plan(at, What::Pause { client, long });
        }
        for _ in 0..self.weather.amnesias {
            let at = somewhere(self);
            self.plan(at, What::Amnesia);
        }
        for _ in 0..self.weather.outages {
            let at = somewhere(self);
            let long = self.dice.between(10 * MS, std::cmp::min(self.weather.longest_ttl() * 3, 8 * SECOND));
            self.plan(at, What::Outage { long });
        }
        let mut forward = true;
        for _ in 0..self.weather.steps {
            let at = somewhere(self);
            let by = i64::try_from(self.weather.step).expect("seconds");
            self.plan(at, What::Step { by: if forward { by } else { -by } });
            forward = !forward;
        }
        self.plan(self.now + chaos, What::Heal);
    }

    fn limits(&self) -> Limits {
        Limits {
            batch_max: self.weather.batch_max,
            batches_in_flight: self.weather.batches_in_flight,
            ..Limits::default()
        }
    }

    fn plan(&mut self, at: u64, what: What) {
        self.counter += 1;
        self.agenda.insert((at, self.counter), what);
    }

    /// The next thing on the agenda, or the next engine that wants to be woken.
    fn next(&mut self) -> (u64, Option<What>) {
        let wakes = self.clients.iter().map(|client| std::cmp::max(client.wake, client.paused_until));
        let wake = wakes.fold(u64::MAX, std::cmp::min);
        match self.agenda.first_key_value() {
            Some(((at, _), _)) if *at <= wake => {
                let ((at, _), what) = self.agenda.pop_first().expect("it was there");
                (std::cmp::max(at, self.now), Some(what))
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

    /// Lets every engine work that has something to do.
    fn settle(&mut self) -> Result<(), Violation> {
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            if !client.dirty || !client.is_up() || client.paused_until > self.now {
                continue;
            }
            let _ = work::take(); // of the callers
            let before = client.guards.len();
            let stages = self.trace.is_some().then(|| client.stages());
            let turned = client.turn(self.now);
            check_work()?;
            let Some(calls) = turned else {
                let text = format!("the engine of client {index} wants to be woken again and again");
                return Err(Violation::new(Law::Rest, text));
            };
            // A thread may be a little late each time.
            if self.weather.lag > 0 && self.healed.is_none() && client.wake != u64::MAX {
                client.wake += self.dice.between(0, self.weather.lag);
            }
            if client.wire.subscribed() {
                let (life, at) = (client.life, self.now + self.dice.between(1, 50 * MS));
                if !self.weather.deaf {
                    self.plan(at, What::Hint { client: index, life, hint: Hint::Any });
                }
            }
            if let Some(before) = stages {
                self.trace_stages(index, &before);
            }
            for call in calls {
                self.depart(index, call);
            }
            self.greet(index, before);
            self.check_confirmed(index)?;
        }
        Ok(())
    }

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

    /// Notes the guards that callers have just got.
    fn greet(&mut self, index: usize, before: usize) {
        for place in before..self.clients[index].guards.len() {
            let guard = &self.clients[index].guards[place].guard;
            let (owner, token) = (guard.owner(), guard.token());
            let life = self.clients[index].life;
            if let Some(origin) = self.owners.get_mut(&owner) {
                // A ticket says nothing of a claim that may still be executed: what is handed over stays excused.
                let detached = origin.detached;
                *origin = Origin { client: index, life, detached, granted: true };
            }
            self.trace(|w| format!("client {index} holds {} {token:?}", w.short(owner)));
        }
    }

    // ── the network ────────────────────────────────────────────────────────────────────────────────────

    fn depart(&mut self, client: usize, call: Call) {
        let Call { ask, reply } = call;
        let (life, ticks) = (self.clients[client].life, self.clients[client].ticks());
        let limit = limit_of(&ask);
        if let Some(answer) = self.sabotaged(&ask) {
            // Its receiver waits in the engine; the answer is taken in with the next turn.
            let _ = reply.send(answer);
            self.clients[client].dirty = true;
            self.plan(self.now, What::Proceed);
            return;
        }
        self.clients[client].asks(&ask);
        match &ask {
            Ask::Acquire(claims) => self.tally.acquires += count(claims.len()),
            Ask::Release(claims) => self.tally.releases += count(claims.len()),
            Ask::Renew(claims) => self.tally.renews += count(claims.len()),
            Ask::Inspect(_) => {}
        }
        let not_after = match &ask {
            Ask::Acquire(claims) | Ask::Renew(claims) => {
                claims.iter().map(|c| self.server() + nanos(c.patience)).collect()
            }
            _ => Vec::new(),
        };
        self.counter += 1;
        let id = self.counter;
        self.trace(|w| format!("client {client} calls #{id} {}", w.describe(&ask)));
        let expires = ticks.when(ticks.read(self.now) + nanos(limit));
        self.plan(expires, What::Limit { call: id });

        let calm = self.healed.is_some();
        let strikes = |world: &mut Self, chance: u64| !calm && world.dice.strikes(chance);
        let (there, back) = (self.latency(), self.latency());
        let (mut left, mut at, mut answered) = (1, self.now + there, true);
        if strikes(self, self.weather.lose_request) {
            (left, answered) = (0, false);
        } else if strikes(self, self.weather.late) {
            at = self.now + self.dice.between(0, nanos(limit) * 2 + 50 * MS);
            if let Ask::Renew(claims) = &ask
                && self.weather.extends > 0
            {
                // About as late as patience allows.
                at += self.whims.between(0, nanos(patience(claims[0].ttl)));
            }
            answered = self.dice.strikes(500);
        } else if strikes(self, self.weather.lose_reply) {
            answered = false;
        }
        if left > 0 && strikes(self, self.weather.twice) {
            left = 2;
            let again = at + self.dice.between(0, nanos(limit) + 50 * MS);
            self.plan(again, What::Execute { call: id, last: answered });
            // A storage does not repeat a claim that it has answered: the answer is that to the last one.
            let early = answered && !matches!(ask, Ask::Acquire(_)) && self.dice.strikes(500);
            self.plan(at, What::Execute { call: id, last: early });
        } else if left > 0 {
            self.plan(at, What::Execute { call: id, last: answered });
        }
        let slow = !calm && self.whims.strikes(self.weather.late_reply);
        let back = if slow { self.whims.between(0, nanos(limit)) } else { back };
        let mut pending = Pending {
            client,
            life,
            ask,
            reply: Some(reply),
            answer: None,
            not_after,
            left,
            sent: self.now,
            back,
        };
        if !answered && self.dice.strikes(500) {
            // The connection breaks at once: the caller knows nothing, the request may be under way.
            pending.answer = Some(silence(&pending.ask));
            self.plan(self.now + back, What::Answer { call: id });
        }
        self.calls.insert(id, pending);
    }

    fn latency(&mut self) -> u64 {
        self.dice.between(self.weather.latency / 4, self.weather.latency)
    }

    fn execute(&mut self, id: u64, last: bool) -> Result<(), Violation> {
        let Some(mut pending) = self.calls.remove(&id) else { return Ok(()) };
        pending.left -= 1;
        if self.down_until > self.now {
            self.calls.insert(id, pending);
            self.forget_if_over(id);
            return Ok(());
        }
        let now = self.server();
        let answer = match &pending.ask {
            Ask::Acquire(claims) => {
                let each = claims.iter().zip(&pending.not_after);
                Answer::Acquire(each.map(|(c, not_after)| self.model.acquire(c, *not_after, now)).collect())
            }
            Ask::Renew(claims) => {
                let late = self.now - pending.sent;
                let stretched = claims.iter().filter(|claim| late > nanos(patience(claim.ttl)));
                self.stretched.extend(stretched.map(|claim| claim.owner));
                let each = claims.iter().zip(&pending.not_after);
                Answer::Renew(each.map(|(c, not_after)| self.model.renew(c, *not_after, now)).collect())
            }
            Ask::Release(claims) => {
                let answers: Vec<_> = claims.iter().map(|c| Ok(self.model.release(c, now))).collect();
                self.note_broken(&pending.ask, &answers);
                Answer::Release(answers)
            }
            Ask::Inspect(name) => Answer::Inspect(Ok(self.model.inspect(name, now))),
        };
        self.trace(|w| format!("storage executes #{id} {}: {}", w.describe(&pending.ask), brief(&answer)));
        if last && pending.answer.is_none() {
            pending.answer = Some(answer);
            self.plan(self.now + pending.back, What::Answer { call: id });
        }
        self.calls.insert(id, pending);
        let grants = std::mem::take(&mut self.model.grants);
        for (name, owner, token) in grants {
            self.tally.grants += 1;
            self.laws.granted(&name, owner, token)?;
        }
        for hint in std::mem::take(&mut self.model.hints) {
            self.spread(&hint);
        }
        self.forget_if_over(id);
        Ok(())
    }

    /// A lease that was broken is believed in for a while.
    fn note_broken(&mut self, ask: &Ask, answers: &[Result<ReleaseReply>]) {
        let Ask::Release(claims) = ask else { return };
        for (claim, answer) in claims.iter().zip(answers) {
            let kept = self.clients.iter().any(|client| client.wants(claim.owner));
            if self.weather.breaks && kept && matches!(answer, Ok(ReleaseReply::Released)) {
                let until = self.now + self.weather.longest_ttl() * 103 / 100;
                self.laws.excuse(&claim.name, until);
            }
        }
    }

    fn spread(&mut self, hint: &Hint) {
        for client in 0..self.clients.len() {
            let calm = self.healed.is_some();
            if self.weather.deaf || (!calm && self.dice.strikes(self.weather.lose_hint)) {
                continue;
            }
            let late = !calm && self.dice.strikes(self.weather.late_hint);
            let by = if late { self.dice.between(0, 3 * SECOND) } else { self.latency() };
            let life = self.clients[client].life;
            self.plan(self.now + by, What::Hint { client, life, hint: hint.clone() });
            if !calm && self.dice.strikes(self.weather.late_hint) {
                self.plan(self.now + by * 2, What::Hint { client, life, hint: hint.clone() });
            }
        }
    }

    fn answer(&mut self, id: u64) {
        let Some(pending) = self.calls.get_mut(&id) else { return };
        let (client, life) = (pending.client, pending.life);
        if let (Some(answer), Some(reply)) = (pending.answer.clone(), pending.reply.take()) {
            let there = self.clients[client].life == life;
            if there {
                let answer = self.forge(client, id, answer);
                self.note(client, &answer, id);
                let _ = reply.send(answer);
                self.clients[client].dirty = true;
            }
        }
        self.forget_if_over(id);
    }

    /// The engine gives a call up; `call` in the engine does it with tokio's time, which stands still here.
    fn limit(&mut self, id: u64) {
        let Some(pending) = self.calls.get_mut(&id) else { return };
        let (client, life) = (pending.client, pending.life);
        let until = self.clients[client].paused_until;
        if self.clients[client].life == life && until > self.now && pending.reply.is_some() {
            // It cannot give up while it does not run; if the answer comes meanwhile, it is taken.
            return self.plan(until, What::Limit { call: id });
        }
        if let Some(reply) = pending.reply.take() {
            let _ = reply.send(silence(&pending.ask));
            self.clients[client].dirty |= self.clients[client].life == life;
            self.trace(|_| format!("client {client} gives #{id} up"));
        }
        self.forget_if_over(id);
    }

    fn forget_if_over(&mut self, id: u64) {
        if self.calls.get(&id).is_some_and(|call| call.left == 0 && call.reply.is_none()) {
            self.calls.remove(&id);
        }
    }

    // ── what happens ───────────────────────────────────────────────────────────────────────────────────

    fn happen(&mut self, what: What) -> Result<(), Violation> {
        match what {
            What::Execute { call, last } => return self.execute(call, last),
            What::Answer { call } => self.answer(call),
            What::Limit { call } => self.limit(call),
            What::Proceed => {}
            What::Hint { client, life, hint } => {
                if self.clients[client].life == life {
                    self.tally.hints += 1;
                    self.hinted.extend(self.clients[client].seekers.iter().map(|seeker| seeker.owner));
                    self.trace(|w| format!("client {client} is hinted {}", w.hint_text(&hint)));
                    let hint = self.sabotaged_hint(client, hint);
                    self.clients[client].wire.hint(hint);
                    self.clients[client].dirty = true;
                }
            }
            What::Extend { client, life, owner } => self.vacillate(client, life, owner),
            What::User { client } => self.user(client),
            What::Crash { client } => {
                if self.healed.is_none() {
                    self.trace(|_| format!("client {client} crashes"));
                    self.clients[client].crash();
                    let at = self.now + self.dice.between(0, 2 * SECOND);
                    self.plan(at, What::Start { client });
                }
            }
            What::Start { client } => {
                if !self.clients[client].is_up() && self.healed.is_none() {
                    self.trace(|_| format!("client {client} starts again"));
                    let (life, ticks) = (self.clients[client].life + 1, self.clients[client].ticks());
                    self.clients[client] = Client::new(ticks, self.limits(), life, self.now);
                }
            }
            What::Pause { client, long } => {
                self.trace(|_| format!("client {client} pauses for {:?}", Duration::from_nanos(long)));
                self.clients[client].paused_until = self.now + long;
                self.plan(self.now + long, What::Proceed);
            }
            What::Amnesia => {
                self.trace(|_| "storage restarts and has forgotten everything".to_owned());
                self.model.forget();
                self.down_until = self.now + self.dice.between(10 * MS, 500 * MS);
                let until = self.now + self.weather.longest_ttl() * 103 / 100 + SECOND / 100;
                self.laws.excuse_all(until);
                self.tell_of_restart();
            }
            What::Outage { long } => {
                self.trace(|_| format!("storage is out of reach for {:?}", Duration::from_nanos(long)));
                self.down_until = std::cmp::max(self.down_until, self.now + long);
            }
            What::Step { by } => {
                self.trace(|_| format!("storage's clock is set by {by} ns"));
                self.set += by;
                if by.unsigned_abs() > STEP_WITHIN {
                    let until = self.now + by.unsigned_abs() + 2 * self.weather.longest_ttl() + 15 * SECOND;
                    self.laws.excuse_all(until);
                }
            }
            What::Heal => self.heal(),
        }
        Ok(())
    }

    fn heal(&mut self) {
        self.trace(|_| "all faults are over".to_owned());
        self.healed = Some(self.now);
        self.down_until = 0;
        for index in 0..self.clients.len() {
            self.clients[index].paused_until = 0;
            if self.clients[index].is_up() {
                self.clients[index].dirty = true;
            }
            if !self.weather.patient {
                while !self.clients[index].seekers.is_empty() {
                    let owner = self.clients[index].leave(0);
                    self.trace(|w| format!("client {index} leaves {}", w.short(owner)));
                }
            }
        }
        self.plan(self.now, What::Proceed);
    }

    // ── the callers ────────────────────────────────────────────────────────────────────────────────────

    fn user(&mut self, client: usize) {
        if self.healed.is_some() {
            return self.leave_off(client);
        }
        let again = self.now + self.dice.between(MS, self.weather.user_every * 2);
        self.plan(again, What::User { client });
        if !self.clients[client].is_up() {
            return;
        }
        self.clients[client].set_clock(self.now);
        if self.dice.strikes(self.weather.spurious_hint) {
            self.mislead(client);
        }
        if self.whims.strikes(self.weather.extends) && !self.clients[client].guards.is_empty() {
            let place = self.whims.index(self.clients[client].guards.len());
            let (life, owner) = (self.clients[client].life, self.clients[client].guards[place].guard.owner());
            self.plan(self.now, What::Extend { client, life, owner });
        }
        match self.dice.between(0, 99) {
            0..45 => self.seek(client),
            45..60 => {
                let seekers = self.clients[client].seekers.len();
                if seekers > 0 {
                    let place = self.dice.index(seekers);
                    let owner = self.clients[client].leave(place);
                    self.trace(|w| format!("client {client} leaves {}", w.short(owner)));
                }
            }
            60..80 => {
                let ways = [Farewell::Drop, Farewell::Drop, Farewell::Release, Farewell::Release];
                let farewell = if self.dice.strikes(100) { Farewell::Forget } else { self.dice.pick(&ways) };
                self.part(client, farewell);
            }
            80..95 => self.tend(client),
            95..98 if self.weather.breaks => {
                let name = self.names[self.dice.index(self.names.len())].clone();
                self.trace(|_| format!("client {client} breaks {name}"));
                self.clients[client].break_lock(name);
            }
            98 => {
                if let Some(ticket) = self.tickets.pop() {
                    self.trace(|w| format!("client {client} resumes {}", w.short(ticket.owner)));
                    let _ = self.dice.owner(); // so that older seeds mean what they did
                    self.clients[client].resume(ticket);
                }
            }
            97 => {
                if let Some(owner) = self.clients[client].leave_resume() {
                    self.trace(|w| format!("client {client} leaves what it resumes, {}", w.short(owner)));
                }
            }
            99 if self.dice.strikes(100) => {
                self.trace(|_| format!("client {client} closes"));
                self.clients[client].close();
                let at = self.now + self.dice.between(SECOND, 6 * SECOND);
                self.plan(at, What::Start { client });
            }
            _ => {}
        }
    }

    /// Hints what has not happened.
    fn mislead(&mut self, client: usize) {
        let client_of = &self.clients[client];
        let seeking = client_of.seekers.iter().map(|seeker| seeker.owner);
        let owners: Vec<_> = seeking.chain(client_of.guards.iter().map(|held| held.guard.owner())).collect();
        let hint = match self.dice.between(0, 3) {
            0 if self.whims.strikes(300) => Hint::Restarted,
            0 => Hint::Any,
            1 => Hint::Name(self.names[self.dice.index(self.names.len())].clone()),
            _ if owners.is_empty() => Hint::Owner(self.dice.owner()),
            _ => Hint::Owner(owners[self.dice.index(owners.len())]),
        };
        let life = self.clients[client].life;
        self.plan(self.now, What::Hint { client, life, hint });
    }

    fn seek(&mut self, client: usize) {
        if self.clients[client].seekers.len() > 4 {
            return;
        }
        let (name, ttl) = (self.names[self.dice.index(self.names.len())].clone(), self.ttl());
        let wait = match self.dice.between(0, 9) {
            0..6 => Wait::Forever,
            6..8 => Wait::For(Duration::from_millis(self.dice.between(0, 3000))),
            _ => Wait::Attempts {
                attempts: self.dice.pick(&[1, 2, 3]),
                interval: Duration::from_millis(self.dice.between(5, 300)),
            },
        };
        let renewal = match self.dice.between(0, 9) {
            0 => Renewal::Never,
            1 => Renewal::Every(ttl / 2),
            _ => Renewal::Automatic,
        };
        let max_hold = self.dice.strikes(100).then(|| Duration::from_millis(self.dice.between(100, 2000)));
        let options = Options { ttl, wait, renewal, max_hold, label: String::new() };
        let (owner, once) = (self.dice.owner(), self.dice.strikes(100));
        let life = self.clients[client].life;
        self.owners.insert(owner, Origin { client, life, detached: false, granted: false });
        self.tally.attempts += 1;
        self.trace(|w| {
            format!("client {client} seeks {name} as {} ttl {ttl:?} {wait:?} once {once}", w.short(owner))
        });
        self.clients[client].seek(owner, name, options, once);
    }

    fn ttl(&mut self) -> Duration {
        self.weather.ttls[self.dice.index(self.weather.ttls.len())]
    }

    fn part(&mut self, client: usize, farewell: Farewell) {
        let guards = self.clients[client].guards.len();
        if guards == 0 {
            return;
        }
        let place = self.dice.index(guards);
        let owner = self.clients[client].part(self.now, place, farewell);
        if matches!(farewell, Farewell::Forget)
            && let Some(origin) = self.owners.get_mut(&owner)
        {
            origin.detached = true;
        }
        self.trace(|w| format!("client {client} parts from {}: {farewell:?}", w.short(owner)));
    }

    /// Does something with a guard, and keeps it.
    fn tend(&mut self, client: usize) {
        let guards = self.clients[client].guards.len();
        if guards == 0 {
            return;
        }
        self.tally.tended += 1;
        let place = self.dice.index(guards);
        let owner = self.clients[client].guards[place].guard.owner();
        match self.dice.between(0, 4) {
            0 => self.clients[client].renew(place, None),
            1 => {
                let ttl = self.ttl();
                self.extend(client, place, ttl);
            }
            2 => self.clients[client].verify(place),
            3 => {
                let _ = self.clients[client].guards[place].guard.is_held();
            }
            // What is lost cannot be handed over: its own engine is about to release it.
            _ if self.clients[client].guards[place].guard.is_held()
                && self.clients[client].is_awake(self.now) =>
            {
                if let Some(origin) = self.owners.get_mut(&owner) {
                    origin.detached = true;
                }
                let ticket = self.clients[client].write_down(place);
                self.trace(|w| format!("client {client} writes down {}", w.short(owner)));
                self.tickets.push(ticket);
            }
            _ => {}
        }
    }

    /// Takes another TTL for a guard, and soon another one.
    fn vacillate(&mut self, client: usize, life: u32, owner: Owner) {
        let guards = &self.clients[client].guards;
        let place = guards.iter().position(|held| held.guard.owner() == owner);
        let Some(place) = place.filter(|_| self.clients[client].life == life && self.healed.is_none()) else {
            return;
        };
        let ttl = self.whims.pick(&self.weather.ttls);
        self.clients[client].set_clock(self.now);
        self.extend(client, place, ttl);
        if self.whims.strikes(800) {
            let soon = self.now + self.whims.between(MS, 250 * MS);
            self.plan(soon, What::Extend { client, life, owner });
        }
    }

    fn extend(&mut self, client: usize, place: usize, ttl: Duration) {
        let owner = self.clients[client].guards[place].guard.owner();
        self.trace(|w| format!("client {client} extends {} to {ttl:?}", w.short(owner)));
        self.clients[client].renew(place, Some(ttl));
    }

    /// After the faults: takes whatever was waited for, and gives it back.
    fn leave_off(&mut self, client: usize) {
        if !self.clients[client].is_up() {
            return;
        }
        let farewell = self.dice.pick(&[Farewell::Drop, Farewell::Release]);
        self.part(client, farewell);
        if !self.clients[client].is_idle() {
            let again = self.now + self.dice.between(MS, 200 * MS);
            self.plan(again, What::User { client });
        }
    }

    /// Every client sees that another server answers when it is in touch again, and may be told so twice.
    fn tell_of_restart(&mut self) {
        for client in 0..self.clients.len() {
            if self.weather.deaf || self.whims.strikes(self.weather.lose_hint / 2) {
                continue;
            }
            let life = self.clients[client].life;
            for _ in 0..self.whims.between(1, 2) {
                let at = self.down_until + self.whims.between(MS, 100 * MS);
                self.plan(at, What::Hint { client, life, hint: Hint::Restarted });
            }
        }
    }

    // ── planted defects of the engine ──────────────────────────────────────────────────────────────────

    /// What the defective engine would not have asked at all.
    fn sabotaged(&self, ask: &Ask) -> Option<Answer> {
        match (self.sabotage?, ask) {
            (Sabotage::NoSecondRelease, Ask::Release(claims)) => {
                let all = claims.iter().all(|claim| self.released.contains(&claim.owner));
                all.then(|| Answer::Release(claims.iter().map(|_| Ok(ReleaseReply::NotHeld)).collect()))
            }
            (Sabotage::DropWithoutResolver, Ask::Release(claims)) => {
                let left = |claim: &Claim| self.owners.get(&claim.owner).is_some_and(|o| !o.granted);
                let all = claims.iter().all(left);
                all.then(|| Answer::Release(claims.iter().map(|_| Ok(ReleaseReply::NotHeld)).collect()))
            }
            (Sabotage::NoRecheck, Ask::Acquire(claims)) => {
                let rested = |claim: &Claim| claim.wait && !self.hinted.contains(&claim.owner);
                let asked = |claim: &Claim| self.released.contains(&claim.owner);
                let all = claims.iter().all(|claim| rested(claim) && asked(claim));
                let held = || Ok(AcquireReply::Held { holder: None, retry_after: None });
                all.then(|| Answer::Acquire(claims.iter().map(|_| held()).collect()))
            }
            _ => None,
        }
    }

    /// What the defective engine makes of a hint. Notes what an engine has to ask about.
    fn sabotaged_hint(&mut self, client: usize, hint: Hint) -> Hint {
        if hint != Hint::Restarted || !self.clients[client].wire.is_listened_to() {
            return hint;
        }
        let holds: Vec<_> = self.clients[client].believers(self.now).map(|held| held.guard.owner()).collect();
        self.clients[client].unverified.extend(holds);
        self.clients[client].restarted = Some(self.now);
        if self.sabotage == Some(Sabotage::IgnoresRestarts) { Hint::Any } else { hint }
    }

    /// What the defective engine makes of an answer.
    fn forge(&mut self, client: usize, id: u64, mut answer: Answer) -> Answer {
        let late = self.sabotage == Some(Sabotage::DeadlineFromReply);
        let late = if late { self.now - self.calls[&id].sent } else { 0 };
        let whole = self.sabotage == Some(Sabotage::NoMargin);
        let stretch = |ttl: &mut Duration| {
            *ttl += Duration::from_nanos(late);
            if whole {
                *ttl += margin(*ttl) + margin(*ttl) / 50;
            }
        };
        match &mut answer {
            Answer::Acquire(answers) => {
                for answer in answers {
                    if let Ok(AcquireReply::Granted { ttl, .. }) = answer {
                        stretch(ttl);
                    }
                }
            }
            Answer::Renew(answers) => {
                for (place, answer) in answers.iter_mut().enumerate() {
                    let Ok(RenewReply::Renewed { ttl }) = answer else { continue };
                    stretch(ttl);
                    if self.sabotage == Some(Sabotage::LateRenewalRevives)
                        && let Ask::Renew(claims) = &self.calls[&id].ask
                    {
                        self.clients[client].revive(self.now, claims[place].owner, *ttl);
                    }
                }
            }
            _ => {}
        }
        answer
    }

    /// Remembers what the defects depend on.
    fn note(&mut self, client: usize, answer: &Answer, id: u64) {
        self.trace(|_| format!("client {client} is answered #{id}: {}", brief(answer)));
        if let (Ask::Acquire(claims), Answer::Acquire(answers)) = (&self.calls[&id].ask, answer) {
            // Sent before the restart, granted after: it may be forgotten as well.
            let restarted = self.clients[client].restarted;
            let older = restarted.is_some_and(|restarted| self.calls[&id].sent <= restarted);
            let granted = claims
                .iter()
                .zip(answers)
                .filter(|(_, answer)| older && matches!(answer, Ok(AcquireReply::Granted { .. })));
            let owners: Vec<_> = granted.map(|(claim, _)| claim.owner).collect();
            self.clients[client].unverified.extend(owners);
        }
        match (&self.calls[&id].ask, answer, self.sabotage) {
            (Ask::Release(claims), Answer::Release(answers), Some(Sabotage::NoSecondRelease)) => {
                let sure = claims.iter().zip(answers).filter(|(_, answer)| answer.is_ok());
                self.released.extend(sure.map(|(claim, _)| claim.owner));
            }
            (Ask::Acquire(claims), Answer::Acquire(answers), Some(Sabotage::NoRecheck)) => {
                for (claim, answer) in claims.iter().zip(answers) {
                    if claim.wait && answer.is_ok() {
                        self.released.insert(claim.owner);
                        self.hinted.remove(&claim.owner);
                    }
                }
            }
            _ => {}
        }
    }

    // ── words for people ───────────────────────────────────────────────────────────────────────────────

    pub(super) fn short(&self, owner: Owner) -> String {
        owner.to_string()[..6].to_owned()
    }

    fn describe(&self, ask: &Ask) -> String {
        let list = |word: &str, claims: &[Claim]| {
            let each = claims.iter().map(|claim| {
                let wait = if claim.wait { " in line" } else { "" };
                let shorten = if claim.shorten { " shorten" } else { "" };
                format!("{} {} {:?}{wait}{shorten}", claim.name, self.short(claim.owner), claim.ttl)
            });
            format!("{word} [{}]", each.collect::<Vec<_>>().join(", "))
        };
        match ask {
            Ask::Acquire(claims) => list("acquire", claims),
            Ask::Inspect(name) => format!("inspect {name}"),
            Ask::Release(claims) => list("release", claims),
            Ask::Renew(claims) => list("renew", claims),
        }
    }

    fn hint_text(&self, hint: &Hint) -> String {
        match hint {
            Hint::Owner(owner) => self.short(*owner),
            other => format!("{other:?}"),
        }
    }
}

fn count(len: usize) -> u64 {
    u64::try_from(len).expect("few")
}

impl Pending {
    /// Whether a client waits for an answer about a hold, so that it may not ask about another yet.
    pub(super) fn is_about_a_hold_of(&self, client: usize) -> bool {
        let about = matches!(self.ask, Ask::Inspect(_) | Ask::Renew(_));
        about && self.client == client && self.reply.is_some()
    }
}

/// How long the engine waits for an answer, as `Actor::board` decides.
fn limit_of(ask: &Ask) -> Duration {
    const LONGEST: Duration = Duration::from_secs(5);
    let shortest = |claims: &[Claim], limit: fn(Duration) -> Duration| {
        claims.iter().map(|claim| limit(claim.ttl)).fold(LONGEST, std::cmp::min)
    };
    match ask {
        Ask::Acquire(claims) | Ask::Release(claims) => shortest(claims, patience),
        Ask::Renew(claims) => shortest(claims, renew_limit),
        Ask::Inspect(_) => LONGEST,
    }
}

fn silence(ask: &Ask) -> Answer {
    let error = || Error::new(ErrorKind::Unavailable, "the storage did not answer");
    match ask {
        Ask::Acquire(claims) => Answer::Acquire(claims.iter().map(|_| Err(error())).collect()),
        Ask::Inspect(_) => Answer::Inspect(Err(error())),
        Ask::Release(claims) => Answer::Release(claims.iter().map(|_| Err(error())).collect()),
        Ask::Renew(claims) => Answer::Renew(claims.iter().map(|_| Err(error())).collect()),
    }
}

fn brief(answer: &Answer) -> String {
    match answer {
        Answer::Acquire(answers) => {
            let each = answers.iter().map(|answer| match answer {
                Ok(AcquireReply::Granted { token, ttl }) => format!("granted {token} for {ttl:?}"),
                Ok(AcquireReply::Held { holder: Some(holder), .. }) => {
                    format!("held for {:?}", holder.remaining)
                }
                Ok(AcquireReply::Held { holder: None, .. }) => "held by the line".to_owned(),
                Err(error) => error.to_string(),
            });
            each.collect::<Vec<_>>().join(", ")
        }
        Answer::Inspect(Ok(holder)) => format!("held by {:?}", holder.as_ref().map(|h| h.owner)),
        Answer::Inspect(Err(error)) => error.to_string(),
        Answer::Release(answers) => format!("{answers:?}"),
        Answer::Renew(answers) => format!("{answers:?}"),
    }
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.grants += other.grants;
        self.losses += other.losses;
        self.attempts += other.attempts;
        self.acquires += other.acquires;
        self.releases += other.releases;
        self.renews += other.renews;
        self.tended += other.tended;
        self.hints += other.hints;
        self.waited += other.waited;
        self.held += other.held;
        self.excused += other.excused;
    }
}
