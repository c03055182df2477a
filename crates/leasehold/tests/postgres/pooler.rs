//! PgBouncer in transaction mode: every statement may be executed by another process of the server.

use std::time::Duration;

use futures_util::future::join_all;
use leasehold::storage::{ReleaseReply, RenewReply, Storage};
use leasehold::{ErrorKind, Locks};
use leasehold_testbed::PgBouncer;
use tokio::time::Instant;

use crate::tools::*;

fn bouncer(settings: &[(&str, &str)]) -> PgBouncer {
    PgBouncer::start_with(common(), settings).expect("a pooler")
}

#[test]
fn behind_a_pooler_there_are_no_prepared_statements_no_notifications_and_no_settings() {
    run(async {
        let pooler = bouncer(&[("default_pool_size", "1")]);
        let url = own(&pooler.url());
        let storage = bare(&url).await;
        assert!(!storage.guarantees().push);
        let _hints = Box::pin(storage.hints());
        for _ in 0..20 {
            let mine = claim("job");
            take(&storage, &mine).await;
            is_held(&storage, &claim("job").wait(true)).await;
            assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })));
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
            sql(common(), &format!("truncate {}_waiters", table_of(&url)));
        }
        // The next client of the only server connection finds its settings unchanged.
        let seen = pooler.sql(
            "select (select count(*) from pg_prepared_statements), (select count(*) from pg_listening_channels()), \
             (select count(*) from pg_settings where source = 'session' and name in \
             ('synchronous_commit', 'statement_timeout', 'default_transaction_isolation', 'jit', 'plan_cache_mode')), \
             current_setting('synchronous_commit')",
        );
        assert_eq!(seen.expect("answered"), "0|0|0|on");
        let found = storage.findings().await.expect("answered");
        assert!(found.iter().any(|finding| format!("{finding:?}").contains("pooler")), "{found:?}");
    });
}

// The holder needs a connection to release, and waiters could occupy the whole pool.
#[test]
fn waiters_behind_a_pool_of_one_are_served_in_time() {
    run(async {
        let pooler = bouncer(&[("default_pool_size", "1")]);
        let url = own(&pooler.url());
        let (a, b) = (client(&url).await, client(&url).await);
        let mut longest = Duration::ZERO;
        let mut holding = hold(&a, "job", LONG).await;
        for round in 0..20 {
            let locks = if round % 2 == 0 { &b } else { &a };
            let lock = locks.lock("job");
            let waiting = tokio::spawn(async move { lock.acquire().await.expect("granted") });
            waiters(locks, "job", 1).await;
            holding.release().await.expect("released");
            let since = Instant::now();
            holding = within(LONG, waiting).await.expect("no panic");
            longest = std::cmp::max(longest, since.elapsed());
        }
        holding.release().await.expect("released");
        // The first waiter asks again after a quarter of a second at most.
        assert!(longest < Duration::from_millis(250) + time(500), "{longest:?}");

        // The same with many at once.
        let turns = |locks: &Locks, worker: usize| {
            let lock = locks.lock(format!("many{}", worker % 5));
            async move { lock.acquire().await.expect("granted").release().await.expect("released") }
        };
        within(LONG, join_all((0..40).map(|i| turns(if i % 2 == 0 { &a } else { &b }, i)))).await;
    });
}

#[test]
fn a_pooler_that_is_killed_ends_no_hold() {
    run(async {
        let pooler = bouncer(&[]);
        let locks = client(&own(&pooler.url())).await;
        let guard = hold(&locks, "job", time(4_000)).await;
        pooler.kill9();
        assert_eq!(guard.verify().await.expect_err("gone").kind(), ErrorKind::Unavailable);
        pooler.restart().expect("started");
        let renewed = async { while guard.ensure(time(3_000)).await.is_err() {} };
        within(soon(), renewed).await;
        guard.release().await.expect("released");
    });
}

#[test]
fn many_clients_share_the_few_connections_of_a_pooler() {
    run(async {
        let pooler = bouncer(&[("default_pool_size", "3")]);
        let url = own(&pooler.url());
        let workers = (0..8).map(|worker| {
            let url = url.clone();
            tokio::spawn(async move {
                let locks = client(&url).await;
                for turn in 0..25 {
                    let guard = hold(&locks, &format!("job{}", (worker + turn) % 3), LONG).await;
                    guard.verify().await.expect("held");
                    guard.release().await.expect("released");
                }
            })
        });
        for worker in within(LONG, join_all(workers)).await {
            worker.expect("no panic");
        }
    });
}

#[test]
fn a_role_that_is_serializable_behind_a_pooler_is_served() {
    run(async {
        let pooler = bouncer(&[("default_pool_size", "4")]);
        let role = table();
        common().user(&role, "pw").expect("made");
        sql(common(), &format!("create schema {role} authorization {role}"));
        common().set_for(&role, "default_transaction_isolation", "serializable").expect("set");
        let url = with(&pooler.user(&role, "pw").expect("let in"), &format!("schema={role}"));
        // The session belongs to another client next, so its isolation is not set. Statements that are rolled back are sent
        // again.
        let workers = (0..3).map(|_| {
            let url = url.clone();
            tokio::spawn(async move {
                let locks = client(&url).await;
                for _ in 0..15 {
                    let guard = within(LONG, locks.lock("job").acquire()).await.expect("granted");
                    guard.release().await.expect("released");
                }
            })
        });
        for worker in within(LONG, join_all(workers)).await {
            worker.expect("no panic");
        }
    });
}
