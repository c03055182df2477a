//! Expiry: a lease ends with its TTL, not earlier, and soon afterward.

use leasehold::storage::{AcquireReply, Claim, Owner};
use tokio::time::{Instant, sleep};

use super::cases;
use crate::context::Context;

cases!("expiry":
    [] => [
        nobody_is_granted_before_the_ttl_is_over,
        an_expired_lease_is_granted_to_others,
        the_shortest_and_the_longest_ttl_are_given,
        leases_of_one_client_end_on_their_own,
    ],
);

async fn nobody_is_granted_before_the_ttl_is_over(case: Context) {
    let (a, b, claim) = (case.client().await, case.client().await, case.short_claim("a"));
    let sent = Instant::now();
    let AcquireReply::Granted { ttl, .. } = a.acquire(&claim).await else {
        panic!("the lock is free, but it was not granted");
    };
    let within = ttl + case.timing.slack() * 2;
    b.take_within(&case.claim("a"), within, "the lease is over").await;
    let (took, drift) = (sent.elapsed(), case.timing.drift(ttl));
    assert!(took + drift >= ttl, "granted to another after {took:?} of a TTL of {ttl:?}");
}

async fn an_expired_lease_is_granted_to_others(case: Context) {
    let (a, b, claim) = (case.client().await, case.client().await, case.short_claim("a"));
    let AcquireReply::Granted { ttl, .. } = a.acquire(&claim).await else {
        panic!("the lock is free, but it was not granted");
    };
    sleep(ttl).await;
    let late = case.timing.slack();
    b.take_within(&case.claim("a"), late, "the lease is over").await;
}

async fn the_shortest_and_the_longest_ttl_are_given(case: Context) {
    let client = case.client().await;
    for ttl in [case.limits.ttl_min, case.limits.ttl_max] {
        let name = case.name(&format!("{ttl:?}"));
        let claim = Claim::new(name, Owner::random(), ttl).patience(case.timing.slack());
        client.take(&claim, "a TTL within the limits").await;
    }
}

async fn leases_of_one_client_end_on_their_own(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let (short, long) = (case.short_claim("short"), case.claim("long"));
    a.take(&long, "the lock is free").await;
    a.take(&short, "the lock is free").await;
    let within = short.ttl * 3 + case.timing.slack() * 2;
    b.take_within(&case.claim("short"), within, "the lease is over").await;
    b.refused(&case.claim("long"), "this lease has a TTL of its own").await;
}
