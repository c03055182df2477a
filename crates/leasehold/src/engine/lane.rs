//! Group commit: what arrives while a batch is in flight leaves together as the next one.
//!
//! A batch has one claim of each name at most. Claims that are *alike* share an answer: tries of one name that were
//! made before a claim of that name left are refused along with it, or by its grant, so that ten thousand tries of
//! one name take one claim and not ten thousand. They wait in the lane until that claim is answered.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::call::{CallId, Key};
use super::work;
use crate::clock;
use crate::storage::{Limits, Name};

/// The lanes of one verb, one for each class of TTLs: how long an answer is waited for depends on the TTL, and
/// a claim with hours to lose must neither hold up nor cut short one with milliseconds.
#[derive(Debug)]
pub(crate) struct Lanes {
    limits: Limits,
    classes: BTreeMap<Class, Lane>,
}

/// TTLs that differ by less than a factor of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class(u32);

impl Class {
    pub(crate) fn of(ttl: Duration) -> Self {
        Self(clock::millis(ttl).checked_ilog2().unwrap_or(0) / 2)
    }
}

/// A claim that waits to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) id: CallId,
    pub(crate) key: Key,
    pub(crate) name: Name,
    /// Whether the answer to another claim of the same name answers this one, too.
    pub(crate) alike: bool,
}

/// A batch that is in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flight {
    class: Class,
    /// Claims that wait with smaller numbers were made before it left.
    before: CallId,
    /// Whether the lane knows the names in it.
    counted: bool,
}

impl Lanes {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { limits: *limits, classes: BTreeMap::new() }
    }

    pub(crate) fn push(&mut self, class: Class, claim: Waiting) {
        self.classes.entry(class).or_insert_with(|| Lane::new(&self.limits)).push(claim);
    }

    /// Takes back a claim that has not left.
    pub(crate) fn withdraw(&mut self, class: Class, name: &Name, id: CallId) {
        if let Some(lane) = self.classes.get_mut(&class) {
            lane.withdraw(name, id);
        }
    }

    /// Returns `true` if less is waiting than may be in flight.
    pub(crate) fn has_room(&self, class: Class) -> bool {
        self.classes
            .get(&class)
            .is_none_or(|lane| lane.waiting < lane.batch_max.saturating_mul(lane.batches_max))
    }

    /// Returns the next batch that may leave now. [`Lanes::landed`] must follow each.
    pub(crate) fn depart(&mut self) -> Option<(Flight, Vec<Waiting>)> {
        self.classes.iter_mut().find_map(|(class, lane)| {
            let (batch, before, counted) = lane.depart()?;
            Some((Flight { class: *class, before, counted }, batch))
        })
    }

    /// Notes that a batch was answered, or given up.
    pub(crate) fn landed<'a>(&mut self, flight: Flight, names: impl Iterator<Item = &'a Name>) {
        if let Some(lane) = self.classes.get_mut(&flight.class) {
            lane.in_flight -= 1;
            if flight.counted {
                names.for_each(|name| lane.landed(name));
            }
        }
    }

    /// Takes out the claims that the answer to a claim of this name answers, too.
    pub(crate) fn take_alike(&mut self, flight: Flight, name: &Name) -> Vec<Key> {
        let lane = self.classes.get_mut(&flight.class);
        lane.map(|lane| lane.take_alike(name, flight.before)).unwrap_or_default()
    }
}

/// The claims of one verb that wait to be sent. Each operation costs O(log n) for each claim that it moves.
#[derive(Debug)]
struct Lane {
    /// The only claim that waits, if there is one: most leave as soon as they have come.
    only: Option<Waiting>,
    /// The names of which a claim may leave, by that claim's number.
    ready: BTreeMap<CallId, Name>,
    names: HashMap<Name, Claims>,
    waiting: usize,
    in_flight: usize,
    batch_max: usize,
    batches_max: usize,
    /// One more than the largest number that was pushed.
    next: CallId,
}

/// The claims of one name.
#[derive(Debug, Default)]
struct Claims {
    own: BTreeMap<CallId, Key>,
    alike: BTreeMap<CallId, Key>,
    in_flight: usize,
    /// The one in `ready`.
    ready: Option<CallId>,
}

impl Claims {
    /// The claim that leaves next. Those that are alike wait for the answer to the one in flight.
    fn candidate(&self) -> Option<CallId> {
        let alike = self.alike.keys().next().filter(|_| self.in_flight == 0);
        self.own.keys().next().into_iter().chain(alike).min().copied()
    }

    fn remove(&mut self, id: CallId) -> Option<(Key, bool)> {
        let own = self.own.remove(&id).map(|key| (key, false));
        own.or_else(|| self.alike.remove(&id).map(|key| (key, true)))
    }
}

