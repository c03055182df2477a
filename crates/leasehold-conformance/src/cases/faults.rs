//! Dropped calls: each has an unknown outcome, and none breaks the storage.

use std::time::Duration;

use leasehold::storage::{Claim, ReleaseReply, RenewReply, Storage};
use tokio::time::{sleep, timeout};

use super::cases;
use crate::context::{Client, Context, known};

cases!("faults":
    [] => [
        a_dropped_acquire_is_undone_by_a_release,
        a_dropped_renewal_leaves_the_lease,
        a_dropped_release_can_be_repeated,
        dropped_looks_leave_a_client_that_works,
        a_client_that_goes_leaves_no_wrong_holder,
        a_detached_lease_outlives_its_client,
    ],
);

/// Yields how long a call may run before it is dropped: at its first poll, and at later points.
fn moments() -> impl Iterator<Item = Duration> {
    [0, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000].into_iter().map(Duration::from_micros)
}

async fn a_dropped_acquire_is_undone_by_a_release(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let patience = case.timing.short(&case.limits);
    for (i, moment) in moments().enumerate() {
        let claim = case.claim(&format!("{i}")).patience(patience).wait(true);
        drop(timeout(moment, a.0.acquire(std::slice::from_ref(&claim))).await);
        // A claim that is executed after its patience is refused, so a release sent after that is final.
        known(case.timing.slack(), || a.try_release(&claim)).await;
        sleep(patience + case.timing.pause()).await;
        known(case.timing.slack(), || a.try_release(&claim)).await;
        let why = format!("the claim dropped after {moment:?} was released");
        b.take(&case.claim(&format!("{i}")), &why).await;
        works(&case, &a).await;
    }
}

async fn a_dropped_renewal_leaves_the_lease(case: Context) {
    let client = case.client().await;
    for (i, moment) in moments().enumerate() {
        let claim = case.claim(&format!("{i}"));
        client.take(&claim, "the lock is free").await;
        drop(timeout(moment, client.0.renew(std::slice::from_ref(&claim))).await);
        let kept = known(case.timing.slack(), || client.try_renew(&claim)).await;
        assert!(matches!(kept, RenewReply::Renewed { .. }), "only a renewal was dropped: {kept:?}");
        let given = known(case.timing.slack(), || client.try_release(&claim)).await;
        assert_eq!(given, ReleaseReply::Released, "only a renewal was dropped");
        works(&case, &client).await;
    }
}

async fn a_dropped_release_can_be_repeated(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    for (i, moment) in moments().enumerate() {
        let claim = case.claim(&format!("{i}"));
        a.take(&claim, "the lock is free").await;
        drop(timeout(moment, a.0.release(std::slice::from_ref(&claim))).await);
        // The lease is released by this call or by the dropped one; both are right.
        known(case.timing.slack(), || a.try_release(&claim)).await;
        b.take(&case.claim(&format!("{i}")), "it was released").await;
        works(&case, &a).await;
    }
}

async fn dropped_looks_leave_a_client_that_works(case: Context) {
    let (client, claim) = (case.client().await, case.claim("a"));
    client.take(&claim, "the lock is free").await;
    for moment in moments() {
        drop(timeout(moment, client.0.inspect(&claim.name)).await);
        drop(timeout(moment, client.0.list(case.prefix(), None, 10)).await);
        let holder = client.inspect(&claim.name).await;
        assert!(holder.is_some_and(|holder| holder.owner == claim.owner), "another holder is shown");
        works(&case, &client).await;
    }
}

/// A storage may end the leases of a client that is gone, early or at the TTL. There is still at most one
/// holder.
async fn a_client_that_goes_leaves_no_wrong_holder(case: Context) {
    let (a, b, claim) = (case.client().await, case.client().await, case.short_claim("a"));
    a.take(&claim, "the lock is free").await;
    drop(a);
    let holder = b.inspect(&claim.name).await;
    assert!(holder.is_none_or(|holder| holder.owner == claim.owner), "another holder is shown");
    let within = claim.ttl * 3 + case.timing.slack() * 2;
    b.take_within(&case.claim("a"), within, "the lease is over").await;
}

async fn a_detached_lease_outlives_its_client(case: Context) {
    let (a, b, claim) = (case.client().await, case.client().await, case.claim("a"));
    a.take(&claim, "the lock is free").await;
    // The engine does this for a ticket: the renewal says that the lease outlives its process.
    a.keep(&claim.clone().detached(true), "it is held").await;
    drop(a);
    sleep(case.timing.short(&case.limits)).await;
    b.refused(&case.claim("a"), "its client is gone, but the lease is detached").await;
    b.keep(&claim, "it is held until its TTL is over").await;
    b.give(&claim, "it is held until its TTL is over").await;
}

async fn works(case: &Context, client: &Client) {
    let claim: Claim = case.fresh().claim("works");
    client.take(&claim, "a dropped call has broken the client").await;
    client.give(&claim, "a dropped call has broken the client").await;
}
