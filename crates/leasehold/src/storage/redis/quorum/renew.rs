//! Renewals, and the repair of servers that miss a lease.

use std::cmp::Reverse;
use std::sync::Arc;

use super::ballot::{majority, no_majority};
use super::nodes::{Nodes, Replies};
use super::scripts::{ReleaseMode, Renewed};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::storage::redis::replies::too_late;
use crate::storage::{Claim, RenewReply, Token};

pub(super) const UNCERTAIN: &str = "no majority of the servers answered alike in time; check them, and retry";

/// The replies of the servers to the renewal of one lease.
struct Renewal {
    replies: Vec<Option<Result<Renewed>>>,
}

pub(super) async fn renew(nodes: &Arc<Nodes>, claims: &[Claim], sent: Moment) -> Vec<Result<RenewReply>> {
    let claims: Arc<[Claim]> = claims.into();
    let mut replies = nodes.call(|node| {
        let claims = Arc::clone(&claims);
        Some(async move { node.renew(&claims, sent).await })
    });
    let mut renewals: Vec<_> =
        claims.iter().map(|_| Renewal { replies: (0..nodes.len()).map(|_| None).collect() }).collect();
    let until = sent.after(nodes.limit(&claims));
    while renewals.iter().any(|renewal| renewal.decided().is_none()) {
        let Some((server, reply)) = replies.next(until).await else { break };
        add(&mut renewals, server, reply);
    }
    let all = renewals.iter().zip(claims.iter());
    let all = all.map(|(renewal, claim)| renewal.decided().map_or_else(|| Err(renewal.error(claim)), Ok));
    let all = all.collect();
    tokio::spawn(repair(Arc::clone(nodes), claims, renewals, replies, sent));
    all
}

/// Adds the reply of one server to all renewals.
fn add(renewals: &mut [Renewal], server: usize, reply: Result<Vec<Renewed>>) {
    match reply {
        Ok(all) => {
            for (renewal, renewed) in renewals.iter_mut().zip(all) {
                renewal.replies[server] = Some(Ok(renewed));
            }
        }
        Err(error) => {
            for renewal in renewals {
                renewal.replies[server] = Some(Err(error.clone()));
            }
        }
    }
}

impl Renewal {
    /// Returns the reply, once a majority agrees.
    fn decided(&self) -> Option<RenewReply> {
        let (mut ttls, mut not_held) = (Vec::new(), 0);
        for renewed in self.replies.iter().flatten().flatten() {
            match renewed {
                Renewed::Ours { ttl, .. } => ttls.push(*ttl),
                Renewed::Others | Renewed::Free => not_held += 1,
                Renewed::Late => {}
            }
        }
        let needed = majority(self.replies.len());
        if not_held >= needed {
            return Some(RenewReply::NotHeld);
        }
        ttls.sort_by_key(|ttl| Reverse(*ttl));
        ttls.get(needed - 1).map(|ttl| RenewReply::Renewed { ttl: *ttl })
    }

    fn error(&self, claim: &Claim) -> Error {
        if self.replies.iter().flatten().flatten().any(|renewed| *renewed == Renewed::Late) {
            return too_late(&claim.name);
        }
        let errors = self.replies.iter().flatten().filter_map(|reply| reply.as_ref().err());
        no_majority(UNCERTAIN, errors, self.replies.iter().flatten().count(), self.replies.len())
    }

    /// Returns the token of the lease, if any server has it.
    fn token(&self) -> Option<Token> {
        let all = self.replies.iter().flatten().flatten();
        all.filter_map(|renewed| match renewed {
            Renewed::Ours { token, .. } => *token,
            _ => None,
        })
        .max()
    }
}

/// Restores a renewed lease at the servers that have missed or lost it, and ends a lost lease at those that still have it.
async fn repair(
    nodes: Arc<Nodes>,
    claims: Arc<[Claim]>,
    mut renewals: Vec<Renewal>,
    mut replies: Replies<Result<Vec<Renewed>>>,
    sent: Moment,
) {
    while let Some((server, reply)) = replies.next_late().await {
        add(&mut renewals, server, reply);
    }
    for node in &nodes.all {
        let (mut missing, mut lost) = (Vec::new(), Vec::new());
        for (renewal, claim) in renewals.iter().zip(claims.iter()) {
            let Some(Ok(renewed)) = &renewal.replies[node.index] else { continue };
            match (renewal.decided(), renewed) {
                (Some(RenewReply::Renewed { .. }), Renewed::Free | Renewed::Ours { token: None, .. }) => {
                    missing.extend(renewal.token().map(|token| (claim.clone(), token)));
                }
                (Some(RenewReply::NotHeld), Renewed::Ours { .. }) => lost.push(claim.clone()),
                _ => {}
            }
        }
        // The next renewal retries what fails here.
        if !missing.is_empty() {
            let _ = node.restore(&missing, sent).await;
        }
        if !lost.is_empty() {
            let _ = Arc::clone(node).release(&lost, ReleaseMode::Release).await;
        }
    }
}