impl Lane {
    fn new(limits: &Limits) -> Self {
        Self {
            only: None,
            ready: BTreeMap::new(),
            names: HashMap::new(),
            waiting: 0,
            in_flight: 0,
            batch_max: std::cmp::max(limits.batch_max, 1),
            batches_max: std::cmp::max(limits.batches_in_flight, 1),
            next: CallId(0),
        }
    }

    fn push(&mut self, claim: Waiting) {
        work::did(1);
        self.next = CallId(claim.id.0 + 1);
        self.waiting += 1;
        if self.waiting == 1 && self.names.is_empty() {
            self.only = Some(claim);
            return;
        }
        if let Some(only) = self.only.take() {
            self.add(only);
        }
        self.add(claim);
    }

    fn add(&mut self, claim: Waiting) {
        let claims = self.names.entry(claim.name.clone()).or_default();
        let among = if claim.alike { &mut claims.alike } else { &mut claims.own };
        among.insert(claim.id, claim.key);
        self.refresh(&claim.name);
    }

    /// Brings `ready` up to date with the claims of a name.
    fn refresh(&mut self, name: &Name) {
        work::did(1);
        let Some(claims) = self.names.get_mut(name) else { return };
        let candidate = claims.candidate();
        if claims.ready != candidate {
            if let Some(before) = claims.ready {
                self.ready.remove(&before);
            }
            if let Some(candidate) = candidate {
                self.ready.insert(candidate, name.clone());
            }
            claims.ready = candidate;
        }
        if claims.own.is_empty() && claims.alike.is_empty() && claims.in_flight == 0 {
            self.names.remove(name);
        }
    }

    fn withdraw(&mut self, name: &Name, id: CallId) {
        work::did(1);
        if self.only.take_if(|only| only.id == id).is_some() {
            self.waiting -= 1;
        } else if self.names.get_mut(name).is_some_and(|claims| claims.remove(id).is_some()) {
            self.waiting -= 1;
            self.refresh(name);
        }
    }

    fn depart(&mut self) -> Option<(Vec<Waiting>, CallId, bool)> {
        #[cfg(test)]
        if work::is(work::Defect::LanesWalked) {
            work::did(self.waiting);
        }
        if self.in_flight == self.batches_max {
            return None;
        }
        if let Some(only) = self.only.take() {
            self.waiting -= 1;
            self.in_flight += 1;
            return Some((vec![only], self.next, false));
        }
        let mut batch = Vec::with_capacity(std::cmp::min(self.ready.len(), self.batch_max));
        while batch.len() < self.batch_max
            && let Some((id, name)) = self.ready.pop_first()
        {
            let Some(claims) = self.names.get_mut(&name) else { continue };
            claims.ready = None;
            if let Some((key, alike)) = claims.remove(id) {
                claims.in_flight += 1;
                batch.push(Waiting { id, key, name, alike });
            }
        }
        if batch.is_empty() {
            return None;
        }
        work::did(batch.len());
        self.waiting -= batch.len();
        self.in_flight += 1;
        for claim in &batch {
            self.refresh(&claim.name); // only now, so that no name is in the batch twice
        }
        Some((batch, self.next, true))
    }

    fn landed(&mut self, name: &Name) {
        if let Some(claims) = self.names.get_mut(name) {
            claims.in_flight = claims.in_flight.saturating_sub(1);
            self.refresh(name);
        }
    }

