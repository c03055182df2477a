//! The hints of all servers, merged.

use std::collections::HashMap;

use futures_core::Stream;
use futures_util::{StreamExt, stream};

use super::ballot::majority;
use crate::storage::{Hint, Owner};

/// Forwards the hints of all servers. The hint that it is an owner's turn is forwarded once a majority has sent it.
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
        .filter_map(move |(server, hint)| std::future::ready(turns.filter(server, hint, needed)))
}

/// The servers that have named each owner. The hint of the first server would come too early: the others still have the
/// lock.
#[derive(Default)]
struct Turns(HashMap<Owner, Vec<usize>>);

/// The most owners that are kept while too few servers have named them.
const OWNERS_MAX: usize = 10_000;

impl Turns {
    /// Returns the hint if it is to be forwarded.
    fn filter(&mut self, server: usize, hint: Hint, needed: usize) -> Option<Hint> {
        let Hint::Owner(owner) = hint else { return Some(hint) };
        if self.0.len() >= OWNERS_MAX {
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
    fn a_turn_is_forwarded_once_a_majority_has_sent_it() {
        let (mut turns, a, b) = (Turns::default(), Owner::random(), Owner::random());
        assert_eq!(turns.filter(0, Hint::Owner(a), 2), None);
        assert_eq!(turns.filter(0, Hint::Owner(a), 2), None, "the same server again");
        assert_eq!(turns.filter(1, Hint::Owner(b), 2), None);
        assert_eq!(turns.filter(2, Hint::Owner(a), 2), Some(Hint::Owner(a)));
        assert_eq!(turns.filter(1, Hint::Owner(a), 2), None, "the count begins again");
        assert_eq!(turns.filter(1, Hint::Any, 2), Some(Hint::Any));
    }
}
