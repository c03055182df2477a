//! The quorum over real servers that are killed, stopped, and restarted without what they knew.
#![cfg(all(target_os = "linux", feature = "redis"))]

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use leasehold::storage::redis::quorum::{Config, RedisQuorum};
use leasehold::storage::{AcquireReply, Claim, Name, Owner, ReleaseReply, RenewReply, Storage, Tier, Token};
use leasehold::{ErrorKind, Locks};
use leasehold_testbed::redis::RedisOptions;
use leasehold_testbed::{Error, Redis, scaled, until};
use tokio::time::Instant;

/// A TTL that does not end within a test.
const LONG: Duration = Duration::from_secs(600);

// ---------------------------------------------------------------- members

#[test]
fn it_promises_to_survive_the_loss_of_a_minority_and_no_order() {
    let servers = three();
    run(async {
        let quorum = connect(&servers, "").await;
        let guarantees = quorum.guarantees();
        assert_eq!(guarantees.tier, Tier::FailoverSafe);
        assert!(guarantees.fencing && guarantees.push && !guarantees.fair);
        assert_eq!(quorum.limits().ttl_max, Duration::from_secs(24 * 60 * 60));
    });
}

#[test]
fn servers_that_forget_limit_the_ttl() {
    let servers = [Redis::options().volatile(), Redis::options(), Redis::options()].map(start);
    run(async {
        let quorum = connect(&servers, "max_ttl=7s").await;
        assert_eq!(quorum.limits().ttl_max, Duration::from_secs(7));
        assert_eq!(quorum.guarantees().tier, Tier::FailoverSafe);
    });
}

#[test]
fn the_same_server_under_two_addresses_is_refused() {
    let servers = three();
    let ports: Vec<_> = servers.iter().map(Redis::port).collect();
    let url = format!("redis+quorum://127.0.0.1:{0},localhost:{0},127.0.0.1:{1}", ports[0], ports[1]);
    let error = run(refused(&url));
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.to_string().contains("the same server"), "{error}");
}

#[test]
fn replicas_cluster_nodes_and_evicting_servers_are_refused() {
    let servers = three();
    let replica = start(Redis::options().replica_of(&servers[0]));
    let node = start(Redis::options().setting("cluster-enabled", "yes"));
    let evicting = start(Redis::options().evicting(50_000_000, "allkeys-lru"));
    for (other, what) in [(&replica, "replica"), (&node, "Cluster"), (&evicting, "noeviction")] {
        let error = run(refused(&url(&[&servers[0], &servers[1], other], "")));
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.to_string().contains(&other.port().to_string()), "{error}");
    }
}

#[test]
fn a_minority_may_be_down_when_it_is_connected_and_joins_later() {
    let servers = three();
    servers[2].kill9();
    run(async {
        let quorum = connect(&servers, "").await;
        let claim = claim("a");
        take(&quorum, &claim).await;
        servers[2].restart().expect("starts");
        // The first renewals may be sent before this server is connected.
        until_async(async || {
            keep(&quorum, &claim).await;
            holds(&servers[2], &claim)
        })
        .await;
    });
    servers[1].kill9();
    servers[2].kill9();
    let error = run(refused(&url(&refs(&servers), "")));
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("no majority"), "{error}");
}

#[test]
fn a_password_and_tls_apply_to_all_servers() {
    let servers: Vec<_> = (0..3).map(|_| start(Redis::options().tls().password("S3CRET"))).collect();
    let hosts: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
    // Each server has a certificate authority of its own.
    let url = format!("rediss+quorum://:S3CRET@{}/0?insecure=true", hosts.join(","));
    run(async {
        let quorum = RedisQuorum::connect(Config::new(&url).expect("right")).await.expect("connects");
        let claim = claim("a");
        take(&quorum, &claim).await;
        give(&quorum, &claim).await;
        assert!(!format!("{quorum} {quorum:?}").contains("S3CRET"));
    });
}

// ---------------------------------------------------------------- other libraries

