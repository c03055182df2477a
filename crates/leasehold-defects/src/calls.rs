//! The calls of a defective storage, one claim at a time.

use std::time::Duration;

use leasehold::storage::{AcquireReply, Claim, Holder, Name, ReleaseReply, RenewReply, Storage, Token};
use leasehold::{Error, ErrorKind, Result};

use crate::{Defect, Defective};

impl<S: Storage> Defective<S> {
    pub(crate) async fn acquire_one(&self, claim: &Claim, defect: Defect) -> Result<AcquireReply> {
        let looks_first = matches!(
            defect,
            Defect::ChecksThenActs | Defect::NoNewTtlWhenRepeated | Defect::ShortensWhenRepeated
        );
        let seen = if looks_first { self.holder(&claim.name).await? } else { None };
        if let Some(holder) = seen.as_ref().filter(|holder| holder.owner == claim.owner)
            && defect == Defect::NoNewTtlWhenRepeated
        {
            return Ok(AcquireReply::Granted { token: holder.token, ttl: claim.ttl });
        }
        if defect == Defect::ChecksThenActs {
            tokio::task::yield_now().await;
        }
        let answer = match defect {
            Defect::LetsNewcomersPass | Defect::KeepsPlaces => self.acquire_out_of_turn(claim, defect).await,
            _ => self.acquire_at_the_storage(claim).await,
        };
        match answer {
            Err(_) if defect == Defect::ErrorIsContention => {
                Ok(AcquireReply::Held { holder: None, retry_after: None })
            }
            Err(_) if defect == Defect::ErrorIsSuccess => {
                Ok(AcquireReply::Granted { token: self.shared().invented_token(&claim.name), ttl: claim.ttl })
            }
            Ok(AcquireReply::Granted { token, ttl }) => {
                self.granted(claim, token, ttl, seen.is_some(), defect).await
            }
            Ok(AcquireReply::Held { holder, retry_after }) => {
                Ok(self.held(claim, holder, retry_after, seen.is_some(), defect))
            }
            other => other,
        }
    }

    async fn granted(
        &self,
        claim: &Claim,
        token: Token,
        ttl: Duration,
        was_held: bool,
        defect: Defect,
    ) -> Result<AcquireReply> {
        if defect == Defect::ShortensWhenRepeated && was_held {
            let shortening = claim.clone().shorten(true).patience(Duration::MAX);
            only(self.inner.renew(&[shortening]).await)?;
        }
        let grant = self.shared().granted(claim, token, defect);
        if defect == Defect::TakeoverKeepsDeadline && grant.takes_over {
            self.shared().shortened.insert(claim.owner);
            let over = Claim::new(claim.name.clone(), claim.owner, Duration::from_millis(1));
            let over = over.shorten(true).patience(Duration::from_secs(1));
            only(self.inner.renew(&[over]).await)?;
        }
        let ttl = if defect == Defect::EndsEarly { claim.ttl } else { ttl };
        Ok(AcquireReply::Granted { token: grant.token, ttl })
    }

    fn held(
        &self,
        claim: &Claim,
        holder: Option<Holder>,
        retry_after: Option<Duration>,
        was_held: bool,
        defect: Defect,
    ) -> AcquireReply {
        match holder {
            // The check found a free lock.
            Some(holder) if defect == Defect::ChecksThenActs && !was_held && !claim.patience.is_zero() => {
                AcquireReply::Granted { token: Token::new(holder.token.get() + 1), ttl: claim.ttl }
            }
            holder => AcquireReply::Held { holder: holder.map(|holder| self.shown(holder)), retry_after },
        }
    }

    pub(crate) async fn renew_one(&self, claim: &Claim, defect: Defect) -> Result<RenewReply> {
        if defect == Defect::RenewsWithoutEffect {
            let holder = self.holder(&claim.name).await?;
            return Ok(match holder {
                Some(holder) if holder.owner == claim.owner => RenewReply::Renewed { ttl: claim.ttl },
                _ => RenewReply::NotHeld,
            });
        }
        if defect == Defect::ShorterTtlDeletes && self.shared().is_shorter(claim) {
            only(self.inner.release(std::slice::from_ref(claim)).await)?;
            return Ok(RenewReply::Renewed { ttl: claim.ttl });
        }
        let renewing = self.renewing(claim, defect);
        if renewing.shorten && defect == Defect::ShortensSilently {
            self.shared().shortened.insert(claim.owner);
        }
        let answer = only(self.inner.renew(&[renewing]).await)?;
        match answer {
            RenewReply::Renewed { ttl } => {
                if defect == Defect::RemainderStands {
                    self.shared().renewed(claim);
                }
                let ttl = if defect == Defect::EndsEarly { claim.ttl } else { ttl };
                Ok(RenewReply::Renewed { ttl })
            }
            RenewReply::NotHeld if defect == Defect::RenewsAsUpsert => {
                let upsert = claim.clone().wait(false).patience(Duration::MAX);
                match self.acquire_at_the_storage(&upsert).await? {
                    AcquireReply::Granted { ttl, .. } => Ok(RenewReply::Renewed { ttl }),
                    _ => Ok(answer),
                }
            }
            _ => Ok(answer),
        }
    }

