//! Inspections: the holder of a lock, as a majority reports it.

use super::ballot::{majority, majority_holder, no_majority};
use super::nodes::{Nodes, STEP_MAX};
use crate::error::Result;
use crate::storage::{Holder, Name};

pub(super) const UNCERTAIN: &str = "no majority of the servers answered in time; check them, and retry";

pub(super) async fn inspect(nodes: &Nodes, name: &Name) -> Result<Option<Holder>> {
    let mut replies = nodes.call(|node| {
        let name = name.clone();
        Some(async move { node.inspect(&name).await })
    });
    let (mut seen, mut errors) = (Vec::new(), Vec::new());
    let until = nodes.clock.now().after(STEP_MAX);
    loop {
        if let Some(holder) = majority_holder(seen.iter().flatten(), nodes.len()) {
            return Ok(Some(holder));
        }
        let open = nodes.len() - seen.len();
        if most(&seen) + open < majority(nodes.len()) {
            return Ok(None);
        }
        match replies.next(until).await {
            Some((_, Ok(holder))) => seen.push(holder),
            Some((_, Err(error))) => errors.push(error),
            None => {
                let answered = seen.len() + errors.len();
                return Err(no_majority(UNCERTAIN, errors.iter(), answered, nodes.len()));
            }
        }
    }
}

/// Returns the largest number of servers that report the same owner.
fn most(seen: &[Option<Holder>]) -> usize {
    let owners = seen.iter().flatten().map(|holder| holder.owner);
    owners.clone().map(|owner| owners.clone().filter(|other| *other == owner).count()).max().unwrap_or(0)
}
