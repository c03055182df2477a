//! Inspect: shows the holder of a lock, and changes nothing.

use std::time::Duration;

use leasehold::storage::{AcquireReply, Share};
use tokio::time::{Instant, sleep};

use super::cases;
use crate::case::Need;
use crate::context::Context;

cases!("inspect":
    [] => [
        a_free_name_has_no_holder,
        a_holder_is_shown_to_everybody,
        a_released_lock_has_no_holder,
        an_expired_lease_has_no_holder,
        what_remains_is_shown,
        a_renewal_shows_in_what_remains,
        how_long_it_was_held_is_shown_if_known,
        inspecting_changes_nothing,
    ],
    [Need::Fair] => [
        waiters_are_counted_if_known,
    ],
);

async fn a_free_name_has_no_holder(case: Context) {
    let holder = case.client().await.inspect(&case.name("a")).await;
    assert_eq!(holder, None, "it was never held");
}

async fn a_holder_is_shown_to_everybody(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let claim = case.claim("a").label("invoice run");
    let token = a.take(&claim, "the lock is free").await;
    for client in [&a, &b] {
        let holder = client.inspect(&claim.name).await.expect("the lock is held but inspect shows no holder");
        assert_eq!(
            (&holder.name, holder.share, holder.owner, holder.token),
            (&claim.name, Share::EXCLUSIVE, claim.owner, token),
            "name, share, owner, token"
        );
        assert_eq!(holder.label.as_deref(), Some("invoice run"), "the label");
    }
}

async fn a_released_lock_has_no_holder(case: Context) {
    let (client, claim) = (case.client().await, case.claim("a"));
    client.take(&claim, "the lock is free").await;
    client.give(&claim, "it was granted").await;
    assert_eq!(client.inspect(&claim.name).await, None, "it was released");
}

async fn an_expired_lease_has_no_holder(case: Context) {
    let (client, claim) = (case.client().await, case.short_claim("a"));
    let AcquireReply::Granted { ttl, .. } = client.acquire(&claim).await else {
        panic!("the lock is free, but it was not granted");
    };
    sleep(ttl + case.timing.slack()).await;
    assert_eq!(client.inspect(&claim.name).await, None, "the lease is over");
}

async fn what_remains_is_shown(case: Context) {
    let (client, claim) = (case.client().await, case.claim("a"));
    let sent = Instant::now();
    let AcquireReply::Granted { ttl, .. } = client.acquire(&claim).await else {
        panic!("the lock is free, but it was not granted");
    };
    remains(&case, &client, &claim.name, ttl, sent).await;
    // The remaining time must decrease.
    sleep(case.timing.short(&case.limits)).await;
    let shown = remains(&case, &client, &claim.name, ttl, sent).await;
    let gone = case.timing.short(&case.limits) / 2;
    assert!(shown + gone <= ttl, "{shown:?} remain after {:?} of {ttl:?}", sent.elapsed());
}

async fn a_renewal_shows_in_what_remains(case: Context) {
    let (client, claim) = (case.client().await, case.claim("a"));
    client.take(&claim, "the lock is free").await;
    let mut longer = claim.clone();
    longer.ttl = claim.ttl * 2;
    let sent = Instant::now();
    client.keep(&longer, "it is held").await;
    remains(&case, &client, &claim.name, longer.ttl, sent).await;
}

async fn how_long_it_was_held_is_shown_if_known(case: Context) {
    let (client, claim) = (case.client().await, case.claim("a"));
    let sent = Instant::now();
    client.take(&claim, "the lock is free").await;
    let answered = Instant::now();
    sleep(case.timing.short(&case.limits)).await;
    client.keep(&claim, "it is held").await;
    let asked = answered.elapsed();
    let holder = client.inspect(&claim.name).await.expect("the lock is held but inspect shows no holder");
    if let Some(shown) = holder.held_for {
        let (most, drift) = (sent.elapsed(), case.timing.drift(sent.elapsed()));
        assert!(
            shown + drift >= asked && shown <= most + drift,
            "held for {asked:?} to {most:?}, also over a renewal, and {shown:?} is shown"
        );
    }
}

async fn inspecting_changes_nothing(case: Context) {
    let (a, b) = (case.client().await, case.client().await);
    let (held, free) = (case.short_claim("held"), case.claim("free"));
    a.take(&held, "the lock is free").await;
    let end = Instant::now() + held.ttl * 3 + case.timing.slack() * 2;
    // Inspecting without a pause neither keeps the lease alive nor creates a record for a free name.
    while b.inspect(&held.name).await.is_some() {
        assert!(Instant::now() < end, "a lease that is looked at does not end");
        assert_eq!(b.inspect(&free.name).await, None, "looking made a holder");
        sleep(case.timing.pause()).await;
    }
    a.take(&free, "it was only looked at").await;
    b.inspect(&free.name).await;
    a.keep(&free, "it was only looked at").await;
    b.inspect(&free.name).await;
    a.give(&free, "it was only looked at").await;
}

async fn waiters_are_counted_if_known(case: Context) {
    let (a, b, claim) = (case.client().await, case.client().await, case.claim("a"));
    a.take(&claim, "the lock is free").await;
    let count = async || {
        let holder = a.inspect(&claim.name).await;
        holder.expect("the lock is held but inspect shows no holder").waiters
    };
    let Some(none) = count().await else { return };
    assert_eq!(none, 0, "waiters, when there are none");
    let waiter = case.claim("a").wait(true);
    b.refused(&waiter, "it is held").await;
    assert_eq!(count().await, Some(1), "waiters, when one waits");
    b.release(&waiter).await;
    assert_eq!(count().await, Some(0), "waiters, when the only one has left");
}

/// Checks and returns the remaining time of a lease that was granted or renewed after `sent`.
async fn remains(
    case: &Context,
    client: &crate::context::Client,
    name: &leasehold::Name,
    ttl: Duration,
    sent: Instant,
) -> Duration {
    let holder = client.inspect(name).await.expect("the lock is held but inspect shows no holder");
    let (shown, drift) = (holder.remaining, case.timing.drift(ttl));
    let least = ttl.saturating_sub(sent.elapsed() + drift);
    assert!(
        shown >= least && shown <= ttl + drift,
        "between {least:?} and {ttl:?} remain, and {shown:?} is shown"
    );
    shown
}
