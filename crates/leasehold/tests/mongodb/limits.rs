//! Limits: connections, processor time, and lines in logs.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::join_all;
use leasehold::Event;
use leasehold::storage::Storage as _;
use leasehold_testbed::MongoDb;

use crate::net::limits as scenario;
use crate::net::logs::Logs;
use crate::tools::*;

/// The connections of a client in steady state: for commands, for the change stream, and the one by which the driver
/// watches the member.
const STEADY: usize = 3;

#[test]
fn a_client_has_two_connections_and_one_to_watch_the_server_however_many_wait() {
    run(async {
        let (applications, names) = ([unique(), unique()], 50);
        let url = own(&common().url());
        let [holder, locks] = [0, 1].map(|i| with(&url, &format!("appName={}", applications[i])));
        let (holder, locks) = (client(&holder).await, client(&locks).await);
        let taking = (0..names).map(|name| {
            let holder = holder.clone();
            async move { hold(&holder, &name.to_string(), LONG).await }
        });
        let guards = join_all(taking).await;
        let waiting: Vec<_> = (0..1_000)
            .map(|i| {
                let lock = locks.lock((i % names).to_string());
                tokio::spawn(async move { lock.acquire().await.expect("granted").release().await })
            })
            .collect();
        for name in 0..names {
            // Only the first waiter of a client has an entry at the server.
            waiters(&holder, &name.to_string(), 1).await;
        }
        until_connections(common(), &applications[1], STEADY);
        within(LONG, join_all(guards.into_iter().map(leasehold::Guard::release))).await;
        for outcome in within(LONG, join_all(waiting)).await {
            outcome.expect("no panic").expect("released");
        }
        for application in &applications {
            // Connections that are not needed any more are closed after ten seconds.
            until_at_most(application, STEADY);
        }
        locks.close().await.expect("closed");
        drop((locks, holder));
        for application in &applications {
            until_connections(common(), application, 0);
        }
    });
}

fn until_at_most(application: &str, most: usize) {
    until("idle connections to be closed", || match connections(common(), application) {
        found if found <= most => Ok(()),
        found => Err(leasehold_testbed::Error::new(format!("{found}, not {most}"))),
    });
}

#[test]
fn a_client_that_is_dropped_closes_its_connections() {
    run(async {
        let application = unique();
        let url = with(&own(&common().url()), &format!("appName={application}"));
        let (storage, hints) = listening(&url).await;
        assert!(connections(common(), &application) > 1);
        drop(hints);
        until("its change stream to be closed", || match streams(common(), database_of(&url)).len() {
            0 => Ok(()),
            open => Err(leasehold_testbed::Error::new(format!("{open} are open"))),
        });
        drop(storage);
        until_connections(common(), &application, 0);
        let locks = client(&url).await;
        drop(hold(&locks, "job", LONG).await);
        drop(locks);
        until_connections(common(), &application, 0);
    });
}

#[test]
fn a_pool_of_one_connection_delays_no_claim_by_the_change_stream() {
    run(async {
        let url = with(&own(&common().url()), "maxPoolSize=1");
        let (storage, mut hints) = listening(&url).await;
        let since = tokio::time::Instant::now();
        for _ in 0..10 {
            let mine = claim("job");
            take(&storage, &mine).await;
            release(&storage, &mine).await.expect("answered");
        }
        // The change stream waits at the server for two seconds at a time.
        assert!(since.elapsed() < time(1_500), "{:?}", since.elapsed());
        let (held, mine) = (claim("job"), claim("job").wait(true));
        take(&storage, &held).await;
        is_held(&storage, &mine).await;
        release(&storage, &held).await.expect("answered");
        assert_eq!(within(soon(), hints.next()).await, Some(leasehold::storage::Hint::Owner(mine.owner)));
    });
}

#[test]
fn waiting_costs_no_processor_whether_the_server_is_there_or_not() {
    let server = MongoDb::start().expect("a server");
    scenario::processor_of_a_waiter(&server, &server.url());
}

/// The test above starts this one in a process of its own.
#[test]
fn a_process_that_waits() {
    scenario::a_waiter();
}

#[test]
fn an_idle_client_only_asks_for_events() {
    run(async {
        let url = own(&common().url());
        let (storage, mut hints) = listening(&url).await;
        let observed: Vec<_> = (0..1_000).map(|i| name(&format!("job{i}"))).collect();
        storage.watch(&observed, &[]);
        for _ in &observed {
            within(soon(), hints.next()).await.expect("it begins to observe");
        }
        record(common(), database_of(&url));
        // The number of commands within a time is what this test is about.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let stages = [
            doc! { "$match": { "appName": "leasehold" } },
            doc! { "$project": { "first": { "$first": { "$objectToArray": "$command" } } } },
            doc! { "$sortByCount": "$first.k" },
        ];
        let calls = rows(common(), database_of(&url), "system.profile", &stages);
        assert!(calls.len() == 1 && calls[0].get_str("_id").ok() == Some("getMore"), "{calls:?}");
        assert!(calls[0].get_i32("count").is_ok_and(|count| count <= 4), "{calls:?}");
    });
}

#[test]
fn a_flood_of_claims_loses_no_hold() {
    let calm = |event: &Event| !matches!(event, Event::Lost { .. });
    run(scenario::flood(time(3_000), 300, 10, calm));
}

#[test]
fn a_server_that_is_down_is_asked_a_few_times_a_second_and_fills_no_log() {
    let logs = Logs::of_all();
    run(scenario::tries_to_connect("quiet"));
    let ours =
        |line: &String| line.contains("quiet") && (line.starts_with("WARN") || line.starts_with("ERROR"));
    let lines: Vec<_> = logs.lines().into_iter().filter(ours).collect();
    assert!(lines.len() <= 300, "{} lines: {:?}", lines.len(), &lines[..10]);
}
