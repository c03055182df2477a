//! Servers that change under their clients: backups that are restored, members that are replaced, and gates that another program
//! deletes.

use std::time::Duration;

use futures_util::future::join_all;
use leasehold::storage::{Claim, RenewReply, Storage};
use leasehold_testbed::Etcd;

use crate::tools::*;

/// Returns the key of an owner.
fn key_of(url: &str, claim: &Claim) -> String {
    format!("{}{}/{}", prefix_of(url), claim.name.as_str(), claim.owner)
}

/// One lock was acquired after the backup, and one was released after it. Both, and one more, are on one lease. After the restore,
/// others write until the revision is later than any that the client has seen.
#[test]
fn after_a_backup_is_restored_its_old_keys_end_and_later_holds_are_lost() {
    run(async {
        let server = Etcd::start().expect("a server");
        let url = own(&server.url());
        let (busy, other) = (bare(&url).await, client(&url).await);
        for _ in 0..100 {
            crate::net::unknown::warm_up(&busy).await;
        }
        // Without an engine, it is not connected again before the others have written.
        let storage = bare(&url).await;
        let [kept, old, later] = ["kept", "old", "later"].map(|name| {
            let mut claim = claim(name);
            claim.ttl = time(10_000);
            claim
        });
        take(&storage, &kept).await;
        take(&storage, &old).await;
        let (key, lease) = (key_of(&url, &kept), lease_of(&server, &key_of(&url, &old)));
        assert_eq!(lease_of(&server, &key), lease);
        let backup = server.back_up().expect("saved");
        release(&storage, &old).await.expect("released");
        take(&storage, &later).await;
        server.restore(&backup).expect("restored");
        for _ in 0..10 {
            tell(&server, &["put", "written", ""]);
        }
        assert_eq!(answered(async || renew(&storage, &later).await).await, RenewReply::NotHeld);
        is_free(&other, "later").await;
        // The key of the lock that was released is back. Nothing keeps its lease alive.
        assert!(!other.inspect("old").await.expect("answered").is_empty());
        let old_ends = async { other.lock("old").acquire().await.expect("granted").release().await };
        let mut old_ends = std::pin::pin!(within(LONG, old_ends));
        loop {
            assert!(matches!(renew(&storage, &kept).await, Ok(RenewReply::Renewed { .. })));
            tokio::select! {
                released = &mut old_ends => break released.expect("released"),
                () = tokio::time::sleep(kept.ttl / 6) => {}
            }
        }
        assert_ne!(lease_of(&server, &key), lease);
    });
}

/// A waiter of the backup is not the first any more, and a lock that another client has acquired since then is not its own.
#[test]
fn after_a_backup_is_restored_every_waiter_is_granted_once() {
    run(async {
        let server = Etcd::start().expect("a server");
        let url = own(&server.url());
        let (locks, other) = (client(&url).await, client(&url).await);
        let ttl = time(8_000);
        let guard = hold(&locks, "job", ttl).await;
        let first = waiting(locks.lock("job").ttl(ttl));
        let second = waiting(other.lock("job").ttl(ttl));
        waiters(&locks, "job", 2).await;
        let backup = server.back_up().expect("saved");
        guard.release().await.expect("released");
        server.restore(&backup).expect("restored");
        let granted = join_all([first, second].map(async |waiter| {
            let guard = within(LONG, waiter).await.expect("no panic").expect("granted");
            // A grant from before may be lost. One that is believed is the server's.
            if guard.verify().await.is_err() {
                return None;
            }
            let holder = other.inspect("job").await.expect("answered").pop().expect("held");
            assert_eq!((holder.owner, holder.token), (guard.owner(), guard.token()));
            guard.release().await.expect("released");
            Some(holder.token)
        }));
        assert!(granted.await.iter().any(Option::is_some));
    });
}

#[test]
fn members_can_be_replaced_under_holders_and_waiters() {
    run(async {
        let mut server = Etcd::options().start_three().expect("three servers");
        let url = own(&server.url());
        let (locks, other) = (client(&url).await, client(&url).await);
        let guard = hold(&locks, "job", time(30_000)).await;
        let waiting = waiting(other.lock("job").ttl(time(30_000)));
        waiters(&locks, "job", 1).await;
        // The URL still names the third.
        for i in 0..2 {
            server.replace(i).expect("replaced");
        }
        within(soon(), async { while guard.verify().await.is_err() {} }).await;
        assert!(guard.is_held());
        guard.release().await.expect("released");
        let next = within(soon(), waiting).await.expect("no panic").expect("granted");
        next.release().await.expect("released");
        works(&own(&server.url())).await;
    });
}

#[test]
fn a_gate_that_another_program_deletes_blocks_no_claim_and_no_renewal() {
    run(async {
        let server = Etcd::start().expect("a server");
        let url = own(&server.url());
        let storage = bare(&url).await;
        let kept = claim("kept");
        take(&storage, &kept).await;
        let given_up = [claim("job").patience(Duration::from_millis(30))];
        server.stop();
        assert!(tokio::time::timeout(Duration::from_millis(20), storage.acquire(&given_up)).await.is_err());
        server.cont();
        answered(async || release(&storage, &given_up[0]).await).await;
        let key = keys(&server, &url).pop().expect("held");
        let lease = lease_of(&server, &key);
        // All keys between the prefix and the names.
        let prefix = prefix_of(&url);
        let deleted = tell(&server, &["del", prefix, &format!("{prefix}\u{1}")]);
        assert_eq!(deleted, "2", "the gates of two leases: for holders, and for waiters");
        let next = claim("job");
        take(&storage, &next).await;
        assert!(matches!(renew(&storage, &kept).await, Ok(RenewReply::Renewed { .. })));
        // What may be executed late on the old lease ends with it.
        let left = keys(&server, &url);
        assert_eq!(left.len(), 2);
        assert!(left.iter().all(|key| lease_of(&server, key) != lease));
    });
}
