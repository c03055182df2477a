//! Renewal: gives the holder a full TTL, and affects no other owner.

use std::time::Duration;

use leasehold::storage::{AcquireReply, Claim, RenewReply};
use tokio::time::sleep;

use super::cases;
use crate::context::{Client, Context};

cases!("renewal":
    [] => [
        renew_gives_a_full_ttl,
        renew_never_shortens,
        renew_shortens_when_the_claim_says_so,
        a_shortening_renew_that_comes_too_late_changes_nothing,
        renew_works_over_any_client,
        renew_keeps_others_out,
        renew_by_another_owner_is_not_held,
        renew_of_a_free_name_is_not_held,
        renew_never_resurrects_what_expired,
        renew_never_resurrects_what_was_released,
        renew_never_takes_from_a_successor,
        renew_by_a_waiter_is_not_held,
    ],
);

async fn renew_gives_a_full_ttl(case: Context) {
    let quick = case.timing.short(&case.limits) * 4 + case.timing.slack();
    case.undisturbed(quick, |case| async move {
        let (client, short) = (case.client().await, case.short_claim("a"));
        let AcquireReply::Granted { ttl, .. } = client.acquire(&short).await else {
            panic!("the lock is free, but it was not granted");
        };
        let long = with_ttl(&short, case.timing.long());
        client.keep(&long, "it is held").await;
        sleep(ttl + case.timing.short(&case.limits)).await;
        client.refused(&case.claim("a"), "the lease was renewed").await;
    })
    .await;
}

async fn renew_never_shortens(case: Context) {
    let (client, long) = (case.client().await, case.claim("a"));
    client.take(&long, "the lock is free").await;
    let short = with_ttl(&long, case.timing.short(&case.limits));
    client.keep(&short, "it is held").await;
    sleep(short.ttl * 2).await;
    client
        .refused(&case.claim("a"), "a renewal that came late and did not say so ended the lease early")
        .await;
    client.keep(&short, "it is still held").await;
}

async fn renew_shortens_when_the_claim_says_so(case: Context) {
    let (client, long) = (case.client().await, case.claim("a"));
    client.take(&long, "the lock is free").await;
    let patience = case.timing.slack();
    let short = with_ttl(&long, case.timing.short(&case.limits)).shorten(true).patience(patience);
    client.keep(&short, "it is held").await;
    let within = short.ttl * 3 + case.timing.slack() * 2;
    client.take_within(&case.claim("a"), within, "the last renewal was for a short TTL and said so").await;
}

async fn a_shortening_renew_that_comes_too_late_changes_nothing(case: Context) {
    let (client, long) = (case.client().await, case.claim("a"));
    client.take(&long, "the lock is free").await;
    let short = with_ttl(&long, case.timing.short(&case.limits)).shorten(true);
    // This renewal is late on every storage, because its patience is zero.
    let late = short.clone().patience(Duration::ZERO);
    let answer = client.try_renew(&late).await;
    assert!(!matches!(answer, Ok(RenewReply::NotHeld)), "it is held, however late the renewal is");
    sleep(short.ttl * 2).await;
    client.refused(&case.claim("a"), "a renewal that came too late ended the lease early").await;
    client.keep(&long, "it is still held").await;
}

async fn renew_works_over_any_client(case: Context) {
    let (a, b, claim) = (case.client().await, case.client().await, case.claim("a"));
    a.take(&claim, "the lock is free").await;
    b.keep(&claim, "the owner id alone identifies the owner").await;
}

async fn renew_keeps_others_out(case: Context) {
    let (a, b, claim) = (case.client().await, case.client().await, case.claim("a"));
    a.take(&claim, "the lock is free").await;
    for _ in 0..3 {
        a.keep(&claim, "it is held").await;
        b.refused(&case.claim("a"), "it is held and renewed").await;
    }
    a.give(&claim, "it was renewed").await;
}

async fn renew_by_another_owner_is_not_held(case: Context) {
    let (a, b, claim) = (case.client().await, case.client().await, case.claim("a"));
    a.take(&claim, "the lock is free").await;
    not_held(&b, &case.claim("a"), "another owner holds it").await;
    a.keep(&claim, "another owner's renewal is no business of it").await;
}

async fn renew_of_a_free_name_is_not_held(case: Context) {
    let client = case.client().await;
    not_held(&client, &case.claim("a"), "it was never held").await;
    client.take(&case.claim("a"), "a renewal of nothing leaves nothing").await;
}

async fn renew_never_resurrects_what_expired(case: Context) {
    let (client, claim) = (case.client().await, case.short_claim("a"));
    client.take(&claim, "the lock is free").await;
    // Inspecting does not change the record, so a faulty renewal could still revive what is left of the
    // lease.
    let (mut looks, pause) = (0, Duration::from_millis(20));
    while client.inspect(&claim.name).await.is_some() && looks < 1_000 {
        looks += 1;
        sleep(pause).await;
    }
    sleep(case.timing.short(&case.limits)).await;
    let again = with_ttl(&claim, case.timing.long());
    not_held(&client, &again, "the lease is over").await;
    let others = case.claim("a");
    client.take(&others, "a renewal of what is over leaves nothing").await;
}

async fn renew_never_resurrects_what_was_released(case: Context) {
    let (client, claim) = (case.client().await, case.claim("a"));
    client.take(&claim, "the lock is free").await;
    client.give(&claim, "it was granted").await;
    not_held(&client, &claim, "it was released").await;
    client.take(&case.claim("a"), "a renewal of what was released leaves nothing").await;
}

async fn renew_never_takes_from_a_successor(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let (first, second) = (case.claim("a"), case.claim("a"));
    a.take(&first, "the lock is free").await;
    a.give(&first, "it was granted").await;
    b.take(&second, "it was released").await;
    not_held(&a, &first, "another client holds it now").await;
    b.keep(&second, "the former owner's renewal is no business of it").await;
}

async fn renew_by_a_waiter_is_not_held(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let (holder, waiter) = (case.claim("a"), case.claim("a").wait(true));
    a.take(&holder, "the lock is free").await;
    b.refused(&waiter, "it is held").await;
    not_held(&b, &waiter, "a waiter holds nothing").await;
    a.keep(&holder, "a waiter's renewal is no business of it").await;
}

async fn not_held(client: &Client, claim: &Claim, why: &str) {
    let answer = client.renew(claim).await;
    assert_eq!(answer, RenewReply::NotHeld, "{why}");
}

fn with_ttl(claim: &Claim, ttl: Duration) -> Claim {
    let mut claim = claim.clone();
    claim.ttl = ttl;
    claim
}
