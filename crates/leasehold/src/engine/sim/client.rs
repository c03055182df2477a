//! A client: the real engine without the loop that sleeps, real guards, and their callers.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::leading::Leading;
use super::together::Together;
use super::wire::{Ask, Call, Wire};
use crate::all::All;
use crate::clock::{Clock, Moment};
use crate::election::Election;
use crate::engine::actor::Actor;
use crate::engine::call::Key;
use crate::engine::handle::{Command, Delivery, Mode, Wanted};
use crate::engine::start::prepare;
use crate::engine::{CLOSE_LIMIT, Handle, Home};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::lock::Lock;
use crate::options::Options;
use crate::storage::{AnyStorage, Limits, Name, Owner, Token};
use crate::ticket::Ticket;

/// A program that uses locks.
pub(super) struct Client {
    /// How often it has started after a crash.
    pub(super) life: u32,
    ticks: Ticks,
    clock: Arc<AtomicU64>,
    pub(super) wire: Wire,
    handle: Option<Handle>,
    actor: Option<Actor>,
    open: bool,
    pub(super) acquiring: Vec<Acquiring>,
    pub(super) guards: Vec<Held>,
    resuming: Vec<Resuming>,
    pub(super) together: Together,
    pub(super) leading: Leading,
    releases: Vec<(Vec<Grant>, Releasing)>,
    /// The grants whose release has reported success.
    pub(super) confirmed: Vec<Grant>,
    /// The answers to callers that got no lock; `None` if another client has it.
    pub(super) refused: Vec<Option<Error>>,
    /// The engine's thread gets no processor time before that.
    pub(super) paused_until: u64,
    /// The true time at which the engine wakes up.
    pub(super) wake: u64,
    /// The leases that the engine has not verified since the storage restarted.
    pub(super) unverified: BTreeSet<Owner>,
    /// When the last hint of a restart arrived.
    pub(super) restarted: Option<u64>,
    /// `true` if something has arrived that the engine has not taken in.
    pub(super) dirty: bool,
}

/// A grant: the name and the token.
pub(super) type Grant = (Name, Token);

pub(super) type Releasing = Pin<Box<dyn Future<Output = Result<()>>>>;

/// A clock that runs at its own speed.
#[derive(Clone, Copy)]
pub(super) struct Ticks {
    pub(super) base: u64,
    pub(super) millionths: i64,
}

/// A caller that waits for a lock.
pub(super) struct Acquiring {
    pub(super) owner: Owner,
    key: Key,
    reply: oneshot::Receiver<Result<Option<Delivery>>>,
}

/// A caller that resumes a ticket.
struct Resuming {
    key: Key,
    reply: oneshot::Receiver<Result<Delivery>>,
}

/// A guard that a caller has.
pub(super) struct Held {
    pub(super) guard: Guard,
    /// `true` if the guard was seen to be lost.
    pub(super) over: bool,
}

/// How a caller ends a guard.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    Drop,
    Forget,
    Release,
}

/// The origin of true time.
pub(super) const START: u64 = 1_000_000_000_000_000;

impl Ticks {
    /// Returns what the clock shows at a true time.
    pub(super) fn read(self, at: u64) -> u64 {
        let passed = at - START;
        let ahead = i64::try_from(passed).expect("minutes") * self.millionths / 1_000_000;
        (self.base + passed).checked_add_signed(ahead).expect("time goes forward")
    }

    /// Returns the first true time at which the clock shows at least `shown`.
    pub(super) fn when(self, shown: u64) -> u64 {
        if shown == u64::MAX {
            return u64::MAX;
        }
        let passed = i128::from(shown.saturating_sub(self.base)) * 1_000_000;
        let guess = passed / (1_000_000 + i128::from(self.millionths));
        let mut at = START + u64::try_from(guess).expect("time goes forward");
        while self.read(at) < shown {
            at += 1;
        }
        at
    }
}

