//! What a server promises, and what is left when it is killed, and when another one takes its place.

use futures_util::StreamExt;
use leasehold::storage::{AcquireReply, Hint, ReleaseReply, Storage};
use leasehold::{ErrorKind, Locks, Lost, Tier};
use leasehold_faultproxy::{Flow, Which};
use leasehold_testbed::{Postgres, PostgresPair};
use tokio::time::Instant;

use crate::tools::*;

async fn tier(url: &str) -> Tier {
    bare(url).await.guarantees().tier
}

#[test]
fn a_lease_that_was_granted_survives_kill_9_whatever_synchronous_commit_says() {
    let postgres = victim();
    let url = own(&postgres.url());
    postgres.user("hasty", "pw").expect("made");
    // Only a commit that waits for the disk reaches it soon.
    postgres.set("wal_writer_delay", "10s").expect("set");
    postgres.set("synchronous_commit", "off").expect("set");
    sql(&postgres, "alter database leasehold set synchronous_commit = off");
    sql(&postgres, "alter role leasehold set synchronous_commit = off");
    run(async {
        let storage = bare(&url).await;
        assert_eq!(storage.guarantees().tier, Tier::RestartSafe);
        for round in 0..3 {
            let lock = format!("job{round}");
            let (mine, before) = (claim(&lock), claim(&format!("before{round}")));
            take(&storage, &before).await;
            assert_eq!(release(&storage, &before).await.expect("answered"), ReleaseReply::Released);
            let token = take(&storage, &mine).await;
            postgres.kill9();
            postgres.restart().expect("started");
            // The grant and the release that were answered have survived.
            assert!(take_in_the_end(&storage, &mine).await == token, "round {round}");
            take(&storage, &before).await;
            is_held(&storage, &claim(&lock)).await;
            // So has a handover: the release, and the grant, which is notified only once it is on the disk.
            let (waiter, mut hints) = listening(&url).await;
            let theirs = claim(&lock).wait(true);
            is_held(&waiter, &theirs).await;
            is_held(&storage, &claim(&lock).wait(true)).await;
            assert_eq!(release(&storage, &mine).await.expect("answered"), ReleaseReply::Released);
            assert_eq!(within(LONG, hints.next()).await, Some(Hint::Owner(theirs.owner)));
            let token = take(&waiter, &theirs).await;
            postgres.kill9();
            postgres.restart().expect("started");
            assert!(take_in_the_end(&waiter, &theirs).await == token, "round {round}");
        }
    });
    sql(&postgres, "alter role leasehold reset synchronous_commit");
    sql(&postgres, "alter database leasehold reset synchronous_commit");
    sql(&postgres, "alter system reset all");
    sql(&postgres, "select pg_reload_conf()");
}

#[test]
fn what_is_promised_follows_from_what_the_server_keeps() {
    let postgres = victim();
    run(async {
        let url = own(&postgres.url());
        assert_eq!(tier(&url).await, Tier::RestartSafe);
        for setting in ["fsync", "full_page_writes"] {
            postgres.set(setting, "off").expect("set");
            assert_eq!(tier(&url).await, Tier::CrashSafe, "{setting}");
            postgres.set(setting, "on").expect("set");
        }
        sql(&postgres, &format!("alter table {} set unlogged", table_of(&url)));
        assert_eq!(tier(&url).await, Tier::CrashSafe);
        let required = Locks::builder().require(Tier::RestartSafe).connect(&url).await;
        let error = required.expect_err("it forgets");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("restart-safe"), "{error}");
        let found = bare(&url).await.findings().await.expect("answered");
        assert!(found.iter().any(|finding| format!("{finding:?}").contains("UNLOGGED")), "{found:?}");
        sql(&postgres, &format!("alter table {} set logged", table_of(&url)));
        assert_eq!(tier(&url).await, Tier::RestartSafe);
    });
    sql(&postgres, "alter system reset all");
    sql(&postgres, "select pg_reload_conf()");
}

