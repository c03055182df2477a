//! A storage of your own: the whole contract over a map in memory, without a queue and without push.
//!
//! `cargo run --example your_own_storage`
//!
//! The conformance suite checks each promise, with one case per clause of the contract; this storage passes
//! it. In `tests/conformance.rs` of your crate, with `harness = false`:
//!
//! ```ignore
//! fn main() -> std::process::ExitCode {
//!     let shared = Shelf::default();
//!     leasehold_conformance::run("shelf", move || {
//!         let client = shared.clone();
//!         async { Ok(client) }
//!     })
//! }
//! ```

use std::cmp::max;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use leasehold::storage::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, LeaseClock, Limits, Name, Owner,
    ReleaseReply, RenewReply, Storage, Tier, Token,
};
use leasehold::{Error, ErrorKind, Locks, Result};
use tokio::time::Instant;

/// A map of names to records, shared by all clients.
#[derive(Clone, Debug, Default)]
pub struct Shelf(Arc<Mutex<BTreeMap<Name, Record>>>);

#[derive(Debug, Default)]
struct Record {
    /// The last token, which outlives the lease, so that tokens never start again.
    last_token: u64,
    lease: Option<Lease>,
}

#[derive(Debug)]
struct Lease {
    owner: Owner,
    label: Option<Arc<str>>,
    until: Instant,
}

impl Storage for Shelf {
    fn guarantees(&self) -> Guarantees {
        // Only promises that it keeps: no order, no push, and no lease survives the process.
        let mut guarantees = Guarantees::new(Tier::CrashSafe, LeaseClock::ServerMonotonic);
        guarantees.fencing = true;
        guarantees
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<AcquireReply>> {
        let sent = Instant::now();
        let (mut records, now) = (self.records(), Instant::now());
        let acquire = |claim: &Claim| {
            in_time(claim, now - sent)?;
            let record = records.entry(claim.name.clone()).or_default();
            match record.holder(&claim.name, now) {
                Some(holder) if holder.owner != claim.owner => {
                    let retry_after = Some(holder.remaining);
                    Ok(AcquireReply::Held { holder: Some(holder), retry_after })
                }
                held => {
                    // A repeated acquire of the holder returns the same token, and never shortens the
                    // lease.
                    record.last_token += u64::from(held.is_none());
                    let already = held.map_or(now, |own| now + own.remaining);
                    record.lease = Some(Lease {
                        owner: claim.owner,
                        label: claim.label.clone(),
                        until: max(now + claim.ttl, already),
                    });
                    Ok(AcquireReply::Granted { token: Token::new(record.last_token), ttl: claim.ttl })
                }
            }
        };
        claims.iter().map(acquire).collect()
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<RenewReply>> {
        let sent = Instant::now();
        let (mut records, now) = (self.records(), Instant::now());
        let renew = |claim: &Claim| {
            let record = records.get_mut(&claim.name);
            let Some(lease) = record.and_then(|record| record.own(claim, now)) else {
                return Ok(RenewReply::NotHeld);
            };
            if claim.shorten {
                in_time(claim, now - sent)?;
                lease.until = now + claim.ttl;
            } else {
                // A late renewal must not undo a later one with a longer TTL.
                lease.until = max(now + claim.ttl, lease.until);
            }
            Ok(RenewReply::Renewed { ttl: claim.ttl })
        };
        claims.iter().map(renew).collect()
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        let (mut records, now) = (self.records(), Instant::now());
        let release = |claim: &Claim| {
            let record = records.get_mut(&claim.name);
            let Some(lease) = record.and_then(|record| record.own(claim, now)) else {
                return Ok(ReleaseReply::NotHeld);
            };
            lease.until = now;
            Ok(ReleaseReply::Released)
        };
        claims.iter().map(release).collect()
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        let records = self.records();
        Ok(records.get(name).and_then(|record| record.holder(name, Instant::now())).into_iter().collect())
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        let (records, now) = (self.records(), Instant::now());
        let wanted = records.iter().filter(|(name, _)| name.as_str().starts_with(prefix));
        let holders = wanted.filter_map(|(name, record)| record.holder(name, now));
        let next = holders.filter(|holder| after.is_none_or(|after| holder.cursor() > *after));
        Ok(next.take(limit).collect())
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        Ok(vec![Finding::good("map", "locks of this process alone, gone when it ends")])
    }

    fn watch(&self, _added: &[Name], _removed: &[Name]) {
        // This storage sends no hints, so observers poll.
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        // There are no hints, so waiters poll.
        futures_util::stream::pending()
    }
}

impl Shelf {
    fn records(&self) -> MutexGuard<'_, BTreeMap<Name, Record>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn holder(&self, name: &Name, now: Instant) -> Option<Holder> {
        let lease = self.lease.as_ref().filter(|lease| lease.until > now)?;
        let mut holder =
            Holder::new(name.clone(), lease.owner, Token::new(self.last_token), lease.until - now);
        holder.label = lease.label.clone();
        Some(holder)
    }

    /// Returns the live lease of the claim's owner.
    fn own(&mut self, claim: &Claim, now: Instant) -> Option<&mut Lease> {
        self.lease.as_mut().filter(|lease| lease.owner == claim.owner && lease.until > now)
    }
}

/// Refuses a claim that is executed later than its patience allows.
fn in_time(claim: &Claim, late: Duration) -> Result<()> {
    if late < claim.patience {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unavailable, "the claim came too late; ask again"))
}

impl fmt::Display for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("shelf")
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let locks = Locks::new(Shelf::default());
    let guard = locks.lock("invoice/42").acquire().await?;
    assert!(locks.lock("invoice/42").try_acquire().await?.is_none());
    guard.release().await?;
    let again = locks.lock("invoice/42").acquire().await?;
    assert!(again.is_held());
    again.release().await
}
