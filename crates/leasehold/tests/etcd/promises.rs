//! The end that an owner was promised: no other write moves it to an earlier time.

use std::time::Duration;

use futures_util::future::join;
use leasehold::storage::{Claim, RenewReply, Storage};
use leasehold_faultproxy::{End, Trap, Which};
use leasehold_testbed::Etcd;
use tokio::time::{Instant, sleep};

use crate::replay::Recorder;
use crate::tools::*;

#[test]
fn a_shortening_that_is_executed_after_its_patience_shortens_nothing() {
    run(async {
        let server = Etcd::start().expect("a server");
        let recorder = Recorder::start(server.port());
        let url = own(&format!("etcd://127.0.0.1:{}", recorder.port));
        let storage = bare(&url).await;
        let other = bare(&with(&server.url(), &format!("prefix={}", prefix_of(&url)))).await;
        let (short, mine) = (with_ttl("short", Duration::from_secs(4)), claim("job"));
        take(&storage, &mine).await;
        take(&storage, &short).await;
        // It is written into the key, so the reads before it pass.
        recorder.keep_from("ttl=4001");
        let patience = Duration::from_millis(100);
        let shorter = [for_ttl(&mine, Duration::from_millis(4_001)).shorten(true).patience(patience)];
        let sent = {
            let mut asking = Box::pin(storage.renew(&shorter));
            tokio::select! {
                answer = &mut asking => panic!("{answer:?}"),
                sent = within(LONG, recorder.sent("ttl=4001")) => sent,
            }
        };
        recorder.go_on();
        // Its patience ends, and its lease stays alive.
        let late = Instant::now() + patience + Duration::from_millis(1_500);
        while Instant::now() < late {
            is_renewed(&storage, &short).await;
            sleep(Duration::from_millis(100)).await;
        }
        recorder.deliver(&sent);
        is_renewed(&storage, &short).await;
        drop(storage);
        until("the shorter lease to end", || match keys(&server, &url) {
            left if left.iter().any(|key| key.contains("short/")) => {
                Err(leasehold_testbed::Error::new(format!("{left:?}")))
            }
            _ => Ok(()),
        });
        // It was promised for much longer.
        is_held(&other, &claim("job")).await;
    });
}

/// Returns the claim of the same owner for another TTL.
fn for_ttl(claim: &Claim, ttl: Duration) -> Claim {
    let mut other = claim.clone();
    other.ttl = ttl;
    other
}

/// Renews a lock, which must be held.
async fn is_renewed(storage: &Bare, claim: &Claim) {
    let renewed = answered(async || renew(storage, claim).await).await;
    assert!(matches!(renewed, RenewReply::Renewed { .. }), "{renewed:?}");
}

/// Another client renews with the owner's ticket. Between its reads and its write, the first client renews, too.
#[test]
fn a_slow_renewal_by_another_client_does_not_shorten_what_the_first_one_was_promised() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let (first, second, third) = (bare(&direct).await, bare(&through).await, bare(&direct).await);
        let mine = with_ttl("job", Duration::from_secs(6));
        take(&first, &mine).await;
        // The less is left, the earlier the end that the other client reads.
        sleep(Duration::from_secs(3)).await;
        let slow = proxy.faults().arm(Trap::on_request(ACQUIRE).hold());
        let meanwhile = async {
            let on = within(LONG, slow.sprung()).await.expect("it writes");
            let promised = Instant::now() + mine.ttl;
            is_renewed(&first, &mine).await;
            proxy.faults().resume(Which::One(on));
            promised
        };
        let theirs = for_ttl(&mine, Duration::from_secs(2));
        let (_renewed_or_not, promised) = join(renew(&second, &theirs), meanwhile).await;
        take_over(&third, &claim("job")).await;
        let early = promised.saturating_duration_since(Instant::now());
        assert!(early.is_zero(), "another owner holds it {early:?} before the end that was promised");
    });
}

/// The other client must not undo a renewal as it undoes a claim of its own.
#[test]
fn a_renewal_by_another_client_that_is_not_answered_ends_nothing() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let (first, second) = (bare(&direct).await, bare(&through).await);
        let mine = with_ttl("job", Duration::from_secs(8));
        take(&first, &mine).await;
        let _cut = proxy.faults().arm(Trap::on_request(ACQUIRE).cut_reply(End::Reset));
        let theirs = mine.clone().patience(Duration::from_millis(500));
        renew(&second, &theirs).await.expect_err("the answer is lost");
        // The second client gives it up in this time.
        sleep(Duration::from_millis(2_500)).await;
        assert!(matches!(renew(&first, &mine).await, Ok(RenewReply::Renewed { .. })));
    });
}

/// The first client's promise is over, and its deletion of the key is on the way. The other client has renewed by then.
#[test]
fn a_client_whose_own_promise_is_over_finds_that_another_one_has_renewed() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let (first, second) = (bare(&through).await, bare(&direct).await);
        let mine = with_ttl("job", Duration::from_secs(2));
        take(&first, &mine).await;
        is_renewed(&second, &for_ttl(&mine, Duration::from_secs(20))).await;
        let deleting = proxy.faults().arm(Trap::on_request(marker(mine.owner)).hold());
        let on = within(LONG, deleting.sprung()).await.expect("it deletes the key");
        let asking = [mine.clone()];
        let renewing = first.renew(&asking);
        let go_on = async {
            tokio::task::yield_now().await;
            proxy.faults().resume(Which::One(on));
        };
        let (renewed, ()) = within(LONG, join(renewing, go_on)).await;
        assert!(matches!(renewed[0], Ok(RenewReply::Renewed { .. })), "{renewed:?}");
    });
}
