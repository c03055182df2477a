//! Renewals.

use std::cmp::Reverse;
use std::sync::Arc;

use super::ballot::{majority, undecided};
use super::nodes::{Answers, Nodes};
use super::script::{Ending, Renewed};
use crate::clock::Moment;
use crate::error::{Error, Result};
use crate::storage::redis::replies::late;
use crate::storage::{Claim, RenewReply, Token};

pub(super) const UNCERTAIN: &str = "no majority of the servers answered alike in time; check them, and retry";

/// What the servers say to the renewal of one lease.
struct Renewal {
    said: Vec<Option<Result<Renewed>>>,
}

pub(super) async fn renew(nodes: &Arc<Nodes>, claims: &[Claim], sent: Moment) -> Vec<Result<RenewReply>> {
    let claims: Arc<[Claim]> = claims.into();
    let mut answers = nodes.ask(|node| {
        let claims = Arc::clone(&claims);
        Some(async move { node.renew(&claims, sent).await })
    });
    let mut renewals: Vec<_> =
        claims.iter().map(|_| Renewal { said: (0..nodes.len()).map(|_| None).collect() }).collect();
    let until = sent.after(nodes.limit(&claims));
    while renewals.iter().any(|renewal| renewal.answer().is_none()) {
        let Some((server, answer)) = answers.next(until).await else { break };
        take(&mut renewals, server, answer);
    }
    let all = renewals.iter().zip(claims.iter());
    let all =
        all.map(|(renewal, claim)| renewal.answer().unwrap_or_else(|| Err(renewal.error(claim)))).collect();
    tokio::spawn(mend(Arc::clone(nodes), claims, renewals, answers, sent));
    all
}

fn take(renewals: &mut [Renewal], server: usize, answer: Result<Vec<Renewed>>) {
    match answer {
        Ok(all) => {
            for (renewal, said) in renewals.iter_mut().zip(all) {
                renewal.said[server] = Some(Ok(said));
            }
        }
        Err(error) => {
            for renewal in renewals {
                renewal.said[server] = Some(Err(error.clone()));
            }
        }
    }
}

impl Renewal {
    /// The answer, once a majority says the same.
    fn answer(&self) -> Option<Result<RenewReply>> {
        let (mut ttls, mut not) = (Vec::new(), 0);
        for said in self.said.iter().flatten().flatten() {
            match said {
                Renewed::Ours { ttl, .. } => ttls.push(*ttl),
                Renewed::Others | Renewed::Free => not += 1,
                Renewed::Late => {}
            }
        }
        let needed = majority(self.said.len());
        if not >= needed {
            return Some(Ok(RenewReply::NotHeld));
        }
        ttls.sort_by_key(|ttl| Reverse(*ttl));
        ttls.get(needed - 1).map(|ttl| Ok(RenewReply::Renewed { ttl: *ttl }))
    }

    fn error(&self, claim: &Claim) -> Error {
        if self.said.iter().flatten().flatten().any(|said| *said == Renewed::Late) {
            return late(&claim.name);
        }
        let errors = self.said.iter().flatten().filter_map(|said| said.as_ref().err());
        undecided(UNCERTAIN, errors, self.said.iter().flatten().count(), self.said.len())
    }

    /// The token of the lease, as any server has it.
    fn token(&self) -> Option<Token> {
        let ours = self.said.iter().flatten().flatten();
        ours.filter_map(|said| if let Renewed::Ours { token, .. } = said { *token } else { None }).max()
    }
}

/// Fills servers again that have missed a lease or forgotten it, and ends what a few have of a lease that is over.
async fn mend(
    nodes: Arc<Nodes>,
    claims: Arc<[Claim]>,
    mut renewals: Vec<Renewal>,
    mut answers: Answers<Result<Vec<Renewed>>>,
    sent: Moment,
) {
    while let Some((server, answer)) = answers.late().await {
        take(&mut renewals, server, answer);
    }
    for node in &nodes.all {
        let (mut filled, mut ended) = (Vec::new(), Vec::new());
        for (renewal, claim) in renewals.iter().zip(claims.iter()) {
            let Some(Ok(said)) = &renewal.said[node.index] else { continue };
            match (renewal.answer(), said) {
                (Some(Ok(RenewReply::Renewed { .. })), Renewed::Free | Renewed::Ours { token: None, .. }) => {
                    filled.extend(renewal.token().map(|token| (claim.clone(), token)));
                }
                (Some(Ok(RenewReply::NotHeld)), Renewed::Ours { .. }) => ended.push(claim.clone()),
                _ => {}
            }
        }
        // The next renewal tries again what fails here.
        if !filled.is_empty() {
            let _ = node.commit(&filled, Some(sent)).await;
        }
        if !ended.is_empty() {
            let _ = Arc::clone(node).release(&ended, Ending::Release).await;
        }
    }
}
