//! The names that this client observes, as rows of the waiters' table.

use std::collections::{HashMap, HashSet};

use tokio::time::timeout;
use uuid::Uuid;

use super::call::id;
use super::halving::Halving;
use super::link::{Link, Params};
use super::statements::Statement;
use crate::storage::net::hints::HEARTBEAT;
use crate::storage::net::server::Link as _;
use crate::storage::{Name, Owner};

/// Keeps a row for each observed name, over one connection. Its methods return `false` if the connection is to be given up.
pub(super) struct Observer<'a> {
    link: &'a Link,
    space: &'a str,
    client: &'a str,
    /// The owner of its rows, random.
    id: Uuid,
    names: RefreshedNames,
}

/// In how many heartbeats the rows of all observed names are refreshed: a third of
/// [`OBSERVER_TTL`](super::statements::OBSERVER_TTL).
const PARTS: usize = 5;
/// How many names there are in one statement.
const NAMES_AT_ONCE: usize = 1000;

impl<'a> Observer<'a> {
    pub(super) fn new(link: &'a Link, space: &'a str, client: &'a str) -> Self {
        Self { link, space, client, id: id(Owner::random()), names: RefreshedNames::default() }
    }

    pub(super) async fn change(&mut self, added: &[Name], removed: &[Name]) -> bool {
        self.names.change(added, removed);
        self.unwatch(removed).await && self.watch(added).await
    }

    /// Refreshes the rows of the next part of the names.
    pub(super) async fn refresh_next_part(&mut self) -> bool {
        let part = self.names.next_part();
        self.watch(&part).await
    }

    pub(super) async fn execute(&self, statement: Statement, params: Params<'_>) -> bool {
        // An error of the server does not end the subscription; a server that does not answer does.
        match timeout(HEARTBEAT, self.link.execute(statement, params)).await {
            Ok(result) => result.is_ok() || self.link.is_fit(),
            Err(_) => false,
        }
    }

    async fn watch(&self, names: &[Name]) -> bool {
        for names in names.chunks(NAMES_AT_ONCE) {
            // A name that the server refuses does not keep the others from being observed.
            let mut halving = Halving::new((0..names.len()).collect());
            while let Some(indexes) = halving.next() {
                let some: Vec<_> = indexes.iter().map(|i| names[*i].as_str()).collect();
                let params: Params<'_> = &[&self.space, &self.id, &self.client, &some];
                match timeout(HEARTBEAT, self.link.execute(Statement::Watch, params)).await {
                    Ok(Err(_)) if !self.link.is_fit() => return false,
                    Ok(result) => halving.record(indexes, result.map(|_| vec![(); some.len()])),
                    Err(_) => return false,
                }
            }
        }
        true
    }

    async fn unwatch(&self, names: &[Name]) -> bool {
        for names in names.chunks(NAMES_AT_ONCE) {
            let names: Vec<_> = names.iter().map(Name::as_str).collect();
            if !self.execute(Statement::Unwatch, &[&self.space, &self.id, &names]).await {
                return false;
            }
        }
        true
    }
}

/// The observed names, in parts of about the same size. The rows of one part are refreshed with each heartbeat.
#[derive(Default)]
struct RefreshedNames {
    parts: [HashSet<Name>; PARTS],
    part_of: HashMap<Name, usize>,
    /// The part that is refreshed next.
    next: usize,
}

impl RefreshedNames {
    fn change(&mut self, added: &[Name], removed: &[Name]) {
        for name in removed {
            if let Some(part) = self.part_of.remove(name).and_then(|part| self.parts.get_mut(part)) {
                part.remove(name);
            }
        }
        for name in added {
            let smallest = self.parts.iter_mut().enumerate().min_by_key(|(_, part)| part.len());
            if let Some((i, part)) = smallest
                && !self.part_of.contains_key(name)
            {
                part.insert(name.clone());
                self.part_of.insert(name.clone(), i);
            }
        }
    }

    fn next_part(&mut self) -> Vec<Name> {
        let part = self.parts.get(self.next).into_iter().flatten().cloned().collect();
        self.next = (self.next + 1) % PARTS;
        part
    }
}
