//! Redis: what `doctor` reports about it, its longest TTL, and its permissions.

use std::time::Duration;

use leasehold_testbed::Redis;
use serde_json::json;

use crate::harness::{World, code, ms, output, scaled, text};
use crate::processes::took;
use crate::servers::{CANARY, check, doctor, said};

#[test]
fn doctor_says_what_a_redis_is_and_what_to_change() {
    let durable = Redis::options().password(CANARY).start().expect("a server");
    let world = World::at(format!("{}?prefix=cli:", durable.url()));
    let (exit, tier, checks) = doctor(&world);
    assert_eq!((exit, &tier), (0, &json!("restart-safe")), "{checks:#?}");
    let (status, detail) = check(&checks, "server");
    assert!(status == "ok" && detail.contains("version=`") && detail.contains("product=`redis`"), "{detail}");
    assert_eq!(
        (check(&checks, "disk").0, check(&checks, "memory").0, check(&checks, "failover").0),
        ("ok", "ok", "ok")
    );
    let version = |text: &str| {
        text.split("version=`").nth(1).and_then(|rest| rest.split('`').next()).map(str::to_owned)
    };
    if version(detail).is_some_and(|version| version.starts_with("7.0.")) {
        let (status, detail) = check(&checks, "security");
        assert!(status == "warn" && detail.contains("CVE-2025-49844"), "{detail}");
    }

    let forgetful = Redis::options().volatile().start().expect("a server");
    let (exit, tier, checks) = doctor(&World::at(forgetful.url()));
    assert_eq!((exit, &tier), (0, &json!("crash-safe")), "{checks:#?}");
    let (status, detail) = check(&checks, "disk");
    assert!(status == "warn" && detail.contains("appendfsync always"), "{detail}");

    let evicting = Redis::options().evicting(64 << 20, "allkeys-lru").start().expect("a server");
    let (exit, _, checks) = doctor(&World::at(evicting.url()));
    let (status, detail) = check(&checks, "connect");
    assert!(exit == 1 && status == "fail" && detail.contains("maxmemory-policy noeviction"), "{detail}");
    let (exit, tier, checks) = doctor(&World::at(format!("{}?allow_eviction=true", evicting.url())));
    assert_eq!((exit, &tier), (0, &json!("advisory")), "{checks:#?}");
    assert_eq!(check(&checks, "memory").0, "warn");
}

#[test]
fn doctor_looks_at_every_server_of_a_quorum() {
    let servers = [(); 3].map(|()| Redis::options().password(CANARY).start().expect("a server"));
    let hosts = servers.iter().map(|redis| format!("127.0.0.1:{}", redis.port()));
    let url = format!("redis+quorum://:{CANARY}@{}/0", hosts.collect::<Vec<_>>().join(","));
    let (exit, tier, checks) = doctor(&World::at(&url));
    assert_eq!((exit, &tier), (0, &json!("failover-safe")), "{checks:#?}");
    let seen = checks.iter().filter(|(name, status, _)| name == "server" && status == "ok");
    assert_eq!(seen.count(), 3, "{checks:#?}");
    servers[0].kill9();
    let (exit, _, checks) = doctor(&World::at(&url));
    assert_eq!(exit, 0, "{checks:#?}");
    assert_eq!(check(&checks, "server").0, "warn", "{checks:#?}");
}

#[test]
fn doctor_says_which_permission_it_lacks() {
    let rules = "~cli:* ~{cli:* ~{*}cli:* &cli:leasehold:* +@all -info -config";
    let redis = Redis::options().acl("app", CANARY, rules).start().expect("a server");
    let world = World::at(format!("{}?prefix=cli:", redis.url_as("app", CANARY)));
    let (exit, tier, checks) = doctor(&world);
    assert_eq!((exit, &tier), (0, &json!("advisory")), "{checks:#?}");
    assert!(
        checks.iter().any(|(name, status, detail)| {
            name == "server" && status == "warn" && detail.contains("+info")
        })
    );
}

#[test]
fn longest_ttl_of_a_storage_bounds_every_default_and_every_promise() {
    const GRACE: u64 = 2;
    let redis = Redis::options().start().expect("a server");
    let world = World::at(format!("{}?failover_grace={GRACE}s", redis.url()));
    // The server is new, so it grants nothing for that long.
    let ticket = text(&world.output(&["acquire", "lock"]).stdout);
    assert!(ticket.ends_with(&format!(".{}.lock", GRACE * 1000)), "{ticket}");
    assert_eq!(code(&world.output(&["release", &ticket])), 0);

    let (exit, _, checks) = doctor(&world);
    assert_eq!(exit, 0, "{checks:#?}");
    assert!(check(&checks, "latency").1.contains("the default ttl of 2.0s"), "{checks:#?}");
    let ran = output(&mut world.run(&["--at-least", "2s"], "echo ran"));
    assert_eq!((code(&ran), text(&ran.stdout), text(&ran.stderr)), (0, "ran".into(), String::new()));
    for options in
        [&["--at-least", "3s"][..], &["--ttl", "3s"], &["--at-least", "2001ms", "--max-hold", "1h"]]
    {
        let refused = output(&mut world.run(options, "echo ran"));
        assert_eq!((code(&refused), text(&refused.stdout)), (64, String::new()), "{refused:?}");
        assert!(text(&refused.stderr).contains("2s"), "{refused:?}");
    }
    let longer = world.output(&["renew", "--ttl", "3s", &ticket]);
    assert_eq!(code(&longer), 64, "{longer:?}");
}

#[test]
fn doctor_of_a_new_server_waits_until_it_grants() {
    let redis = Redis::options().start().expect("a server");
    let world = World::at(format!("{}?failover_grace=1s", redis.url()));
    let (exit, _, checks) = doctor(&world);
    assert_eq!(exit, 0, "{checks:#?}");
}

/// Starts a server with a user that may do everything except what `rules` forbid.
fn forbidding(rules: &str) -> (Redis, World) {
    let redis =
        Redis::options().acl("app", CANARY, &format!("~* &* +@all {rules}")).start().expect("a server");
    let world = World::at(redis.url_as("app", CANARY));
    (redis, world)
}

#[test]
fn claim_that_is_refused_for_good_ends_at_once() {
    for rules in ["-set", "-evalsha -eval", "resetkeys ~other:*"] {
        let (_redis, world) = forbidding(rules);
        for args in [&["run", "--try", "lock", "--", "echo", "never"][..], &["acquire", "--try", "lock"]] {
            let mut refused = None;
            let took = took(|| refused = Some(world.output(args)));
            let refused = refused.expect("just set");
            assert_eq!((code(&refused), text(&refused.stdout)), (64, String::new()), "{rules}: {refused:?}");
            assert!(said(&refused).contains("the user may not do that"), "{rules}: {refused:?}");
            // A cleanup that is not answered would take a second.
            assert!(took < scaled(Duration::from_millis(800)), "{rules}: {took:?}");
        }
    }
}

#[test]
fn release_that_is_refused_says_why_at_once() {
    let (_redis, world) = forbidding("-del");
    let mut ended = None;
    let took = took(|| ended = Some(output(&mut world.run(&["--ttl", &ms(10_000)], "exit 3"))));
    let ended = ended.expect("just set");
    assert_eq!(code(&ended), 3, "{ended:?}");
    let stderr = said(&ended);
    assert!(stderr.contains("the lock could not be released, so the lease ends with its ttl"), "{stderr}");
    assert!(stderr.contains("the user may not do that") && stderr.lines().count() == 1, "{stderr}");
    assert!(took < scaled(Duration::from_secs(3)), "{took:?}");
}