#[test]
fn other_libraries_that_lock_with_a_plain_string_exclude_and_are_excluded() {
    let servers = three();
    run(async {
        let quorum = connect(&servers, "prefix=shop:").await;
        let ours = claim("a");
        take(&quorum, &ours).await;
        for server in &servers {
            until_sync(|| key(server, "shop:a") == ours.owner.to_string());
            let set = command(server, &["set", "shop:a", "theirs", "nx", "px", "10000"]);
            assert_eq!(set, "", "another library acquires a lock that is held");
        }
        give(&quorum, &ours).await;
        for server in &servers[..2] {
            until_sync(|| command(server, &["set", "shop:a", "theirs", "nx", "px", "600000"]) == "OK");
        }
        let refused = ask(&quorum, &claim("a")).await;
        let Ok(AcquireReply::Held { holder: Some(holder), .. }) = refused else { panic!("{refused:?}") };
        assert_eq!(holder.token, Token::new(0), "locks of other libraries have no token");
        assert_eq!(
            quorum.inspect(&ours.name).await.expect("answers").first().map(|h| h.owner),
            Some(holder.owner)
        );
    });
}

// ---------------------------------------------------------------- a server that is slow, or down

#[test]
fn a_stopped_server_is_not_waited_for() {
    let servers = three();
    run(async {
        let quorum = connect(&servers, "").await;
        servers[1].stop();
        let start = Instant::now();
        for i in 0..20 {
            let claim = claim(&format!("a {i}"));
            take(&quorum, &claim).await;
            keep(&quorum, &claim).await;
            give(&quorum, &claim).await;
        }
        let took = start.elapsed();
        servers[1].cont();
        // Waiting for the server would take half a second in each step.
        assert!(took < scaled(Duration::from_secs(10)), "{took:?}");
    });
}

#[test]
fn what_a_stopped_server_is_asked_is_undone_when_it_goes_on() {
    let servers = three();
    run(async {
        let quorum = connect(&servers, "prefix=").await;
        for server in &servers[..2] {
            command(server, &["set", "a", "theirs", "px", "600000"]);
        }
        let before = scripts(&servers[2]);
        servers[2].stop();
        let refused = ask(&quorum, &claim("a")).await;
        assert!(matches!(refused, Ok(AcquireReply::Held { .. })), "{refused:?}");
        servers[2].cont();
        // The server executes the claim, and then its withdrawal.
        until_sync(|| scripts(&servers[2]) >= before + 2 && key(&servers[2], "a").is_empty());
        for server in &servers[..2] {
            command(server, &["del", "a"]);
        }
        take(&quorum, &claim("a")).await;
    });
}

#[test]
fn a_claim_that_fails_leaves_nothing_anywhere() {
    let servers = three();
    run(async {
        let quorum = connect(&servers, "prefix=").await;
        for server in &servers[..2] {
            command(server, &["set", "a", "theirs", "px", "600000"]);
        }
        for _ in 0..5 {
            let refused = ask(&quorum, &claim("a")).await;
            assert!(matches!(refused, Ok(AcquireReply::Held { .. })), "{refused:?}");
        }
        until_sync(|| key(&servers[2], "a").is_empty());
        command(&servers[1], &["del", "a"]);
        let mine = claim("a");
        take(&quorum, &mine).await;
        give(&quorum, &mine).await;
        until_sync(|| key(&servers[1], "a").is_empty() && key(&servers[2], "a").is_empty());
        assert_eq!(key(&servers[0], "a"), "theirs", "a lock of another library is not changed");
    });
}

#[test]
fn a_release_reaches_a_server_that_is_down_when_it_comes_back() {
    let servers = three();
    run(async {
        let quorum = connect(&servers, "").await;
        let claim = claim("a");
        take(&quorum, &claim).await;
        until_sync(|| holds(&servers[0], &claim));
        servers[0].kill9();
        keep(&quorum, &claim).await;
        give(&quorum, &claim).await;
        servers[0].restart().expect("starts");
        until_sync(|| !holds(&servers[0], &claim));
    });
}

