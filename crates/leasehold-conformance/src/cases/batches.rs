//! Batches: each claim is answered in its place and independently of the others.

use std::time::Duration;

use futures_util::future::join;
use leasehold::Result;
use leasehold::storage::{AcquireReply, Claim, ReleaseReply, RenewReply, Storage};

use super::cases;
use crate::context::{Client, Context};

cases!("batches":
    [] => [
        acquire_answers_each_claim_in_its_place,
        renew_answers_each_claim_in_its_place,
        release_answers_each_claim_in_its_place,
        a_refused_claim_does_not_spoil_its_batch,
        each_claim_of_a_batch_has_its_own_ttl,
        the_largest_batch_is_answered,
        batches_that_cross_do_not_block_each_other,
        an_empty_batch_has_no_answers,
    ],
);

async fn acquire_answers_each_claim_in_its_place(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let mine = case.claim("mine");
    a.take(&case.claim("held"), "the lock is free").await;
    let token = b.take(&mine, "the lock is free").await;
    let batch = [case.claim("free 1"), case.claim("held"), mine, case.claim("free 2")];
    let answers = acquire(&case, &b, &batch).await;
    let granted = |i: usize| matches!(answers[i], AcquireReply::Granted { .. });
    assert!(granted(0) && granted(3), "free names are granted: {answers:?}");
    assert!(matches!(answers[1], AcquireReply::Held { .. }), "a held name is refused: {answers:?}");
    assert!(
        matches!(answers[2], AcquireReply::Granted { token: again, .. } if again == token),
        "what this owner holds is granted again with the token {token}: {answers:?}"
    );
}

async fn renew_answers_each_claim_in_its_place(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let batch = [case.claim("free"), case.claim("mine 1"), case.claim("others"), case.claim("mine 2")];
    a.take(&case.claim("others"), "the lock is free").await;
    b.take(&batch[1], "the lock is free").await;
    b.take(&batch[3], "the lock is free").await;
    let mut renewed = Vec::new();
    for claims in batch.chunks(case.limits.batch_max) {
        let answers = b.0.renew(claims).await;
        renewed.extend(all(answers, claims.len()).iter().map(|answer| *answer != RenewReply::NotHeld));
    }
    assert_eq!(renewed, [false, true, false, true], "renewed, of free, mine, others, mine");
}

async fn release_answers_each_claim_in_its_place(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let (others, batch) = (
        case.claim("others"),
        [case.claim("mine 1"), case.claim("mine 2"), case.claim("free"), case.claim("others")],
    );
    a.take(&others, "the lock is free").await;
    b.take(&batch[0], "the lock is free").await;
    b.take(&batch[1], "the lock is free").await;
    let mut released = Vec::new();
    for claims in batch.chunks(case.limits.batch_max) {
        let answers = b.0.release(claims).await;
        released.extend(all(answers, claims.len()).iter().map(|answer| *answer == ReleaseReply::Released));
    }
    assert_eq!(released, [true, true, false, false], "released, of mine, mine, free, others");
    a.keep(&others, "another client's batch does not affect this lease").await;
}

async fn a_refused_claim_does_not_spoil_its_batch(case: Context) {
    let client = case.client().await;
    let late = case.claim("late").patience(Duration::ZERO);
    let batch = [case.claim("1"), late, case.claim("2")];
    let mut answers = Vec::new();
    for claims in batch.chunks(case.limits.batch_max) {
        answers.extend(client.0.acquire(claims).await);
    }
    assert_eq!(answers.len(), 3, "one answer for each claim: {answers:?}");
    for i in [0, 2] {
        let granted = matches!(answers[i], Ok(AcquireReply::Granted { .. }));
        assert!(granted, "a claim beside one that came too late: {:?}", answers[i]);
        client.keep(&batch[i], "it was granted").await;
    }
}

async fn each_claim_of_a_batch_has_its_own_ttl(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let batch = [case.claim("long 1"), case.short_claim("short"), case.claim("long 2")];
    for answer in acquire(&case, &a, &batch).await {
        assert!(matches!(answer, AcquireReply::Granted { .. }), "the lock is free: {answer:?}");
    }
    let within = batch[1].ttl * 3 + case.timing.slack() * 2;
    b.take_within(&case.claim("short"), within, "its lease is over").await;
    b.refused(&case.claim("long 1"), "it has a TTL of its own").await;
    b.refused(&case.claim("long 2"), "it has a TTL of its own").await;
}

async fn the_largest_batch_is_answered(case: Context) {
    let (client, n) = (case.client().await, case.limits.batch_max);
    let batch: Vec<_> = (0..n).map(|i| case.claim(&format!("{i}")).label("x".repeat(100))).collect();
    let granted = all(client.0.acquire(&batch).await, n);
    let granted = granted.iter().filter(|answer| matches!(answer, AcquireReply::Granted { .. }));
    assert_eq!(granted.count(), n, "granted, of {n} free names");
    let renewed = all(client.0.renew(&batch).await, n);
    let renewed = renewed.iter().filter(|answer| **answer != RenewReply::NotHeld);
    assert_eq!(renewed.count(), n, "renewed, of {n} held names");
    let released = all(client.0.release(&batch).await, n);
    let released = released.iter().filter(|answer| **answer == ReleaseReply::Released);
    assert_eq!(released.count(), n, "released, of {n} held names");
}

/// Sends two batches with the same names in opposite orders, which would deadlock row locks taken in that
/// order.
async fn batches_that_cross_do_not_block_each_other(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let n = std::cmp::min(case.limits.batch_max, 40);
    for round in 0..10 {
        let names: Vec<_> = (0..n).map(|i| format!("{round} {i}")).collect();
        let forth: Vec<_> = names.iter().map(|name| case.claim(name)).collect();
        let back: Vec<_> = names.iter().rev().map(|name| case.claim(name)).collect();
        let (forth_answers, mut back_answers) =
            join(acquire(&case, &a, &forth), acquire(&case, &b, &back)).await;
        back_answers.reverse();
        for (one, other) in forth_answers.iter().zip(&back_answers) {
            let granted = [one, other].map(|answer| matches!(answer, AcquireReply::Granted { .. }));
            assert!(granted[0] != granted[1], "of two claims, one is granted: {one:?}, {other:?}");
        }
        let (forth_ended, back_ended) = join(a.0.release(&forth), b.0.release(&back)).await;
        all(forth_ended, n);
        all(back_ended, n);
    }
}

async fn an_empty_batch_has_no_answers(case: Context) {
    let client = case.client().await;
    assert!(client.0.acquire(&[]).await.is_empty(), "acquire of nothing");
    assert!(client.0.renew(&[]).await.is_empty(), "renew of nothing");
    assert!(client.0.release(&[]).await.is_empty(), "release of nothing");
}

async fn acquire(case: &Context, client: &Client, claims: &[Claim]) -> Vec<AcquireReply> {
    let mut answers = Vec::new();
    for batch in claims.chunks(case.limits.batch_max) {
        answers.extend(all(client.0.acquire(batch).await, batch.len()));
    }
    answers
}

fn all<T>(answers: Vec<Result<T>>, n: usize) -> Vec<T> {
    assert_eq!(answers.len(), n, "one answer for each claim");
    let known = answers
        .into_iter()
        .enumerate()
        .map(|(i, answer)| answer.unwrap_or_else(|error| panic!("claim {i} of {n} failed: {error}")));
    known.collect()
}
