//! The queue: waiters are served in the order of their arrival, and leave nothing behind.

use std::time::Duration;

use leasehold::storage::{Claim, WAITER_TTL};
use tokio::time::{Instant, sleep};

use super::cases;
use crate::case::Need;
use crate::context::{Client, Context};

cases!("queue":
    [Need::Fair] => [
        a_first_waiter_is_not_overtaken,
        waiters_of_several_clients_are_served_in_order,
        asking_again_keeps_the_place,
        a_waiter_that_left_stands_last_when_it_comes_back,
        a_waiter_that_leaves_lets_the_others_pass,
        expiry_keeps_the_order,
        a_granted_waiter_leaves_no_entry,
        an_entry_expires_by_itself,
        an_entry_that_is_refreshed_lives_on,
    ],
    [] => [
        a_claim_that_does_not_wait_leaves_no_entry,
        release_removes_a_waiters_entry,
        a_waiter_that_hears_nothing_is_granted_when_it_asks,
    ],
);

async fn a_first_waiter_is_not_overtaken(case: Context) {
    case.undisturbed(WAITER_TTL / 3, |case| async move {
        let (a, b) = (case.client().await, case.client().await);
        let (holder, waiter) = (case.claim("a"), waiter(&case));
        a.take(&holder, "the lock is free").await;
        b.refused(&waiter, "it is held").await;
        a.give(&holder, "it was granted").await;
        for newcomer in [&a, &b] {
            newcomer.refused(&case.claim("a"), "a waiter stands before this claim").await;
        }
        b.take(&waiter, "it is the first waiter's turn").await;
    })
    .await;
}

async fn waiters_of_several_clients_are_served_in_order(case: Context) {
    case.undisturbed(WAITER_TTL / 3, |case| async move {
        let clients = case.clients(3).await;
        let queue: Vec<_> = (0..5).map(|_| waiter(&case)).collect();
        let mut holder = case.claim("a");
        clients[0].take(&holder, "the lock is free").await;
        for (claim, client) in queue.iter().zip(clients.iter().cycle()) {
            client.refused(claim, "it is held").await;
        }
        for (i, (claim, client)) in queue.iter().zip(clients.iter().cycle()).enumerate() {
            client.give(&holder, "it was granted").await;
            for later in queue.iter().skip(i + 1).rev() {
                client.refused(later, "another waiter stands before it").await;
            }
            client.take(claim, "it is the first waiter's turn").await;
            holder = claim.clone();
        }
    })
    .await;
}

async fn asking_again_keeps_the_place(case: Context) {
    case.undisturbed(WAITER_TTL / 3, |case| async move {
        let (client, holder) = (case.client().await, case.claim("a"));
        let (first, second) = (waiter(&case), waiter(&case));
        client.take(&holder, "the lock is free").await;
        for claim in [&first, &second, &first, &second, &first] {
            client.refused(claim, "it is held").await;
        }
        client.give(&holder, "it was granted").await;
        client.refused(&second, "asking again does not put the first waiter last").await;
        client.take(&first, "it came first").await;
    })
    .await;
}

async fn a_waiter_that_left_stands_last_when_it_comes_back(case: Context) {
    case.undisturbed(WAITER_TTL / 3, |case| async move {
        let (client, holder) = (case.client().await, case.claim("a"));
        let (first, second) = (waiter(&case), waiter(&case));
        client.take(&holder, "the lock is free").await;
        client.refused(&first, "it is held").await;
        client.refused(&second, "it is held").await;
        client.release(&first).await;
        client.refused(&first, "it is held").await;
        client.give(&holder, "it was granted").await;
        client.refused(&first, "it left, so it has lost its place").await;
        client.take(&second, "it stands first now").await;
    })
    .await;
}

async fn a_waiter_that_leaves_lets_the_others_pass(case: Context) {
    case.undisturbed(WAITER_TTL / 3, |case| async move {
        let (a, b, holder) = (case.client().await, case.client().await, case.claim("a"));
        let queue: Vec<_> = (0..3).map(|_| waiter(&case)).collect();
        a.take(&holder, "the lock is free").await;
        for claim in &queue {
            b.refused(claim, "it is held").await;
        }
        b.release(&queue[0]).await;
        b.release(&queue[1]).await;
        a.give(&holder, "it was granted").await;
        b.take(&queue[2], "those before it have left").await;
    })
    .await;
}