#[test]
fn a_server_that_starts_again_ends_no_hold_and_loses_no_waiter() {
    let postgres = victim();
    run(async {
        let url = own(&postgres.url());
        let (locks, other) = (client(&url).await, client(&url).await);
        let guard = hold(&locks, "job", LONG).await;
        let waiting = waiting(other.lock("job"));
        waiters(&locks, "job", 1).await;
        // First one process of it is killed, so that it recovers, which empties the queue. Then the whole server.
        let child = postgres.backends("leasehold").expect("answered")[0];
        postgres.kill9_backend(child).expect("it recovers");
        let verified = async { while guard.verify().await.is_err() {} };
        within(soon(), verified).await;
        waiters(&locks, "job", 1).await;
        postgres.kill9();
        postgres.restart().expect("started");
        let verified = async { while guard.verify().await.is_err() {} };
        within(soon(), verified).await;
        assert!(guard.is_held());
        let token = guard.token();
        guard.release().await.expect("released");
        let next = within(soon(), waiting).await.expect("no panic").expect("granted");
        assert!(next.token() > token);
        next.release().await.expect("released");
    });
}

#[test]
fn an_asynchronous_standby_that_is_promoted_gives_larger_tokens_and_ends_what_it_does_not_know() {
    let pair = PostgresPair::start().expect("two servers");
    run(async {
        let url = pair.url();
        let (locks, other) = (client(&url).await, client(&url).await);
        assert_eq!(locks.guarantees().tier, Tier::CrashSafe);
        let known = hold(&locks, "known", LONG).await;
        is_free(&other, "other").await;
        pair.await_caught_up().expect("it follows");
        pair.stop_following().expect("stopped");
        let guard = hold(&locks, "job", LONG).await;
        pair.failover_by_kill().expect("promoted");
        // Its next renewal is due in twenty seconds.
        assert_eq!(within(time(12_000), guard.lost()).await, Lost::Taken);
        let theirs = within(time(12_000), other.lock("job").acquire()).await.expect("granted");
        assert!(theirs.token() > guard.token());
        known.verify().await.expect("it is there, too");
        assert!(known.is_held());
        theirs.release().await.expect("released");
    });
}

#[test]
fn a_synchronous_standby_that_is_promoted_knows_every_grant() {
    let pair = PostgresPair::start_synchronous(Postgres::options()).expect("two servers");
    run(async {
        let url = pair.url();
        let (locks, other) = (client(&url).await, bare(&url).await);
        assert_eq!(locks.guarantees().tier, Tier::FailoverSafe);
        let guard = hold(&locks, "job", LONG).await;
        let theirs = claim("job");
        is_held(&other, &theirs).await;
        pair.failover_by_kill().expect("promoted");
        let answer = within(time(12_000), answered(async || acquire(&other, &theirs).await)).await;
        assert!(matches!(answer, AcquireReply::Held { .. }), "{answer:?}");
        let verified = async { while guard.verify().await.is_err() {} };
        within(time(12_000), verified).await;
        guard.release().await.expect("released");
        assert!(matches!(acquire(&other, &theirs).await, Ok(AcquireReply::Granted { .. })));
    });
}

#[test]
fn a_standby_alone_is_no_place_to_lock() {
    let primary = Postgres::start().expect("a server");
    let standby = primary.start_standby().expect("another");
    run(async {
        let error = refusal(&standby.url()).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("standby"), "{error}");
        // Once it is promoted, it is used.
        standby.promote().expect("promoted");
        take(&bare(&standby.url()).await, &claim("job")).await;
    });
}

// Nothing is bound to a connection.
#[test]
fn connections_that_are_terminated_end_no_hold() {
    run(async {
        let application = table();
        let url = own(&with(&common().url(), &format!("application_name={application}")));
        let locks = client(&url).await;
        let guard = hold(&locks, "job", time(1_500)).await;
        let mut events = locks.events();
        for _ in 0..10 {
            until("it to connect", || match common().terminate_backends(&application)? {
                0 => Err(leasehold_testbed::Error::new("no connection")),
                _ => Ok(()),
            });
        }
        let verified = async { while guard.verify().await.is_err() {} };
        within(soon(), verified).await;
        guard.ensure(time(1_000)).await.expect("renewed");
        while let Some(event) = futures_util::future::poll_immediate(events.next()).await.flatten() {
            assert!(!matches!(event, leasehold::Event::Lost { .. }), "{event:?}");
        }
        guard.release().await.expect("released");
    });
}

