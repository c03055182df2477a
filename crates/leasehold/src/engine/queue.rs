//! Local queues: of all the acquisitions of one process that wait for one name, only the first asks the
//! storage. Five hundred tasks that want one lock cost it one waiter.

use std::collections::{HashMap, VecDeque};

use crate::storage::{Name, Owner};

/// One line per name, first come first served.
#[derive(Debug, Default)]
pub(crate) struct Queues(HashMap<Name, VecDeque<Owner>>);

impl Queues {
    /// Joins the line; whether it is first.
    pub(crate) fn join(&mut self, name: &Name, owner: Owner) -> bool {
        let line = self.0.entry(name.clone()).or_default();
        line.push_back(owner);
        line.len() == 1
    }

    /// Leaves the line; who is first now, if that has changed.
    pub(crate) fn leave(&mut self, name: &Name, owner: Owner) -> Option<Owner> {
        let line = self.0.get_mut(name)?;
        let place = line.iter().position(|other| *other == owner)?;
        line.remove(place);
        let next = line.front().copied();
        if next.is_none() {
            self.0.remove(name);
        }
        next.filter(|_| place == 0)
    }

    pub(crate) fn first(&self, name: &Name) -> Option<Owner> {
        self.0.get(name).and_then(|line| line.front().copied())
    }

    /// Everybody else in the line of one who is there.
    pub(crate) fn others(&self, name: &Name, owner: Owner) -> Vec<Owner> {
        let line = self.0.get(name).into_iter().flatten();
        line.copied().filter(|other| *other != owner).collect()
    }

    /// The first of every line, in one order, so that a run can be repeated.
    pub(crate) fn firsts(&self) -> Vec<Owner> {
        let mut firsts: Vec<_> = self.0.values().filter_map(|line| line.front().copied()).collect();
        firsts.sort_unstable();
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

    #[test]
    fn first_come_first_served_and_nothing_is_left() {
        let mut queues = Queues::default();
        let name = Name::new("a").expect("valid");
        let [a, b, c] = [(); 3].map(|()| Owner::random());
        assert!(queues.join(&name, a));
        assert!(!queues.join(&name, b));
        assert!(!queues.join(&name, c));
        assert_eq!(queues.leave(&name, b), None, "not the first");
        assert_eq!(queues.leave(&name, a), Some(c));
        assert_eq!(queues.first(&name), Some(c));
        assert_eq!(queues.leave(&name, c), None);
        assert!(queues.0.is_empty());
    }
}
