//! The callers: acquire, wait, leave, use guards, and hand tickets over.

use std::time::Duration;

use super::super::client::Ending;
use super::super::schedule::{MS, SECOND};
use super::{Event, Origin, World};
use crate::engine::sim::Sabotage;
use crate::options::{Options, Renewal, Wait};
use crate::storage::{Hint, Owner};

impl World {
    /// Lets the callers of a client act, and plans when they act again.
    pub(super) fn user(&mut self, client: usize) {
        if self.healed.is_some() {
            return self.wind_down(client);
        }
        let again = self.now + self.random.between(MS, self.conditions.user_every * 2);
        self.plan(again, Event::User { client });
        if !self.clients[client].is_up() {
            return;
        }
        self.clients[client].set_clock(self.now);
        if self.random.chance(self.conditions.spurious_hint) {
            self.send_false_hint(client);
        }
        if self.extra.chance(self.conditions.extends) && !self.clients[client].guards.is_empty() {
            let place = self.extra.index(self.clients[client].guards.len());
            let (life, owner) = (self.clients[client].life, self.clients[client].guards[place].guard.owner());
            self.plan(self.now, Event::Extend { client, life, owner });
        }
        self.act(client);
    }

    /// Lets one caller do one thing.
    fn act(&mut self, client: usize) {
        match self.random.between(0, 99) {
            0..45 if self.leaders.chance(self.conditions.elections) => self.stand(client),
            0..45 if self.several.chance(self.conditions.several) => self.acquire_several(client),
            0..45 => self.acquire(client),
            45..60 => self.leave(client),
            60..80 => {
                let ways = [Ending::Drop, Ending::Drop, Ending::Release, Ending::Release];
                let ending = if self.random.chance(100) { Ending::Forget } else { self.random.pick(&ways) };
                self.give_back(client, ending);
            }
            80..95 => self.use_guard(client),
            95..98 if self.conditions.breaks => {
                let name = self.names[self.random.index(self.names.len())].clone();
                self.trace(|_| format!("client {client} breaks {name}"));
                self.clients[client].break_lock(name);
            }
            98 => {
                if let Some(ticket) = self.tickets.pop() {
                    self.trace(|w| format!("client {client} resumes {}", w.short(ticket.owner)));
                    let _ = self.random.owner(); // Keeps the meaning of older seeds.
                    self.clients[client].resume(ticket);
                }
            }
            97 => {
                if let Some(owner) = self.clients[client].leave_resume() {
                    self.trace(|w| format!("client {client} drops its resume of {}", w.short(owner)));
                }
            }
            99 if self.random.chance(100) => {
                self.trace(|_| format!("client {client} closes"));
                self.clients[client].close();
                let at = self.now + self.random.between(SECOND, 6 * SECOND);
                self.plan(at, Event::Start { client });
            }
            _ => {}
        }
    }

    /// Lets one more program stand for election.
    fn stand(&mut self, client: usize) {
        if self.clients[client].leading.len() > 1 || self.clients[client].waiting() > 4 {
            return;
        }
        let name = self.names[self.leaders.index(self.names.len())].clone();
        let ttl = self.leaders.pick(&self.conditions.ttls);
        let max_hold =
            self.leaders.chance(100).then(|| Duration::from_millis(self.leaders.between(100, 2000)));
        let options = Options { ttl, max_hold, label: String::new(), ..Options::default() };
        self.trace(|_| format!("client {client} stands for {name}, ttl {ttl:?}"));
        let leads_on = self.sabotage == Some(Sabotage::LeadsOn);
        self.clients[client].stand(self.now, &name, options, leads_on);
        self.note_owners(client);
    }

    /// Drops the future of a candidate, or lets its work end by itself. Returns `false` if there is none, or another
    /// caller's turn.
    fn end_candidate(&mut self, client: usize) -> bool {
        let candidates = self.clients[client].leading.len();
        if candidates == 0 || !self.leaders.chance(400) {
            return false;
        }
        let (place, drops) = (self.leaders.index(candidates), self.leaders.chance(500));
        self.trace(|_| format!("client {client} ends candidate {place}, drops {drops}"));
        self.clients[client].end_candidate(self.now, place, drops);
        true
    }

