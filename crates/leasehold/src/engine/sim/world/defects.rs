//! Planted defects of the engine: the simulator suppresses or changes what a sound engine would send or receive.

use std::time::Duration;

use super::super::Sabotage;
use super::super::wire::{Answer, Ask};
use super::World;
use super::text::brief;
use crate::engine::timing::margin;
use crate::guard::Guard;
use crate::storage::{AcquireReply, Claim, Hint, ReleaseReply, RenewReply};

impl World {
    /// Returns the answer to a call that the defective engine would not have made.
    pub(super) fn suppressed(&self, ask: &Ask) -> Option<Answer> {
        match (self.sabotage?, ask) {
            (Sabotage::NoSecondRelease, Ask::Release(claims)) => {
                let all = claims.iter().all(|claim| self.released.contains(&claim.owner));
                all.then(|| Answer::Release(claims.iter().map(|_| Ok(ReleaseReply::NotHeld)).collect()))
            }
            (Sabotage::DropWithoutResolver, Ask::Release(claims)) => {
                let left = |claim: &Claim| self.owners.get(&claim.owner).is_some_and(|o| !o.granted);
                let all = claims.iter().all(left);
                all.then(|| Answer::Release(claims.iter().map(|_| Ok(ReleaseReply::NotHeld)).collect()))
            }
            (Sabotage::NoRecheck, Ask::Acquire(claims)) => {
                let rested = |claim: &Claim| claim.wait && !self.hinted.contains(&claim.owner);
                let asked = |claim: &Claim| self.released.contains(&claim.owner);
                let all = claims.iter().all(|claim| rested(claim) && asked(claim));
                let held = || Ok(AcquireReply::Held { holder: None, retry_after: None });
                all.then(|| Answer::Acquire(claims.iter().map(|_| held()).collect()))
            }
            _ => None,
        }
    }

    /// Returns the hint as the defective engine reads it. Records which leases a sound engine has to verify.
    pub(super) fn alter_hint(&mut self, client: usize, hint: Hint) -> Hint {
        if hint != Hint::Restarted || !self.clients[client].wire.is_listened_to() {
            return hint;
        }
        let holds: Vec<_> = self.clients[client].holding(self.now).map(Guard::owner).collect();
        self.clients[client].unverified.extend(holds);
        self.clients[client].restarted = Some(self.now);
        if self.sabotage == Some(Sabotage::IgnoresRestarts) { Hint::Any } else { hint }
    }

    /// Returns an answer as the defective engine reads it.
    pub(super) fn alter(&mut self, client: usize, id: u64, mut answer: Answer) -> Answer {
        let late = self.sabotage == Some(Sabotage::DeadlineFromReply);
        let late = if late { self.now - self.calls[&id].sent } else { 0 };
        let whole = self.sabotage == Some(Sabotage::NoMargin);
        let stretch = |ttl: &mut Duration| {
            *ttl += Duration::from_nanos(late);
            if whole {
                *ttl += margin(*ttl) + margin(*ttl) / 50;
            }
        };
        match &mut answer {
            Answer::Acquire(answers) => {
                for answer in answers {
                    if let Ok(AcquireReply::Granted { ttl, .. }) = answer {
                        stretch(ttl);
                    }
                }
            }
            Answer::Renew(answers) => {
                for (place, answer) in answers.iter_mut().enumerate() {
                    let Ok(RenewReply::Renewed { ttl }) = answer else { continue };
                    stretch(ttl);
                    if self.sabotage == Some(Sabotage::LateRenewalRevives)
                        && let Ask::Renew(claims) = &self.calls[&id].ask
                    {
                        self.clients[client].revive(self.now, claims[place].owner, *ttl);
                    }
                }
            }
            _ => {}
        }
        answer
    }

    /// Records the answers that the defects and the law of verification depend on.
    pub(super) fn remember(&mut self, client: usize, answer: &Answer, id: u64) {
        self.trace(|_| format!("client {client} is answered #{id}: {}", brief(answer)));
        if let (Ask::Acquire(claims), Answer::Acquire(answers)) = (&self.calls[&id].ask, answer) {
            // The storage may have granted the claim before its restart, and forgotten the grant.
            let restarted = self.clients[client].restarted;
            let older = restarted.is_some_and(|restarted| self.calls[&id].sent <= restarted);
            let granted = claims
                .iter()
                .zip(answers)
                .filter(|(_, answer)| older && matches!(answer, Ok(AcquireReply::Granted { .. })));
            let owners: Vec<_> = granted.map(|(claim, _)| claim.owner).collect();
            self.clients[client].unverified.extend(owners);
        }
        match (&self.calls[&id].ask, answer, self.sabotage) {
            (Ask::Release(claims), Answer::Release(answers), Some(Sabotage::NoSecondRelease)) => {
                let sure = claims.iter().zip(answers).filter(|(_, answer)| answer.is_ok());
                self.released.extend(sure.map(|(claim, _)| claim.owner));
            }
            (Ask::Acquire(claims), Answer::Acquire(answers), Some(Sabotage::NoRecheck)) => {
                for (claim, answer) in claims.iter().zip(answers) {
                    if claim.wait && answer.is_ok() {
                        self.released.insert(claim.owner);
                        self.hinted.remove(&claim.owner);
                    }
                }
            }
            _ => {}
        }
    }
}
