//! Sentinel: the primary is found after each change, and the holders learn what became of their leases.

use std::time::Duration;

use futures_util::StreamExt;
use leasehold::storage::{AcquireReply, Hint, ReleaseReply, RenewReply, Storage};
use leasehold::{ErrorKind, Locks, Lost, Tier};
use leasehold_testbed::redis::RedisOptions;
use leasehold_testbed::{Redis, RedisSentinels};
use tokio::time::Instant;

use crate::tools::*;

/// Cuts the replica off from the primary. From now on it receives nothing that the primary grants.
fn cut_off(primary: &Redis, replica: &Redis) {
    replica.stop();
    primary.command(&["client", "kill", "type", "replica"]).expect("cut off");
}

/// Returns the options of servers that refuse writes when they miss their replica.
fn stopping() -> RedisOptions {
    Redis::options().setting("min-replicas-to-write", "1").setting("min-replicas-max-lag", "1")
}

/// Starts Sentinels and servers whose primary can be cut off from the others, but not from its clients: the others
/// connect as a user of their own.
fn partitionable(options: RedisOptions) -> RedisSentinels {
    let options = options.user("net", "netpw").acl("app", "apppw", "~* &* +@all");
    RedisSentinels::start_with(options).expect("servers")
}

/// Returns the URL of a client that stays connected to a primary that is cut off.
fn url_of_app(servers: &RedisSentinels) -> String {
    servers.url().replace("net:netpw@", "app:apppw@")
}

/// Cuts the primary off from its replica and the Sentinels, and waits until the replica is promoted.
fn partition(servers: &RedisSentinels) -> &Redis {
    let old = servers.primary().expect("a primary");
    old.command_as("app", "apppw", &["acl", "setuser", "net", "off"]).expect("cut off");
    old.command_as("app", "apppw", &["client", "kill", "user", "net"]).expect("cut off");
    until("another primary", || match servers.primary()? {
        new if new.port() != old.port() && new.is_primary()? => Ok(()),
        _ => Err(leasehold_testbed::Error::new("the primary is the old one")),
    });
    assert_eq!(
        old.command_as("app", "apppw", &["role"]).expect("it lives on").lines().next(),
        Some("master")
    );
    old
}

/// Kills the primary, and waits until the replica is promoted.
fn fail_over(servers: &RedisSentinels) -> &Redis {
    let primary = servers.primary().expect("a primary");
    primary.kill9();
    servers.await_primary_other_than(primary.port()).expect("another primary")
}

#[test]
fn a_failover_that_forgets_a_lease_is_noticed_at_once_and_tokens_grow() {
    let servers = RedisSentinels::start().expect("servers");
    run(async {
        let (locks, rival) = (client(&servers.url()).await, client(&servers.url()).await);
        assert_eq!(locks.guarantees().tier, Tier::CrashSafe);
        let [primary, replica] = servers.servers() else { panic!("two servers") };
        cut_off(primary, replica);
        let guard = hold(&locks, "job", LONG).await;
        let token = guard.token();
        primary.kill9();
        replica.cont();
        let new = servers.await_primary_other_than(primary.port()).expect("another primary");
        assert_eq!(new.command(&["exists", "leasehold:job"]).expect("an answer"), "0");
        // The client reconnects within a second, and then verifies the lease.
        assert_eq!(within(soon(), guard.lost()).await, Lost::Taken);
        let next = within(soon(), rival.lock("job").acquire()).await.expect("granted");
        assert!(next.token() > token);
        next.release().await.expect("held until now");
    });
}

#[test]
fn a_lease_that_the_new_primary_has_goes_on() {
    let servers = RedisSentinels::start().expect("servers");
    run(async {
        let url = with(&servers.url(), "wait_replicas=1");
        let (locks, rival) = (client(&url).await, client(&servers.url()).await);
        let ttl = time(10_000);
        let guard = hold(&locks, "job", ttl).await;
        fail_over(&servers);
        answered(async || guard.verify().await).await;
        assert!(answered(async || rival.lock("job").try_acquire().await).await.is_none());
        within(ttl, guard.ensure(ttl * 9 / 10)).await.expect("renewed at the new primary");
        guard.release().await.expect("held until now");
        let next = answered(async || rival.lock("job").try_acquire().await).await;
        next.expect("it is free").release().await.expect("held until now");
    });
}

#[test]
fn a_waiter_is_served_by_the_new_primary() {
    let servers = RedisSentinels::start().expect("servers");
    run(async {
        let (locks, rival) = (client(&servers.url()).await, client(&servers.url()).await);
        let guard = hold(&locks, "job", LONG).await;
        let waiting = waiting(rival.lock("job").ttl(LONG));
        waiters(&locks, "job", 1).await;
        fail_over(&servers);
        drop(guard);
        let next = within(LONG, waiting).await.expect("no panic").expect("granted");
        next.release().await.expect("held until now");
    });
}

