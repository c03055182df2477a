//! Patience: a claim that is executed too late grants nothing and leaves nothing behind.

use std::time::Duration;

use leasehold::storage::{AcquireReply, Claim};

use super::cases;
use crate::context::{Client, Context};

cases!("patience":
    [] => [
        a_claim_that_comes_too_late_is_not_granted,
        a_claim_that_comes_too_late_leaves_no_lease,
        a_claim_that_comes_too_late_leaves_no_entry,
    ],
);

async fn a_claim_that_comes_too_late_is_not_granted(case: Context) {
    let client = case.client().await;
    for _ in 0..5 {
        ask_too_late(&client, &late(&case)).await;
    }
}

async fn a_claim_that_comes_too_late_leaves_no_lease(case: Context) {
    let (a, b, late) = (case.client().await, case.client().await, late(&case));
    // Another case checks that this is not granted.
    let _ = a.try_acquire(&late).await;
    let holder = b.inspect(&late.name).await;
    assert_eq!(holder, None, "a claim that came too late holds the lock");
    b.take(&case.claim("a"), "the claim before came too late").await;
}

async fn a_claim_that_comes_too_late_leaves_no_entry(case: Context) {
    let (a, b, holder) = (case.client().await, case.client().await, case.claim("a"));
    a.take(&holder, "the lock is free").await;
    ask_too_late(&b, &late(&case).wait(true)).await;
    a.give(&holder, "it was granted").await;
    a.take(&case.claim("a"), "the only claim that waited came too late").await;
}

/// Makes a claim that is late on every storage, because its patience is zero.
fn late(case: &Context) -> Claim {
    case.claim("a").patience(Duration::ZERO)
}

/// Sends a late claim. `Held` and `Err` are both right, because both say that nothing was granted.
async fn ask_too_late(client: &Client, claim: &Claim) {
    if let Ok(AcquireReply::Granted { token, .. }) = client.try_acquire(claim).await {
        panic!("a claim that came too late was granted, with the token {token}");
    }
}
