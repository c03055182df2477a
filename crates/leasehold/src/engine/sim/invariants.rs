//! What must hold after every step, whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::schedule::{SECOND, Weather};
use super::world::World;
use crate::clock::nanos;
use crate::engine::actor::Actor;
use crate::engine::work;
use crate::storage::{Name, Owner, Token, WAITER_TTL};

/// One of the rules (`docs/design.md` and the state machine's invariants).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Law {
    /// I1: at most one holder believes to hold.
    Exclusion,
    /// I2: what the storage keeps for nobody ends by itself.
    Finite,
    /// I3: tokens are unique and grow.
    Tokens,
    /// I4: what is lost stays lost.
    Final,
    /// I5: when an acquisition is over, the storage has nothing of it, then and later.
    Resolved,
    /// I6: a free lock is granted to somebody who waits for it.
    Progress,
    /// I7: whoever leaves leaves nothing.
    Residue,
    /// Whoever is told that a release went well held without a break, and whoever lost is told at once.
    Honest,
    /// An engine comes to rest.
    Rest,
    /// Without faults, the number of calls is bounded.
    Thrift,
    /// Whoever holds when the storage says that it restarted asks whether it still does, at once.
    Verified,
    /// An assertion of the engine.
    Panic,
    /// The work of a turn follows what has changed, not what is there.
    Proportion,
}

#[derive(Clone, Debug)]
pub(super) struct Violation {
    pub(super) law: Law,
    pub(super) text: String,
}

impl Violation {
    pub(super) fn new(law: Law, text: impl Into<String>) -> Self {
        Self { law, text: text.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.law, self.text)
    }
}

/// What the rules have to remember.
pub(super) struct Laws {
    tokens: BTreeMap<Name, (Token, Owner)>,
    /// Until then an assumption is broken for a lock, by a fault that no lock survives.
    excused: BTreeMap<Name, u64>,
    all_excused: u64,
    /// Since when a lock is free while somebody waits for it.
    free_since: BTreeMap<Name, u64>,
    longest_lease: u64,
}

/// How long a free lock may stay free while somebody waits: until the places of dead waiters have ended, a
/// waiter asks again, and a claim that was under way when the faults ended is given up.
const PROGRESS: u64 = 6 * SECOND + 2 * SECOND + 4 * SECOND + SECOND + SECOND;

/// The most steps of work for each change, and for a turn in which nothing has changed.
const WORK_PER_CHANGE: usize = 24;
const WORK_PER_TURN: usize = 256;

/// Checks the work of the turns since the last check.
pub(super) fn check_work() -> Result<(), Violation> {
    let (changes, work) = work::take();
    if work <= changes * WORK_PER_CHANGE + WORK_PER_TURN {
        return Ok(());
    }
    Err(Violation::new(Law::Proportion, format!("{work} steps of work for {changes} changes")))
}

impl Laws {
    pub(super) fn new(weather: &Weather) -> Self {
        Self {
            tokens: BTreeMap::new(),
            excused: BTreeMap::new(),
            all_excused: 0,
            free_since: BTreeMap::new(),
            longest_lease: std::cmp::max(weather.longest_ttl(), nanos(WAITER_TTL)),
        }
    }

