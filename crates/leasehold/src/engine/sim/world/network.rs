//! The network: how late a call arrives, how often it is executed, and whether its answer arrives.

use std::time::Duration;

use tokio::sync::oneshot;

use super::super::invariants::Violation;
use super::super::schedule::{MS, SECOND};
use super::super::wire::{Answer, Ask, Call};
use super::text::brief;
use super::{Event, World, count};
use crate::clock::nanos;
use crate::engine::timing::{patience, renew_limit};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Claim, Hint, ReleaseReply};

/// A call that is in flight.
pub(in crate::engine::sim) struct Pending {
    client: usize,
    life: u32,
    pub(super) ask: Ask,
    /// Where the answer goes, until the engine has given the call up.
    reply: Option<oneshot::Sender<Answer>>,
    answer: Option<Answer>,
    /// For each claim, the storage's time after which it comes too late. Only requests that patience binds have one.
    not_after: Vec<u64>,
    /// How often the request is still to be executed.
    left: u64,
    pub(super) sent: u64,
    /// How long the answer is in flight.
    back: u64,
}

/// How a request fares.
struct Route {
    /// How often it is executed.
    left: u64,
    /// How long its answer is in flight.
    back: u64,
    answered: bool,
}

impl Pending {
    /// Returns `true` if a client waits for an answer about one of its leases, and so may not verify another one yet.
    pub(in crate::engine::sim) fn is_about_a_lease_of(&self, client: usize) -> bool {
        let about = matches!(self.ask, Ask::Inspect(_) | Ask::Renew(_));
        about && self.client == client && self.reply.is_some()
    }
}

impl World {
    /// Sends a call of a client, and plans when it is executed, answered and given up.
    pub(super) fn depart(&mut self, client: usize, call: Call) {
        let Call { ask, reply } = call;
        let (life, ticks) = (self.clients[client].life, self.clients[client].ticks());
        let limit = limit_of(&ask);
        if let Some(answer) = self.suppressed(&ask) {
            // The receiver waits in the engine, which takes the answer in with its next turn.
            let _ = reply.send(answer);
            self.clients[client].dirty = true;
            self.plan(self.now, Event::Proceed);
            return;
        }
        self.clients[client].asks(&ask);
        self.count_claims(&ask);
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
        self.plan(expires, Event::Limit { call: id });
        let Route { left, back, answered } = self.route(id, &ask, nanos(limit));
        let (reply, sent) = (Some(reply), self.now);
        let mut pending = Pending { client, life, ask, reply, answer: None, not_after, left, sent, back };
        if !answered && self.random.chance(500) {
            // The connection breaks at once. The caller learns nothing, and the request may be in flight.
            pending.answer = Some(silence(&pending.ask));
            self.plan(self.now + back, Event::Answer { call: id });
        }
        self.calls.insert(id, pending);
    }

    fn count_claims(&mut self, ask: &Ask) {
        match ask {
            Ask::Acquire(claims) => self.tally.acquires += count(claims.len()),
            Ask::Release(claims) => self.tally.releases += count(claims.len()),
            Ask::Renew(claims) => self.tally.renews += count(claims.len()),
            Ask::Inspect(_) => {}
        }
    }

    /// Draws how a request fares, and plans when the storage executes it.
    fn route(&mut self, id: u64, ask: &Ask, limit: u64) -> Route {
        let calm = self.healed.is_some();
        let chance = |world: &mut Self, permille: u64| !calm && world.random.chance(permille);
        let (there, back) = (self.latency(), self.latency());
        let (mut left, mut at, mut answered) = (1, self.now + there, true);
        if chance(self, self.conditions.lose_request) {
            (left, answered) = (0, false);
        } else if chance(self, self.conditions.late) {
            at = self.now + self.random.between(0, limit * 2 + 50 * MS);
            if let Ask::Renew(claims) = ask
                && self.conditions.extends > 0
            {
                // About as late as patience allows.
                at += self.extra.between(0, nanos(patience(claims[0].ttl)));
            }
            answered = self.random.chance(500);
        } else if chance(self, self.conditions.lose_reply) {
            answered = false;
        }
        if left > 0 && chance(self, self.conditions.twice) {
            left = 2;
            let again = at + self.random.between(0, limit + 50 * MS);
            self.plan(again, Event::Execute { call: id, last: answered });
            // A driver does not repeat a claim that was answered, so the answer is the one to the second execution.
            let early = answered && !matches!(ask, Ask::Acquire(_)) && self.random.chance(500);
            self.plan(at, Event::Execute { call: id, last: early });
        } else if left > 0 {
            self.plan(at, Event::Execute { call: id, last: answered });
        }
        let slow = !calm && self.extra.chance(self.conditions.late_reply);
        let back = if slow { self.extra.between(0, limit) } else { back };
        Route { left, back, answered }
    }
    fn latency(&mut self) -> u64 {
        self.random.between(self.conditions.latency / 4, self.conditions.latency)
    }

