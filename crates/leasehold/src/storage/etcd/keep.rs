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

/// How often a lease is kept alive in one call, if the leader changes meanwhile.
const ROUNDS: u32 = 3;

impl Session {
    /// Keeps a lease alive until then, unless it is alive for as long anyway.
    pub(super) async fn keep_alive(&self, lease: &Lease, need: Moment) -> Result<(), Fault> {
        if is_alive(lease, need)? {
            return Ok(());
        }
        let _turn = lease.keeping.lock().await;
        if is_alive(lease, need)? {
            return Ok(());
        }
        if self.holds.is_overdue(lease, self.api.now()) {
            self.sweep().await?;
        }
        for _ in 0..ROUNDS {
            let sent = self.api.now();
            let (seconds, by) = self.api.keep_alive(lease.id).await?;
            if seconds <= 0 {
                self.lease_ended(lease);
                return Err(not_found());
            }
            // A former leader that has not noticed the election yet answers, too, and the next one does not know of it. So the
            // lease was kept alive only if the leader could still reach a majority afterward.
            if self.api.term(self.keys.probe()).await? == by {
                lease.kept(sent, Duration::from_secs(seconds.unsigned_abs()));
                return Ok(());
            }
        }
        Err(Fault::Status { code: 14, text: "etcdserver: leader changed".to_owned() })
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

fn is_alive(lease: &Lease, need: Moment) -> Result<bool, Fault> {
    if lease.has_ended() || lease.is_forgotten() { Err(not_found()) } else { Ok(lease.lives_until() >= need) }
}

/// Returns what the server says of a lease that has ended.
fn not_found() -> Fault {
    Fault::Status { code: 5, text: "etcdserver: requested lease not found".to_owned() }
}
