//! Fencing: the tokens of one name always grow.

use leasehold::storage::{Claim, Storage, Token};

use super::cases;
use super::exclusion::fights;
use crate::case::Need;
use crate::context::Context;

cases!("fencing":
    [Need::Fencing] => [
        tokens_grow_over_releases,
        tokens_grow_over_expiry,
        tokens_grow_when_a_holder_is_put_out,
        tokens_grow_over_clients,
        tokens_grow_over_a_reconnect,
        tokens_grow_while_clients_fight,
        tokens_grow_while_other_names_come_and_go,
        tokens_stay_below_2_to_the_63,
    ],
);

async fn tokens_grow_over_releases(case: Context) {
    let (client, mut last) = (case.client().await, None);
    for _ in 0..30 {
        let claim = case.claim("a");
        let token = client.take(&claim, "the lock is free").await;
        grows(&mut last, token);
        client.give(&claim, "it was granted").await;
    }
}

async fn tokens_grow_over_expiry(case: Context) {
    let (client, mut last) = (case.client().await, None);
    for _ in 0..2 {
        let claim = case.short_claim("a");
        let within = claim.ttl * 3 + case.timing.slack() * 2;
        let token = client.take_within(&claim, within, "the lease is over").await;
        grows(&mut last, token);
    }
}

/// Breaks a lock as an operator does: by a release with the holder's owner id.
async fn tokens_grow_when_a_holder_is_put_out(case: Context) {
    let (holder, operator, claim) = (case.client().await, case.client().await, case.claim("a"));
    let mut last = None;
    grows(&mut last, holder.take(&claim, "the lock is free").await);
    operator.give(&claim, "it is held").await;
    let next = operator.take(&case.claim("a"), "its holder was put out").await;
    grows(&mut last, next);
}

async fn tokens_grow_over_clients(case: Context) {
    let (clients, mut last) = (case.clients(3).await, None);
    for client in clients.iter().cycle().take(12) {
        let claim = case.claim("a");
        let token = client.take(&claim, "the lock is free").await;
        grows(&mut last, token);
        client.give(&claim, "it was granted").await;
    }
}

async fn tokens_grow_over_a_reconnect(case: Context) {
    let mut last = None;
    for _ in 0..3 {
        let (client, claim) = (case.client().await, case.claim("a"));
        let token = client.take(&claim, "the lock is free").await;
        grows(&mut last, token);
        client.give(&claim, "it was granted").await;
        drop(client);
    }
}

async fn tokens_grow_while_clients_fight(case: Context) {
    if let Some((a, b)) = fights(&case).await.stale_token() {
        panic!("a later holder has no larger token: {a} and then {b}");
    }
}

/// A storage that deletes the records of idle names must still keep their last tokens.
async fn tokens_grow_while_other_names_come_and_go(case: Context) {
    let (client, mut last) = (case.client().await, None);
    for round in 0..3 {
        let claim = case.claim("a");
        let token = client.take(&claim, "the lock is free").await;
        grows(&mut last, token);
        client.give(&claim, "it was granted").await;
        let others: Vec<_> = (0..600).map(|i| case.claim(&format!("{round} {i}"))).collect();
        for batch in others.chunks(case.limits.batch_max) {
            come_and_go(&client.0, batch).await;
        }
    }
}

async fn tokens_stay_below_2_to_the_63(case: Context) {
    let token = case.client().await.take(&case.claim("a"), "the lock is free").await;
    assert!(token.get() < 1 << 63, "the token {token} is too large");
    assert!(token.get() > 0, "a token of zero is no token");
}

async fn come_and_go(storage: &impl Storage, claims: &[Claim]) {
    for answer in storage.acquire(claims).await {
        answer.unwrap_or_else(|error| panic!("acquire failed: {error}"));
    }
    for answer in storage.release(claims).await {
        answer.unwrap_or_else(|error| panic!("release failed: {error}"));
    }
}

fn grows(last: &mut Option<Token>, token: Token) {
    assert!(last.is_none_or(|last| token > last), "after the token {last:?} came {token:?}");
    *last = Some(token);
}
