//! What locks cost the server: transactions, leases and watches.

use std::time::Duration;

use futures_util::future::join_all;
use leasehold::storage::{AcquireReply, Cursor, ReleaseReply, RenewReply, Storage};
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
fn claims_without_an_answer_are_undone_many_at_a_time() {
    run(async {
        let server = Etcd::start().expect("a server");
        let storage = bare(&server.url()).await;
        crate::net::unknown::warm_up(&storage).await;
        let size = storage.limits().batch_max;
        let patience = Duration::from_millis(300);
        let batch =
            |i: usize| (0..size).map(move |j| claim(&format!("job{i}-{j}")).patience(patience)).collect();
        let batches: Vec<Vec<_>> = (0..20).map(batch).collect();
        let before = count(&server, "Txn");
        server.stop();
        let asking = join_all(batches.iter().map(|batch| storage.acquire(batch)));
        tokio::time::timeout(patience, asking).await.expect_err("no answer");
        server.cont();
        // It is over when the server was asked nothing for a second.
        let mut asked = before;
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let now = count(&server, "Txn");
            if now == std::mem::replace(&mut asked, now) && now > before {
                break;
            }
        }
        let undone = asked - before;
        assert!(undone < u64::try_from(20 * size / 4).expect("small"), "{undone} for {} claims", 20 * size);
        for batch in &batches {
            for answer in storage.acquire(batch).await {
                assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
            }
        }
    });
}

#[test]
fn locks_with_longer_names_cost_a_lock_nothing() {
    run(async {
        let server = Etcd::start().expect("a server");
        let (storage, others) = (bare(&server.url()).await, bare(&server.url()).await);
        let longer: Vec<_> = (0..200).map(|i| claim(&format!("shop/order/{i}"))).collect();
        for some in longer.chunks(others.limits().batch_max) {
            for answer in others.acquire(some).await {
                assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
            }
        }
        crate::net::unknown::warm_up(&storage).await;
        let asked = || count(&server, "Txn") + count(&server, "Range");
        let before = asked();
        let mine = claim("shop");
        take(&storage, &mine).await;
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
        assert_eq!(asked() - before, 2);
    });
}

/// A server that takes long to elect a leader grants leases that are longer than the TTL asks for.
#[test]
fn a_renewal_writes_nothing_where_the_server_grants_longer_leases() {
    run(async {
        let slow = ["--election-timeout=5000", "--heartbeat-interval=500"];
        let server =
            slow.into_iter().fold(Etcd::options(), |all, arg| all.arg(arg)).start().expect("a server");
        let url = own(&server.url());
        let storage = bare(&url).await;
        let mine = with_ttl("job", Duration::from_secs(2));
        take(&storage, &mine).await;
        let key = keys(&server, &url).pop().expect("a key");
        let fields = || tell(&server, &["get", &key, "--write-out=fields"]);
        let changed = || fields().lines().find(|line| line.contains("ModRevision")).map(str::to_owned);
        let before = changed();
        for _ in 0..5 {
            assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })));
        }
        assert_eq!((changed(), before.is_some()), (before, true));
    });
}

/// A page of a list does not begin with reading all others.
#[test]
fn a_list_of_many_pages_reads_each_key_a_few_times() {
    run(async {
        let server = Etcd::start().expect("a server");
        let storage = bare(&server.url()).await;
        let names = |i: usize| match i % 3 {
            0 => format!("job-{i:04}"),
            1 => format!("shop/{}/{i:04}", i % 10),
            _ => format!("z{i:04}"),
        };
        let claims: Vec<_> = (0..3_000).map(|i| claim(&names(i))).collect();
        for some in claims.chunks(storage.limits().batch_max) {
            for answer in storage.acquire(some).await {
                assert!(matches!(answer, Ok(AcquireReply::Granted { .. })), "{answer:?}");
            }
        }
        let before = count(&server, "Range");
        let (mut after, mut listed) = (None, Vec::new());
        loop {
            let page = storage.list("", after.as_ref(), 50).await.expect("answered");
            listed.extend(page.iter().map(|holder| holder.name.as_str().to_owned()));
            let Some(last) = page.last() else { break };
            after = Some(Cursor::new(last.name.clone(), last.token));
        }
        let mut expected: Vec<_> = (0..3_000).map(names).collect();
        expected.sort();
        assert_eq!(listed, expected);
        // One for each page, and those that look beyond it for a lock whose name begins all of theirs.
        let read = count(&server, "Range") - before;
        assert!(read <= 80, "{read}");
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
