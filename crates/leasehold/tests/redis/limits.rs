//! Limits: connections, memory, processor time, and lines in logs.

use std::time::Duration;

use futures_util::future::join_all;
use leasehold::{ErrorKind, Event};
use leasehold_faultproxy::{Flow, Proxy, To, Which};
use leasehold_testbed::Redis;

use crate::net::limits as scenario;
use crate::net::logs::Logs;
use crate::tools::*;

#[test]
fn a_client_has_two_connections_however_many_wait() {
    run(async {
        let redis = Redis::start().expect("a server");
        let (holder, locks) = (client(&redis.url()).await, client(&redis.url()).await);
        let mut guards = Vec::new();
        for name in 0..20 {
            guards.push(hold(&holder, &name.to_string(), LONG).await);
        }
        let waiting: Vec<_> = (0..1_000)
            .map(|i| {
                let lock = locks.lock((i % 20).to_string());
                tokio::spawn(async move { lock.acquire().await.expect("granted").release().await })
            })
            .collect();
        for name in 0..20 {
            // Only the first waiter of a client has an entry at the server.
            waiters(&holder, &name.to_string(), 1).await;
        }
        until_connections(&redis, 4);
        for guard in guards {
            guard.release().await.expect("released");
        }
        for outcome in within(LONG, join_all(waiting)).await {
            outcome.expect("no panic").expect("released");
        }
        assert_eq!(connections(&redis), 4);
        locks.close().await.expect("closed");
        drop((locks, holder));
        until_connections(&redis, 0);
    });
}

#[test]
fn a_client_that_is_dropped_closes_its_connections() {
    run(async {
        let redis = Redis::start().expect("a server");
        let (storage, hints) = listening(&redis.url()).await;
        assert_eq!(connections(&redis), 2);
        drop(hints);
        until_connections(&redis, 1);
        drop(storage);
        until_connections(&redis, 0);
        let locks = client(&redis.url()).await;
        drop(hold(&locks, "job", LONG).await);
        drop(locks);
        until_connections(&redis, 0);
    });
}

#[test]
fn waiting_costs_no_processor_whether_the_server_is_there_or_not() {
    let redis = Redis::start().expect("a server");
    scenario::processor_of_a_waiter(&redis, &redis.url());
}

/// The test above starts this one in a process of its own.
#[test]
fn a_process_that_waits() {
    scenario::a_waiter();
}

#[test]
fn an_idle_client_only_sends_heartbeats() {
    run(async {
        let redis = Redis::start().expect("a server");
        let (_storage, _hints) = listening(&redis.url()).await;
        until("the first sign of life", || match redis.command_counts()?.get("ping") {
            Some(_) => Ok(()),
            None => Err(leasehold_testbed::Error::new("none")),
        });
        let before = redis.command_counts().expect("answered");
        // The number of calls within a time is what this test is about.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let calls = since(&redis, &before);
        assert!(calls.get("ping").copied().unwrap_or(0) <= 2, "{calls:?}");
        assert!(
            calls.keys().all(|name| ["ping", "client|list", "config|get"].contains(&name.as_str())),
            "{calls:?}"
        );
    });
}

#[test]
fn a_flood_of_claims_loses_no_hold() {
    let calm = |event: &Event| !matches!(event, Event::Lost { .. } | Event::RenewFailed { .. });
    run(scenario::flood(time(1_500), 400, 20, calm));
}

#[test]
fn a_server_that_takes_no_more_clients_keeps_those_it_has() {
    run(async {
        let redis = Redis::start().expect("a server");
        let locks = client(&redis.url()).await;
        let guard = hold(&locks, "job", time(1_500)).await;
        until_connections(&redis, 2);
        // The limit includes the connection that sets it.
        tell(&redis, &["config", "set", "maxclients", "2"]);
        // The server sends the reason and closes. Whether the reason arrives is a race.
        assert_eq!(refusal(&redis.url()).await.kind(), ErrorKind::Unavailable);
        guard.ensure(time(1_400)).await.expect("renewed");
        hold(&locks, "other", LONG).await.release().await.expect("released");
        guard.release().await.expect("released");
    });
}

