//! Which lock is held by which owner, as a majority shows it.

use super::ballot::{leader, majority, undecided};
use super::nodes::{LONGEST, Nodes};
use crate::error::Result;
use crate::storage::{Holder, Name};

pub(super) const UNCERTAIN: &str = "no majority of the servers answered in time; check them, and retry";

pub(super) async fn inspect(nodes: &Nodes, name: &Name) -> Result<Option<Holder>> {
    let mut answers = nodes.ask(|node| {
        let name = name.clone();
        Some(async move { node.inspect(&name).await })
    });
    let (mut seen, mut errors) = (Vec::new(), Vec::new());
    let until = nodes.clock.now().after(LONGEST);
    loop {
        if let Some(holder) = leader(seen.iter().flatten(), nodes.len()) {
            return Ok(Some(holder));
        }
        let open = nodes.len() - seen.len();
        if most(&seen) + open < majority(nodes.len()) {
            return Ok(None);
        }
        match answers.next(until).await {
            Some((_, Ok(holder))) => seen.push(holder),
            Some((_, Err(error))) => errors.push(error),
            None => {
                let answered = seen.len() + errors.len();
                return Err(undecided(UNCERTAIN, errors.iter(), answered, nodes.len()));
            }
        }
    }
}

/// At how many servers the same owner holds.
fn most(seen: &[Option<Holder>]) -> usize {
    let owners = seen.iter().flatten().map(|holder| holder.owner);
    owners.clone().map(|owner| owners.clone().filter(|other| *other == owner).count()).max().unwrap_or(0)
}