impl Client {
    /// Makes a client whose owner ids follow from `seed`.
    pub(super) fn new(ticks: Ticks, limits: Limits, life: u32, at: u64, seed: u64) -> Self {
        let clock = Arc::new(AtomicU64::new(ticks.read(at)));
        let wire = Wire::new(limits);
        let (injected, home) = (Clock::injected(Arc::clone(&clock)), Home::Thread);
        let made = Arc::new(Mutex::new(Vec::new()));
        let leading = Leading::new(Arc::clone(&made));
        let (together, make_owner) = Together::new(seed, made);
        let prepared = prepare(AnyStorage::new(wire.clone()), injected, make_owner, home);
        let (handle, actor) = prepared.expect("it does not panic");
        Self {
            life,
            ticks,
            clock,
            wire,
            handle: Some(handle),
            actor: Some(actor),
            open: true,
            acquiring: Vec::new(),
            guards: Vec::new(),
            resuming: Vec::new(),
            together,
            leading,
            releases: Vec::new(),
            confirmed: Vec::new(),
            refused: Vec::new(),
            paused_until: 0,
            wake: u64::MAX,
            unverified: BTreeSet::new(),
            restarted: None,
            dirty: false,
        }
    }

    /// Returns how many callers wait for locks.
    pub(super) fn waiting(&self) -> usize {
        self.acquiring.len() + self.together.waiting() + self.leading.len()
    }

    /// Returns how many locks its callers hold at most.
    pub(super) fn most_held(&self) -> usize {
        self.guards.len() + self.together.most_held() + self.leading.len()
    }

    pub(super) fn ticks(&self) -> Ticks {
        self.ticks
    }

    pub(super) fn actor(&self) -> Option<&Actor> {
        self.actor.as_ref()
    }

    /// Returns what its clock shows.
    pub(super) fn clock(&self) -> Moment {
        Moment::from_nanos(self.clock.load(Ordering::Relaxed))
    }

    /// Returns `true` if its engine gets processor time.
    pub(super) fn is_awake(&self, at: u64) -> bool {
        self.is_up() && self.paused_until <= at
    }

    pub(super) fn is_up(&self) -> bool {
        self.actor.is_some()
    }

