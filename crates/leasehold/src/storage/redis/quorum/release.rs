//! Releases.

use std::sync::Arc;

use super::ballot::{majority, no_majority};
use super::nodes::Nodes;
use super::renew::UNCERTAIN;
use super::scripts::ReleaseMode;
use crate::clock::Moment;
use crate::error::Result;
use crate::storage::{Claim, ReleaseReply};

/// The replies of the servers to the release of one lease.
#[derive(Clone, Default)]
struct Counts {
    released: usize,
    not_held: usize,
}

/// Ends leases at all servers. Returns once a majority agrees; a cleanup continues at those that do not answer.
pub(super) async fn release(nodes: &Nodes, claims: &[Claim], sent: Moment) -> Vec<Result<ReleaseReply>> {
    let shared: Arc<[Claim]> = claims.into();
    let mut replies = nodes.call(|node| {
        let claims = Arc::clone(&shared);
        Some(async move { node.release(&claims, ReleaseMode::Release).await })
    });
    let (mut all, mut errors) = (vec![Counts::default(); claims.len()], Vec::new());
    let (needed, until) = (majority(nodes.len()), sent.after(nodes.limit(claims)));
    while all.iter().any(|counts| counts.decided(needed).is_none()) {
        match replies.next(until).await {
            Some((_, Ok(replies))) => {
                for (counts, reply) in all.iter_mut().zip(replies) {
                    counts.add(reply);
                }
            }
            Some((_, Err(error))) => errors.push(error),
            None => break,
        }
    }
    let uncertain = |counts: &Counts| {
        let answered = counts.released + counts.not_held + errors.len();
        no_majority(UNCERTAIN, errors.iter(), answered, nodes.len())
    };
    all.iter().map(|counts| counts.decided(needed).ok_or_else(|| uncertain(counts))).collect()
}

impl Counts {
    fn add(&mut self, reply: ReleaseReply) {
        match reply {
            ReleaseReply::Released => self.released += 1,
            ReleaseReply::NotHeld => self.not_held += 1,
        }
    }

    /// Returns the reply, once as many servers as are needed agree.
    fn decided(&self, needed: usize) -> Option<ReleaseReply> {
        if self.released >= needed {
            Some(ReleaseReply::Released)
        } else {
            (self.not_held >= needed).then_some(ReleaseReply::NotHeld)
        }
    }
}