#[test]
fn nothing_is_certain_without_a_majority() {
    let servers = three();
    run(async {
        let quorum = connect(&servers, "").await;
        let claim = claim("a");
        let token = take(&quorum, &claim).await;
        until_sync(|| servers.iter().all(|server| holds(server, &claim)));
        servers[0].kill9();
        servers[1].kill9();
        let unavailable = |error: leasehold::Error| assert_eq!(error.kind(), ErrorKind::Unavailable);
        unavailable(quorum.renew(std::slice::from_ref(&claim)).await.remove(0).expect_err("one of three"));
        unavailable(ask(&quorum, &self::claim("a")).await.expect_err("one of three"));
        unavailable(quorum.inspect(&claim.name).await.expect_err("one of three"));
        servers[0].restart().expect("starts");
        until_async(async || {
            matches!(quorum.renew(std::slice::from_ref(&claim)).await[0], Ok(RenewReply::Renewed { .. }))
        })
        .await;
        // The owner still holds, and gets the same token again.
        assert_eq!(take(&quorum, &claim).await, token);
        until_async(async || matches!(ask(&quorum, &self::claim("a")).await, Ok(AcquireReply::Held { .. })))
            .await;
    });
}

// ---------------------------------------------------------------- a server that forgets

#[test]
fn a_renewal_fills_a_server_that_missed_the_lock_and_no_other_owners() {
    let servers = three();
    run(async {
        let quorum = connect(&servers, "prefix=").await;
        let (mine, other) = (claim("mine"), claim("other"));
        command(&servers[2], &["set", "other", "theirs", "px", "600000"]);
        servers[1].kill9();
        let token = take(&quorum, &mine).await;
        servers[1].restart().expect("starts");
        until_async(async || {
            keep(&quorum, &mine).await;
            holds_key(&servers[1], "mine", &mine)
        })
        .await;
        // The server has the token, too: these two are a majority.
        servers[0].kill9();
        until_async(async || {
            quorum.inspect(&mine.name).await.is_ok_and(|seen| seen.iter().any(|holder| holder.token == token))
        })
        .await;
        servers[0].restart().expect("starts");
        until_async(async || matches!(ask(&quorum, &other).await, Ok(AcquireReply::Granted { .. }))).await;
        keep(&quorum, &other).await;
        give(&quorum, &mine).await;
        give(&quorum, &other).await;
        assert_eq!(key(&servers[2], "other"), "theirs");
        until_sync(|| servers.iter().all(|server| key(server, "mine").is_empty()));
    });
}

/// One of three servers keeps nothing on disk. A has the lock at that server and at another one. Then the first is
/// restarted.
#[test]
fn a_server_that_forgot_gives_nobody_else_a_majority() {
    let ttl = Duration::from_secs(6);
    let (granted, token, next) = granted_after_a_restart("max_ttl=6s", ttl);
    assert!(granted >= ttl, "B was granted the lock {granted:?} after A, which has it for {ttl:?}");
    assert!(next > token, "{next} after {token}");
}

/// Does the same with a `max_ttl` that is shorter than the lease. It shows what keeps B out in the test above.
#[test]
fn without_the_guard_a_server_that_forgot_makes_a_second_holder() {
    let ttl = Duration::from_secs(60);
    let (granted, token, next) = granted_after_a_restart("max_ttl=100ms", ttl);
    assert!(granted < ttl, "after {granted:?}");
    assert!(next > token, "tokens grow all the same: {next} after {token}");
}

/// Returns the directory with the data of a server.
fn disk(server: &Redis) -> std::path::PathBuf {
    let answer = command(server, &["config", "get", "dir"]);
    std::path::Path::new(answer.lines().nth(1).expect("a directory")).join("appendonlydir")
}

/// Replaces the directory of a killed server by a copy of another one, or by none.
fn replace_disk(disk: &std::path::Path, by: Option<&std::path::Path>) {
    std::fs::remove_dir_all(disk).expect("removed");
    let Some(by) = by else { return };
    copy(by, disk);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("made");
    for file in std::fs::read_dir(from).expect("read") {
        let file = file.expect("read");
        std::fs::copy(file.path(), to.join(file.file_name())).expect("copied");
    }
}

