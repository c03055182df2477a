//! A program that uses locks: the real engine without its sleeping loop, real guards, and a caller.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;

use super::wire::{Ask, Call, Wire};
use crate::clock::{Clock, Moment};
use crate::engine::actor::Actor;
use crate::engine::call::Key;
use crate::engine::handle::{Command, Delivery};
use crate::engine::{Handle, Home, prepare};
use crate::error::{Error, Result};
use crate::guard::Guard;
use crate::options::Options;
use crate::storage::{AnyStorage, Limits, Name, Owner, Token};
use crate::ticket::Ticket;

pub(super) struct Client {
    /// Tells its lives apart: a crash ends one.
    pub(super) life: u32,
    ticks: Ticks,
    clock: Arc<AtomicU64>,
    pub(super) wire: Wire,
    handle: Option<Handle>,
    actor: Option<Actor>,
    open: bool,
    pub(super) seekers: Vec<Seeker>,
    pub(super) guards: Vec<Held>,
    resumes: Vec<Resumer>,
    releases: Vec<((Name, Token), Releasing)>,
    /// Who was told that a release went well.
    pub(super) confirmed: Vec<(Name, Token)>,
    /// What callers were told who got no lock.
    pub(super) refused: Vec<Option<Error>>,
    /// The engine's thread gets no time before that.
    pub(super) paused_until: u64,
    /// True time when the engine wants to be woken.
    pub(super) wake: u64,
    /// Holds that the engine has not asked about since the storage restarted.
    pub(super) unverified: BTreeSet<Owner>,
    /// When it was told that the storage restarted, if it was.
    pub(super) restarted: Option<u64>,
    /// Something has come in that the engine has not seen.
    pub(super) dirty: bool,
}

type Releasing = Pin<Box<dyn Future<Output = Result<()>>>>;

/// A clock that runs at its own speed.
#[derive(Clone, Copy)]
pub(super) struct Ticks {
    pub(super) base: u64,
    pub(super) millionths: i64,
}

/// A caller who waits for a lock.
pub(super) struct Seeker {
    pub(super) owner: Owner,
    key: Key,
    reply: oneshot::Receiver<Result<Option<Delivery>>>,
}

/// A caller who waits for a lock that was handed over.
struct Resumer {
    key: Key,
    reply: oneshot::Receiver<Result<Delivery>>,
}

pub(super) struct Held {
    pub(super) guard: Guard,
    /// Its holder has seen that it is lost.
    pub(super) over: bool,
}

/// How a caller gives a guard back.
#[derive(Clone, Copy, Debug)]
pub(super) enum Farewell {
    Drop,
    Forget,
    Release,
}

/// The origin of true time.
pub(super) const START: u64 = 1_000_000_000_000_000;

impl Ticks {
    /// What the clock shows at a true time.
    pub(super) fn read(self, at: u64) -> u64 {
        let passed = at - START;
        let ahead = i64::try_from(passed).expect("minutes") * self.millionths / 1_000_000;
        (self.base + passed).checked_add_signed(ahead).expect("time goes forward")
    }

