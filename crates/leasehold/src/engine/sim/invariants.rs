//! The laws: what holds after every step of a run.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::client::Grant;
use super::schedule::{Conditions, SECOND};
use super::world::{Kept, World};
use crate::clock::nanos;
use crate::engine::actor::Actor;
use crate::engine::work;
use crate::guard::Guard;
use crate::storage::{Name, Owner, Token, WAITER_TTL};

/// A law that the simulator checks. Numbers are those of the invariants in `docs/architecture.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Law {
    /// At most one client believes that it holds a lock (invariants 2 and 4).
    Exclusion,
    /// A lease or an entry at the storage ends by itself if no engine tends it.
    Finite,
    /// The tokens of a name are unique and grow (invariant 10).
    Tokens,
    /// A lost guard never holds again (invariant 3).
    Final,
    /// When an acquisition is over, the storage has no lease of it, then and later (invariants 5 and 11).
    Resolved,
    /// Callers that take several locks at once do not wait for each other in a circle.
    Deadlock,
    /// A candidate works only in its term, stops when the term is over, and then stands for election again.
    Leading,
    /// A lock that was released before its minimum time is over is granted to no other owner until then.
    Kept,
    /// A free lock is granted to a waiter (invariants 6 and 9).
    Progress,
    /// An acquisition that is over leaves no entry in a queue (invariant 5).
    Residue,
    /// A release that reports success ended a hold without a break, and a holder learns of a loss at once (invariant 7).
    Honest,
    /// An engine comes to rest (invariant 6).
    Rest,
    /// Without faults, the number of calls is bounded.
    Thrift,
    /// After a restart of the storage, the engine verifies each of its leases at once.
    Verified,
    /// No assertion of the engine fails.
    Panic,
    /// The work of a turn grows with the number of changes, not with the number of locks.
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

/// Returns `true` if the guard is lost.
fn is_over(guard: &Guard, now: u64, awake: bool, was_over: bool) -> Result<bool, Violation> {
    let holds = now < guard.status().deadline().as_nanos();
    if holds && was_over {
        return Err(Violation::new(Law::Final, format!("{}: a lost guard holds again", guard.owner())));
    }
    if !holds && awake && guard.status().why_lost().is_none() {
        return Err(Violation::new(Law::Honest, format!("{}: lost, and no caller was told", guard.owner())));
    }
    Ok(!holds)
}

/// The memory of the laws.
pub(super) struct Laws {
    /// The last token of each name, and its owner.
    tokens: BTreeMap<Name, (Token, Owner)>,
    /// Until when the laws are suspended for a lock, because of a fault that no lock survives.
    excused: BTreeMap<Name, u64>,
    /// Until when they are suspended for all locks.
    all_excused: u64,
    /// Since when a lock is free while a caller waits for it.
    free_since: BTreeMap<Name, u64>,
    longest_lease: u64,
}