/// Goes through the ways in which a server that keeps every write may lose what it knows.
#[test]
fn a_server_that_is_set_to_keep_all_and_has_forgotten_gives_nobody_else_a_majority() {
    let ttl = scaled(Duration::from_secs(4));
    let options = format!("max_ttl={}ms", ttl.as_millis());
    let empty = |server: &Redis| {
        let disk = disk(server);
        server.kill9();
        replace_disk(&disk, None);
        server.restart().expect("starts");
    };
    let flush = |server: &Redis| drop(command(server, &["flushall"]));
    let swap = |server: &Redis| drop(command(server, &["swapdb", "0", "1"]));
    for (what, forget) in [("empty", &empty as &dyn Fn(&Redis)), ("flushed", &flush), ("swapped", &swap)] {
        let servers = [Redis::options(), Redis::options(), Redis::options()].map(start);
        let (granted, token, next) = granted_after(&servers, &options, ttl, || forget(&servers[1]));
        assert!(
            granted >= ttl,
            "{what}: B was granted the lock {granted:?} after A, which has it for {ttl:?}"
        );
        assert!(next > token, "{what}: {next} after {token}");
    }
}

#[test]
fn a_server_that_comes_back_from_an_old_copy_gives_nobody_else_a_majority() {
    let ttl = scaled(Duration::from_secs(4));
    let servers = [Redis::options(), Redis::options(), Redis::options()].map(start);
    let options = format!("max_ttl={}ms", ttl.as_millis());
    let (disk, backup) = run(async {
        let quorum = connect(&servers, &options).await;
        // The server is used before the copy is made.
        for n in 0..5 {
            let claim = claim(&format!("before {n}"));
            take(&quorum, &claim).await;
            give(&quorum, &claim).await;
        }
        let disk = disk(&servers[1]);
        let backup = disk.with_extension("backup");
        copy(&disk, &backup);
        (disk, backup)
    });
    let (granted, token, next) = granted_after(&servers, &options, ttl, || {
        servers[1].kill9();
        replace_disk(&disk, Some(&backup));
        servers[1].restart().expect("starts");
    });
    assert!(granted >= ttl, "B was granted the lock {granted:?} after A, which has it for {ttl:?}");
    assert!(next > token);
}

/// The others know the server by the name that it had before its restart.
#[test]
fn a_server_that_is_flushed_long_after_a_restart_does_not_vote_early() {
    let ttl = scaled(Duration::from_secs(3));
    let servers = three();
    let options = format!("max_ttl={}ms", ttl.as_millis());
    restart_and_let_run(&servers, &options, ttl);
    let (granted, token, next) = granted_after(&servers, &options, ttl, || {
        command(&servers[1], &["flushall"]);
    });
    assert!(granted >= ttl, "B was granted the lock {granted:?} after A, which has it for {ttl:?}");
    assert!(next > token);
}

/// It has been running for longer than any lease lasts, but has lost a lease a moment ago.
#[test]
fn a_replica_that_is_promoted_does_not_vote_early() {
    let ttl = scaled(Duration::from_secs(3));
    let (servers, replica) = (three(), start(Redis::options()));
    let options = format!("max_ttl={}ms", ttl.as_millis());
    run(async {
        let quorum = connect(&servers, &options).await;
        take(&quorum, &claim("before")).await;
    });
    replicate(&replica, &servers[1]);
    restart_and_let_run(&servers, &options, ttl);
    // The second server becomes what its replica is, which has missed everything since then.
    let (granted, token, next) = granted_after(&servers, &options, ttl, || replicate(&servers[1], &replica));
    assert!(granted >= ttl, "B was granted the lock {granted:?} after A, which has it for {ttl:?}");
    assert!(next > token);
}

/// Restarts the second server, which votes again at once, and lets it run for longer than the TTL.
fn restart_and_let_run(servers: &[Redis], options: &str, ttl: Duration) {
    run(async {
        let quorum = connect(servers, options).await;
        take(&quorum, &claim("early")).await;
        servers[1].kill9();
        servers[1].restart().expect("starts");
        until_async(async || all_vote(&connect(servers, options).await).await).await;
        tokio::time::sleep(ttl + Duration::from_secs(2)).await;
    });
}