    /// Drops the future of a caller that waits.
    fn leave(&mut self, client: usize) {
        if self.end_candidate(client) {
            return;
        }
        let (waiting, several) =
            (self.clients[client].acquiring.len(), self.clients[client].together.waiting());
        if several > 0 && self.several.chance(self.conditions.several) {
            let place = self.several.index(several);
            self.clients[client].leave_together(place);
            self.trace(|_| format!("client {client} leaves several"));
        } else if waiting > 0 {
            let place = self.random.index(waiting);
            let owner = self.clients[client].leave(place);
            self.trace(|w| format!("client {client} leaves {}", w.short(owner)));
        }
    }

    /// Sends a hint of something that has not happened.
    fn send_false_hint(&mut self, client: usize) {
        let client_of = &self.clients[client];
        let waiting = client_of.acquiring.iter().map(|caller| caller.owner);
        let owners: Vec<_> = waiting.chain(client_of.guards.iter().map(|held| held.guard.owner())).collect();
        let hint = match self.random.between(0, 3) {
            0 if self.extra.chance(300) => Hint::Restarted,
            0 => Hint::Any,
            1 => Hint::Name(self.names[self.random.index(self.names.len())].clone()),
            _ if owners.is_empty() => Hint::Owner(self.random.owner()),
            _ => Hint::Owner(owners[self.random.index(owners.len())]),
        };
        let life = self.clients[client].life;
        self.plan(self.now, Event::Hint { client, life, hint });
    }

    fn acquire(&mut self, client: usize) {
        if self.clients[client].waiting() > 4 {
            return;
        }
        let (name, ttl) = (self.names[self.random.index(self.names.len())].clone(), self.ttl());
        let wait = match self.random.between(0, 9) {
            0..6 => Wait::Forever,
            6..8 => Wait::For(Duration::from_millis(self.random.between(0, 3000))),
            _ => Wait::Attempts {
                attempts: self.random.pick(&[1, 2, 3]),
                interval: Duration::from_millis(self.random.between(5, 300)),
            },
        };
        let renewal = match self.random.between(0, 9) {
            0 => Renewal::Never,
            1 => Renewal::Every(ttl / 2),
            _ => Renewal::Automatic,
        };
        let max_hold = self.random.chance(100).then(|| Duration::from_millis(self.random.between(100, 2000)));
        let at_least = self
            .several
            .chance(self.conditions.jobs)
            .then(|| Duration::from_millis(self.several.between(50, 3000)))
            .map(|least| max_hold.map_or(least, |most| std::cmp::min(least, most)));
        let options = Options { ttl, wait, renewal, max_hold, at_least, label: String::new() };
        let (owner, once) = (self.random.owner(), self.random.chance(100));
        self.minima.extend(at_least.map(|least| (owner, least)));
        let forgotten = self.sabotage == Some(Sabotage::ReleasesEarly);
        let options = if forgotten { Options { at_least: None, ..options } } else { options };
        let life = self.clients[client].life;
        self.owners.insert(owner, Origin { client, life, detached: false, granted: false });
        self.tally.attempts += 1;
        self.trace(|w| {
            format!("client {client} acquires {name} as {} ttl {ttl:?} {wait:?} once {once}", w.short(owner))
        });
        self.clients[client].acquire(owner, name, options, once);
    }

    /// Acquires some of the names at once, named in any order.
    fn acquire_several(&mut self, client: usize) {
        if self.clients[client].waiting() > 4 {
            return;
        }
        let mut names = self.names.clone();
        let several = usize::try_from(self.several.between(2, 5)).expect("few");
        while names.len() > several {
            names.swap_remove(self.several.index(names.len()));
        }
        // So that their order is any one.
        for place in 1..names.len() {
            names.swap(place, self.several.index(place + 1));
        }
        let wait = match self.several.between(0, 9) {
            0..7 => Wait::Forever,
            7..9 => Wait::For(Duration::from_millis(self.several.between(0, 3000))),
            _ => Wait::Attempts {
                attempts: self.several.pick(&[1, 2, 3]),
                interval: Duration::from_millis(20),
            },
        };
        let renewal = if self.several.chance(50) { Renewal::Never } else { Renewal::Automatic };
        let max_hold =
            self.several.chance(50).then(|| Duration::from_millis(self.several.between(100, 2000)));
        let wanted = names.into_iter().map(|name| {
            let ttl = self.several.pick(&self.conditions.ttls);
            (name, Options { ttl, wait, renewal, max_hold, at_least: None, label: String::new() })
        });
        let wanted: Vec<_> = wanted.collect();
        self.trace(|_| {
            let names: Vec<_> = wanted.iter().map(|(name, _)| name.as_str()).collect();
            format!("client {client} acquires {names:?} at once, {wait:?}")
        });
        let in_any_order = self.sabotage == Some(Sabotage::AnyOrder);
        self.clients[client].acquire_together(self.now, wanted, in_any_order);
        self.note_owners(client);
    }