#[test]
fn a_server_that_is_down_is_asked_a_few_times_a_second() {
    run(scenario::tries_to_connect("job"));
}

#[test]
fn full_memory_refuses_claims_and_neither_renewals_nor_releases() {
    run(async {
        let redis = Redis::start().expect("a server");
        let (storage, mut hints) = listening(&redis.url()).await;
        let (mine, next) = (claim("job"), claim("job").wait(true));
        let token = take(&storage, &mine).await;
        is_held(&storage, &next).await;
        tell(&redis, &["config", "set", "maxmemory", "1mb"]);
        until("its memory to be full", || match redis.command(&["set", "x", "y"]) {
            Err(error) if error.to_string().contains("OOM") => Ok(()),
            other => Err(leasehold_testbed::Error::new(format!("{other:?}"))),
        });
        let error = acquire(&storage, &claim("other")).await.expect_err("no room");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("memory is full") && error.to_string().contains("OOM"), "{error}");
        let error = acquire(&storage, &claim("job").wait(true)).await.expect_err("no room for its place");
        assert_eq!(error.kind(), ErrorKind::Unavailable);

        assert_eq!(renewed(&storage, &mine).await, mine.ttl);
        // A TTL longer than any before needs memory for the record, so the old one is given.
        let mut longer = mine.clone();
        longer.ttl = 2 * mine.ttl;
        assert_eq!(renewed(&storage, &longer).await, mine.ttl);
        assert_eq!(take(&storage, &mine).await, token, "asking again needs no memory");
        assert_eq!(
            release(&storage, &mine).await.expect("answered"),
            leasehold::storage::ReleaseReply::Released
        );
        let hint = within(LONG, futures_util::StreamExt::next(&mut hints)).await;
        assert_eq!(hint, Some(leasehold::storage::Hint::Owner(next.owner)));
        assert_eq!(
            release(&storage, &next).await.expect("answered"),
            leasehold::storage::ReleaseReply::NotHeld
        );
        tell(&redis, &["config", "set", "maxmemory", "0"]);
        assert!(take(&storage, &next).await > token);
    });
}

async fn renewed(storage: &Bare, claim: &leasehold::storage::Claim) -> Duration {
    match renew(storage, claim).await {
        Ok(leasehold::storage::RenewReply::Renewed { ttl }) => ttl,
        other => panic!("not renewed: {other:?}"),
    }
}

#[test]
fn a_server_that_is_down_fills_no_log() {
    let logs = Logs::of_all();
    run(async {
        let redis = Redis::start().expect("a server");
        let locks = client(&redis.url()).await;
        let waiting: Vec<_> = (0..100)
            .map(|i| {
                let lock = locks.lock(format!("quiet{}", i % 3)).wait(Duration::from_secs(2));
                tokio::spawn(async move { lock.acquire().await.map(drop) })
            })
            .collect();
        let guard = hold(&locks, "quiet", time(1_000)).await;
        redis.kill9();
        guard.lost().await;
        let _ = within(LONG, join_all(waiting)).await;
    });
    let ours =
        |line: &String| line.contains("quiet") && (line.starts_with("WARN") || line.starts_with("ERROR"));
    let lines: Vec<_> = logs.lines().into_iter().filter(ours).collect();
    assert!(!lines.is_empty() && lines.len() <= 50, "{} lines: {:?}", lines.len(), &lines);
}