#[test]
fn a_demoted_primary_is_left_for_the_new_one() {
    let servers = RedisSentinels::start().expect("servers");
    run(async {
        let (storage, mut hints) = listening(&servers.url()).await;
        let mine = claim("job");
        let token = take(&storage, &mine).await;
        let old = servers.primary().expect("a primary").port();
        let new = servers.failover().expect("another primary");
        assert_ne!(new.port(), old);
        let again = answered(async || acquire(&storage, &mine).await).await;
        assert!(matches!(again, AcquireReply::Granted { token: again, .. } if again == token), "{again:?}");
        assert!(new.command(&["get", "leasehold:job"]).expect("an answer").contains(&mine.owner.to_string()));
        within(LONG, async { while hints.next().await != Some(Hint::Restarted) {} }).await;
    });
}

#[test]
fn a_server_that_became_a_replica_grants_nothing() {
    let (primary, other) = (Redis::start().expect("a server"), Redis::start().expect("a server"));
    run(async {
        let storage = bare(&primary.url()).await;
        let mine = claim("job");
        take(&storage, &mine).await;
        primary.command(&["replicaof", "127.0.0.1", &other.port().to_string()]).expect("demoted");
        for _ in 0..3 {
            // The old connection replies READONLY, and the next one is refused.
            let error = acquire(&storage, &claim("other")).await.expect_err("it does not write");
            assert_eq!(error.kind(), ErrorKind::Unavailable);
            assert!(error.to_string().contains("replica"), "{error}");
        }
        primary.promote().expect("promoted");
        answered(async || acquire(&storage, &claim("third")).await).await;
    });
}

#[test]
fn a_sentinel_that_is_dead_or_silent_changes_nothing() {
    let servers = RedisSentinels::start().expect("servers");
    run(async {
        servers.sentinels()[0].stop();
        let (storage, mut hints) = listening(&servers.url()).await;
        let mine = claim("job");
        take(&storage, &mine).await;
        servers.sentinels()[0].kill9();
        let after = bare(&servers.url()).await;
        is_held(&after, &claim("job")).await;
        // Two of three Sentinels are enough to report the primary, and to fail over.
        fail_over(&servers);
        within(LONG, async { while hints.next().await != Some(Hint::Restarted) {} }).await;
        answered(async || acquire(&storage, &claim("next")).await).await;
    });
}

#[test]
fn a_primary_that_no_sentinel_knows_is_a_wrong_url() {
    let servers = RedisSentinels::start().expect("servers");
    run(async {
        let error = refusal(&servers.url().replace("/leasehold/", "/unknown/")).await;
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("primary=`unknown`"), "{error}");
        let error = refusal("redis+sentinel://127.0.0.1:1,127.0.0.1:2/leasehold").await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    });
}

#[test]
fn sentinels_have_a_password_of_their_own() {
    let options = Redis::options().password("s3cret").sentinel_user("watch", "w0rd");
    let servers = RedisSentinels::start_with(options).expect("servers");
    run(async {
        let storage = bare(&servers.url()).await;
        take(&storage, &claim("job")).await;
        for wrong in ["w0rd", "s3cret"] {
            let error = refusal(&servers.url().replace(wrong, "Wr0ng")).await;
            assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
            let shown = format!("{error} {error:?} {storage} {storage:?}");
            assert!(!["w0rd", "s3cret", "Wr0ng"].iter().any(|secret| shown.contains(secret)), "{shown}");
        }
    });
}

#[test]
fn a_grant_that_too_few_replicas_confirm_does_not_count() {
    let servers = RedisSentinels::start().expect("servers");
    let [_, replica] = servers.servers() else { panic!("two servers") };
    run(async {
        let url = with(&servers.url(), "wait_replicas=1");
        let (storage, locks) = (bare(&url).await, client(&url).await);
        replica.stop();
        let mine = claim("job").patience(time(1_000));
        let error = acquire(&storage, &mine).await.expect_err("no replica confirms");
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.to_string().contains("wait_replicas=`1` answered=`0`"), "{error}");
        // The lease exists at the primary, so another claim is refused. Renewals do not wait for replicas.
        is_held(&storage, &claim("job")).await;
        assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })));
        assert_eq!(release(&storage, &mine).await.expect("an answer"), ReleaseReply::Released);

        // A failed attempt leaves nothing.
        let error =
            locks.lock("vain").ttl(time(2_000)).wait(time(1_500)).acquire().await.expect_err("in vain");
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        within(LONG, async { while !locks.inspect("vain").await.expect("an answer").is_empty() {} }).await;

        let asking = waiting(locks.lock("job").ttl(LONG));
        within(LONG, async { while locks.inspect("job").await.expect("an answer").is_empty() {} }).await;
        assert!(!asking.is_finished());
        replica.cont();
        let guard = within(LONG, asking).await.expect("no panic").expect("granted");
        guard.release().await.expect("held until now");
    });
}

