//! Releases.

use std::sync::Arc;

use super::ballot::{majority, undecided};
use super::nodes::Nodes;
use super::renew::UNCERTAIN;
use super::script::Ending;
use crate::clock::Moment;
use crate::error::Result;
use crate::storage::{Claim, ReleaseReply};

/// Ends leases at all servers; those that do not answer go on being asked when a majority has.
pub(super) async fn release(nodes: &Nodes, claims: &[Claim], sent: Moment) -> Vec<Result<ReleaseReply>> {
    let shared: Arc<[Claim]> = claims.into();
    let mut answers = nodes.ask(|node| {
        let claims = Arc::clone(&shared);
        Some(async move { node.release(&claims, Ending::Release).await })
    });
    let (mut said, mut errors) = (vec![[0_usize; 2]; claims.len()], Vec::new());
    let (needed, until) = (majority(nodes.len()), sent.after(nodes.limit(claims)));
    while said.iter().any(|counts| counts.iter().all(|count| *count < needed)) {
        match answers.next(until).await {
            Some((_, Ok(all))) => {
                for (counts, released) in said.iter_mut().zip(all) {
                    counts[usize::from(released == ReleaseReply::Released)] += 1;
                }
            }
            Some((_, Err(error))) => errors.push(error),
            None => break,
        }
    }
    let answered = |counts: &[usize; 2]| counts[0] + counts[1] + errors.len();
    let all = said.iter().map(|counts| match counts {
        [_, released] if *released >= needed => Ok(ReleaseReply::Released),
        [not, _] if *not >= needed => Ok(ReleaseReply::NotHeld),
        _ => Err(undecided(UNCERTAIN, errors.iter(), answered(counts), nodes.len())),
    });
    all.collect()
}
