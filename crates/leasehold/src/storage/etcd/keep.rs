//! Keeps leases alive, when a lock on them needs it.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::errors::Fault;
use super::leases::Lease;
use super::session::Session;
use crate::clock::Moment;

/// The leases that were to be kept alive, and whether they were.
pub(super) type Kept = Vec<(i64, Result<(), Fault>)>;

/// Returns why a lease was not kept alive, if it was not.
pub(super) fn fault_of(kept: &Kept, lease: Option<&Lease>) -> Option<Fault> {
    let (_, kept) = kept.iter().find(|(id, _)| lease.is_some_and(|lease| lease.id == *id))?;
    kept.as_ref().err().cloned()
}

impl Session {
    /// Keeps a lease alive until then, unless it is alive for as long anyway.
    pub(super) async fn keep_alive(&self, lease: &Lease, need: Moment) -> Result<(), Fault> {
        if lease.lives_until() >= need {
            return Ok(());
        }
        let _turn = lease.keeping.lock().await;
        if lease.lives_until() >= need {
            return Ok(());
        }
        if self.holds.is_overdue(lease, self.api.now()) {
            self.sweep().await?;
        }
        let sent = self.api.now();
        let seconds = self.api.keep_alive(lease.id).await?;
        if seconds <= 0 {
            self.lease_ended(lease);
            let text = "etcdserver: requested lease not found".to_owned();
            return Err(Fault::Status { code: 5, text });
        }
        lease.kept(sent, Duration::from_secs(seconds.unsigned_abs()));
        Ok(())
    }

    /// Keeps several leases alive. Returns the result for each, once.
    pub(super) async fn keep_all(&self, needs: &[(Arc<Lease>, Moment)]) -> Kept {
        let mut distinct: Vec<(&Arc<Lease>, Moment)> = Vec::new();
        for (lease, need) in needs {
            match distinct.iter_mut().find(|(known, _)| known.id == lease.id) {
                Some((_, known)) => *known = std::cmp::max(*known, *need),
                None => distinct.push((lease, *need)),
            }
        }
        join_all(distinct.iter().map(async |(lease, need)| (lease.id, self.keep_alive(lease, *need).await)))
            .await
    }
}
