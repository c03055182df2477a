//! What locks cost the server: transactions, leases and watches.

use futures_util::future::join_all;
use leasehold::storage::{AcquireReply, ReleaseReply, RenewReply, Storage};
use leasehold_testbed::Etcd;

use crate::tools::*;

fn count(server: &Etcd, method: &str) -> u64 {
    server.members()[0].command_counts().expect("counted").get(method).copied().unwrap_or(0)
}

#[test]
fn a_cycle_is_one_transaction_each() {
    run(async {
        let server = Etcd::start().expect("a server");
        let storage = bare(&server.url()).await;
        crate::net::unknown::warm_up(&storage).await;
        let before = count(&server, "Txn");
        for round in 1..=10 {
            let mine = claim("job");
            take(&storage, &mine).await;
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
            assert_eq!(count(&server, "Txn") - before, 2 * round);
        }
        let claims: Vec<_> = (0..storage.limits().batch_max).map(|i| claim(&format!("job{i}"))).collect();
        let before = count(&server, "Txn");
        for answer in storage.acquire(&claims).await {
            assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
        }
        for answer in storage.renew(&claims).await {
            assert!(matches!(answer, Ok(RenewReply::Renewed { .. })), "{answer:?}");
        }
        for answer in storage.release(&claims).await {
            assert_eq!(answer.expect("answered"), ReleaseReply::Released);
        }
        assert_eq!(count(&server, "Txn") - before, 3);
    });
}

#[test]
fn ten_thousand_locks_have_two_leases_and_few_requests() {
    run(async {
        let server = Etcd::start().expect("a server");
        let locks = client(&server.url()).await;
        let ttl = time(60_000);
        let mut guards = Vec::new();
        for many in 0..10 {
            let all = (0..1_000).map(|i| {
                let lock = locks.lock(format!("job{many}-{i}")).ttl(ttl);
                async move { lock.acquire().await.expect("granted") }
            });
            guards.extend(join_all(all).await);
        }
        assert_eq!(guards.len(), 10_000);
        assert_eq!(leases(&server), 2);
        assert_eq!(server.connections().expect("counted"), 1);
        let grants = count(&server, "LeaseGrant");
        assert_eq!(grants, 2);
        while !guards.is_empty() {
            let some = guards.split_off(guards.len() - 500);
            for released in join_all(some.into_iter().map(leasehold::Guard::release)).await {
                released.expect("held until now");
            }
        }
        assert_eq!(keys(&server, "prefix=job"), [""; 0]);
    });
}

#[test]
fn a_thousand_waiters_have_a_watch_each_and_one_connection() {
    run(async {
        let server = Etcd::start().expect("a server");
        let (holder, locks) = (client(&server.url()).await, client(&server.url()).await);
        let names: Vec<_> = (0..1_000).map(|i| format!("job{i}")).collect();
        let held = names.iter().map(|name| {
            let lock = holder.lock(name.as_str()).ttl(time(60_000));
            async move { lock.acquire().await.expect("granted") }
        });
        let held = join_all(held).await;
        let waiting: Vec<_> =
            names.iter().map(|name| crate::tools::waiting(locks.lock(name.as_str()))).collect();
        // One watch for each waiter, and one for each holder.
        until("the watches", || match server.watchers()? {
            2_000 => Ok(()),
            watchers => Err(leasehold_testbed::Error::new(format!("{watchers}"))),
        });
        assert_eq!(server.connections().expect("counted"), 2);
        assert!(leases(&server) <= 4, "{}", leases(&server));
        within(LONG, join_all(held.into_iter().map(leasehold::Guard::release))).await;
        for turn in within(LONG, join_all(waiting)).await {
            drop(turn.expect("no panic").expect("granted"));
        }
    });
}
