//! Group commit: claims that arrive while a batch is in flight leave together as the next batch.
//!
//! A batch has at most one claim of each name. Some claims are *shareable*: the reply to another claim of the
//! same name answers them, too. These are tries without a queue. They wait in the lane until a claim of their
//! name is answered. That answer refuses all of them that were made before the claim left, even if it is a
//! grant. So ten thousand tries of one name take one claim and not ten thousand.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use super::call::{CallId, Key};
use super::work;
use crate::clock;
use crate::storage::{Limits, Name};

/// The lanes of one verb, one lane for each class of TTLs. The engine waits for a reply for a part of the TTL. A claim
/// for hours must therefore neither delay one for milliseconds nor be cut short by it.
#[derive(Debug)]
pub(crate) struct Lanes {
    limits: Limits,
    classes: BTreeMap<Class, Lane>,
}

/// TTLs that differ by less than a factor of four.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Class(u32);

impl Class {
    /// Returns the class of a TTL.
    pub(crate) fn of(ttl: Duration) -> Self {
        Self(clock::millis(ttl).checked_ilog2().unwrap_or(0) / 2)
    }
}

/// A claim in a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaneClaim {
    pub(crate) id: CallId,
    pub(crate) key: Key,
    pub(crate) name: Name,
    /// Whether the reply to another claim of the same name answers this one, too.
    pub(crate) shareable: bool,
}

/// What the lanes need to know of a batch when it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchInfo {
    class: Class,
    /// The number of the first claim that was made after the batch left.
    next: CallId,
    /// Whether the lane counts the names in the batch as in flight.
    counted: bool,
}

impl Lanes {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { limits: *limits, classes: BTreeMap::new() }
    }

    /// Adds a claim.
    pub(crate) fn push(&mut self, class: Class, claim: LaneClaim) {
        self.classes.entry(class).or_insert_with(|| Lane::new(&self.limits)).push(claim);
    }

    /// Removes a claim that has not left.
    pub(crate) fn withdraw(&mut self, class: Class, name: &Name, id: CallId) {
        if let Some(lane) = self.classes.get_mut(&class) {
            lane.withdraw(name, id);
        }
    }

    /// Returns `true` if fewer claims wait in the lane than may be in flight.
    pub(crate) fn has_room(&self, class: Class) -> bool {
        self.classes
            .get(&class)
            .is_none_or(|lane| lane.waiting < lane.batch_max.saturating_mul(lane.batches_max))
    }

    /// Returns the next batch that may leave now. [`Lanes::answered`] must follow for each.
    pub(crate) fn next_batch(&mut self) -> Option<(BatchInfo, Vec<LaneClaim>)> {
        self.classes.iter_mut().find_map(|(class, lane)| {
            let (claims, next, counted) = lane.next_batch()?;
            Some((BatchInfo { class: *class, next, counted }, claims))
        })
    }

    /// Notes that a batch was answered, or given up.
    pub(crate) fn answered<'a>(&mut self, batch: BatchInfo, names: impl Iterator<Item = &'a Name>) {
        if let Some(lane) = self.classes.get_mut(&batch.class) {
            lane.in_flight -= 1;
            if batch.counted {
                names.for_each(|name| lane.answered(name));
            }
        }
    }

    /// Removes and returns the claims that the reply to a claim of this name answers, too.
    pub(crate) fn take_shareable(&mut self, batch: BatchInfo, name: &Name) -> Vec<Key> {
        let lane = self.classes.get_mut(&batch.class);
        lane.map(|lane| lane.take_shareable(name, batch.next)).unwrap_or_default()
    }
}

/// The claims of one verb and class that wait to be sent. Each operation costs O(log n) for each claim that it moves.
#[derive(Debug)]
struct Lane {
    /// The claim, if only one waits: most claims leave as soon as they have come.
    only: Option<LaneClaim>,
    /// For each name of which a claim may leave: the number of that claim.
    ready: BTreeMap<CallId, Name>,
    names: HashMap<Name, Claims>,
    waiting: usize,
    /// How many batches are in flight.
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
    shareable: BTreeMap<CallId, Key>,
    /// How many claims of this name are in flight.
    in_flight: usize,
    /// The claim that is in [`Lane::ready`].
    ready: Option<CallId>,
}

