//! Claims that are executed after their client has given them up: none may leave a key on a lease that is kept alive.

use std::time::Duration;

use futures_util::future::{join_all, poll_immediate};
use leasehold::storage::{Claim, ReleaseReply, RenewReply, Storage};
use leasehold_testbed::Etcd;
use tokio::time::{Instant, sleep};

use crate::net::unknown as scenario;
use crate::replay::Recorder;
use crate::tools::*;

/// How many rounds a test has; more with this variable in the environment.
fn rounds(few: u32) -> u32 {
    std::env::var("LEASEHOLD_TEST_GHOSTS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(few)
}

/// Keeps the requests of a client from the server, and delivers them when the claim was given up. Another lock keeps the lease
/// alive. `give_up` ends with the gate shut.
async fn are_late(give_up: impl AsyncFn(&Etcd, &Bare, &Claim)) {
    let server = Etcd::start().expect("a server");
    let recorder = Recorder::start(server.port());
    let url = own(&format!("etcd://127.0.0.1:{}", recorder.port));
    let (storage, other) = (bare(&url).await, bare(&own_of(&server, &url)).await);
    let kept = claim("kept");
    take(&storage, &kept).await;
    for round in 0..rounds(3) {
        recorder.keep();
        let mine = [claim("job").patience(Duration::from_millis(30)).wait(round % 2 == 0)];
        let mark = marker(mine[0].owner);
        let sent = {
            let mut asking = Box::pin(storage.acquire(&mine));
            tokio::select! {
                answer = &mut asking => panic!("{answer:?}"),
                sent = within(LONG, recorder.sent(&mark)) => sent,
            }
        };
        give_up(&server, &storage, &mine[0]).await;
        assert!(matches!(answered(async || renew(&storage, &kept).await).await, RenewReply::Renewed { .. }));
        recorder.deliver(&sent);
        assert_eq!(
            keys(&server, &url).len(),
            1,
            "round {round}: a claim that was given up has created its key"
        );
        let theirs = claim("job");
        take(&other, &theirs).await;
        // The same owner may claim again.
        let again = mine[0].clone().patience(LONG);
        is_held(&storage, &again).await;
        release(&storage, &again).await.expect("answered");
        release(&other, &theirs).await.expect("answered");
    }
}

/// Returns the URL without a recorder.
fn own_of(server: &Etcd, url: &str) -> String {
    with(&server.url(), &format!("prefix={}", prefix_of(url)))
}

#[test]
fn a_claim_that_is_executed_after_its_release_changes_nothing() {
    run(are_late(async |_, storage, claim| {
        answered(async || release(storage, claim).await).await;
    }));
}

#[test]
fn a_claim_that_is_executed_after_its_patience_changes_nothing_without_a_release() {
    let seen = std::cell::Cell::new(0);
    run(are_late(async |server, _, _| {
        // The storage shuts the gates by itself. That changes their revision.
        until("the gates", || {
            let keys = server.command(&[
                "get",
                "--prefix",
                "",
                "--sort-by=MODIFY",
                "--order=DESCEND",
                "--write-out=fields",
            ])?;
            let gates = keys.split("\n\n").filter(|key| key.contains("leasehold/"));
            let latest = gates.filter_map(|key| {
                key.lines().find_map(|line| line.strip_prefix("\"ModRevision\" : "))?.trim().parse().ok()
            });
            match latest.max() {
                Some(revision) if revision > seen.get() => {
                    seen.set(revision);
                    Ok(())
                }
                _ => Err(leasehold_testbed::Error::new(keys)),
            }
        });
    }));
}

/// The release is sent while the claim is in flight, and answered after the claim was given up.
#[test]
fn a_claim_that_is_executed_after_a_release_that_was_sent_beside_it_leaves_nothing() {
    run(async {
        let server = Etcd::start().expect("a server");
        let recorder = Recorder::start(server.port());
        let url = own(&format!("etcd://127.0.0.1:{}", recorder.port));
        let storage = bare(&url).await;
        let ttl = time(4_000);
        let kept = with_ttl("kept", ttl);
        take(&storage, &kept).await;
        let mine = [with_ttl("job", ttl).patience(Duration::from_millis(300))];
        let mark = marker(mine[0].owner);
        recorder.keep();
        let mut asking = Box::pin(storage.acquire(&mine));
        let sent = tokio::select! {
            answer = &mut asking => panic!("{answer:?}"),
            sent = within(LONG, recorder.sent(&mark)) => sent,
        };
        recorder.go_on();
        // After another answer, the connection stays in use when the claim is given up.
        assert!(matches!(renew(&storage, &kept).await, Ok(RenewReply::Renewed { .. })));
        let mut releasing = Box::pin(storage.release(&mine));
        assert!(poll_immediate(&mut releasing).await.is_none());
        drop(asking);
        let released = within(LONG, releasing).await.pop().expect("an answer");
        assert_eq!(released.expect("answered"), ReleaseReply::NotHeld);
        recorder.deliver(&sent);
        is_left_alone(&server, &url, &storage, &kept, ttl + soon()).await;
    });
}

/// A claim without an answer has made its key uncertain, so all leases have it deleted on them. The gate of that claim was shut
/// long before.
#[test]
fn a_deletion_that_is_executed_late_leaves_the_next_key_of_the_owner() {
    run(async {
        let server = Etcd::start().expect("a server");
        let recorder = Recorder::start(server.port());
        let url = own(&format!("etcd://127.0.0.1:{}", recorder.port));
        let storage = bare(&url).await;
        let ttl = time(4_000);
        let kept = with_ttl("kept", ttl);
        take(&storage, &kept).await;
        let mine = with_ttl("job", ttl).patience(Duration::from_millis(200));
        let (mark, unanswered) = (marker(mine.owner), [mine.clone()]);
        recorder.keep();
        {
            let mut asking = Box::pin(storage.acquire(&unanswered));
            tokio::select! {
                answer = &mut asking => panic!("{answer:?}"),
                sent = within(LONG, recorder.sent(&mark)) => drop(sent),
            }
        }
        recorder.go_on();
        let again = mine.clone().patience(LONG);
        answered(async || acquire(&storage, &again).await).await;
        let end = Instant::now() + ttl;
        while Instant::now() < end - ttl / 4 {
            answered(async || renew(&storage, &kept).await).await;
            sleep(Duration::from_millis(100)).await;
        }
        recorder.keep_from(&mark);
        let deletion = within(LONG, recorder.kept()).await;
        // It is sent once more, on another connection. The lease stays alive for its next key.
        until_alone(&server, &url, &storage, &kept).await;
        take(&storage, &again).await;
        recorder.deliver(&deletion);
        assert_eq!(keys(&server, &url).len(), 2, "the deletion of the last key has deleted the next one");
        is_held(&bare(&own_of(&server, &url)).await, &claim("job")).await;
    });
}

/// Renews a lock until no other key is left, whatever the renewals are answered.
async fn until_alone(server: &Etcd, url: &str, storage: &Bare, kept: &Claim) {
    let alone = async {
        while keys(server, url).len() > 1 {
            let _not_answered = tokio::time::timeout(Duration::from_millis(300), renew(storage, kept)).await;
        }
    };
    within(LONG, alone).await;
}

/// Stops the server, sends claims, gives them up, and releases. A lock that is renewed keeps the lease alive all the time.
#[test]
fn a_stopped_server_leaves_no_key_on_a_lease_that_is_kept_alive() {
    run(async {
        let server = Etcd::start().expect("a server");
        let url = own(&server.url());
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let kept = claim("kept");
        take(&storage, &kept).await;
        for round in 0..rounds(30) {
            let claims: Vec<_> = (0..4)
                .map(|i| claim(&format!("job{i}")).patience(Duration::from_millis(30)).wait(i % 2 == 0))
                .collect();
            server.stop();
            {
                let mut asking = Box::pin(leasehold::storage::Storage::acquire(&storage, &claims));
                assert!(tokio::time::timeout(Duration::from_millis(20), &mut asking).await.is_err());
            }
            // Half of the releases are sent while it is stopped, and behind the claims.
            let early = async {
                if round % 2 == 0 {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                }
                answered(async || release_all(&storage, &claims).await).await;
            };
            let go_on = async {
                tokio::time::sleep(Duration::from_millis(20)).await;
                server.cont();
            };
            within(LONG, futures_util::future::join(early, go_on)).await;
            assert!(matches!(
                answered(async || renew(&storage, &kept).await).await,
                RenewReply::Renewed { .. }
            ));
            let free = claims.iter().map(|claimed| async {
                let theirs = claim(claimed.name.as_str());
                take(&other, &theirs).await;
                assert_eq!(release(&other, &theirs).await.expect("answered"), ReleaseReply::Released);
            });
            within(soon(), join_all(free)).await;
            assert_eq!(keys(&server, &url).len(), 1, "round {round}");
        }
    });
}

async fn release_all(storage: &Bare, claims: &[leasehold::storage::Claim]) -> leasehold::Result<()> {
    leasehold::storage::Storage::release(storage, claims)
        .await
        .into_iter()
        .try_for_each(|reply| reply.map(drop))
}

/// No release follows: the storage itself undoes what its claims may have left.
#[test]
fn a_claim_that_a_stopped_server_executes_late_takes_nothing_from_another_owner() {
    run(async {
        let server = Etcd::start().expect("a server");
        let take_again = async |storage: &Bare, claim: &leasehold::storage::Claim| {
            within(soon(), take_over(storage, claim)).await
        };
        scenario::claims_to_a_stopped_server(&server, &server.url(), 12, take_again).await;
    });
}

#[test]
fn an_acquire_that_fails_on_a_stopped_server_leaves_no_lease() {
    let server = Etcd::start().expect("a server");
    run(scenario::acquires_from_a_stopped_server(&server, &server.url()));
}