    /// I3, at every grant.
    pub(super) fn granted(&mut self, name: &Name, owner: Owner, token: Token) -> Result<(), Violation> {
        match self.tokens.insert(name.clone(), (token, owner)) {
            Some((last, _)) if last >= token => {
                Err(Violation::new(Law::Tokens, format!("{name}: {token:?} after {last:?}")))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn excuse(&mut self, name: &Name, until: u64) {
        let excused = self.excused.entry(name.clone()).or_default();
        *excused = std::cmp::max(*excused, until);
    }

    pub(super) fn excuse_all(&mut self, until: u64) {
        self.all_excused = std::cmp::max(self.all_excused, until);
    }

    pub(super) fn excuses_all(&self, now: u64) -> bool {
        now < self.all_excused
    }

    fn excuses(&self, name: &Name, now: u64) -> bool {
        self.excuses_all(now) || self.excused.get(name).is_some_and(|until| now < *until)
    }
}

impl World {
    /// Checks everything that must hold at any time.
    pub(super) fn check(&mut self) -> Result<(), Violation> {
        self.check_exclusion()?;
        self.check_finality()?;
        self.check_verified()?;
        self.check_storage()?;
        self.check_progress()
    }

    /// I1
    fn check_exclusion(&mut self) -> Result<(), Violation> {
        for place in 0..self.names.len() {
            let name = &self.names[place];
            let believers = self.clients.iter().flat_map(|client| client.believers(self.now));
            let mut holders =
                believers.filter(|held| held.guard.name() == name).map(|held| held.guard.owner());
            let (Some(first), Some(second)) = (holders.next(), holders.next()) else { continue };
            if self.laws.excuses(name, self.now) {
                self.tally.excused += 1;
                continue;
            }
            let text = format!("{name}: {} and {} both hold", self.short(first), self.short(second));
            return Err(Violation::new(Law::Exclusion, text));
        }
        Ok(())
    }

    /// I4
    fn check_finality(&mut self) -> Result<(), Violation> {
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            let now = client.ticks().read(self.now);
            let prompt = self.weather.lag == 0 || self.healed.is_some();
            let awake = prompt && client.is_awake(self.now) && client.wake > self.now;
            for held in &mut client.guards {
                let holds = now < held.guard.status().deadline().as_nanos();
                if holds && held.over {
                    let text = format!("{}: a lost guard holds again", held.guard.owner());
                    return Err(Violation::new(Law::Final, text));
                }
                if !holds && awake && held.guard.status().why_lost().is_none() {
                    let text = format!("{}: lost, and nobody says so", held.guard.owner());
                    return Err(Violation::new(Law::Honest, text));
                }
                if !holds && !held.over {
                    self.tally.losses += 1;
                    held.over = true;
                }
            }
        }
        Ok(())
    }

    /// A hold that is to be verified after a restart waits for nothing but answers about others, or itself.
    fn check_verified(&mut self) -> Result<(), Violation> {
        for (index, client) in self.clients.iter_mut().enumerate() {
            if !client.is_awake(self.now) || client.dirty {
                continue;
            }
            let unverified = std::mem::take(&mut client.unverified);
            let believed =
                |owner: &Owner| client.believers(self.now).any(|held| held.guard.owner() == *owner);
            let still: BTreeSet<_> = unverified.into_iter().filter(believed).collect();
            if let Some(owner) = still.first()
                && !self.calls.values().any(|call| call.is_about_a_hold_of(index))
            {
                let text = format!("{owner}: the storage has restarted, and nobody asks whether it is held");
                return Err(Violation::new(Law::Verified, text));
            }
            client.unverified = still;
        }
        Ok(())
    }

    /// Whoever was told that a release went well had held until then.
    pub(super) fn check_confirmed(&mut self, index: usize) -> Result<(), Violation> {
        let confirmed = std::mem::take(&mut self.clients[index].confirmed);
        match confirmed.iter().find(|grant| self.model.overtaken.contains(grant)) {
            Some((name, token)) if !self.laws.excuses_all(self.now) => {
                let text =
                    format!("{name}: who held {token:?} is told that it held until its release, and did not");
                Err(Violation::new(Law::Honest, text))
            }
            _ => Ok(()),
        }
    }

    /// I2, I5 and the storage's side of I7: what the storage keeps belongs to somebody, or to a dead client.
    fn check_storage(&mut self) -> Result<(), Violation> {
        let now = self.server();
        let longest = now + 2 * self.laws.longest_lease;
        let mut residues = Vec::new();
        for (name, record) in &self.model.locks {
            let lease = record.lease.iter().map(|lease| (lease.owner, lease.until, true));
            let entries = record.queue.iter().map(|entry| (entry.owner, entry.until, false));
            for (owner, until, is_lease) in lease.chain(entries) {
                if until <= now || self.is_owned(owner) {
                    continue;
                }
                if until > longest && !self.laws.excuses(name, self.now) {
                    return Err(Violation::new(Law::Finite, format!("{name}: {owner} for ever")));
                }
                if !self.is_excused(owner) {
                    residues.push((name.clone(), owner, is_lease));
                }
            }
        }
        for (name, owner, is_lease) in residues {
            if self.laws.excuses(&name, self.now) || self.stretched.contains(&owner) {
                self.tally.excused += 1;
                continue;
            }
            let granted = self.owners.get(&owner).is_some_and(|origin| origin.granted);
            let (what, law) = match (is_lease, granted) {
                (true, true) => ("lease", Law::Resolved),
                (true, false) => ("ghost lease", Law::Resolved),
                (false, _) => ("waiter's entry", Law::Residue),
            };
            let text = format!("{name}: the storage keeps a {what} of {}, which is over", self.short(owner));
            return Err(Violation::new(law, text));
        }
        Ok(())
    }

    fn is_owned(&self, owner: Owner) -> bool {
        self.owners.get(&owner).is_some_and(|origin| {
            let client = &self.clients[origin.client];
            client.life == origin.life && client.actor().is_some_and(|actor| actor.knows(owner))
        })
    }

    /// Whether nobody is left who could undo it, or it was left on purpose.
    fn is_excused(&self, owner: Owner) -> bool {
        self.owners.get(&owner).is_some_and(|origin| {
            let client = &self.clients[origin.client];
            origin.detached || client.life != origin.life || !client.is_up()
        })
    }

    /// I6
    fn check_progress(&mut self) -> Result<(), Violation> {
        let Some(healed) = self.healed else { return Ok(()) };
        let server = self.server();
        for name in &self.names {
            let held = self.model.locks.get_mut(name).is_some_and(|record| record.live(server).is_some());
            let waited_for = || self.clients.iter().any(|c| c.actor().is_some_and(|a| a.waits_for(name)));
            if held || !waited_for() {
                self.laws.free_since.remove(name);
                continue;
            }
            let since = *self.laws.free_since.entry(name.clone()).or_insert(self.now);
            let since = std::cmp::max(since, std::cmp::max(healed, self.laws.all_excused));
            if self.now > since + PROGRESS {
                let text = format!("{name} is free and waited for, and nobody gets it");
                return Err(Violation::new(Law::Progress, text));
            }
        }
        Ok(())
    }

    /// I7, and the number of calls, when everybody has gone.
    pub(super) fn check_end(&mut self) -> Result<(), Violation> {
        if !self.weather.is_calm() {
            return Ok(());
        }
        let (tally, shortest) = (self.tally, self.weather.ttls.iter().map(|ttl| nanos(*ttl)));
        let shortest = shortest.fold(SECOND, std::cmp::min);
        let acquires = tally.attempts * 6 + tally.hints + tally.waited / (shortest / 2) + 10;
        let renews = tally.grants * 2 + tally.tended + tally.held / (shortest / 5) + 10;
        let releases = tally.attempts + tally.grants + 10;
        if tally.acquires > acquires || tally.renews > renews || tally.releases > releases {
            let text = format!("{acquires}, {renews}, {releases} are enough: {tally:?}");
            return Err(Violation::new(Law::Thrift, text));
        }
        Ok(())
    }

    /// What does not end, long after all faults.
    pub(super) fn never_ends(&self) -> Violation {
        let busy = self.clients.iter().enumerate().filter(|(_, client)| !client.is_idle());
        let each = busy.map(|(index, client)| {
            let machines = client.actor().map(Actor::machines).unwrap_or_default();
            let (guards, callers) = (client.guards.len(), client.seekers.len());
            format!("client {index}: {guards} guards, {callers} callers, {machines:?}")
        });
        Violation::new(Law::Residue, format!("not over: {}", each.collect::<Vec<_>>().join("; ")))
    }
}