    fn ttl(&mut self) -> Duration {
        self.conditions.ttls[self.random.index(self.conditions.ttls.len())]
    }

    /// Ends a guard.
    fn give_back(&mut self, client: usize, ending: Ending) {
        let (guards, groups) =
            (self.clients[client].guards.len(), self.clients[client].together.groups.len());
        if groups > 0 && (guards == 0 || self.several.chance(500)) {
            let place = self.several.index(groups);
            self.trace(|_| format!("client {client} gives several back: {ending:?}"));
            return self.clients[client].give_back_together(self.now, place, ending);
        }
        if guards == 0 {
            return;
        }
        let place = self.random.index(guards);
        let owner = self.clients[client].give_back(self.now, place, ending);
        if matches!(ending, Ending::Forget)
            && let Some(origin) = self.owners.get_mut(&owner)
        {
            origin.detached = true;
        }
        self.trace(|w| format!("client {client} gives {} back: {ending:?}", w.short(owner)));
    }

    /// Uses a guard and keeps it, or makes a ticket of it.
    fn use_guard(&mut self, client: usize) {
        let guards = self.clients[client].guards.len();
        if guards == 0 {
            return;
        }
        self.tally.used += 1;
        let place = self.random.index(guards);
        let owner = self.clients[client].guards[place].guard.owner();
        match self.random.between(0, 4) {
            0 => self.clients[client].renew(place, None),
            1 => {
                let ttl = self.ttl();
                self.extend(client, place, ttl);
            }
            2 => self.clients[client].verify(place),
            3 => {
                let _ = self.clients[client].guards[place].guard.is_held();
            }
            // A lost lease cannot be handed over: its own engine is about to release it.
            _ if self.clients[client].guards[place].guard.is_held()
                && self.clients[client].is_awake(self.now) =>
            {
                if let Some(origin) = self.owners.get_mut(&owner) {
                    origin.detached = true;
                }
                // The guard of a ticket keeps nothing.
                self.kept.retain(|_, kept| kept.owner != owner);
                let ticket = self.clients[client].make_ticket(place);
                self.trace(|w| format!("client {client} makes a ticket of {}", w.short(owner)));
                self.tickets.push(ticket);
            }
            _ => {}
        }
    }

    /// Changes the TTL of a guard, and often plans to change it again soon.
    pub(super) fn extend_again(&mut self, client: usize, life: u32, owner: Owner) {
        let guards = &self.clients[client].guards;
        let place = guards.iter().position(|held| held.guard.owner() == owner);
        let Some(place) = place.filter(|_| self.clients[client].life == life && self.healed.is_none()) else {
            return;
        };
        let ttl = self.extra.pick(&self.conditions.ttls);
        self.clients[client].set_clock(self.now);
        self.extend(client, place, ttl);
        if self.extra.chance(800) {
            let soon = self.now + self.extra.between(MS, 250 * MS);
            self.plan(soon, Event::Extend { client, life, owner });
        }
    }

    fn extend(&mut self, client: usize, place: usize, ttl: Duration) {
        let owner = self.clients[client].guards[place].guard.owner();
        self.trace(|w| format!("client {client} extends {} to {ttl:?}", w.short(owner)));
        self.clients[client].renew(place, Some(ttl));
    }

    /// Gives the guards back after the faults, until the client has none and no caller waits.
    fn wind_down(&mut self, client: usize) {
        if !self.clients[client].is_up() {
            return;
        }
        let ending = self.random.pick(&[Ending::Drop, Ending::Release]);
        self.give_back(client, ending);
        self.clients[client].end_works();
        if !self.clients[client].is_idle() {
            let again = self.now + self.random.between(MS, 200 * MS);
            self.plan(again, Event::User { client });
        }
    }
}