    /// Returns the claim with which the defective storage renews.
    fn renewing(&self, claim: &Claim, defect: Defect) -> Claim {
        let mut renewing = self.shortened(claim);
        match defect {
            Defect::NeverShortens => renewing.shorten = false,
            Defect::ShortensLate if claim.shorten => renewing.patience = Duration::MAX,
            Defect::ShortensWithEveryRenewal if !claim.shorten => {
                renewing = renewing.shorten(true).patience(Duration::MAX);
            }
            _ => {}
        }
        renewing
    }

    pub(crate) async fn release_one(&self, claim: &Claim, defect: Defect) -> Result<ReleaseReply> {
        let looks_first = matches!(defect, Defect::KeepsEntries | Defect::ReleasesForAnyOwner);
        let holder = if looks_first { self.holder(&claim.name).await? } else { None };
        let ours = holder.as_ref().is_some_and(|holder| holder.owner == claim.owner);
        if defect == Defect::KeepsEntries && !ours {
            return Ok(ReleaseReply::NotHeld);
        }
        {
            let mut shared = self.shared();
            shared.left.insert(claim.owner);
            if let Some(queue) = shared.queues.get_mut(&claim.name) {
                queue.retain(|waiter| waiter.owner != claim.owner);
            }
        }
        let answer = only(self.inner.release(std::slice::from_ref(claim)).await)?;
        if answer == ReleaseReply::Released {
            self.shared().released(claim);
        }
        if let Some(holder) = holder.filter(|_| defect == Defect::ReleasesForAnyOwner && !ours) {
            let mut theirs = claim.clone();
            theirs.owner = holder.owner;
            return only(self.inner.release(&[theirs]).await);
        }
        if defect == Defect::AlwaysSaysReleased {
            return Ok(ReleaseReply::Released);
        }
        Ok(answer)
    }

    async fn holder(&self, name: &Name) -> Result<Option<Holder>> {
        Ok(self.inner.inspect(name).await?.pop())
    }

    /// Acquires with a queue of its own, by removing the other waiters for a moment.
    async fn acquire_out_of_turn(&self, claim: &Claim, defect: Defect) -> Result<AcquireReply> {
        let queue = self.shared().queues.get(&claim.name).cloned().unwrap_or_default();
        let waits = queue.iter().any(|waiter| waiter.owner == claim.owner);
        let comes_back = self.shared().left.contains(&claim.owner);
        let passes = match defect {
            Defect::LetsNewcomersPass => true,
            _ => comes_back && claim.wait && !waits,
        };
        let others: Vec<_> =
            queue.iter().filter(|waiter| passes && waiter.owner != claim.owner).cloned().collect();
        for other in &others {
            only(self.inner.release(std::slice::from_ref(other)).await)?;
        }
        let answer = self.acquire_at_the_storage(claim).await;
        for other in &others {
            self.acquire_at_the_storage(other).await?;
        }
        let mut shared = self.shared();
        let queue = shared.queues.entry(claim.name.clone()).or_default();
        match &answer {
            Ok(AcquireReply::Held { .. }) if claim.wait && !waits && comes_back => {
                queue.insert(0, claim.clone());
            }
            Ok(AcquireReply::Held { .. }) if claim.wait && !waits => queue.push(claim.clone()),
            Ok(AcquireReply::Granted { .. }) => queue.retain(|waiter| waiter.owner != claim.owner),
            _ => {}
        }
        answer
    }

    async fn acquire_at_the_storage(&self, claim: &Claim) -> Result<AcquireReply> {
        only(self.inner.acquire(&[self.shortened(claim)]).await)
    }

    fn shortened(&self, claim: &Claim) -> Claim {
        let mut shortened = claim.clone();
        if self.is(Defect::EndsEarly) {
            shortened.ttl = claim.ttl * 9 / 10;
        }
        shortened
    }

    /// Returns the claim as the defective storage reads it.
    pub(crate) fn changed(&self, claim: &Claim) -> Claim {
        let mut changed = claim.clone();
        changed.name = self.changed_name(&claim.name);
        if self.is(Defect::EveryClaimWaits) {
            changed.wait = true;
        }
        if self.is(Defect::IgnoresPatience) {
            changed.patience = Duration::MAX;
        }
        if self.is(Defect::CutsLabels) {
            changed.label = changed.label.as_deref().map(|label| cut(label).into());
        }
        changed
    }

    pub(crate) fn changed_name(&self, name: &Name) -> Name {
        let trimmed = Name::new(name.as_str().trim_end_matches(' '));
        match trimmed {
            Ok(trimmed) if self.is(Defect::TrimsNames) => trimmed,
            _ => name.clone(),
        }
    }
}

/// Cuts a label to 255 bytes.
fn cut(label: &str) -> &str {
    let end = (0..=std::cmp::min(255, label.len())).rev().find(|&end| label.is_char_boundary(end));
    label.get(..end.unwrap_or_default()).unwrap_or_default()
}

fn only<T>(answers: Vec<Result<T>>) -> Result<T> {
    let missing = || Err(Error::new(ErrorKind::Internal, "the storage did not answer the claim"));
    answers.into_iter().next().unwrap_or_else(missing)
}
