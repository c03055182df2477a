//! Claims that were executed, and whose answers are lost: a gate that is shut for one of them leaves no key of another one.

use std::time::Duration;

use futures_util::future::join;
use leasehold::ErrorKind;
use leasehold::storage::{Claim, Storage};
use leasehold_faultproxy::{End, Trap, Which};
use leasehold_testbed::Etcd;

use crate::tools::*;

/// Returns the TTL of the claims, and of the lock that keeps their lease alive.
fn ttl() -> Duration {
    time(4_000)
}

/// Sends claims as one batch, whose answer is lost after the server has executed it. No key of theirs may be left at the end of
/// their TTL, although another lock keeps the lease alive.
async fn leave_nothing(claims: &[Claim]) {
    let server = Etcd::start().expect("a server");
    let (proxy, through, direct) = proxied(&server).await;
    let storage = bare(&through).await;
    let kept = with_ttl("kept", ttl());
    take(&storage, &kept).await;
    let last = claims.last().expect("a claim");
    let held_back = proxy.faults().arm(Trap::on_request(marker(last.owner)).hold_reply());
    let losing = async {
        let on = within(LONG, held_back.sprung()).await.expect("it asks");
        until("the keys", || match keys(&server, &direct).len() {
            n if n == claims.len() + 1 => Ok(()),
            n => Err(leasehold_testbed::Error::new(format!("{n} keys"))),
        });
        proxy.faults().end(Which::One(on), End::Reset);
    };
    let (answers, ()) = within(LONG, join(storage.acquire(claims), losing)).await;
    for answer in answers {
        assert_eq!(answer.expect_err("the answer is lost").kind(), ErrorKind::Unavailable);
    }
    is_left_alone(&server, &direct, &storage, &kept, ttl() + soon()).await;
}

#[test]
fn a_claim_without_an_answer_is_undone_after_the_gate_was_shut_for_another_one() {
    let claims = [300, 2_500]
        .map(|patience| with_ttl(&format!("job{patience}"), ttl()).patience(Duration::from_millis(patience)));
    run(leave_nothing(&claims));
}

#[test]
fn a_large_batch_without_an_answer_is_undone_as_a_whole() {
    let claims: Vec<_> =
        (0..40).map(|i| with_ttl(&format!("job{i}"), ttl()).patience(Duration::from_millis(300))).collect();
    run(leave_nothing(&claims));
}

/// A claim of each of these TTLs may have created the key, on a lease of its own.
#[test]
fn claims_for_many_ttls_without_an_answer_are_undone_at_a_server_that_allows_few_operations() {
    run(async {
        let server = Etcd::options().arg("--max-txn-ops=16").start().expect("a server");
        let (proxy, through, direct) = proxied(&server).await;
        let storage = bare(&through).await;
        let kept = with_ttl("kept", ttl());
        take(&storage, &kept).await;
        let mine = with_ttl("job", ttl()).patience(Duration::from_secs(3));
        for seconds in 0..10 {
            let mut longer = mine.clone();
            longer.ttl += Duration::from_secs(seconds);
            let _cut = proxy.faults().arm(Trap::on_request(marker(mine.owner)).cut_reply(End::Reset));
            acquire(&storage, &longer).await.expect_err("the answer is lost");
        }
        assert_eq!(keys(&server, &direct).len(), 2);
        is_left_alone(&server, &direct, &storage, &kept, ttl() + soon()).await;
    });
}
