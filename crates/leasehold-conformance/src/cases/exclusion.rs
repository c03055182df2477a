//! Exclusion: a lock is granted to one owner, and to that owner as often as it asks.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use leasehold::storage::{AcquireReply, Claim, Storage as _};
use tokio::time::{Instant, sleep, timeout};

use super::cases;
use crate::context::{Client, Context};
use crate::history::{History, Hold};

cases!("exclusion":
    [] => [
        a_free_name_is_granted,
        a_held_name_is_refused_to_others,
        a_held_answer_names_the_holder,
        a_held_answer_comes_at_once,
        the_same_client_excludes_itself,
        different_names_do_not_exclude,
        one_of_many_concurrent_claims_is_granted,
        holds_never_overlap,
        asking_again_grants_the_same_token,
        asking_again_gives_a_full_ttl,
        asking_again_never_shortens,
        asking_again_over_another_client_is_granted,
    ],
);

async fn a_free_name_is_granted(case: Context) {
    let (client, claim) = (case.client().await, case.claim("a"));
    client.take(&claim, "the lock is free").await;
    client.give(&claim, "it was granted").await;
}

async fn a_held_name_is_refused_to_others(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    a.take(&case.claim("a"), "the lock is free").await;
    for _ in 0..3 {
        b.refused(&case.claim("a"), "another client holds it").await;
    }
}

async fn a_held_answer_names_the_holder(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let claim = case.claim("a").label("the holder");
    let token = a.take(&claim, "the lock is free").await;
    // The storage may omit the holder, but must not name a wrong one.
    if let Some(holder) = b.refused(&case.claim("a"), "another client holds it").await {
        assert_eq!(
            (&holder.name, holder.owner, holder.token),
            (&claim.name, claim.owner, token),
            "a `Held` answer names a wrong holder"
        );
    }
}

/// Waiting is the engine's task; a storage answers at once.
async fn a_held_answer_comes_at_once(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    a.take(&case.claim("a"), "the lock is free").await;
    for wait in [false, true] {
        let claim = case.claim("a").wait(wait);
        let asked = timeout(case.timing.slack(), b.acquire(&claim)).await;
        assert!(asked.is_ok(), "no answer while another client holds it, to a claim with wait: {wait}");
    }
}

async fn the_same_client_excludes_itself(case: Context) {
    let client = case.client().await;
    client.take(&case.claim("a"), "the lock is free").await;
    client.refused(&case.claim("a"), "another acquisition of the same client holds it").await;
}

async fn different_names_do_not_exclude(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    a.take(&case.claim("a"), "the lock is free").await;
    for rest in ["b", "a/", "A", "a/b", "aa"] {
        b.take(&case.claim(rest), "only another name is held").await;
    }
}

async fn one_of_many_concurrent_claims_is_granted(case: Context) {
    let clients = case.clients(6).await;
    for round in 0..15 {
        let claims: Vec<_> = clients.iter().map(|_| case.claim(&format!("round {round}"))).collect();
        let is_decided = AtomicBool::new(false);
        let asked = clients.iter().zip(&claims);
        let answers = join_all(asked.map(|(client, claim)| ask_to_the_end(client, claim, &is_decided))).await;
        let granted = answers.iter().filter(|answer| matches!(answer, AcquireReply::Granted { .. })).count();
        assert_eq!(granted, 1, "of {} concurrent claims: {answers:?}", clients.len());
    }
}

/// Sends the claim, and sends it again while the vote is split. In a split vote no client is granted the
/// lock, and each is told when to retry.
async fn ask_to_the_end(client: &Client, claim: &Claim, is_decided: &AtomicBool) -> AcquireReply {
    let may_be_split = !client.0.guarantees().fair;
    let mut tries = 1;
    loop {
        match client.acquire(claim).await {
            AcquireReply::Held { holder: None, retry_after: Some(after) }
                if may_be_split && tries < 50 && !is_decided.load(Ordering::Relaxed) =>
            {
                sleep(after).await;
                tries += 1;
            }
            answer => {
                is_decided.fetch_or(matches!(answer, AcquireReply::Granted { .. }), Ordering::Relaxed);
                return answer;
            }
        }
    }
}