/// Makes a hundred thousand locks in the format of the storage, and `others` other keys, in short scripts.
fn crowd(redis: &Redis, prefix: &str, others: usize) {
    let script = "for i = ARGV[1], ARGV[1] + 4999 do \
        local lock = ARGV[2] .. string.format('%06d', i) \
        local owner = string.format('%032x', i) \
        redis.call('SET', lock, owner, 'PX', 600000) \
        local row = '-' .. string.format('%016d', i + 1) .. owner .. string.rep('0', 16) \
        redis.call('SET', '{' .. lock .. '}\\0t', row .. '00600000' .. '1700000000000', 'PX', 600000) end";
    for first in (0..100_000).step_by(5_000) {
        tell(redis, &["eval", script, "0", &first.to_string(), prefix]);
    }
    let script = "for i = ARGV[1], ARGV[1] + 9999 do redis.call('SET', 'other' .. i, 'x') end";
    for first in (0..others).step_by(10_000) {
        tell(redis, &["eval", script, "0", &first.to_string()]);
    }
}

#[test]
fn a_hundred_thousand_locks_are_listed_in_small_steps() {
    run(async {
        let redis = Redis::options().volatile().start().expect("a server");
        crowd(&redis, "leasehold:", 100_000);
        let storage = bare(&redis.url()).await;
        let before = redis.command_counts().expect("answered");
        let (mut listed, mut after) = (0, None);
        loop {
            let page =
                leasehold::storage::Storage::list(&storage, "", after.as_ref(), 1_000).await.expect("listed");
            assert!(after.is_none() || page.first().is_none_or(|first| Some(first.cursor()) > after));
            listed += page.len();
            after = page.last().map(leasehold::storage::Holder::cursor).or(after);
            if page.len() < 1_000 {
                break;
            }
        }
        assert_eq!(listed, 100_000);
        let counts = since(&redis, &before);
        // Three hundred thousand keys are scanned once, a thousand at a time. Each lock is inspected once.
        assert!(counts["scan"] <= 330, "{counts:?}");
        assert!(counts["mget"] == 100_000 && counts["evalsha"] >= 700, "{counts:?}");

        // A prefix is not a pattern, and finds few locks among many.
        let before = redis.command_counts().expect("answered");
        let page = leasehold::storage::Storage::list(&storage, "09999", None, 1_000).await.expect("listed");
        assert_eq!(page.len(), 10);
        let counts = since(&redis, &before);
        assert!(counts["mget"] <= 10 && counts["scan"] <= 330, "{counts:?}");
        for prefix in ["*", "?", "[0-9]", "\\0"] {
            let page = leasehold::storage::Storage::list(&storage, prefix, None, 10).await.expect("listed");
            assert!(page.is_empty(), "{prefix}");
        }
    });
}

#[test]
fn a_list_may_take_longer_than_a_call_while_it_makes_progress() {
    run(async {
        let redis = Redis::options().volatile().start().expect("a server");
        crowd(&redis, "leasehold:", 0);
        let proxy = Proxy::start(format!("127.0.0.1:{}", redis.port())).await.expect("a proxy");
        let locks = client(&proxy.url_for(&redis.url())).await;
        proxy.faults().flow(Which::All, To::Client, Flow::delay(Duration::from_millis(40)));
        let begun = tokio::time::Instant::now();
        // Two hundred thousand keys are scanned to find ten.
        let listed = locks.list("09999").await;
        let names: Vec<_> =
            listed.expect("listed").into_iter().map(|holder| holder.name.to_string()).collect();
        assert_eq!(names, (99_990..100_000).map(|n| format!("{n:06}")).collect::<Vec<_>>());
        assert!(begun.elapsed() > Duration::from_secs(5), "it was not slow: {:?}", begun.elapsed());

        // A list that is dropped stops. Otherwise its scans would be counted with those of the next list, which takes as
        // many as the one before.
        let scans = || redis.command_counts().expect("answered").get("scan").copied().unwrap_or(0);
        let one_list = scans();
        assert!(tokio::time::timeout(Duration::from_millis(20), locks.list("")).await.is_err());
        proxy.faults().heal().expect("healed");
        locks.list("09999").await.expect("listed");
        let more = scans() - one_list;
        assert!(more <= one_list + 10, "{more} scans after {one_list}");
    });
}