/// Returns `true` if the votes of all three servers count.
async fn all_vote(quorum: &RedisQuorum) -> bool {
    let findings = quorum.findings().await.expect("answered");
    let votes: Vec<_> = findings.iter().filter(|finding| finding.about == "vote").collect();
    votes.len() == 3 && votes.iter().all(|finding| finding.is_good())
}

/// Makes a server a replica of another one, and promotes it once it has everything.
fn replicate(server: &Redis, of: &Redis) {
    command(server, &["replicaof", "127.0.0.1", &of.port().to_string()]);
    until_sync(|| command(server, &["info", "replication"]).contains("master_link_status:up"));
    command(server, &["replicaof", "no", "one"]);
}

#[test]
fn servers_that_remember_all_vote_at_once_when_they_are_back() {
    let servers = three();
    run(async {
        let quorum = connect(&servers, "").await;
        take(&quorum, &claim("before")).await;
        for server in &servers {
            server.kill9();
        }
        for server in &servers {
            server.restart().expect("starts");
        }
        // A waiting period would last for `max_ttl`, which is a day.
        until_async(async || granted(ask(&quorum, &claim("after")).await).is_some()).await;
        assert!(matches!(ask(&quorum, &claim("before")).await, Ok(AcquireReply::Held { .. })));
        let another = connect(&servers, "").await;
        take(&another, &claim("third")).await;
        let findings = another.findings().await.expect("answered");
        let votes: Vec<_> = findings.iter().filter(|finding| finding.about == "vote").collect();
        assert!(votes.len() == 3 && votes.iter().all(|finding| finding.is_good()), "{votes:?}");
    });
}

/// One of the clients writes each marker, and the others do not mistake it for that of a server that was restarted.
#[test]
fn new_servers_vote_at_once_for_many_clients() {
    let servers = three();
    run(async {
        let clients = (0..20).map(|_| connect(&servers, ""));
        let clients = futures_util::future::join_all(clients).await;
        for (n, client) in clients.iter().enumerate() {
            until_async(async || granted(ask(client, &claim(&format!("a {n}"))).await).is_some()).await;
        }
        // Every server votes, since any two are enough.
        servers[0].kill9();
        until_async(async || granted(ask(&clients[0], &claim("two")).await).is_some()).await;
    });
}

/// Returns how long after A's grant B is granted the lock, and both tokens. The second server is restarted between.
fn granted_after_a_restart(options: &str, ttl: Duration) -> (Duration, Token, Token) {
    let servers = [Redis::options(), Redis::options().volatile(), Redis::options()].map(start);
    granted_after(&servers, options, ttl, || {
        servers[1].kill9();
        servers[1].restart().expect("starts");
    })
}

/// Returns the same, if `forget` makes the second server forget.
fn granted_after(
    servers: &[Redis],
    options: &str,
    ttl: Duration,
    forget: impl Fn(),
) -> (Duration, Token, Token) {
    run(async {
        let quorum = connect(servers, options).await;
        servers[2].kill9();
        let (mut a, mut b) = (claim("a"), claim("a"));
        (a.ttl, b.ttl) = (ttl, ttl);
        wait_for_the_end_of_a_second(&servers[0]);
        let mut sent = Instant::now();
        let mut token = None;
        // The vote of a server without data on disk does not count for a while after its start.
        until_async(async || {
            sent = Instant::now();
            token = granted(ask(&quorum, &a).await);
            token.is_some()
        })
        .await;
        drop(quorum);
        forget();
        servers[2].restart().expect("starts");
        // A server that was started at the end of a second reports an uptime of one second too early.
        until_sync(|| !command(&servers[1], &["info", "server"]).contains("uptime_in_seconds:0"));
        let quorum = connect(servers, options).await;
        let mut next = None;
        until_async(async || {
            next = granted(ask(&quorum, &b).await);
            next.is_some()
        })
        .await;
        (sent.elapsed(), token.expect("granted"), next.expect("granted"))
    })
}

