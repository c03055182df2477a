//! Local queues: of all the acquisitions of one client that wait for one name, only the head sends claims to the storage.
//! Five hundred tasks that want one lock cost the storage one waiter.

use std::collections::{BTreeMap, HashMap};

use super::call::Key;
use super::work;
use crate::storage::Name;

/// One queue for each name, first come, first served. Each operation costs O(log n) of the queue's length.
#[derive(Debug, Default)]
pub(crate) struct Queues(HashMap<Name, Queue>);

#[derive(Debug, Default)]
struct Queue {
    next: Place,
    waiting: BTreeMap<Place, Key>,
}

/// The place of an acquisition in its queue.
pub(crate) type Place = u64;

impl Queues {
    /// Joins the queue of a name. Returns the place, and `true` if it is the head.
    pub(crate) fn join(&mut self, name: &Name, key: Key) -> (Place, bool) {
        work::did(1);
        let queue = self.0.entry(name.clone()).or_default();
        let place = queue.next;
        queue.next += 1;
        let is_head = queue.waiting.is_empty();
        queue.waiting.insert(place, key);
        (place, is_head)
    }

    /// Leaves the queue. Returns the new head, if that has changed.
    pub(crate) fn leave(&mut self, name: &Name, place: Place) -> Option<Key> {
        work::did(1);
        let queue = self.0.get_mut(name)?;
        #[cfg(test)]
        if work::is(work::Defect::QueueSearch) {
            work::did(queue.waiting.len());
        }
        let was_head = queue.waiting.first_key_value().is_some_and(|(head, _)| *head == place);
        queue.waiting.remove(&place)?;
        let next = queue.waiting.first_key_value().map(|(_, key)| *key);
        if next.is_none() {
            self.0.remove(name);
        }
        next.filter(|_| was_head)
    }

    /// Returns the head of the queue of a name.
    pub(crate) fn head(&self, name: &Name) -> Option<Key> {
        self.0.get(name)?.waiting.first_key_value().map(|(_, key)| *key)
    }

    /// Returns the acquisitions in the queue of a name, in order.
    pub(crate) fn all(&self, name: &Name) -> Vec<Key> {
        let queue: Vec<_> =
            self.0.get(name).into_iter().flat_map(|queue| queue.waiting.values().copied()).collect();
        work::did(queue.len());
        queue
    }

    /// Returns the head of every queue, sorted, so that a run can be repeated.
    pub(crate) fn heads(&self) -> Vec<Key> {
        let heads = self.0.values().filter_map(|queue| queue.waiting.first_key_value());
        let mut heads: Vec<_> = heads.map(|(_, key)| *key).collect();
        heads.sort_unstable();
        work::did(heads.len());
        heads
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
    fn first_come_first_served_and_an_empty_queue_is_removed() {
        let mut queues = Queues::default();
        let name = Name::new("a").expect("valid");
        let [a, b, c] = [1, 2, 3].map(|generation| Key { owner: Owner::random(), generation });
        let (at_a, is_head) = queues.join(&name, a);
        assert!(is_head);
        let ((at_b, second), (at_c, third)) = (queues.join(&name, b), queues.join(&name, c));
        assert!(!second && !third);
        assert_eq!(queues.leave(&name, at_b), None, "it is not the head");
        assert_eq!(queues.leave(&name, at_b), None, "it has left before");
        assert_eq!(queues.leave(&name, at_a), Some(c));
        assert_eq!(queues.head(&name), Some(c));
        assert_eq!(queues.leave(&name, at_c), None);
        assert!(queues.0.is_empty());
    }
}