#[test]
fn replicas_that_have_a_grant_are_no_promise_when_another_one_is_promoted() {
    let primary = Redis::start().expect("a server");
    let follow = || {
        let port = primary.port().to_string();
        Redis::options().setting("replicaof", &format!("127.0.0.1 {port}")).start().expect("a replica")
    };
    let (has, lacks) = (follow(), follow());
    primary.await_replicas(2).expect("they follow");
    run(async {
        let storage = bare(&with(&primary.url(), "wait_replicas=1")).await;
        // The first replica has the lease, and the second one does not.
        lacks.stop();
        let mine = claim("job");
        let token = take(&storage, &mine).await;
        assert!(has.command(&["get", "leasehold:job"]).expect("an answer").contains(&mine.owner.to_string()));
        primary.command(&["client", "kill", "type", "replica"]).expect("cut off");
        primary.kill9();
        // The kernel may have buffered the grant for the replica before it was cut off. It must not arrive.
        lacks.kill9();
        lacks.restart().expect("it starts");
        lacks.promote().expect("promoted");
        let elsewhere = bare(&lacks.url()).await;
        let again = take(&elsewhere, &claim("job")).await;
        // Two clients hold the lock, but a resource that checks tokens is safe.
        assert!(again > token);
    });
}

#[test]
fn failover_grace_keeps_others_out_until_every_forgotten_lease_is_over() {
    let servers = RedisSentinels::start_with(stopping()).expect("servers");
    run(async {
        let grace = time(3_000);
        let url = with(&servers.url(), &format!("failover_grace={}ms", grace.as_millis()));
        let begun = Instant::now();
        // No TTL may be longer than the grace.
        let client = async || Locks::builder().ttl(grace).connect(&url).await.expect("connected");
        let (locks, rival) = (client().await, client().await);
        assert_eq!(locks.guarantees().tier, Tier::FailoverSafe);
        // A primary that no client has seen is a new one.
        let guard = hold(&locks, "job", grace).await;
        assert!(begun.elapsed() >= grace);
        let token = guard.token();

        let [primary, _replica] = servers.servers() else { panic!("two servers") };
        let waiting = waiting(rival.lock("job").ttl(grace));
        waiters(&locks, "job", 1).await;
        let killed = Instant::now();
        fail_over(&servers);
        // The new primary refuses writes until it has a replica.
        primary.restart().expect("it starts");
        within(LONG, guard.lost()).await;
        let lost = Instant::now();
        let next = within(LONG, waiting).await.expect("no panic").expect("granted");
        // The new primary has forgotten the lease, which had expired before the next grant.
        assert!(lost < Instant::now() && killed.elapsed() >= grace, "{:?}", killed.elapsed());
        assert!(next.token() > token);
        next.release().await.expect("held until now");
    });
}

#[test]
fn failover_grace_delays_no_renewal() {
    let servers = RedisSentinels::start().expect("servers");
    run(async {
        let grace = time(8_000);
        let url = with(&servers.url(), &format!("failover_grace={}ms&wait_replicas=1", grace.as_millis()));
        let storage = bare(&url).await;
        let mine = {
            let claim = claim("job");
            leasehold::storage::Claim::new(claim.name, claim.owner, grace)
        };
        take_over(&storage, &mine).await;
        fail_over(&servers);
        let renewed = answered(async || renew(&storage, &mine).await).await;
        assert!(matches!(renewed, RenewReply::Renewed { .. }), "{renewed:?}");
        // A free lock is not granted during the grace, and the reply says for how long.
        let free = claim("free").patience(grace);
        match answered(async || acquire(&storage, &free).await).await {
            AcquireReply::Held { holder: None, retry_after: Some(after) } => {
                assert!(after <= grace, "{after:?}")
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(renew(&storage, &mine).await, Ok(RenewReply::Renewed { .. })));
    });
}

#[test]
fn clients_with_another_failover_grace_are_refused() {
    run(async {
        let prefix = prefix();
        let url = |grace| {
            with(&with(&common().url(), &format!("prefix={prefix}")), &format!("failover_grace={grace}"))
        };
        let (storage, other) = (bare(&url("200ms")).await, bare(&url("300ms")).await);
        take_over(&storage, &claim("job")).await;
        let error = acquire(&other, &claim("next")).await.expect_err("it has another grace");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("theirs=`200ms`"), "{error}");
        // No TTL may be longer than the grace, neither the default nor that of one lock.
        let error = Locks::builder().ttl(Duration::from_millis(201)).connect(&url("200ms")).await;
        assert_eq!(error.expect_err("too long").kind(), ErrorKind::Invalid);
        let locks = Locks::connect(&url("200ms")).await.expect("connected");
        let error = locks.lock("long").ttl(Duration::from_millis(201)).acquire().await.expect_err("too long");
        assert_eq!(error.kind(), ErrorKind::Invalid);
    });
}