async fn expiry_keeps_the_order(case: Context) {
    let quick = WAITER_TTL / 2 + case.timing.short(&case.limits);
    case.undisturbed(quick, |case| async move {
        let (a, b) = (case.client().await, case.client().await);
        let (first, second) = (waiter(&case), waiter(&case));
        a.take(&case.short_claim("a"), "the lock is free").await;
        b.refused(&first, "it is held").await;
        a.refused(&second, "it is held").await;
        let end = Instant::now() + case.timing.short(&case.limits) * 3 + case.timing.slack();
        loop {
            a.refused(&second, "another waiter stands before it").await;
            if granted(&b, &first).await {
                return;
            }
            assert!(Instant::now() < end, "the first waiter is not granted what expired");
            sleep(case.timing.pause()).await;
        }
    })
    .await;
}

async fn a_granted_waiter_leaves_no_entry(case: Context) {
    case.undisturbed(WAITER_TTL / 3, |case| async move {
        let (client, holder, waiter) = (case.client().await, case.claim("a"), waiter(&case));
        client.take(&holder, "the lock is free").await;
        client.refused(&waiter, "it is held").await;
        client.give(&holder, "it was granted").await;
        client.take(&waiter, "it is the first waiter's turn").await;
        client.give(&waiter, "it was granted").await;
        client.take(&case.claim("a"), "no waiter is left").await;
    })
    .await;
}

async fn an_entry_expires_by_itself(case: Context) {
    let (client, holder, waiter) = (case.client().await, case.claim("a"), waiter(&case));
    client.take(&holder, "the lock is free").await;
    client.refused(&waiter, "it is held").await;
    client.give(&holder, "it was granted").await;
    let within = WAITER_TTL + case.timing.slack();
    let why = "the only waiter has not asked again";
    client.take_within(&case.claim("a"), within, why).await;
}

async fn an_entry_that_is_refreshed_lives_on(case: Context) {
    case.undisturbed(WAITER_TTL + WAITER_TTL / 2, |case| async move {
        let (client, holder, waiter) = (case.client().await, case.claim("a"), waiter(&case));
        client.take(&holder, "the lock is free").await;
        client.refused(&waiter, "it is held").await;
        sleep(WAITER_TTL / 3 * 2).await;
        client.refused(&waiter, "it is held").await;
        client.give(&holder, "it was granted").await;
        sleep(WAITER_TTL / 2).await;
        client.refused(&case.claim("a"), "the first waiter has asked again in time").await;
        client.take(&waiter, "it is the first waiter's turn").await;
    })
    .await;
}

async fn a_claim_that_does_not_wait_leaves_no_entry(case: Context) {
    let (a, b, holder) = (case.client().await, case.client().await, case.claim("a"));
    a.take(&holder, "the lock is free").await;
    for _ in 0..3 {
        b.refused(&case.claim("a"), "it is held").await;
    }
    a.give(&holder, "it was granted").await;
    a.take(&case.claim("a"), "those that asked did not wait").await;
}

async fn release_removes_a_waiters_entry(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let (holder, waiter) = (case.claim("a"), waiter(&case));
    a.take(&holder, "the lock is free").await;
    b.refused(&waiter, "it is held").await;
    b.release(&waiter).await;
    a.give(&holder, "it was granted").await;
    a.take(&case.claim("a"), "the only waiter has left").await;
}

/// A hint may get lost. A waiter without hints is only slower.
async fn a_waiter_that_hears_nothing_is_granted_when_it_asks(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let (holder, waiter) = (case.claim("a"), waiter(&case));
    a.take(&holder, "the lock is free").await;
    b.refused(&waiter, "it is held").await;
    a.give(&holder, "it was granted").await;
    let within = case.timing.slack();
    b.take_within(&waiter, within, "it is the first waiter's turn").await;
}

fn waiter(case: &Context) -> Claim {
    case.claim("a").wait(true).patience(Duration::from_secs(60))
}

async fn granted(client: &Client, claim: &Claim) -> bool {
    matches!(client.acquire(claim).await, leasehold::storage::AcquireReply::Granted { .. })
}
