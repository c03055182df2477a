//! Limited resources: connections, disk, the processor, the log. There is no pool that could be empty or poisoned: all
//! statements share one connection, and none of them leaves a transaction open.

use std::time::Duration;

use futures_util::future::join_all;
use leasehold::storage::{ReleaseReply, Storage};
use leasehold::{ErrorKind, Event};
use leasehold_testbed::Postgres;

use crate::net::limits as scenario;
use crate::net::logs::Logs;
use crate::tools::*;

#[test]
fn a_client_has_two_connections_however_many_wait() {
    run(async {
        let (applications, names) = ([table(), table()], 200);
        let url = own(&common().url());
        let [holder, locks] = [&applications[0], &applications[1]]
            .map(|application| with(&url, &format!("application_name={application}")));
        let (holder, locks) = (client(&holder).await, client(&locks).await);
        let taking = (0..names).map(|name| {
            let holder = holder.clone();
            async move { hold(&holder, &name.to_string(), LONG).await }
        });
        let guards = join_all(taking).await;
        let waiting: Vec<_> = (0..5_000)
            .map(|i| {
                let lock = locks.lock((i % names).to_string());
                tokio::spawn(async move { lock.acquire().await.expect("granted").release().await })
            })
            .collect();
        // Only the first waiter of each client is in the queue at the server.
        let queue = format!("select count(*) from {}_waiters", table_of(&url));
        until_sql(common(), &queue, &names.to_string());
        for application in &applications {
            connections(common(), application, 2);
        }
        within(LONG, join_all(guards.into_iter().map(leasehold::Guard::release))).await;
        for outcome in within(LONG, join_all(waiting)).await {
            outcome.expect("no panic").expect("released");
        }
        for application in &applications {
            connections(common(), application, 2);
        }
        locks.close().await.expect("closed");
        drop((locks, holder));
        for application in &applications {
            connections(common(), application, 0);
        }
    });
}

#[test]
fn a_client_that_is_dropped_closes_its_connections() {
    run(async {
        let application = table();
        let url = own(&with(&common().url(), &format!("application_name={application}")));
        let (storage, hints) = listening(&url).await;
        connections(common(), &application, 2);
        drop(hints);
        connections(common(), &application, 1);
        drop(storage);
        connections(common(), &application, 0);
        let locks = client(&url).await;
        drop(hold(&locks, "job", LONG).await);
        drop(locks);
        connections(common(), &application, 0);
    });
}

#[test]
fn a_flood_of_claims_loses_no_hold() {
    let calm = |event: &Event| !matches!(event, Event::Lost { .. });
    run(scenario::flood(time(3_000), 300, 10, calm));
}

#[test]
fn a_server_that_takes_no_more_clients_keeps_those_it_has() {
    run(async {
        let (role, schema) = (table(), table());
        let url = common().user(&role, "pw").expect("made");
        sql(common(), &format!("create schema {schema} authorization {role}"));
        let url = with(&url, &format!("schema={schema}&application_name={role}"));
        let locks = client(&url).await;
        let guard = hold(&locks, "job", time(1_500)).await;
        connections(common(), &role, 2);
        common().limit_connections_of(&role, 2).expect("limited");
        let error = refusal(&url).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("no connection left"), "{error}");
        guard.ensure(time(1_400)).await.expect("renewed");
        hold(&locks, "other", LONG).await.release().await.expect("released");
        guard.release().await.expect("released");
        // A client that has lost its connections connects again as soon as there is room, and keeps its leases.
        let guard = hold(&locks, "job", LONG).await;
        common().limit_connections_of(&role, 0).expect("limited");
        common().terminate_backends(&role).expect("ended");
        let error = within(LONG, async {
            loop {
                if let Err(error) = guard.verify().await {
                    return error;
                }
            }
        });
        assert_eq!(error.await.kind(), ErrorKind::Unavailable);
        common().limit_connections_of(&role, 10).expect("limited");
        let verified = async { while guard.verify().await.is_err() {} };
        within(soon(), verified).await;
        guard.release().await.expect("released");
    });
}

#[test]
fn waiting_costs_no_processor_whether_the_server_is_there_or_not() {
    let postgres = victim();
    scenario::processor_of_a_waiter(&postgres, &own(&postgres.url()));
    postgres.restart().expect("started");
}

/// The process of the test above.
#[test]
fn a_process_that_waits() {
    scenario::a_waiter();
}

#[test]
fn a_server_that_is_down_is_asked_a_few_times_a_second_and_fills_no_log() {
    let logs = Logs::of_all();
    // Each attempt is two connections: `sslmode=prefer` tries once more without TLS.
    run(scenario::tries_to_connect("quiet"));
    let ours =
        |line: &String| line.contains("quiet") && (line.starts_with("WARN") || line.starts_with("ERROR"));
    let lines: Vec<_> = logs.lines().into_iter().filter(ours).collect();
    assert!(lines.len() <= 300, "{} lines: {:?}", lines.len(), &lines[..10]);
}

#[test]
fn an_idle_client_only_shows_that_it_lives() {
    run(async {
        let url = own(&common().url());
        let (_storage, _hints) = listening(&url).await;
        let table = table_of(&url);
        let before = done(common(), table, "");
        // The statements within this time are counted.
        tokio::time::sleep(Duration::from_secs(3)).await;
        // It checks that it still listens, and once a minute deletes expired entries.
        let [calls, ..] = done(common(), table, "");
        assert!(calls - before[0] <= 1, "{calls} - {}", before[0]);
    });
}

#[test]
fn a_name_whose_row_was_removed_meanwhile_gets_a_larger_token() {
    run(async {
        let url = own(&common().url());
        let table = table_of(&url);
        let storage = bare(&url).await;
        let (mine, held) = (claim("job"), claim("held"));
        let mut last = take(&storage, &mine).await;
        take(&storage, &held).await;
        for _ in 0..3 {
            release(&storage, &mine).await.expect("answered");
            let cleanup = format!(
                "with gone as (delete from {table} where owner is null or expires_at < clock_timestamp() returning 1) \
                 select count(*) from gone"
            );
            assert_eq!(sql(common(), &cleanup), "1");
            let token = take(&storage, &mine).await;
            assert!(token > last);
            last = token;
        }
        assert!(!storage.inspect(&held.name).await.expect("answered").is_empty());
    });
}

#[test]
fn a_full_disk_is_said_and_over_when_there_is_room() {
    let postgres = Postgres::options().small_disk(160).start().expect("a server and a disk");
    run(async {
        let storage = bare(&postgres.url()).await;
        let (mine, next) = (claim("job"), claim("job"));
        let token = take(&storage, &mine).await;
        let disk = postgres.disk().expect("as asked");
        disk.fill().expect("filled");
        let error = within(LONG, async {
            for round in 0.. {
                let label = "x".repeat(900);
                let claims: Vec<_> =
                    (0..100).map(|i| claim(&format!("{round}-{i}")).label(label.clone())).collect();
                for answer in storage.acquire(&claims).await {
                    if let Err(error) = answer {
                        return error;
                    }
                }
            }
            unreachable!("it is full before")
        })
        .await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("disk is full"), "{error}");
        // A renewal finds room beside the row, or fails with that error; the lease stays.
        if let Err(error) = renew(&storage, &mine).await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        disk.free().expect("freed");
        assert_eq!(take_in_the_end(&storage, &mine).await, token);
        assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
        assert!(take(&storage, &next).await > token);
    });
}