async fn holds_never_overlap(case: Context) {
    if let Some((a, b)) = fights(&case).await.overlap() {
        panic!("two holders at a time: {a} and {b}");
    }
}

/// Lets clients compete for two locks; some holders release, some let their leases expire. Returns the
/// holds.
pub(super) async fn fights(case: &Context) -> History {
    let (history, end) = (History::new(), Instant::now() + case.timing.fight());
    let mut fighters = Vec::new();
    for i in 0..4 {
        fighters.push(tokio::spawn(fight(case.clone(), i, history.clone(), end)));
    }
    for fighter in join_all(fighters).await {
        fighter.expect("a fighter was refused nothing but the lock");
    }
    assert!(!history.is_empty(), "no client was granted a lock");
    history
}

async fn fight(case: Context, i: usize, history: History, end: Instant) {
    let client = case.client().await;
    let mut turn = i;
    while Instant::now() < end {
        turn += 1;
        let claim = case.short_claim(if turn.is_multiple_of(2) { "even" } else { "odd" });
        let sent = Instant::now();
        if let AcquireReply::Granted { token, .. } = client.acquire(&claim).await {
            let (from, deadline) = (Instant::now(), sent + claim.ttl - case.timing.drift(claim.ttl));
            sleep(case.timing.pause() / 3).await;
            let until = std::cmp::min(Instant::now(), deadline);
            let until = if turn.is_multiple_of(5) { deadline } else { until };
            history.add(Hold::new(claim.name.clone(), token, from, until));
            if !turn.is_multiple_of(5) {
                client.release(&claim).await;
            }
        }
        sleep(case.timing.pause() / 5).await;
    }
}

async fn asking_again_grants_the_same_token(case: Context) {
    let (client, claim) = (case.client().await, case.claim("a"));
    let first = client.take(&claim, "the lock is free").await;
    for _ in 0..3 {
        let again = client.take(&claim, "this owner holds it already").await;
        assert_eq!(again, first, "the same owner was given another token");
    }
    client.give(&claim, "it was granted").await;
    let others = case.claim("a");
    client.take(&others, "granted four times, it was still one lease").await;
}

async fn asking_again_gives_a_full_ttl(case: Context) {
    let quick = case.timing.short(&case.limits) * 4 + case.timing.slack();
    case.undisturbed(quick, |case| async move {
        let (client, short) = (case.client().await, case.short_claim("a"));
        let mut long = short.clone();
        long.ttl = case.timing.long();
        client.take(&short, "the lock is free").await;
        let AcquireReply::Granted { ttl, .. } = client.acquire(&short).await else {
            panic!("the owner that holds was refused");
        };
        client.take(&long, "this owner holds it").await;
        sleep(ttl + case.timing.short(&case.limits)).await;
        client.refused(&case.claim("a"), "the lease was stretched by asking again").await;
    })
    .await;
}

async fn asking_again_never_shortens(case: Context) {
    let (client, long) = (case.client().await, case.claim("a"));
    client.take(&long, "the lock is free").await;
    let mut short = long.clone().patience(case.timing.slack());
    short.ttl = case.timing.short(&case.limits);
    client.take(&short, "this owner holds it").await;
    sleep(short.ttl * 2).await;
    client.refused(&case.claim("a"), "a claim that came late ended the lease early").await;
    client.keep(&long, "it is still held").await;
}

async fn asking_again_over_another_client_is_granted(case: Context) {
    let (a, b, claim) = (case.client().await, case.client().await, case.claim("a"));
    let first = a.take(&claim, "the lock is free").await;
    let again = b.take(&claim, "the owner id alone identifies the owner").await;
    assert_eq!(again, first, "the same owner was given another token");
}
