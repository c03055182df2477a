//! Release: ends the lease and the queue entry of this owner, and no other.

use leasehold::storage::{AcquireReply, Claim, ReleaseReply};
use tokio::time::sleep;

use super::cases;
use crate::context::{Client, Context};

cases!("release":
    [] => [
        release_frees_the_name,
        release_touches_only_its_owner,
        release_touches_only_its_name,
        a_second_release_is_not_held,
        release_of_a_free_name_is_not_held,
        release_of_an_expired_lease_is_not_held,
        release_of_an_expired_lease_leaves_its_successor,
        release_by_a_waiter_leaves_the_holder,
        release_works_over_any_client,
    ],
);

async fn release_frees_the_name(case: Context) {
    let (a, b, claim) = (case.client().await, case.client().await, case.claim("a"));
    a.take(&claim, "the lock is free").await;
    a.give(&claim, "it was granted").await;
    b.take(&case.claim("a"), "it was released").await;
}

async fn release_touches_only_its_owner(case: Context) {
    let (a, b, claim) = (case.client().await, case.client().await, case.claim("a"));
    a.take(&claim, "the lock is free").await;
    not_held(&b, &case.claim("a"), "this owner holds nothing").await;
    b.refused(&case.claim("a"), "another owner's release does not affect the holder").await;
    a.give(&claim, "it was held all the time").await;
}

async fn release_touches_only_its_name(case: Context) {
    let (client, first) = (case.client().await, case.claim("a"));
    let mut second = first.clone();
    second.name = case.name("b");
    client.take(&first, "the lock is free").await;
    client.take(&second, "one owner may hold two names").await;
    client.give(&first, "it was granted").await;
    client.keep(&second, "only the other name was released").await;
}

async fn a_second_release_is_not_held(case: Context) {
    let (client, claim) = (case.client().await, case.claim("a"));
    client.take(&claim, "the lock is free").await;
    client.give(&claim, "it was granted").await;
    for _ in 0..2 {
        not_held(&client, &claim, "it was released before").await;
    }
}

async fn release_of_a_free_name_is_not_held(case: Context) {
    let client = case.client().await;
    not_held(&client, &case.claim("a"), "it was never held").await;
}

async fn release_of_an_expired_lease_is_not_held(case: Context) {
    let (client, claim) = (case.client().await, case.short_claim("a"));
    let AcquireReply::Granted { ttl, .. } = client.acquire(&claim).await else {
        panic!("the lock is free, but it was not granted");
    };
    sleep(ttl + case.timing.slack()).await;
    not_held(&client, &claim, "the lease is over").await;
}

async fn release_of_an_expired_lease_leaves_its_successor(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let (first, second) = (case.short_claim("a"), case.claim("a"));
    a.take(&first, "the lock is free").await;
    let within = first.ttl * 3 + case.timing.slack() * 2;
    b.take_within(&second, within, "the lease is over").await;
    not_held(&a, &first, "another client holds it now").await;
    b.keep(&second, "the former owner's release is no business of it").await;
}

async fn release_by_a_waiter_leaves_the_holder(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let (holder, waiter) = (case.claim("a"), case.claim("a").wait(true));
    a.take(&holder, "the lock is free").await;
    b.refused(&waiter, "it is held").await;
    not_held(&b, &waiter, "a waiter holds nothing").await;
    a.keep(&holder, "a waiter that leaves is no business of it").await;
}

async fn release_works_over_any_client(case: Context) {
    let (a, b, claim) = (case.client().await, case.client().await, case.claim("a"));
    a.take(&claim, "the lock is free").await;
    b.give(&claim, "the owner id alone identifies the owner").await;
    not_held(&a, &claim, "it was released over another client").await;
}

async fn not_held(client: &Client, claim: &Claim, why: &str) {
    let answer = client.release(claim).await;
    assert_eq!(answer, ReleaseReply::NotHeld, "{why}");
}
