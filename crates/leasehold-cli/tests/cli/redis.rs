//! The commands over a real Redis that asks for a password.

use std::time::Duration;

use leasehold_testbed::Redis;
use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Running, World, code, eventually, output, scaled, text};
use crate::servers::{self, CANARY, doctor, of};
use crate::signals::pending;

fn server() -> (Redis, World) {
    let redis = Redis::options().password(CANARY).start().expect("a server");
    let world = World::at(format!("{}?prefix=cli:", redis.url()));
    (redis, world)
}

#[test]
fn every_command_works_over_redis_and_shows_no_password() {
    let (redis, world) = server();
    servers::every_command_works(&world);
    world.json(&["acquire", "lock", "--ttl", "1h"]);
    assert_eq!(redis.command(&["type", "cli:lock"]).expect("answered"), "string");
}

#[test]
fn a_redis_that_dies_ends_the_command_with_the_lease() {
    let (redis, world) = server();
    servers::death_ends_the_command_with_the_lease(&world, || redis.kill9());
}

#[test]
fn a_redis_that_stops_answering_ends_the_command_with_the_lease() {
    let (redis, world) = server();
    servers::silence_ends_the_command_with_the_lease(&world, || redis.stop(), || redis.cont());
}

#[test]
fn a_password_in_a_store_file_is_on_no_command_line() {
    let (_redis, world) = server();
    servers::a_password_in_a_store_file_is_on_no_command_line(&world);
}

#[test]
fn a_wrong_password_is_a_bad_url() {
    let (_redis, world) = server();
    servers::a_wrong_password_is_a_bad_url(&world);
}

#[test]
fn doctor_says_what_a_redis_is_and_what_to_change() {
    let (_durable, world) = server();
    let (exit, tier, checks) = doctor(&world);
    assert_eq!((exit, &tier), (0, &json!("restart-safe")), "{checks:#?}");
    let (status, detail) = of(&checks, "server");
    assert!(status == "ok" && detail.contains("version=`") && detail.contains("product=`redis`"), "{detail}");
    assert_eq!(
        (of(&checks, "disk").0, of(&checks, "memory").0, of(&checks, "failover").0),
        ("ok", "ok", "ok")
    );
    let version = |text: &str| {
        text.split("version=`").nth(1).and_then(|rest| rest.split('`').next()).map(str::to_owned)
    };
    if version(detail).is_some_and(|version| version.starts_with("7.0.")) {
        let (status, detail) = of(&checks, "security");
        assert!(status == "warn" && detail.contains("CVE-2025-49844"), "{detail}");
    }

    let forgetful = Redis::options().volatile().start().expect("a server");
    let (exit, tier, checks) = doctor(&World::at(forgetful.url()));
    assert_eq!((exit, &tier), (0, &json!("crash-safe")), "{checks:#?}");
    let (status, detail) = of(&checks, "disk");
    assert!(status == "warn" && detail.contains("appendfsync always"), "{detail}");

    let evicting = Redis::options().evicting(64 << 20, "allkeys-lru").start().expect("a server");
    let (exit, _, checks) = doctor(&World::at(evicting.url()));
    let (status, detail) = of(&checks, "connect");
    assert!(exit == 1 && status == "fail" && detail.contains("maxmemory-policy noeviction"), "{detail}");
    let (exit, tier, checks) = doctor(&World::at(format!("{}?allow_eviction=true", evicting.url())));
    assert_eq!((exit, &tier), (0, &json!("advisory")), "{checks:#?}");
    assert_eq!(of(&checks, "memory").0, "warn");
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
    assert_eq!(of(&checks, "server").0, "warn", "{checks:#?}");
}

#[test]
fn doctor_says_that_a_user_may_not_ask() {
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
    // The server is new to its clients, which grant nothing for that long.
    let ticket = text(&world.output(&["acquire", "lock"]).stdout);
    assert!(ticket.ends_with(&format!(".{}.lock", GRACE * 1000)), "{ticket}");
    assert_eq!(code(&world.output(&["release", &ticket])), 0);

    let (exit, _, checks) = doctor(&world);
    assert_eq!(exit, 0, "{checks:#?}");
    assert!(of(&checks, "latency").1.contains("the default ttl of 2.0s"), "{checks:#?}");
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

#[test]
fn second_signal_leaves_no_lock_and_no_waiter_behind() {
    let redis = Redis::options().start().expect("a server");
    let world = World::at(redis.url());
    let ticket = text(&world.output(&["acquire", "lock", "--ttl", "1h"]).stdout);
    for mut command in [world.leasehold(["acquire", "lock"]), world.run(&[], "echo never")] {
        let waiter = Running::start(&mut command);
        world.waiters(1);
        redis.stop();
        // As `timeout` sends it: to its child, and then to the group of its child.
        waiter.signal(Signal::TERM);
        let id = waiter.pid().as_raw_nonzero().to_string();
        eventually("the first one is taken", || pending(&id) == 0);
        waiter.signal(Signal::TERM);
        eventually("the second one is taken", || pending(&id) == 0);
        redis.cont();
        assert_eq!(code(&waiter.finish()), 143);
        // On this storage it would wait in line for seconds although it is gone.
        assert_eq!(world.json(&["inspect", "lock"])["waiters"], 0);
    }
    assert_eq!(code(&world.output(&["release", &ticket])), 0);
}

#[test]
fn signal_hurries_a_release_that_is_not_answered() {
    let redis = Redis::options().start().expect("a server");
    let world = World::at(redis.url());
    let run = Running::start(&mut world.run(&["--ttl", "1h"], "echo $PPID; read _; exit 3"));
    let pid = crate::processes::pid(&run.line());
    redis.stop();
    let mut ended = None;
    let took = crate::processes::took(|| {
        let mut run = run;
        run.write("\n");
        eventually("the end of the command", || crate::processes::children(pid).len() < 2);
        run.signal(Signal::TERM);
        ended = Some(run.finish());
    });
    redis.cont();
    let ended = ended.expect("just set");
    assert_eq!(code(&ended), 3, "{ended:?}");
    assert!(text(&ended.stderr).contains("ends with its ttl"), "{ended:?}");
    assert!(took < scaled(Duration::from_secs(3)), "{took:?}");
}