/// Checks the tier that these settings of the servers promise. Returns `true` if a holder at a primary that is cut off
/// loses its lease.
fn loses_its_lease_at_a_primary_that_is_cut_off(
    options: RedisOptions,
    tier: Tier,
    meanwhile: &[&str],
) -> bool {
    let servers = partitionable(options);
    run(async {
        let grace = time(4_000);
        let url = |url: &str| with(url, &format!("failover_grace={}ms", grace.as_millis()));
        let client = async |at: &str| Locks::builder().ttl(grace).connect(&url(at)).await.expect("connected");
        let locks = client(&url_of_app(&servers)).await;
        assert_eq!(locks.guarantees().tier, tier);
        let guard = hold(&locks, "job", grace).await;
        let primary = servers.primary().expect("a primary");
        if !meanwhile.is_empty() {
            primary.command(meanwhile).expect("set");
        }
        let old = partition(&servers);
        let since = Instant::now();
        let lost = tokio::time::timeout(grace * 2, guard.lost()).await.is_ok();
        if lost {
            assert!(since.elapsed() <= grace, "it was cut off before: {:?}", since.elapsed());
            // When the partition has healed, the old primary is a replica, and the new one grants the lock.
            old.command_as("app", "apppw", &["acl", "setuser", "net", "on"]).expect("healed");
            if !meanwhile.is_empty() {
                servers
                    .primary()
                    .expect("a primary")
                    .command(&["config", "set", "min-replicas-to-write", "1"])
                    .expect("set");
            }
            let rival = client(&servers.url()).await;
            let next = within(LONG, rival.lock("job").acquire()).await.expect("granted");
            assert!(next.token() > guard.token());
        }
        lost
    })
}

#[test]
fn a_holder_at_a_primary_that_is_cut_off_loses_what_another_may_be_granted() {
    assert!(loses_its_lease_at_a_primary_that_is_cut_off(stopping(), Tier::FailoverSafe, &[]));
}

/// A setting may change after the connection was opened.
#[test]
fn nobody_can_make_a_primary_that_is_cut_off_go_on_by_its_settings() {
    let meanwhile = ["config", "set", "min-replicas-to-write", "0"];
    assert!(loses_its_lease_at_a_primary_that_is_cut_off(stopping(), Tier::FailoverSafe, &meanwhile));
}

/// This is why a grace alone is not enough: an old primary that does not stop makes a second holder.
#[test]
fn a_primary_that_is_cut_off_and_goes_on_makes_a_second_holder() {
    assert!(!loses_its_lease_at_a_primary_that_is_cut_off(Redis::options(), Tier::CrashSafe, &[]));
}

#[test]
fn settings_that_change_end_the_promise_with_the_next_connection() {
    let servers = RedisSentinels::start_with(stopping()).expect("servers");
    run(async {
        let url = with(&servers.url(), "failover_grace=10s");
        let storage = bare(&url).await;
        assert_eq!(storage.guarantees().tier, Tier::FailoverSafe);
        let primary = servers.primary().expect("a primary");
        primary.command(&["config", "set", "min-replicas-max-lag", "9"]).expect("set");
        primary.command(&["client", "kill", "type", "normal"]).expect("killed");
        let refused = async {
            loop {
                match storage.inspect(&name("job")).await {
                    Err(error) if error.kind() == ErrorKind::Unsupported => break error,
                    _ => tokio::task::yield_now().await,
                }
            }
        };
        let error = within(LONG, refused).await;
        assert!(error.to_string().contains("min-replicas-max-lag=`9`"), "{error}");
        let anew = bare(&url).await;
        assert_eq!(anew.guarantees().tier, Tier::CrashSafe);
        let said = anew.findings().await.expect("answers");
        let failover = said.iter().find(|finding| finding.about == "failover").expect("it is said");
        assert!(!failover.is_good() && failover.detail.contains("min-replicas-max-lag"), "{failover:?}");
        primary.command(&["config", "set", "min-replicas-max-lag", "8"]).expect("set");
        let again = async { while storage.inspect(&name("job")).await.is_err() {} };
        within(LONG, again).await;
    });
}