    /// The first true time at which the clock shows at least that.
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
    pub(super) fn new(ticks: Ticks, limits: Limits, life: u32, at: u64) -> Self {
        let clock = Arc::new(AtomicU64::new(ticks.read(at)));
        let wire = Wire::new(limits);
        let (injected, home) = (Clock::injected(Arc::clone(&clock)), Home::Thread);
        let (handle, actor) =
            prepare(AnyStorage::new(wire.clone()), injected, home).expect("it does not panic");
        Self {
            life,
            ticks,
            clock,
            wire,
            handle: Some(handle),
            actor: Some(actor),
            open: true,
            seekers: Vec::new(),
            guards: Vec::new(),
            resumes: Vec::new(),
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

    pub(super) fn ticks(&self) -> Ticks {
        self.ticks
    }

    pub(super) fn actor(&self) -> Option<&Actor> {
        self.actor.as_ref()
    }

    /// What its clock shows.
    pub(super) fn clock(&self) -> Moment {
        Moment::from_nanos(self.clock.load(Ordering::Relaxed))
    }

    /// Whether its engine gets time.
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

    /// Lets the engine do all that it can do now; the calls it makes. `None` if it does not come to rest.
    pub(super) fn turn(&mut self, at: u64) -> Option<Vec<Call>> {
        self.set_clock(at);
        self.dirty = false;
        let mut calls = Vec::new();
        for turns in 0.. {
            let Some(actor) = &mut self.actor else { return Some(calls) };
            actor.turn(&mut self.open);
            let made = self.wire.take();
            let busy = !made.is_empty();
            calls.extend(made);
            let busy = self.callers() || busy;
            // A call that departs in one turn is made in the next.
            if !busy && turns > 0 {
                break;
            }
            if turns > 100 {
                return None;
            }
        }
        let actor = self.actor.as_ref().expect("it is up");
        if actor.finished(self.open) {
            let actor = self.actor.take().expect("it is up");
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

    /// Lets the callers see what there is for them; whether there was anything.
    fn callers(&mut self) -> bool {
        let (mut busy, mut arrived) = (false, Vec::new());
        let mut waiting = Vec::new();
        for mut seeker in std::mem::take(&mut self.seekers) {
            match seeker.reply.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    waiting.push(seeker);
                    continue;
                }
                Ok(Ok(Some(delivery))) => arrived.push(delivery),
                Ok(Ok(None)) => self.refused.push(None),
                Ok(Err(error)) => self.refused.push(Some(error)),
                Err(oneshot::error::TryRecvError::Closed) => {}
            }
            busy = true;
        }
        self.seekers = waiting;
        let mut waiting = Vec::new();
        for mut resumer in std::mem::take(&mut self.resumes) {
            match resumer.reply.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => {
                    waiting.push(resumer);
                    continue;
                }
                Ok(Ok(delivery)) => arrived.push(delivery),
                Ok(_) | Err(oneshot::error::TryRecvError::Closed) => {}
            }
            busy = true;
        }
        self.resumes = waiting;
        if let Some(handle) = &self.handle {
            let guards = arrived.into_iter().map(|delivery| Guard::new(delivery.take(), handle.clone()));
            self.guards.extend(guards.map(|guard| Held { guard, over: false }));
        }
        let confirmed = &mut self.confirmed;
        self.releases.retain_mut(|(grant, release)| {
            let answer = release.as_mut().now_or_never();
            if let Some(Ok(())) = answer {
                confirmed.push(grant.clone());
            }
            busy |= answer.is_some();
            answer.is_none()
        });
        busy
    }

    /// A new acquisition of that owner.
    fn key(&self, owner: Owner) -> Key {
        self.handle.as_ref().map_or(Key { owner, generation: u64::MAX }, |handle| handle.key(owner))
    }

    pub(super) fn seek(&mut self, owner: Owner, name: Name, options: Options, once: bool) {
        let (tx, reply) = oneshot::channel();
        let key = self.key(owner);
        self.seekers.push(Seeker { owner, key, reply });
        self.tell(Command::Acquire { key, name, options, once, reply: tx });
    }

    /// Drops the future of a caller who waits.
    pub(super) fn leave(&mut self, place: usize) -> Owner {
        let Seeker { owner, key, reply } = self.seekers.remove(place);
        drop(reply);
        self.tell(Command::Cancel { key });
        owner
    }

    pub(super) fn part(&mut self, at: u64, place: usize, farewell: Farewell) -> Owner {
        self.set_clock(at);
        self.dirty = true;
        let Held { guard, .. } = self.guards.remove(place);
        let (owner, grant) = (guard.owner(), (guard.name().clone(), guard.token()));
        match farewell {
            Farewell::Drop => drop(guard),
            Farewell::Forget => guard.forget(),
            Farewell::Release => {
                let mut release: Releasing = Box::pin(guard.release());
                if release.as_mut().now_or_never().is_none() {
                    self.releases.push((grant, release));
                }
            }
        }
        owner
    }

    pub(super) fn write_down(&mut self, place: usize) -> Ticket {
        self.dirty = true;
        self.guards.remove(place).guard.into_ticket()
    }

    pub(super) fn resume(&mut self, ticket: Ticket) {
        let (tx, reply) = oneshot::channel();
        let key = self.key(ticket.owner);
        self.resumes.push(Resumer { key, reply });
        self.tell(Command::Resume { key, ticket, options: Options::default(), reply: tx });
    }

    /// Drops the future of a caller who resumes, if there is one; which lease goes back to its ticket.
    pub(super) fn leave_resume(&mut self) -> Option<Owner> {
        let Resumer { key, reply } = self.resumes.pop()?;
        drop(reply);
        self.tell(Command::Cancel { key });
        Some(key.owner)
    }

    pub(super) fn renew(&mut self, place: usize, ttl: Option<Duration>) {
        let status = self.guards[place].guard.status();
        // As `Handle::renew` does before it asks.
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
        self.tell(Command::Close { reply });
    }

    pub(super) fn observe(&mut self, name: Name) -> crate::event::Changes {
        self.dirty = true;
        self.handle.as_ref().expect("it is up").observe(name).expect("it is open")
    }

    fn tell(&mut self, command: Command) {
        self.dirty = true;
        if let Some(handle) = &self.handle {
            handle.send(command);
        }
    }

    /// Ends everything in an instant, as kill -9 does.
    pub(super) fn crash(&mut self) {
        self.actor = None;
        self.handle = None;
        self.seekers.clear();
        self.resumes.clear();
        self.releases.clear();
        self.guards.clear();
        self.unverified.clear();
        self.wake = u64::MAX;
        self.dirty = false;
    }

    /// Whether somebody here waits for that lease or believes to have it.
    pub(super) fn wants(&self, owner: Owner) -> bool {
        self.seekers.iter().any(|seeker| seeker.owner == owner)
            || self.guards.iter().any(|held| held.guard.owner() == owner)
    }

    /// Gives a guard that is lost another life: a planted defect.
    pub(super) fn revive(&mut self, at: u64, owner: Owner, ttl: Duration) {
        let now = Moment::from_nanos(self.ticks.read(at));
        for held in self.guards.iter().filter(|held| held.guard.owner() == owner) {
            if held.guard.status().deadline() <= now {
                held.guard.status().revive(now.after(ttl));
            }
        }
    }

    /// Notes which holds the engine asks about.
    pub(super) fn asks(&mut self, ask: &Ask) {
        match ask {
            Ask::Renew(claims) => {
                self.unverified.retain(|owner| claims.iter().all(|claim| claim.owner != *owner));
            }
            Ask::Inspect(name) => {
                let seen = self.guards.iter().map(|held| &held.guard).filter(|guard| guard.name() == name);
                seen.for_each(|guard| _ = self.unverified.remove(&guard.owner()));
            }
            Ask::Acquire(_) | Ask::Release(_) => {}
        }
    }

    /// The guards whose holder believes, by its own clock, to hold at that time.
    pub(super) fn believers(&self, at: u64) -> impl Iterator<Item = &Held> {
        let now = Moment::from_nanos(self.ticks.read(at));
        self.guards.iter().filter(move |held| now < held.guard.status().deadline())
    }

    pub(super) fn is_idle(&self) -> bool {
        let Some(actor) = &self.actor else { return true };
        let callers = self.seekers.len() + self.resumes.len() + self.releases.len();
        actor.is_clean() && callers == 0 && self.guards.is_empty()
    }
}