#[test]
fn tokens_grow_while_servers_die_and_forget() {
    let servers: Vec<_> = (0..3).map(|_| start(Redis::options().volatile())).collect();
    run(async {
        let quorum = connect(&servers, "max_ttl=1s").await;
        let mut last = Token::new(0);
        for round in 0..6 {
            let server = &servers[round % 3];
            match round % 2 {
                0 => server.kill9(),
                _ => server.stop(),
            }
            for _ in 0..3 {
                let (mut token, mut mine) = (None, claim("a"));
                mine.ttl = Duration::from_secs(1);
                until_async(async || {
                    token = granted(ask(&quorum, &mine).await);
                    token.is_some()
                })
                .await;
                let token = token.expect("granted");
                assert!(token > last, "{token} after {last} in round {round}");
                last = token;
                // A majority may or may not confirm the release, but the TTL is short.
                quorum.release(&[mine]).await;
            }
            match round % 2 {
                0 => server.restart().expect("starts"),
                _ => server.cont(),
            }
        }
    });
}

// ---------------------------------------------------------------- many at a time

#[test]
fn many_clients_at_five_servers_do_not_starve_each_other() {
    let (clients, cycles, servers) = (20, 10, (0..5).map(|_| start(Redis::options())).collect::<Vec<_>>());
    let url = url(&refs(&servers), "");
    let (inside, last) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let slowest = Arc::new(AtomicU64::new(0));
    let start = run(async { Instant::now() });
    let took = run(async {
        let mut workers = Vec::new();
        for _ in 0..clients {
            let locks = Locks::connect(&url).await.expect("connects");
            let (inside, last, slowest) = (Arc::clone(&inside), Arc::clone(&last), Arc::clone(&slowest));
            workers.push(tokio::spawn(async move {
                for _ in 0..cycles {
                    let lock = locks.lock("a").ttl(Duration::from_secs(30));
                    let asked = Instant::now();
                    let guard = lock.wait(scaled(Duration::from_secs(60))).acquire().await.expect("granted");
                    let waited = u64::try_from(asked.elapsed().as_millis()).expect("short");
                    slowest.fetch_max(waited, Ordering::Relaxed);
                    assert!(!inside.swap(true, Ordering::SeqCst), "two hold at a time");
                    let token = guard.token().get();
                    assert!(last.swap(token, Ordering::SeqCst) < token, "a token did not grow");
                    tokio::task::yield_now().await;
                    assert!(inside.swap(false, Ordering::SeqCst));
                    guard.release().await.expect("ours");
                }
            }));
        }
        for worker in workers {
            worker.await.expect("no worker failed");
        }
        start.elapsed()
    });
    let (total, slowest) = (clients * cycles, slowest.load(Ordering::Relaxed));
    println!("{total} grants in {took:?}, the longest wait {slowest} ms");
    assert!(took < scaled(Duration::from_secs(total / 20)), "fewer than 20 grants a second: {took:?}");
    assert!(Duration::from_millis(slowest) < scaled(Duration::from_secs(10)), "{slowest} ms");
}

/// The votes of such claims are split: each may have one server.
#[test]
fn one_of_several_simultaneous_claims_is_granted() {
    let servers = three();
    run(async {
        let mut clients = Vec::new();
        for _ in 0..8 {
            clients.push(Arc::new(connect(&servers, "").await));
        }
        let none = AtomicU32::new(0);
        for round in 0..50 {
            let asked = clients.iter().map(|client| {
                let (client, claim) = (Arc::clone(client), claim(&format!("a {round}")));
                tokio::spawn(async move { granted(ask(&client, &claim).await) })
            });
            let mut tokens = HashSet::new();
            for answer in asked.collect::<Vec<_>>() {
                tokens.extend(answer.await.expect("no panic"));
            }
            assert!(tokens.len() <= 1, "several were granted: {tokens:?}");
            none.fetch_add(u32::from(tokens.is_empty()), Ordering::Relaxed);
        }
        // On a loaded machine the others may withdraw after the last retry of the preferred claim.
        let none = none.into_inner();
        assert!(none <= 10, "in {none} of 50 rounds no claim was granted the free lock");
    });
}

