//! Locks that other programs end, leases that the server ends, and histories that are compacted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::future::join_all;
use leasehold::storage::{RenewReply, Storage};
use leasehold::{Lost, Renewal};
use leasehold_testbed::Etcd;
use tokio::time::Instant;

use crate::net::waking as scenario;
use crate::tools::*;

#[test]
fn a_holder_whose_key_is_deleted_learns_it_at_once() {
    run(async {
        let server = Etcd::start().expect("a server");
        let url = own(&server.url());
        let locks = client(&url).await;
        let before = server.watchers().expect("counted");
        let guard = hold(&locks, "job", LONG).await;
        until_watched(&server, before + 1);
        let since = Instant::now();
        tell(&server, &["del", "--prefix", &format!("{}job/", prefix_of(&url))]);
        // The next renewal is due much later.
        assert_eq!(within(soon(), guard.lost()).await, Lost::Taken);
        assert!(since.elapsed() < time(500), "{:?}", since.elapsed());
        is_free(&locks, "job").await;
    });
}

#[test]
fn a_holder_whose_lease_is_revoked_learns_it_at_once_and_the_next_locks_get_another() {
    run(async {
        let server = Etcd::start().expect("a server");
        let url = own(&server.url());
        let locks = client(&url).await;
        let before = server.watchers().expect("counted");
        let guards = [hold(&locks, "a", LONG).await, hold(&locks, "b", LONG).await];
        until_watched(&server, before + 2);
        let lease = lease_of(&server, &keys(&server, &url)[0]);
        tell(&server, &["lease", "revoke", &lease]);
        for guard in &guards {
            assert_eq!(within(soon(), guard.lost()).await, Lost::Taken);
        }
        let guard = hold(&locks, "a", LONG).await;
        guard.verify().await.expect("held");
        assert_ne!(lease_of(&server, &keys(&server, &url)[0]), lease);
    });
}

/// Waits until so many keys are watched.
fn until_watched(server: &Etcd, wanted: u64) {
    until("the keys to be watched", || match server.watchers()? {
        now if now >= wanted => Ok(()),
        now => Err(leasehold_testbed::Error::new(format!("{now} of {wanted}"))),
    });
}

#[test]
fn a_renewal_finds_what_was_deleted_or_revoked() {
    run(async {
        let url = own(&common().url());
        let storage = bare(&url).await;
        let (one, two) = (claim("one"), claim("two"));
        take(&storage, &one).await;
        take(&storage, &two).await;
        tell(common(), &["del", "--prefix", &format!("{}one/", prefix_of(&url))]);
        assert_eq!(renew(&storage, &one).await.expect("answered"), RenewReply::NotHeld);
        assert!(matches!(renew(&storage, &two).await, Ok(RenewReply::Renewed { .. })));
        let lease = lease_of(common(), &keys(common(), &url)[0]);
        tell(common(), &["lease", "revoke", &lease]);
        assert_eq!(renew(&storage, &two).await.expect("answered"), RenewReply::NotHeld);
        take(&storage, &claim("two")).await;
    });
}

#[test]
fn locks_of_one_lease_end_on_their_own() {
    run(async {
        let url = own(&common().url());
        let (storage, other) = (bare(&url).await, bare(&url).await);
        let (mut kept, mut left) = (claim("kept"), claim("left"));
        (kept.ttl, left.ttl) = (time(2_000), time(2_000));
        take(&storage, &kept).await;
        let since = Instant::now();
        take(&storage, &left).await;
        assert_eq!(
            lease_of(common(), &keys(common(), &url)[0]),
            lease_of(common(), &keys(common(), &url)[1])
        );
        let mut keeping = Box::pin(async {
            loop {
                assert!(matches!(renew(&storage, &kept).await, Ok(RenewReply::Renewed { .. })));
                // The engine renews at a third of the TTL.
                tokio::time::sleep(kept.ttl / 3).await;
            }
        });
        let theirs = claim("left");
        let taking = take_over(&other, &theirs);
        tokio::select! {
            () = &mut keeping => {}
            _ = taking => {}
        }
        let took = since.elapsed();
        assert!(took >= left.ttl && took < left.ttl + time(900), "{took:?}");
        assert!(matches!(renew(&storage, &kept).await, Ok(RenewReply::Renewed { .. })));
        assert_eq!(renew(&storage, &left).await.expect("answered"), RenewReply::NotHeld);
    });
}

