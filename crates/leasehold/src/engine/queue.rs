//! Local queues: of all the acquisitions of one process that wait for one name, only the first asks the
//! storage. Five hundred tasks that want one lock cost it one waiter.

use std::collections::{BTreeMap, HashMap};

use super::call::Key;
use super::work;
use crate::storage::Name;

/// One line per name, first come first served. Each operation costs O(log n) of the line's length.
#[derive(Debug, Default)]
pub(crate) struct Queues(HashMap<Name, Line>);

#[derive(Debug, Default)]
struct Line {
    next: Place,
    waiting: BTreeMap<Place, Key>,
}

/// Where an acquisition stands in its line.
pub(crate) type Place = u64;

impl Queues {
    /// Joins the line of a name. Returns the place, and `true` if it is the first.
    pub(crate) fn join(&mut self, name: &Name, key: Key) -> (Place, bool) {
        work::did(1);
        let line = self.0.entry(name.clone()).or_default();
        let place = line.next;
        line.next += 1;
        let first = line.waiting.is_empty();
        line.waiting.insert(place, key);
        (place, first)
    }

    /// Leaves the line. Returns the acquisition that is first now, if that has changed.
    pub(crate) fn leave(&mut self, name: &Name, place: Place) -> Option<Key> {
        work::did(1);
        let line = self.0.get_mut(name)?;
        #[cfg(test)]
        if work::is(work::Defect::LineSearch) {
            work::did(line.waiting.len());
        }
        let was_first = line.waiting.first_key_value().is_some_and(|(first, _)| *first == place);
        line.waiting.remove(&place)?;
        let next = line.waiting.first_key_value().map(|(_, key)| *key);
        if next.is_none() {
            self.0.remove(name);
        }
        next.filter(|_| was_first)
    }

    /// Returns the first in the line of a name.
    pub(crate) fn first(&self, name: &Name) -> Option<Key> {
        self.0.get(name)?.waiting.first_key_value().map(|(_, key)| *key)
    }

    /// Returns all in the line of a name, in order.
    pub(crate) fn all(&self, name: &Name) -> Vec<Key> {
        let line: Vec<_> =
            self.0.get(name).into_iter().flat_map(|line| line.waiting.values().copied()).collect();
        work::did(line.len());
        line
    }

    /// Returns the first of every line, in one order, so that a run can be repeated.
    pub(crate) fn firsts(&self) -> Vec<Key> {
        let firsts = self.0.values().filter_map(|line| line.waiting.first_key_value());
        let mut firsts: Vec<_> = firsts.map(|(_, key)| *key).collect();
        firsts.sort_unstable();
        work::did(firsts.len());
        firsts
    }
}

#[cfg(test)]
impl Queues {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Owner;

    #[test]
    fn first_come_first_served_and_nothing_is_left() {
        let mut queues = Queues::default();
        let name = Name::new("a").expect("valid");
        let [a, b, c] = [1, 2, 3].map(|generation| Key { owner: Owner::random(), generation });
        let (at_a, first) = queues.join(&name, a);
        assert!(first);
        let ((at_b, second), (at_c, third)) = (queues.join(&name, b), queues.join(&name, c));
        assert!(!second && !third);
        assert_eq!(queues.leave(&name, at_b), None, "not the first");
        assert_eq!(queues.leave(&name, at_b), None, "it has left");
        assert_eq!(queues.leave(&name, at_a), Some(c));
        assert_eq!(queues.first(&name), Some(c));
        assert_eq!(queues.leave(&name, at_c), None);
        assert!(queues.0.is_empty());
    }
}