    pub(super) fn stages(&self) -> BTreeMap<Owner, &'static str> {
        self.actor.as_ref().map(Actor::stages).unwrap_or_default()
    }

    pub(super) fn set_clock(&self, at: u64) {
        self.clock.store(self.ticks.read(at), Ordering::Relaxed);
    }

    /// Lets the engine do all that it can do now. Returns the calls that it makes, or `None` if it does not come to rest.
    pub(super) fn turn(&mut self, at: u64) -> Option<Vec<Call>> {
        self.set_clock(at);
        self.dirty = false;
        let (mut calls, mut rest) = (Vec::new(), 0);
        for turns in 0.. {
            let Some(actor) = &mut self.actor else { return Some(calls) };
            actor.turn(&mut self.open);
            let made = self.wire.take();
            let busy = !made.is_empty();
            calls.extend(made);
            let busy = self.callers() || busy;
            rest = if busy { 0 } else { rest + 1 };
            // The engine makes a call in the turn after the one in which it leaves its lane.
            if rest > 1 {
                break;
            }
            if turns > 100 {
                return None;
            }
        }
        let actor = self.actor.as_ref().expect("the client is up");
        if actor.finished(self.open) {
            let actor = self.actor.take().expect("the client is up");
            actor.finish();
            self.callers();
            self.wake = u64::MAX;
            return Some(calls);
        }
        let wake = actor.next_wake();
        if wake.as_nanos() <= self.ticks.read(at) {
            return None;
        }
        self.wake = self.ticks.when(wake.as_nanos());
        Some(calls)
    }

    /// Lets the callers take what has arrived for them. Returns `true` if anything had.
    fn callers(&mut self) -> bool {
        let (mut busy, mut arrived) = (false, Vec::new());
        let mut waiting = Vec::new();
        for mut caller in std::mem::take(&mut self.acquiring) {
            match caller.reply.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    waiting.push(caller);
                    continue;
                }
                Ok(Ok(Some(delivery))) => arrived.push(delivery),
                Ok(Ok(None)) => self.refused.push(None),
                Ok(Err(error)) => self.refused.push(Some(error)),
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
            busy = true;
        }
        self.acquiring = waiting;
        let mut waiting = Vec::new();
        for mut caller in std::mem::take(&mut self.resuming) {
            match caller.reply.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    waiting.push(caller);
                    continue;
                }
                Ok(Ok(delivery)) => arrived.push(delivery),
                Ok(_) | Err(oneshot::error::TryRecvError::Closed) => {}
            }
            busy = true;
        }
        self.resuming = waiting;
        busy |= self.together.poll();
        busy |= self.leading.poll();
        if let Some(handle) = &self.handle {
            let guards = arrived.into_iter().map(|delivery| Guard::new(delivery.take(), handle.clone()));
            self.guards.extend(guards.map(|guard| Held { guard, over: false }));
        }
        let confirmed = &mut self.confirmed;
        self.releases.retain_mut(|(grants, release)| {
            let answer = release.as_mut().now_or_never();
            if let Some(Ok(())) = answer {
                confirmed.append(grants);
            }
            busy |= answer.is_some();
            answer.is_none()
        });
        busy
    }

    /// Returns the key of a new acquisition of an owner.
    fn key(&self, owner: Owner) -> Key {
        self.handle.as_ref().map_or(Key { owner, generation: u64::MAX }, |handle| handle.key(owner))
    }

    /// Starts an acquisition.
    pub(super) fn acquire(&mut self, owner: Owner, name: Name, options: Options, once: bool) {
        let (tx, reply) = oneshot::channel();
        let key = self.key(owner);
        self.acquiring.push(Acquiring { owner, key, reply });
        let mode = if once { Mode::Once } else { Mode::Usual };
        self.tell(Command::Acquire { key, wanted: Wanted { name, options, mode }, reply: tx });
    }

    /// Drops the future of a caller that waits. Returns its owner.
    pub(super) fn leave(&mut self, place: usize) -> Owner {
        let Acquiring { owner, key, reply } = self.acquiring.remove(place);
        drop(reply);
        self.tell(Command::Cancel { key });
        owner
    }

    /// Ends a guard. Returns its owner.
    pub(super) fn give_back(&mut self, at: u64, place: usize, ending: Ending) -> Owner {
        self.set_clock(at);
        self.dirty = true;
        let Held { guard, .. } = self.guards.remove(place);
        let (owner, grant) = (guard.owner(), (guard.name().clone(), guard.token()));
        match ending {
            Ending::Drop => drop(guard),
            Ending::Forget => guard.forget(),
            Ending::Release => {
                let mut release: Releasing = Box::pin(guard.release());
                if release.as_mut().now_or_never().is_none() {
                    self.releases.push((vec![grant], release));
                }
            }
        }
        owner
    }

    /// Starts to acquire several locks at once.
    pub(super) fn acquire_together(&mut self, at: u64, wanted: Vec<(Name, Options)>, in_any_order: bool) {
        self.set_clock(at);
        self.dirty = true;
        let Some(handle) = &self.handle else { return };
        let (lock, names) =
            (|(name, options): (Name, _)| Lock::new(handle.clone(), name.as_str(), options), wanted.len());
        let all = All::new(handle.clone(), wanted.into_iter().map(lock).collect());
        self.together.acquire(if in_any_order { all.in_any_order() } else { all }, names);
    }

    /// Lets a program stand for election.
    pub(super) fn stand(&mut self, at: u64, name: &Name, options: Options, leads_on: bool) {
        self.set_clock(at);
        self.dirty = true;
        let Some(handle) = &self.handle else { return };
        let election = Election::new(Lock::new(handle.clone(), name.as_str(), options));
        self.leading.stand(if leads_on { election.leads_on() } else { election });
    }

    /// Drops the future of a candidate, or lets its work end by itself.
    pub(super) fn end_candidate(&mut self, at: u64, place: usize, drops: bool) {
        self.set_clock(at);
        self.dirty = true;
        if drops { self.leading.leave(place) } else { self.leading.end_work(place) }
    }

    /// Lets the works of all candidates end by themselves.
    pub(super) fn end_works(&mut self) {
        self.dirty = true;
        self.leading.end_works();
    }

    /// Drops the future of a caller that waits for several locks.
    pub(super) fn leave_together(&mut self, place: usize) {
        self.dirty = true;
        self.together.leave(place);
    }

    /// Ends the guards of several locks.
    pub(super) fn give_back_together(&mut self, at: u64, place: usize, ending: Ending) {
        self.set_clock(at);
        self.dirty = true;
        if let Some((grants, mut release)) = self.together.give_back(place, ending)
            && release.as_mut().now_or_never().is_none()
        {
            self.releases.push((grants, release));
        }
    }

    /// Ends a guard and makes a ticket of its lease.
    pub(super) fn make_ticket(&mut self, place: usize) -> Ticket {
        self.dirty = true;
        self.guards.remove(place).guard.into_ticket()
    }

    pub(super) fn resume(&mut self, ticket: Ticket) {
        let (tx, reply) = oneshot::channel();
        let key = self.key(ticket.owner);
        self.resuming.push(Resuming { key, reply });
        self.tell(Command::Resume { key, ticket, options: Options::default(), reply: tx });
    }

    /// Drops the future of a caller that resumes, if there is one. Returns the owner of the lease, which stays with its ticket.
    pub(super) fn leave_resume(&mut self) -> Option<Owner> {
        let Resuming { key, reply } = self.resuming.pop()?;
        drop(reply);
        self.tell(Command::Cancel { key });
        Some(key.owner)
    }

    pub(super) fn renew(&mut self, place: usize, ttl: Option<Duration>) {
        let status = self.guards[place].guard.status();
        // `Handle::renew` does the same before it sends the command.
        ttl.into_iter().for_each(|ttl| status.shorten(ttl));
        let key = status.key;
        let (reply, _) = oneshot::channel();
        self.tell(Command::Renew { key, ttl, reply });
    }

    pub(super) fn verify(&mut self, place: usize) {
        let key = self.guards[place].guard.status().key;
        let (reply, _) = oneshot::channel();
        self.tell(Command::Verify { key, reply });
    }

    pub(super) fn break_lock(&mut self, name: Name) {
        let (reply, _) = oneshot::channel();
        self.tell(Command::Break { name, reply });
    }

    pub(super) fn close(&mut self) {
        let (reply, _) = oneshot::channel();
        self.tell(Command::Close { limit: CLOSE_LIMIT, reply });
    }

    pub(super) fn observe(&mut self, name: Name) -> crate::event::Changes {
        self.dirty = true;
        self.handle.as_ref().expect("the client is up").observe(name).expect("the client is open")
    }

    fn tell(&mut self, command: Command) {
        self.dirty = true;
        if let Some(handle) = &self.handle {
            handle.send(command);
        }
    }

    /// Ends the client at once, as `kill -9` does.
    pub(super) fn crash(&mut self) {
        self.actor = None;
        self.handle = None;
        self.acquiring.clear();
        self.resuming.clear();
        self.together.crash();
        self.leading.crash();
        self.releases.clear();
        self.guards.clear();
        self.unverified.clear();
        self.wake = u64::MAX;
        self.dirty = false;
    }

    /// Returns `true` if a caller waits for that lease or has its guard.
    pub(super) fn wants(&self, owner: Owner) -> bool {
        self.acquiring.iter().any(|caller| caller.owner == owner)
            || self.guards.iter().any(|held| held.guard.owner() == owner)
            || self.together.wants(owner)
            || self.leading.wants(owner)
    }

    /// Revives a lost guard: a planted defect.
    pub(super) fn revive(&mut self, at: u64, owner: Owner, ttl: Duration) {
        let now = Moment::from_nanos(self.ticks.read(at));
        for guard in self.all_guards().filter(|guard| guard.owner() == owner) {
            if guard.status().deadline() <= now {
                guard.status().revive(now.after(ttl));
            }
        }
    }

    /// Records which leases the engine verifies with a call.
    pub(super) fn asks(&mut self, ask: &Ask) {
        match ask {
            Ask::Renew(claims) => {
                self.unverified.retain(|owner| claims.iter().all(|claim| claim.owner != *owner));
            }
            Ask::Inspect(name) => {
                let seen = self.all_guards().filter(|guard| guard.name() == name).map(Guard::owner);
                let seen: Vec<_> = seen.collect();
                seen.iter().for_each(|owner| _ = self.unverified.remove(owner));
            }
            Ask::Acquire(_) | Ask::Release(_) => {}
        }
    }

    /// Returns the guards that are held at that time, by the clock of this client.
    pub(super) fn holding(&self, at: u64) -> impl Iterator<Item = &Guard> {
        let now = Moment::from_nanos(self.ticks.read(at));
        self.all_guards().filter(move |guard| now < guard.status().deadline())
    }

    fn all_guards(&self) -> impl Iterator<Item = &Guard> {
        let leading = self.leading.terms.iter().map(|term| &**term);
        self.guards.iter().map(|held| &held.guard).chain(self.together.guards()).chain(leading)
    }

    /// Returns `true` if no caller waits, no guard is left, and the engine has nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        let Some(actor) = &self.actor else { return true };
        let callers = self.acquiring.len() + self.resuming.len() + self.releases.len();
        let together = self.together.waiting() + self.together.groups.len() + self.leading.len();
        actor.is_clean() && callers == 0 && self.guards.is_empty() && together == 0
    }
}