impl Claims {
    /// Returns the claim that leaves next. Shareable claims wait for the reply to the claim in flight.
    fn candidate(&self) -> Option<CallId> {
        let shareable = self.shareable.keys().next().filter(|_| self.in_flight == 0);
        self.own.keys().next().into_iter().chain(shareable).min().copied()
    }

    fn remove(&mut self, id: CallId) -> Option<(Key, bool)> {
        let own = self.own.remove(&id).map(|key| (key, false));
        own.or_else(|| self.shareable.remove(&id).map(|key| (key, true)))
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

    fn push(&mut self, claim: LaneClaim) {
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

    fn add(&mut self, claim: LaneClaim) {
        let claims = self.names.entry(claim.name.clone()).or_default();
        let among = if claim.shareable { &mut claims.shareable } else { &mut claims.own };
        among.insert(claim.id, claim.key);
        self.refresh(&claim.name);
    }

    /// Updates the entry of a name in `ready` after its claims have changed.
    fn refresh(&mut self, name: &Name) {
        work::did(1);
        let Some(claims) = self.names.get_mut(name) else { return };
        let candidate = claims.candidate();
        if claims.ready != candidate {
            if let Some(former) = claims.ready {
                self.ready.remove(&former);
            }
            if let Some(candidate) = candidate {
                self.ready.insert(candidate, name.clone());
            }
            claims.ready = candidate;
        }
        if claims.own.is_empty() && claims.shareable.is_empty() && claims.in_flight == 0 {
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

    fn next_batch(&mut self) -> Option<(Vec<LaneClaim>, CallId, bool)> {
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
            if let Some((key, shareable)) = claims.remove(id) {
                claims.in_flight += 1;
                batch.push(LaneClaim { id, key, name, shareable });
            }
        }
        if batch.is_empty() {
            return None;
        }
        work::did(batch.len());
        self.waiting -= batch.len();
        self.in_flight += 1;
        for claim in &batch {
            // Only now that the batch is complete, so that no name is in it twice.
            self.refresh(&claim.name);
        }
        Some((batch, self.next, true))
    }

    fn answered(&mut self, name: &Name) {
        if let Some(claims) = self.names.get_mut(name) {
            claims.in_flight = claims.in_flight.saturating_sub(1);
            self.refresh(name);
        }
    }

    fn take_shareable(&mut self, name: &Name, next: CallId) -> Vec<Key> {
        if let Some(only) = self.only.take_if(|only| only.shareable && only.name == *name && only.id < next) {
            self.waiting -= 1;
            return vec![only.key];
        }
        let Some(claims) = self.names.get_mut(name) else { return Vec::new() };
        let later = claims.shareable.split_off(&next);
        let taken = std::mem::replace(&mut claims.shareable, later);
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

    fn claim(id: u64, name: &str, shareable: bool) -> LaneClaim {
        let key = Key { owner: Owner::random(), generation: id };
        LaneClaim { id: CallId(id), key, name: named(name), shareable }
    }

    impl Numbered {
        fn push<const N: usize>(&mut self, names: [&str; N]) -> [u64; N] {
            self.push_each(names, false)
        }

        fn push_each<const N: usize>(&mut self, names: [&str; N], shareable: bool) -> [u64; N] {
            names.map(|name| {
                self.next += 1;
                self.lane.push(claim(self.next, name, shareable));
                self.next
            })
        }

        fn next_batch(&mut self) -> Option<Vec<u64>> {
            self.lane.next_batch().map(|(batch, ..)| batch.iter().map(|claim| claim.id.0).collect())
        }

        fn answered(&mut self, names: &[&str]) {
            self.lane.in_flight -= 1;
            names.iter().for_each(|name| self.lane.answered(&named(name)));
        }
    }

    #[test]
    fn claims_that_arrive_while_a_batch_is_in_flight_leave_together() {
        let mut lane = lane(10, 1);
        let [a] = lane.push(["a"]);
        assert_eq!(lane.next_batch(), Some(vec![a]));
        let [b, c] = lane.push(["b", "c"]);
        assert_eq!(lane.next_batch(), None, "one batch at a time");
        lane.answered(&[]);
        assert_eq!(lane.next_batch(), Some(vec![b, c]));
        lane.answered(&["b", "c"]);
        assert!(lane.lane.names.is_empty() && lane.lane.waiting == 0, "nothing is left");
    }

    #[test]
    fn names_in_a_batch_are_distinct_and_keep_their_order() {
        let mut lane = lane(10, 9);
        let [a1, b1, a2, b2, a3] = lane.push(["a", "b", "a", "b", "a"]);
        assert_eq!(lane.next_batch(), Some(vec![a1, b1]));
        assert_eq!(lane.next_batch(), Some(vec![a2, b2]));
        assert_eq!(lane.next_batch(), Some(vec![a3]));
        assert_eq!(lane.next_batch(), None);
    }

    #[test]
    fn a_batch_has_at_most_the_largest_size() {
        let mut lane = lane(2, 9);
        let [a, b, c, d, e] = lane.push(["a", "b", "c", "d", "e"]);
        assert_eq!(lane.next_batch(), Some(vec![a, b]));
        assert_eq!(lane.next_batch(), Some(vec![c, d]));
        assert_eq!(lane.next_batch(), Some(vec![e]));
    }

    #[test]
    fn shareable_claims_wait_for_the_answer_to_one() {
        let mut lane = lane(10, 9);
        let [a, ..] = lane.push_each(["a", "a", "a"], true);
        assert_eq!(lane.next_batch(), Some(vec![a]));
        assert_eq!(lane.next_batch(), None, "the others wait");
        let next = lane.lane.next;
        let [own] = lane.push(["a"]);
        let [late] = lane.push_each(["a"], true);
        assert_eq!(lane.next_batch(), Some(vec![own]), "this one is not shareable");
        assert_eq!(lane.lane.take_shareable(&named("a"), next).len(), 2, "one was made after it left");
        lane.answered(&["a"]);
        assert_eq!(lane.next_batch(), None);
        lane.answered(&["a"]);
        assert_eq!(lane.next_batch(), Some(vec![late]));
        lane.answered(&["a"]);
        assert!(lane.lane.names.is_empty() && lane.lane.waiting == 0, "nothing is left");
    }

    #[test]
    fn a_long_ttl_does_not_delay_a_short_one() {
        let mut lanes = Lanes::new(&Limits { batches_in_flight: 1, ..Limits::default() });
        let [hours, second] = [3600, 1].map(|secs| Class::of(Duration::from_secs(secs)));
        let next_batch = |lanes: &mut Lanes| lanes.next_batch().map(|(info, batch)| (info, batch[0].id.0));
        lanes.push(hours, claim(1, "a", false));
        assert_eq!(next_batch(&mut lanes).map(|(_, id)| id), Some(1));
        lanes.push(second, claim(2, "b", false));
        lanes.push(hours, claim(3, "c", false));
        let (info, id) = next_batch(&mut lanes).expect("another class");
        assert_eq!(id, 2);
        assert_eq!(lanes.next_batch(), None, "one batch of a class at a time");
        lanes.answered(info, [named("b")].iter());
        assert_eq!(lanes.next_batch(), None, "that was the other class");
    }

    #[test]
    fn a_claim_that_is_withdrawn_is_not_sent() {
        let mut lane = lane(10, 1);
        let [a, b] = lane.push(["a", "b"]);
        lane.lane.withdraw(&named("a"), CallId(a));
        lane.lane.withdraw(&named("a"), CallId(a));
        assert_eq!(lane.lane.waiting, 1);
        assert_eq!(lane.next_batch(), Some(vec![b]));
    }
}