    /// Executes a request, unless the storage is down. Answers it if this execution is the `last`.
    pub(super) fn execute(&mut self, id: u64, last: bool) -> Result<(), Violation> {
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
                self.excuse_broken(&pending.ask, &answers);
                Answer::Release(answers)
            }
            Ask::Inspect(name) => Answer::Inspect(Ok(self.model.inspect(name, now))),
        };
        self.trace(|w| format!("storage executes #{id} {}: {}", w.describe(&pending.ask), brief(&answer)));
        if last && pending.answer.is_none() {
            pending.answer = Some(answer);
            self.plan(self.now + pending.back, Event::Answer { call: id });
        }
        self.calls.insert(id, pending);
        let grants = std::mem::take(&mut self.model.grants);
        for (name, owner, token) in grants {
            self.tally.grants += 1;
            self.laws.granted(&name, owner, token)?;
            self.check_kept(&name)?;
        }
        for hint in std::mem::take(&mut self.model.hints) {
            self.send_hints(&hint);
        }
        self.forget_if_over(id);
        Ok(())
    }

    /// Suspends the law of exclusion for a lease that was broken: its client learns of that a little later.
    fn excuse_broken(&mut self, ask: &Ask, answers: &[Result<ReleaseReply>]) {
        let Ask::Release(claims) = ask else { return };
        for (claim, answer) in claims.iter().zip(answers) {
            let kept = self.clients.iter().any(|client| client.wants(claim.owner));
            if self.conditions.breaks && kept && matches!(answer, Ok(ReleaseReply::Released)) {
                let until = self.now + self.conditions.longest_ttl() * 103 / 100;
                self.laws.excuse(&claim.name, until);
            }
        }
    }

    /// Sends a hint to each client, except where it is lost.
    fn send_hints(&mut self, hint: &Hint) {
        for client in 0..self.clients.len() {
            let calm = self.healed.is_some();
            if self.conditions.no_hints || (!calm && self.random.chance(self.conditions.lose_hint)) {
                continue;
            }
            let late = !calm && self.random.chance(self.conditions.late_hint);
            let by = if late { self.random.between(0, 3 * SECOND) } else { self.latency() };
            let life = self.clients[client].life;
            self.plan(self.now + by, Event::Hint { client, life, hint: hint.clone() });
            if !calm && self.random.chance(self.conditions.late_hint) {
                self.plan(self.now + by * 2, Event::Hint { client, life, hint: hint.clone() });
            }
        }
    }

    /// Hands an answer to the engine, if that still waits for it.
    pub(super) fn answer(&mut self, id: u64) {
        let Some(pending) = self.calls.get_mut(&id) else { return };
        let (client, life) = (pending.client, pending.life);
        if let (Some(answer), Some(reply)) = (pending.answer.clone(), pending.reply.take())
            && self.clients[client].life == life
        {
            let answer = self.alter(client, id, answer);
            self.remember(client, &answer, id);
            let _ = reply.send(answer);
            self.clients[client].dirty = true;
        }
        self.forget_if_over(id);
    }

    /// Hands a hint to an engine, if the client has not crashed since the hint was sent.
    pub(super) fn hint(&mut self, client: usize, life: u32, hint: &Hint) {
        if self.clients[client].life != life {
            return;
        }
        self.tally.hints += 1;
        self.hinted.extend(self.clients[client].acquiring.iter().map(|caller| caller.owner));
        self.trace(|w| format!("client {client} is hinted {}", w.hint_text(hint)));
        let hint = self.alter_hint(client, hint.clone());
        self.clients[client].wire.hint(hint);
        self.clients[client].dirty = true;
    }

    /// Gives a call up. The engine does so with tokio's time, which stands still here.
    pub(super) fn limit(&mut self, id: u64) {
        let Some(pending) = self.calls.get_mut(&id) else { return };
        let (client, life) = (pending.client, pending.life);
        let until = self.clients[client].paused_until;
        if self.clients[client].life == life && until > self.now && pending.reply.is_some() {
            // A paused engine cannot give up. If the answer arrives meanwhile, the engine takes it.
            return self.plan(until, Event::Limit { call: id });
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
}

/// Returns how long the engine waits for an answer, as `engine/actor/calls.rs` decides.
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

/// Returns the answer that an engine gives itself when the storage is silent.
fn silence(ask: &Ask) -> Answer {
    let error = || Error::new(ErrorKind::Unavailable, "the storage did not answer");
    match ask {
        Ask::Acquire(claims) => Answer::Acquire(claims.iter().map(|_| Err(error())).collect()),
        Ask::Inspect(_) => Answer::Inspect(Err(error())),
        Ask::Release(claims) => Answer::Release(claims.iter().map(|_| Err(error())).collect()),
        Ask::Renew(claims) => Answer::Renew(claims.iter().map(|_| Err(error())).collect()),
    }
}