    fn take_alike(&mut self, name: &Name, before: CallId) -> Vec<Key> {
        if let Some(only) = self.only.take_if(|only| only.alike && only.name == *name && only.id < before) {
            self.waiting -= 1;
            return vec![only.key];
        }
        let Some(claims) = self.names.get_mut(name) else { return Vec::new() };
        let later = claims.alike.split_off(&before);
        let taken = std::mem::replace(&mut claims.alike, later);
        if taken.is_empty() {
            return Vec::new();
        }
        work::did(taken.len());
        work::changed(taken.len());
        self.waiting -= taken.len();
        self.refresh(name);
        taken.into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Owner;

    struct Numbered {
        lane: Lane,
        next: u64,
    }

    fn lane(batch_max: usize, batches_in_flight: usize) -> Numbered {
        let lane = Lane::new(&Limits { batch_max, batches_in_flight, ..Limits::default() });
        Numbered { lane, next: 0 }
    }

    fn named(name: &str) -> Name {
        Name::new(name).expect("valid")
    }

    fn claim(id: u64, name: &str, alike: bool) -> Waiting {
        let key = Key { owner: Owner::random(), generation: id };
        Waiting { id: CallId(id), key, name: named(name), alike }
    }

    impl Numbered {
        fn push<const N: usize>(&mut self, names: [&str; N]) -> [u64; N] {
            self.push_each(names, false)
        }

        fn push_each<const N: usize>(&mut self, names: [&str; N], alike: bool) -> [u64; N] {
            names.map(|name| {
                self.next += 1;
                self.lane.push(claim(self.next, name, alike));
                self.next
            })
        }

        fn depart(&mut self) -> Option<Vec<u64>> {
            self.lane.depart().map(|(batch, ..)| batch.iter().map(|claim| claim.id.0).collect())
        }

        fn landed(&mut self, names: &[&str]) {
            self.lane.in_flight -= 1;
            names.iter().for_each(|name| self.lane.landed(&named(name)));
        }
    }

    #[test]
    fn what_arrives_meanwhile_leaves_together() {
        let mut lane = lane(10, 1);
        let [a] = lane.push(["a"]);
        assert_eq!(lane.depart(), Some(vec![a]));
        let [b, c] = lane.push(["b", "c"]);
        assert_eq!(lane.depart(), None, "one batch at a time");
        lane.landed(&[]);
        assert_eq!(lane.depart(), Some(vec![b, c]));
        lane.landed(&["b", "c"]);
        assert!(lane.lane.names.is_empty() && lane.lane.waiting == 0, "nothing is left");
    }

    #[test]
    fn names_in_a_batch_are_distinct_and_keep_their_order() {
        let mut lane = lane(10, 9);
        let [a1, b1, a2, b2, a3] = lane.push(["a", "b", "a", "b", "a"]);
        assert_eq!(lane.depart(), Some(vec![a1, b1]));
        assert_eq!(lane.depart(), Some(vec![a2, b2]));
        assert_eq!(lane.depart(), Some(vec![a3]));
        assert_eq!(lane.depart(), None);
    }

    #[test]
    fn batches_have_a_largest_size() {
        let mut lane = lane(2, 9);
        let [a, b, c, d, e] = lane.push(["a", "b", "c", "d", "e"]);
        assert_eq!(lane.depart(), Some(vec![a, b]));
        assert_eq!(lane.depart(), Some(vec![c, d]));
        assert_eq!(lane.depart(), Some(vec![e]));
    }

    #[test]
    fn claims_that_are_alike_wait_for_the_answer_to_one() {
        let mut lane = lane(10, 9);
        let [a, ..] = lane.push_each(["a", "a", "a"], true);
        assert_eq!(lane.depart(), Some(vec![a]));
        assert_eq!(lane.depart(), None, "the others wait");
        let before = lane.lane.next;
        let [own] = lane.push(["a"]);
        let [late] = lane.push_each(["a"], true);
        assert_eq!(lane.depart(), Some(vec![own]), "this one is not alike");
        assert_eq!(lane.lane.take_alike(&named("a"), before).len(), 2, "one was made after it left");
        lane.landed(&["a"]);
        assert_eq!(lane.depart(), None);
        lane.landed(&["a"]);
        assert_eq!(lane.depart(), Some(vec![late]));
        lane.landed(&["a"]);
        assert!(lane.lane.names.is_empty() && lane.lane.waiting == 0, "nothing is left");
    }

    #[test]
    fn a_long_ttl_does_not_hold_up_a_short_one() {
        let mut lanes = Lanes::new(&Limits { batches_in_flight: 1, ..Limits::default() });
        let [hours, second] = [3600, 1].map(|secs| Class::of(Duration::from_secs(secs)));
        let departs = |lanes: &mut Lanes| lanes.depart().map(|(flight, batch)| (flight, batch[0].id.0));
        lanes.push(hours, claim(1, "a", false));
        assert_eq!(departs(&mut lanes).map(|(_, id)| id), Some(1));
        lanes.push(second, claim(2, "b", false));
        lanes.push(hours, claim(3, "c", false));
        let (flight, id) = departs(&mut lanes).expect("another class");
        assert_eq!(id, 2);
        assert_eq!(lanes.depart(), None, "one batch of a class at a time");
        lanes.landed(flight, [named("b")].iter());
        assert_eq!(lanes.depart(), None, "that was the other class");
    }

    #[test]
    fn what_is_withdrawn_is_not_sent() {
        let mut lane = lane(10, 1);
        let [a, b] = lane.push(["a", "b"]);
        lane.lane.withdraw(&named("a"), CallId(a));
        lane.lane.withdraw(&named("a"), CallId(a));
        assert_eq!(lane.lane.waiting, 1);
        assert_eq!(lane.depart(), Some(vec![b]));
    }
}