#[test]
fn a_lock_that_another_client_renews_does_not_end_with_its_first_client() {
    run(async {
        let url = own(&common().url());
        let (first, second) = (bare(&url).await, bare(&url).await);
        let mut mine = claim("job");
        mine.ttl = time(2_000);
        let token = take(&first, &mine).await;
        // As by a ticket. The first client keeps its lease alive for another lock, and renews this one no more.
        let mut other = claim("other");
        other.ttl = mine.ttl;
        take(&first, &other).await;
        for _ in 0..6 {
            assert!(matches!(renew(&second, &mine).await, Ok(RenewReply::Renewed { .. })));
            assert!(matches!(renew(&first, &other).await, Ok(RenewReply::Renewed { .. })));
            tokio::time::sleep(mine.ttl / 3).await;
        }
        let holder = second.inspect(&mine.name).await.expect("answered").pop().expect("held");
        assert_eq!((holder.owner, holder.token), (mine.owner, token));
        drop(second);
        // After the death of the second one, its lease ends the lock.
        within(LONG, take_over(&first, &claim("job"))).await;
    });
}

#[test]
fn a_renewal_by_another_client_keeps_the_label() {
    run(async {
        let url = own(&common().url());
        let (first, second) = (bare(&url).await, bare(&url).await);
        let mine = claim("job").label("the first");
        take(&first, &mine).await;
        let mut theirs = mine.clone().label("the second");
        // The second one knows the key already when the TTL grows.
        for ttl in [60_000, 600_000] {
            theirs.ttl = time(ttl);
            assert!(matches!(renew(&second, &theirs).await, Ok(RenewReply::Renewed { .. })));
            let holder = first.inspect(&mine.name).await.expect("answered").pop().expect("held");
            assert_eq!(holder.label.as_deref(), Some("the first"));
        }
    });
}

#[test]
fn a_history_that_is_compacted_again_and_again_keeps_no_waiter_waiting() {
    run(async {
        let url = own(&common().url());
        let ended = Arc::new(AtomicBool::new(false));
        let compactor = std::thread::spawn({
            let ended = Arc::clone(&ended);
            move || {
                let mut compactions = 0;
                while !ended.load(Ordering::Relaxed) {
                    common().compact().expect("compacted");
                    compactions += 1;
                }
                compactions
            }
        });
        scenario::disturbed_handovers(&url, 16, |turns| turns >= 20).await;
        ended.store(true, Ordering::Relaxed);
        let compactions = compactor.join().expect("no panic");
        assert!(compactions > 3, "{compactions}");
    });
}

#[test]
fn a_hold_without_renewal_ends_at_its_ttl_beside_one_that_is_renewed() {
    run(async {
        let url = own(&common().url());
        let (locks, other) = (client(&url).await, client(&url).await);
        let ttl = time(2_000);
        let renewed = hold(&locks, "renewed", ttl).await;
        let fixed = locks.lock("fixed").ttl(ttl).renewal(Renewal::Never).acquire().await.expect("free");
        let lock = other.lock("fixed").ttl(ttl);
        let taken = lock.acquire();
        let (guard, lost) = within(ttl + soon(), futures_util::future::join(taken, fixed.lost())).await;
        assert_eq!(lost, Lost::Expired);
        guard.expect("granted").release().await.expect("released");
        renewed.verify().await.expect("held");
        let waiting =
            join_all((0..3).map(|_| async { other.lock("fixed").acquire().await?.release().await }));
        for turn in within(soon(), waiting).await {
            turn.expect("granted");
        }
    });
}
