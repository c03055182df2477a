//! Shares: what a storage does not grant is refused, and nothing else with it.

use leasehold::ErrorKind;
use leasehold::storage::{AcquireReply, Claim, ReleaseReply, RenewReply, Share, Storage};

use super::cases;
use crate::context::Context;

cases!("shares":
    [] => [
        a_share_beyond_the_limit_is_refused_alone,
        a_share_without_permits_is_refused,
    ],
);

async fn a_share_beyond_the_limit_is_refused_alone(case: Context) {
    let Some(limit) = case.limits.share_max.checked_add(1) else { return };
    let share = Share::new(1, limit).expect("a valid share");
    refused_beside_another(&case, share, ErrorKind::Unsupported).await;
}

async fn a_share_without_permits_is_refused(case: Context) {
    let mut share = Share::EXCLUSIVE;
    share.permits = 0;
    refused_beside_another(&case, share, ErrorKind::Invalid).await;
}

/// Asks for this share in one batch with an exclusive lock, which is served.
async fn refused_beside_another(case: &Context, share: Share, kind: ErrorKind) {
    let (client, mut odd, good) = (case.client().await, case.claim("odd"), case.claim("good"));
    odd.share = share;
    let claims: [Claim; 2] = [odd.clone(), good.clone()];
    let [odd_answer, good_answer] = both(client.0.acquire(&claims).await);
    assert_eq!(odd_answer.expect_err("it must not be granted").kind(), kind, "an acquire");
    assert!(matches!(good_answer, Ok(AcquireReply::Granted { .. })), "the claim beside it: {good_answer:?}");
    let [odd_answer, good_answer] = both(client.0.renew(&claims).await);
    assert_eq!(odd_answer.expect_err("there is no such lease").kind(), kind, "a renew");
    assert!(matches!(good_answer, Ok(RenewReply::Renewed { .. })), "the claim beside it: {good_answer:?}");
    let [odd_answer, good_answer] = both(client.0.release(&claims).await);
    assert_eq!(odd_answer.expect_err("there is no such lease").kind(), kind, "a release");
    assert!(matches!(good_answer, Ok(ReleaseReply::Released)), "the claim beside it: {good_answer:?}");
    assert_eq!(client.inspect(&odd.name).await, None, "nothing was granted");
}

fn both<T>(answers: Vec<T>) -> [T; 2] {
    answers.try_into().unwrap_or_else(|answers: Vec<T>| panic!("{} answers for 2 claims", answers.len()))
}