// ---------------------------------------------------------------- helpers

fn start(options: RedisOptions) -> Redis {
    options.start().expect("starts")
}

fn three() -> Vec<Redis> {
    Redis::three().expect("start")
}

fn refs(servers: &[Redis]) -> Vec<&Redis> {
    servers.iter().collect()
}

fn url(servers: &[&Redis], options: &str) -> String {
    let hosts: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
    format!("redis+quorum://{}/0?{options}", hosts.join(","))
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(test)
}

async fn connect(servers: &[Redis], options: &str) -> RedisQuorum {
    let config = Config::new(&url(&refs(servers), options)).expect("right");
    RedisQuorum::connect(config).await.expect("connects")
}

async fn refused(url: &str) -> leasehold::Error {
    match RedisQuorum::connect(Config::new(url).expect("right")).await {
        Ok(_) => panic!("it was connected to"),
        Err(error) => error,
    }
}

fn claim(name: &str) -> Claim {
    let claim = Claim::new(Name::new(name).expect("valid"), Owner::random(), LONG);
    // As short as that of the engine. If a claim is not answered, its cleanup lasts for that long.
    claim.patience(scaled(Duration::from_secs(2)))
}

async fn ask(quorum: &RedisQuorum, claim: &Claim) -> leasehold::Result<AcquireReply> {
    quorum.acquire(std::slice::from_ref(claim)).await.remove(0)
}

fn granted(answer: leasehold::Result<AcquireReply>) -> Option<Token> {
    match answer {
        Ok(AcquireReply::Granted { token, .. }) => Some(token),
        _ => None,
    }
}

async fn take(quorum: &RedisQuorum, claim: &Claim) -> Token {
    match ask(quorum, claim).await {
        Ok(AcquireReply::Granted { token, .. }) => token,
        other => panic!("not granted: {other:?}"),
    }
}

async fn keep(quorum: &RedisQuorum, claim: &Claim) {
    let answer = quorum.renew(std::slice::from_ref(claim)).await.remove(0);
    assert!(matches!(answer, Ok(RenewReply::Renewed { .. })), "{answer:?}");
}

async fn give(quorum: &RedisQuorum, claim: &Claim) {
    let answer = quorum.release(std::slice::from_ref(claim)).await.remove(0);
    assert!(matches!(answer, Ok(ReleaseReply::Released)), "{answer:?}");
}

/// Waits until a second of the wall clock is three quarters over.
fn wait_for_the_end_of_a_second(clock: &Redis) {
    until_sync(|| {
        let time = command(clock, &["time"]);
        let micros = time.lines().next_back().and_then(|micros| micros.parse::<u32>().ok()).expect("a time");
        (720_000..790_000).contains(&micros)
    });
}

fn command(server: &Redis, args: &[&str]) -> String {
    server.command(args).expect("answers").trim().to_owned()
}

fn key(server: &Redis, key: &str) -> String {
    command(server, &["get", key])
}

fn holds(server: &Redis, claim: &Claim) -> bool {
    holds_key(server, &format!("leasehold:{}", claim.name), claim)
}

fn holds_key(server: &Redis, key: &str, claim: &Claim) -> bool {
    self::key(server, key) == claim.owner.to_string()
}

/// Returns how many calls of scripts a server has received.
fn scripts(server: &Redis) -> u64 {
    let counts = server.command_counts().expect("answers");
    ["eval", "evalsha"].iter().filter_map(|name| counts.get(*name)).sum()
}

/// Polls a condition that has no event. It blocks this thread; the storage's tasks have another one.
fn until_sync(mut is_so: impl FnMut() -> bool) {
    let look = || if is_so() { Ok(()) } else { Err(Error::new("not yet")) };
    tokio::task::block_in_place(|| until("the servers", look)).expect("it comes true");
}

/// Polls an asynchronous condition.
async fn until_async(mut is_so: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + scaled(Duration::from_secs(60));
    while !is_so().await {
        assert!(Instant::now() < end, "it does not come true");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