#[test]
fn a_holder_behind_a_dead_link_ends_at_its_deadline_and_not_later() {
    run(async {
        let (proxy, through, direct) = proxied(common()).await;
        let (locks, other) = (client(&through).await, client(&direct).await);
        let ttl = time(1_500);
        let guard = hold(&locks, "job", ttl).await;
        let since = Instant::now();
        proxy.faults().flow_both(Which::All, Flow::BlackHole);
        assert_eq!(within(LONG, guard.lost()).await, Lost::Expired);
        let lost = since.elapsed();
        assert!(!guard.is_held());
        assert!(lost <= ttl + time(200), "{lost:?}");
        let next = within(LONG, other.lock("job").acquire()).await.expect("granted");
        assert!(since.elapsed() >= lost, "before the holder knew");
        next.release().await.expect("released");
    });
}

#[test]
fn the_tier_depends_on_what_each_standby_has_and_a_backup_is_none() {
    let postgres = victim();
    run(async {
        let url = own(&postgres.url());
        let tier = async || bare(&url).await.guarantees().tier;
        assert_eq!(tier().await, Tier::RestartSafe);
        let backup = postgres.slow_backup().expect("begun");
        assert_eq!(tier().await, Tier::RestartSafe, "while a backup is made");
        // A role that may not see the states of other sessions.
        let role = table();
        let theirs = postgres.user(&role, "pw").expect("made");
        sql(&postgres, &format!("create schema {role} authorization {role}"));
        let seen = bare(&with(&theirs, &format!("schema={role}"))).await.guarantees().tier;
        assert_eq!(seen, Tier::RestartSafe, "for a role that sees less");
        drop(backup);
        // The process that fetches the log outlives the backup, and `*` admits it.
        sql(&postgres, "select count(pg_terminate_backend(pid)) from pg_stat_replication");
        until_sql(&postgres, "select count(*) from pg_stat_replication", "0");
        for (names, promised) in [
            ("a", Tier::FailoverSafe),
            ("FIRST 1 (a, b)", Tier::RestartSafe),
            ("ANY 1 (a, b)", Tier::RestartSafe),
            ("ANY 2 (a, b)", Tier::FailoverSafe),
            ("FIRST 2 (a, \"b c\")", Tier::FailoverSafe),
            ("*", Tier::FailoverSafe),
        ] {
            postgres.set("synchronous_standby_names", names).expect("set");
            let found = async {
                // The server reads the setting a moment later.
                while tier().await != promised {}
            };
            within(soon(), found).await;
            let found = bare(&url).await.findings().await.expect("answered");
            let failover = found.iter().find(|finding| finding.about == "failover").expect("a finding");
            assert_eq!(failover.is_good(), promised == Tier::FailoverSafe, "{names}: {failover:?}");
        }
        // An archive of the log is no standby either, and may confirm a commit before any standby has it.
        let keeper = postgres.receive_log("keeper").expect("begun");
        for (names, promised) in [
            ("*", Tier::RestartSafe),
            ("a", Tier::FailoverSafe),
            ("ANY 1 (a, keeper)", Tier::RestartSafe),
            ("ANY 2 (a, keeper)", Tier::FailoverSafe),
            ("keeper", Tier::RestartSafe),
            ("a", Tier::FailoverSafe),
        ] {
            postgres.set("synchronous_standby_names", names).expect("set");
            within(soon(), async { while tier().await != promised {} }).await;
        }
        drop(keeper);
        // A standby that no commit waits for.
        postgres.set("synchronous_standby_names", "").expect("set");
        let standby = postgres.start_standby().expect("another");
        within(soon(), async { while tier().await != Tier::CrashSafe {} }).await;
        postgres.set("synchronous_standby_names", "ANY 1 (walreceiver, b)").expect("set");
        within(soon(), async { while tier().await != Tier::RestartSafe {} }).await;
        postgres.set("synchronous_standby_names", "ANY 1 (walreceiver)").expect("set");
        within(soon(), async { while tier().await != Tier::FailoverSafe {} }).await;
        drop(standby);
    });
    sql(&postgres, "alter system reset all");
    sql(&postgres, "select pg_reload_conf()");
}
