//! Group commit: what arrives while a batch is under way leaves together as the next one.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use crate::clock;
use crate::engine::owners::ByOwner;
use crate::storage::{Limits, Name, Owner};

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

impl Lanes {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self { limits: *limits, classes: BTreeMap::new() }
    }

    pub(crate) fn push(&mut self, owner: Owner, name: Name, ttl: Duration) {
        let lane = self.classes.entry(Class::of(ttl)).or_insert_with(|| Lane::new(&self.limits));
        lane.push(owner, name);
    }

    /// Takes back a claim that has not left.
    pub(crate) fn withdraw(&mut self, owner: Owner) {
        for lane in self.classes.values_mut() {
            if lane.withdraw(owner) {
                return;
            }
        }
    }

    /// Whether less is waiting than may be under way.
    pub(crate) fn has_room(&self, class: Class) -> bool {
        self.classes
            .get(&class)
            .is_none_or(|lane| lane.waiting.len() < lane.batch_max.saturating_mul(lane.batches_max))
    }

    /// The next batch that may leave now. [`Lanes::landed`] must follow each.
    pub(crate) fn depart(&mut self) -> Option<(Class, Vec<Owner>)> {
        self.classes.iter_mut().find_map(|(class, lane)| lane.depart().map(|batch| (*class, batch)))
    }

    /// A batch was answered, or given up.
    pub(crate) fn landed(&mut self, class: Class) {
        if let Some(lane) = self.classes.get_mut(&class) {
            lane.landed();
        }
    }
}

/// The claims of one verb that wait to be sent. Each leaves within a batch of distinct names.
#[derive(Debug)]
struct Lane {
    waiting: VecDeque<(Owner, Name)>,
    /// Those of `waiting`. Who is withdrawn is mostly not among them, and must not cost a walk along all who wait.
    owners: HashSet<Owner, ByOwner>,
    under_way: usize,
    batch_max: usize,
    batches_max: usize,
}

impl Lane {
    fn new(limits: &Limits) -> Self {
        let (batch_max, batches_max) = (limits.batch_max, limits.batches_in_flight);
        Self {
            waiting: VecDeque::new(),
            owners: HashSet::default(),
            under_way: 0,
            batch_max: std::cmp::max(batch_max, 1),
            batches_max: std::cmp::max(batches_max, 1),
        }
    }

    fn push(&mut self, owner: Owner, name: Name) {
        let is_new = self.owners.insert(owner);
        debug_assert!(is_new, "an acquisition has one claim of a verb at a time");
        self.waiting.push_back((owner, name));
    }

    /// Takes back a claim that has not left; whether it was still there.
    fn withdraw(&mut self, owner: Owner) -> bool {
        if !self.owners.remove(&owner) {
            return false;
        }
        let place = self.waiting.iter().position(|(other, _)| *other == owner);
        place.is_some_and(|place| self.waiting.remove(place).is_some())
    }

    /// The next batch, if one may leave now. [`Lane::landed`] must follow each.
    fn depart(&mut self) -> Option<Vec<Owner>> {
        if self.waiting.is_empty() || self.under_way == self.batches_max {
            return None;
        }
        self.under_way += 1;
        if self.waiting.len() == 1 {
            let (owner, _) = self.waiting.pop_front()?;
            self.owners.remove(&owner);
            return Some(vec![owner]);
        }
        let most = std::cmp::min(self.waiting.len(), self.batch_max);
        let (mut batch, mut names) = (Vec::with_capacity(most), HashSet::with_capacity(most));
        let mut left = VecDeque::new();
        while let Some((owner, name)) = self.waiting.pop_front() {
            if batch.len() == self.batch_max {
                self.waiting.push_front((owner, name));
                break;
            }
            if names.contains(&name) {
                left.push_back((owner, name));
            } else {
                names.insert(name);
                self.owners.remove(&owner);
                batch.push(owner);
            }
        }
        for earlier in left.into_iter().rev() {
            self.waiting.push_front(earlier);
        }
        Some(batch)
    }

    /// A batch was answered, or given up.
    fn landed(&mut self) {
        self.under_way -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane(batch_max: usize, batches_in_flight: usize) -> Lane {
        Lane::new(&Limits { batch_max, batches_in_flight, ..Limits::default() })
    }

    fn owners<const N: usize>(lane: &mut Lane, names: [&str; N]) -> [Owner; N] {
        names.map(|name| {
            let owner = Owner::random();
            lane.push(owner, Name::new(name).expect("valid"));
            owner
        })
    }

    #[test]
    fn what_arrives_meanwhile_leaves_together() {
        let mut lane = lane(10, 1);
        let [a] = owners(&mut lane, ["a"]);
        assert_eq!(lane.depart(), Some(vec![a]));
        let [b, c] = owners(&mut lane, ["b", "c"]);
        assert_eq!(lane.depart(), None, "one batch at a time");
        lane.landed();
        assert_eq!(lane.depart(), Some(vec![b, c]));
    }

    #[test]
    fn names_in_a_batch_are_distinct_and_keep_their_order() {
        let mut lane = lane(10, 9);
        let [a1, b1, a2, b2, a3] = owners(&mut lane, ["a", "b", "a", "b", "a"]);
        assert_eq!(lane.depart(), Some(vec![a1, b1]));
        assert_eq!(lane.depart(), Some(vec![a2, b2]));
        assert_eq!(lane.depart(), Some(vec![a3]));
        assert_eq!(lane.depart(), None);
    }

    #[test]
    fn batches_have_a_largest_size() {
        let mut lane = lane(2, 9);
        let [a, b, c, d, e] = owners(&mut lane, ["a", "b", "c", "d", "e"]);
        assert_eq!(lane.depart(), Some(vec![a, b]));
        assert_eq!(lane.depart(), Some(vec![c, d]));
        assert_eq!(lane.depart(), Some(vec![e]));
    }

    #[test]
    fn a_long_ttl_does_not_hold_up_a_short_one() {
        let mut lanes = Lanes::new(&Limits { batches_in_flight: 1, ..Limits::default() });
        let [long, short, later] = [(); 3].map(|()| Owner::random());
        let name = |name| Name::new(name).expect("valid");
        lanes.push(long, name("a"), Duration::from_secs(3600));
        assert_eq!(lanes.depart().map(|(_, batch)| batch), Some(vec![long]));
        lanes.push(short, name("b"), Duration::from_secs(1));
        lanes.push(later, name("c"), Duration::from_secs(3600));
        let (class, batch) = lanes.depart().expect("another class");
        assert_eq!(batch, [short]);
        assert_eq!(lanes.depart(), None, "one batch of a class at a time");
        lanes.landed(class);
        assert_eq!(lanes.depart(), None, "that was the other class");
    }

    #[test]
    fn what_is_withdrawn_is_not_sent() {
        let mut lane = lane(10, 1);
        let [a, b] = owners(&mut lane, ["a", "b"]);
        assert!(lane.withdraw(a));
        assert!(!lane.withdraw(a));
        assert_eq!(lane.depart(), Some(vec![b]));
    }
}
