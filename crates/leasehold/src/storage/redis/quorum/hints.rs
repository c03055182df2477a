//! What the servers tell, taken together.

use std::collections::HashMap;

use futures_core::Stream;
use futures_util::{StreamExt, stream};

use super::ballot::majority;
use crate::storage::{Hint, Owner};

/// Passes on the hints of all servers; that it is an owner's turn, once a majority has said so.
pub(super) fn merge<S>(servers: Vec<S>) -> impl Stream<Item = Hint> + Send + 'static
where
    S: Stream<Item = Hint> + Send + 'static,
{
    let needed = majority(servers.len());
    let tagged = servers
        .into_iter()
        .enumerate()
        .map(|(server, hints)| Box::pin(hints.map(move |hint| (server, hint))));
    let mut turns = Turns::default();
    stream::select_all(tagged)
        .filter_map(move |(server, hint)| std::future::ready(turns.pass(server, hint, needed)))
}

/// Which servers have named an owner. The first would call it too early: the others still have the lock.
#[derive(Default)]
struct Turns(HashMap<Owner, Vec<usize>>);

/// How many owners are remembered of whom too few servers have spoken.
const MANY: usize = 10_000;

impl Turns {
    fn pass(&mut self, server: usize, hint: Hint, needed: usize) -> Option<Hint> {
        let Hint::Owner(owner) = hint else { return Some(hint) };
        if self.0.len() >= MANY {
            self.0.clear();
        }
        let named = self.0.entry(owner).or_default();
        if !named.contains(&server) {
            named.push(server);
        }
        if named.len() < needed {
            return None;
        }
        self.0.remove(&owner);
        Some(hint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_owners_turn_when_a_majority_says_so() {
        let (mut turns, a, b) = (Turns::default(), Owner::random(), Owner::random());
        assert_eq!(turns.pass(0, Hint::Owner(a), 2), None);
        assert_eq!(turns.pass(0, Hint::Owner(a), 2), None, "the same server again");
        assert_eq!(turns.pass(1, Hint::Owner(b), 2), None);
        assert_eq!(turns.pass(2, Hint::Owner(a), 2), Some(Hint::Owner(a)));
        assert_eq!(turns.pass(1, Hint::Owner(a), 2), None, "begins anew");
        assert_eq!(turns.pass(1, Hint::Any, 2), Some(Hint::Any));
    }
}