/// How long a free lock may stay free while a caller waits. Within that time the entries of dead waiters expire, and a
/// waiter claims again at its heartbeat. The engine has also given up any claim that was in flight when the faults ended.
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
    pub(super) fn new(conditions: &Conditions) -> Self {
        Self {
            tokens: BTreeMap::new(),
            excused: BTreeMap::new(),
            all_excused: 0,
            free_since: BTreeMap::new(),
            longest_lease: std::cmp::max(conditions.longest_ttl(), nanos(WAITER_TTL)),
        }
    }

    /// Checks [`Law::Tokens`] at a grant.
    pub(super) fn granted(&mut self, name: &Name, owner: Owner, token: Token) -> Result<(), Violation> {
        match self.tokens.insert(name.clone(), (token, owner)) {
            Some((last, _)) if last >= token => {
                Err(Violation::new(Law::Tokens, format!("{name}: {token:?} after {last:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Suspends the laws for a lock.
    pub(super) fn excuse(&mut self, name: &Name, until: u64) {
        let excused = self.excused.entry(name.clone()).or_default();
        *excused = std::cmp::max(*excused, until);
    }

    /// Suspends the laws for all locks.
    pub(super) fn excuse_all(&mut self, until: u64) {
        self.all_excused = std::cmp::max(self.all_excused, until);
    }

    /// Returns `true` if the laws are suspended for all locks.
    pub(super) fn excuses_all(&self, now: u64) -> bool {
        now < self.all_excused
    }

    /// Returns `true` if the laws are suspended for a lock.
    fn excuses(&self, name: &Name, now: u64) -> bool {
        self.excuses_all(now) || self.excused.get(name).is_some_and(|until| now < *until)
    }
}

impl World {
    /// Checks the laws that hold at any time.
    pub(super) fn check(&mut self) -> Result<(), Violation> {
        self.check_exclusion()?;
        self.check_finality()?;
        self.check_verified()?;
        self.check_storage()?;
        self.check_progress()
    }

    /// Checks [`Law::Exclusion`].
    fn check_exclusion(&mut self) -> Result<(), Violation> {
        for place in 0..self.names.len() {
            let name = &self.names[place];
            let holding = self.clients.iter().flat_map(|client| client.holding(self.now));
            let mut holders = holding.filter(|guard| guard.name() == name).map(Guard::owner);
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

    /// Checks [`Law::Final`] and the half of [`Law::Honest`] that is about losses.
    fn check_finality(&mut self) -> Result<(), Violation> {
        for index in 0..self.clients.len() {
            let client = &mut self.clients[index];
            let now = client.ticks().read(self.now);
            let prompt = self.conditions.lag == 0 || self.healed.is_some();
            let awake = prompt && client.is_awake(self.now) && client.wake > self.now;
            for held in &mut client.guards {
                let was_over = held.over;
                held.over = is_over(&held.guard, now, awake, was_over)?;
                self.tally.losses += u64::from(held.over && !was_over);
            }
            let mut over = BTreeSet::new();
            for guard in client.together.guards() {
                let was_over = client.together.over.contains(&guard.owner());
                if is_over(guard, now, awake, was_over)? {
                    over.insert(guard.owner());
                    self.tally.losses += u64::from(!was_over);
                }
            }
            client.together.over = over;
            let mut over = BTreeSet::new();
            for term in &client.leading.terms {
                let was_over = client.leading.over.contains(&term.owner());
                if is_over(term, now, awake, was_over)? {
                    over.insert(term.owner());
                    self.tally.losses += u64::from(!was_over);
                }
            }
            client.leading.over = over;
            if let Some(owner) = client.leading.over.first().filter(|_| awake) {
                let text = format!("{owner}: its term is over, and the leader goes on");
                return Err(Violation::new(Law::Leading, text));
            }
            if let Some(why) = client.leading.wrong.pop() {
                return Err(Violation::new(
                    Law::Leading,
                    format!("client {index}: a candidate gives up: {why}"),
                ));
            }
        }
        Ok(())
    }

    /// Checks [`Law::Verified`]: a lease that is still unverified waits only for a call about a lease of this client.
    fn check_verified(&mut self) -> Result<(), Violation> {
        for (index, client) in self.clients.iter_mut().enumerate() {
            if !client.is_awake(self.now) || client.dirty {
                continue;
            }
            let unverified = std::mem::take(&mut client.unverified);
            let believed = |owner: &Owner| client.holding(self.now).any(|guard| guard.owner() == *owner);
            let still: BTreeSet<_> = unverified.into_iter().filter(believed).collect();
            if let Some(owner) = still.first()
                && !self.calls.values().any(|call| call.is_about_a_lease_of(index))
            {
                let text = format!("{owner}: the storage has restarted, and the lease is not verified");
                return Err(Violation::new(Law::Verified, text));
            }
            client.unverified = still;
        }
        Ok(())
    }

    /// Checks the half of [`Law::Honest`] that is about releases.
    pub(super) fn check_confirmed(&mut self, index: usize) -> Result<(), Violation> {
        let confirmed = std::mem::take(&mut self.clients[index].confirmed);
        for grant in &confirmed {
            self.kept.entry(grant.clone()).and_modify(|kept| kept.released = true);
        }
        let ended_before =
            |grant: &&Grant| self.model.overtaken.contains(*grant) && !self.jobs.contains(*grant);
        match confirmed.iter().find(ended_before) {
            Some((name, token)) if !self.laws.excuses_all(self.now) => {
                let text = format!(
                    "{name}: the release of {token:?} reports success, and the lease had ended before"
                );
                Err(Violation::new(Law::Honest, text))
            }
            _ => Ok(()),
        }
    }

    /// Checks [`Law::Kept`] when a lock is granted.
    pub(super) fn check_kept(&self, name: &Name) -> Result<(), Violation> {
        let early = |kept: &Kept| kept.released && self.now < kept.until;
        match self.kept.iter().find(|((kept, _), how)| kept == name && early(how)) {
            Some((_, kept)) if !self.laws.excuses(name, self.now) && !self.conditions.breaks => {
                let text = format!("{name}: granted, and {} keeps it", self.short(kept.owner));
                Err(Violation::new(Law::Kept, text))
            }
            _ => Ok(()),
        }
    }

    /// Checks [`Law::Finite`], [`Law::Resolved`] and [`Law::Residue`]: each lease and entry of the storage belongs to an
    /// acquisition that goes on, or to a client that died.
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
                    return Err(Violation::new(
                        Law::Finite,
                        format!("{name}: what {owner} has does not end"),
                    ));
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
            let text =
                format!("{name}: the storage keeps a {what} of {}, which has ended", self.short(owner));
            return Err(Violation::new(law, text));
        }
        Ok(())
    }

    /// Returns `true` if an engine still tends the acquisition.
    fn is_owned(&self, owner: Owner) -> bool {
        self.owners.get(&owner).is_some_and(|origin| {
            let client = &self.clients[origin.client];
            client.life == origin.life && client.actor().is_some_and(|actor| actor.knows(owner))
        })
    }

    /// Returns `true` if the client has died or stopped, or left the lease until its TTL on purpose.
    fn is_excused(&self, owner: Owner) -> bool {
        self.owners.get(&owner).is_some_and(|origin| {
            let client = &self.clients[origin.client];
            origin.detached || client.life != origin.life || !client.is_up()
        })
    }

    /// Checks [`Law::Progress`].
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
                let text = format!("{name} is free, and no waiter gets it");
                return Err(Violation::new(Law::Progress, text));
            }
        }
        Ok(())
    }

    /// Checks [`Law::Thrift`] when all callers have gone.
    pub(super) fn check_end(&mut self) -> Result<(), Violation> {
        if !self.conditions.is_calm() {
            return Ok(());
        }
        let (tally, shortest) = (self.tally, self.conditions.ttls.iter().map(|ttl| nanos(*ttl)));
        let shortest = shortest.fold(SECOND, std::cmp::min);
        let acquires = tally.attempts * 6 + tally.hints + tally.waited / (shortest / 2) + 10;
        let renews = tally.grants * 2 + tally.used + tally.held / (shortest / 5) + 10;
        let releases = tally.attempts + tally.grants + 10;
        if tally.acquires > acquires || tally.renews > renews || tally.releases > releases {
            let text = format!("{acquires}, {renews}, {releases} are enough: {tally:?}");
            return Err(Violation::new(Law::Thrift, text));
        }
        Ok(())
    }

    /// Returns the violation of a run that does not end long after all faults.
    pub(super) fn never_ends(&self) -> Violation {
        let busy = self.clients.iter().enumerate().filter(|(_, client)| !client.is_idle());
        let each = busy.map(|(index, client)| {
            let machines = client.actor().map(Actor::machines).unwrap_or_default();
            let (guards, callers) = (client.guards.len(), client.acquiring.len());
            format!("client {index}: {guards} guards, {callers} callers, {machines:?}")
        });
        let any = |waits: fn(&super::client::Client) -> bool| self.clients.iter().any(waits);
        let law = match () {
            () if any(|client| client.together.waiting() > 0) => Law::Deadlock,
            () if any(|client| client.leading.len() > 0) => Law::Leading,
            () => Law::Residue,
        };
        Violation::new(law, format!("does not end: {}", each.collect::<Vec<_>>().join("; ")))
    }
}
