//! Hints: a storage that promises push notifies clients when they should ask again.

use leasehold::storage::{Claim, Hint, Storage};

use super::cases;
use crate::case::Need;
use crate::context::{Client, Context, Ears};

cases!("hints":
    [Need::Push] => [
        a_release_hints_the_next_waiter,
        each_client_hears_of_its_own_waiter,
        a_watched_name_is_hinted_when_it_is_locked,
        a_watched_name_is_hinted_when_it_is_unlocked,
        a_renewal_that_shortens_hints_the_owner,
    ],
    [Need::Push, Need::Fair] => [
        a_first_waiter_that_leaves_passes_the_turn_on,
    ],
    [] => [
        a_listener_that_leaves_does_no_harm,
    ],
);

/// A single hint may get lost. A storage that never sends hints does not keep its promise.
const TRIES: usize = 3;

async fn a_release_hints_the_next_waiter(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let mut ears = b.ears();
    for _ in 0..TRIES {
        let case = case.fresh();
        let (holder, waiter) = (case.claim("a"), case.claim("a").wait(true));
        a.take(&holder, "the lock is free").await;
        b.refused(&waiter, "it is held").await;
        a.give(&holder, "it was granted").await;
        if hears(&case, &mut ears, &waiter).await {
            b.take(&waiter, "the hint said that it is its turn").await;
            return;
        }
    }
    panic!("no release hinted the next waiter");
}

async fn each_client_hears_of_its_own_waiter(case: Context) {
    let (a, b, c) = (case.client().await, case.client().await, case.client().await);
    let (mut b_ears, mut c_ears) = (b.ears(), c.ears());
    let (mut b_heard, mut c_heard) = (false, false);
    for _ in 0..TRIES {
        let case = case.fresh();
        let (one, two) = (case.claim("1"), case.claim("2"));
        let (b_waits, c_waits) = (case.claim("1").wait(true), case.claim("2").wait(true));
        a.take(&one, "the lock is free").await;
        a.take(&two, "the lock is free").await;
        b.refused(&b_waits, "it is held").await;
        c.refused(&c_waits, "it is held").await;
        a.give(&one, "it was granted").await;
        a.give(&two, "it was granted").await;
        b_heard |= hears(&case, &mut b_ears, &b_waits).await;
        c_heard |= hears(&case, &mut c_ears, &c_waits).await;
        if b_heard && c_heard {
            return;
        }
    }
    panic!("of two clients with a waiter each, one heard: {b_heard}, the other: {c_heard}");
}

async fn a_first_waiter_that_leaves_passes_the_turn_on(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let mut ears = b.ears();
    for _ in 0..TRIES {
        let case = case.fresh();
        let (holder, first) = (case.claim("a"), case.claim("a").wait(true));
        let second = case.claim("a").wait(true);
        a.take(&holder, "the lock is free").await;
        b.refused(&first, "it is held").await;
        b.refused(&second, "it is held").await;
        a.give(&holder, "it was granted").await;
        // The first waiter leaves although it is its turn.
        b.release(&first).await;
        if hears(&case, &mut ears, &second).await {
            return;
        }
    }
    panic!("no first waiter that left passed the turn on");
}

async fn a_watched_name_is_hinted_when_it_is_locked(case: Context) {
    let (a, b, ears) = watching(&case).await;
    let mut ears = ears;
    for i in 0..TRIES {
        let claim = case.claim(&format!("watched {i}"));
        b.0.watch(std::slice::from_ref(&claim.name), &[]);
        ears.forget();
        a.take(&claim, "the lock is free").await;
        if ears.hear(&Hint::Name(claim.name), case.timing.slack()).await {
            return;
        }
    }
    panic!("no watched name was hinted when it was locked");
}

async fn a_watched_name_is_hinted_when_it_is_unlocked(case: Context) {
    let (a, b, ears) = watching(&case).await;
    let mut ears = ears;
    for i in 0..TRIES {
        let claim = case.claim(&format!("watched {i}"));
        a.take(&claim, "the lock is free").await;
        b.0.watch(std::slice::from_ref(&claim.name), &[]);
        ears.forget();
        a.give(&claim, "it was granted").await;
        if ears.hear(&Hint::Name(claim.name), case.timing.slack()).await {
            return;
        }
    }
    panic!("no watched name was hinted when it was unlocked");
}

async fn a_renewal_that_shortens_hints_the_owner(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let mut ears = a.ears();
    for _ in 0..TRIES {
        let case = case.fresh();
        let long = case.claim("a");
        a.take(&long, "the lock is free").await;
        a.keep(&long, "it is held").await;
        ears.forget();
        // As by a ticket, in another process.
        let mut short = long.clone().shorten(true);
        short.ttl = long.ttl / 2;
        b.keep(&short, "an owner is known by its id").await;
        if hears(&case, &mut ears, &long).await {
            return;
        }
    }
    panic!("no renewal that brought the end of a lease forward hinted its owner");
}

async fn a_listener_that_leaves_does_no_harm(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    drop(b.0.hints());
    let (holder, waiter) = (case.claim("a"), case.claim("a").wait(true));
    b.0.watch(std::slice::from_ref(&holder.name), &[]);
    a.take(&holder, "the lock is free").await;
    b.refused(&waiter, "it is held").await;
    a.give(&holder, "it was granted").await;
    b.take(&waiter, "it is the first waiter's turn").await;
    b.0.watch(&[], std::slice::from_ref(&holder.name));
    b.give(&waiter, "it was granted").await;
}

async fn watching(case: &Context) -> (Client, Client, Ears) {
    let (a, b) = (case.client().await, case.client().await);
    let ears = b.ears();
    (a, b, ears)
}

async fn hears(case: &Context, ears: &mut Ears, waiter: &Claim) -> bool {
    ears.hear(&Hint::Owner(waiter.owner), case.timing.slack()).await
}
