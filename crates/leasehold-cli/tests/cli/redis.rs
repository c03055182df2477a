//! The commands over a real Redis that asks for a password.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use leasehold_testbed::Redis;
use serde_json::{Value, json};

use crate::harness::{Running, World, code, gone, ms, output, parse, text};

const CANARY: &str = "S3CRET-CANARY";

fn server() -> (Redis, World) {
    let redis = Redis::options().password(CANARY).start().expect("a server");
    let world = World::at(format!("{}?prefix=cli:", redis.url()));
    (redis, world)
}

/// What a command has said, in which there must be no secret.
fn said(output: &Output) -> String {
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(!said.contains(CANARY), "{said}");
    said
}

#[test]
fn every_command_works_over_redis_and_shows_no_password() {
    let (redis, world) = server();
    let watch = Running::start(&mut world.leasehold(["watch", "lock"]));
    assert_eq!(watch.line(), "unlocked  lock");

    let acquired = world.output(&["-vv", "acquire", "lock", "--ttl", "1h", "--label", "me"]);
    assert_eq!(code(&acquired), 0, "{}", said(&acquired));
    said(&acquired);
    let ticket = text(&acquired.stdout);
    assert!(watch.line().starts_with("locked"));
    assert_eq!(redis.command(&["type", "cli:lock"]).expect("answered"), "string");

    let refused = world.output(&["run", "--try", "lock", "--", "echo", "never"]);
    assert_eq!((code(&refused), text(&refused.stdout)), (75, String::new()));
    assert!(said(&refused).contains("holder=`me`"), "{refused:?}");
    assert_eq!(world.json(&["verify", &ticket])["held"], true);
    assert_eq!(world.json(&["renew", &ticket, "--ttl", "2h"])["ttl_ms"], 7_200_000);
    let seen = world.json(&["inspect", "lock"]);
    assert_eq!((&seen["held"], &seen["label"], &seen["waiters"]), (&json!(true), &json!("me"), &json!(0)));
    let listed = world.output(&["list", "--json"]);
    assert_eq!(parse(&said(&listed))["name"], "lock");

    // Waits until it is released.
    let waiter = Running::start(&mut world.run(&[], "echo in"));
    world.waiters(1);
    assert_eq!(world.json(&["release", &ticket])["released"], true);
    let waiter = waiter.finish();
    assert_eq!((code(&waiter), text(&waiter.stdout)), (0, "in".to_owned()));
    assert_eq!(code(&world.output(&["release", &ticket])), 76);
    assert!(watch.line().contains("lock"));

    world.json(&["acquire", "lock", "--ttl", "1h"]);
    assert_eq!(world.json(&["break", "lock"])["broken"], true);
    assert_eq!(world.json(&["inspect", "lock"]), json!({"name": "lock", "held": false}));
}

#[test]
fn a_redis_that_dies_ends_the_command_with_the_lease() {
    let (redis, world) = server();
    let script = "sleep 1000 & echo $$; echo $!; wait";
    let run = Running::start(&mut world.run(&["--ttl", &ms(3_000)], script));
    let pids = [run.line(), run.line()];
    redis.kill9();
    pids.iter().for_each(|pid| gone(pid));
    let run = run.finish();
    assert_eq!(code(&run), 76, "{run:?}");
    assert!(said(&run).contains("the lease ended before it could be renewed"), "{run:?}");
    // And nobody begins.
    let down = world.output(&["run", "lock", "--", "echo", "never"]);
    assert_eq!((code(&down), text(&down.stdout)), (69, String::new()));
    said(&down);
}

#[test]
fn a_redis_that_stops_answering_ends_the_command_with_the_lease() {
    let (redis, world) = server();
    let run = Running::start(&mut world.run(&["--ttl", &ms(3_000)], "echo $$; exec sleep 1000"));
    let pid = run.line();
    redis.stop();
    gone(&pid);
    redis.cont();
    let run = run.finish();
    assert_eq!(code(&run), 76, "{run:?}");
    said(&run);
}

#[test]
fn a_password_in_a_store_file_is_on_no_command_line() {
    let (_redis, world) = server();
    let file = world.path("store");
    std::fs::write(&file, world.store()).expect("written");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("changed");
    let args = ["--store-file", "store", "run", "lock", "--", "sh", "-c", "echo $LEASEHOLD_STORE; read _"];
    let mut command = world.leasehold(args);
    let mut run = Running::start(command.env_remove("LEASEHOLD_STORE"));
    assert_eq!(run.line(), world.store());
    let mine = run.pid().as_raw_nonzero();
    let children = std::fs::read_to_string(format!("/proc/{mine}/task/{mine}/children")).expect("alive");
    for pid in children.split_whitespace().map(str::to_owned).chain([mine.to_string()]) {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).expect("alive");
        assert!(!String::from_utf8_lossy(&line).contains(CANARY));
    }
    run.write("\n");
    assert_eq!(code(&run.finish()), 0);
}

/// What the doctor says of a storage: the exit code, the tier, and for each check the status and the details.
fn doctor(world: &World) -> (i32, Value, Vec<(String, String, String)>) {
    let examined = world.output(&["doctor", "--json"]);
    let report = parse(said(&examined).lines().next().expect("a line"));
    let field = |check: &Value, name: &str| check[name].as_str().expect("text").to_owned();
    let checks = report["checks"].as_array().expect("a list").iter();
    let checks =
        checks.map(|check| (field(check, "name"), field(check, "status"), field(check, "detail"))).collect();
    (code(&examined), report["tier"].clone(), checks)
}

fn of<'a>(checks: &'a [(String, String, String)], about: &str) -> (&'a str, &'a str) {
    let found = checks.iter().find(|(name, ..)| name == about);
    let (_, status, detail) = found.unwrap_or_else(|| panic!("nothing about {about}: {checks:#?}"));
    (status, detail)
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
fn a_wrong_password_is_a_bad_url() {
    let (redis, world) = server();
    let wrong = World::at(world.store().replace(CANARY, "wrong"));
    let refused = output(&mut wrong.leasehold(["inspect", "lock"]));
    assert_ne!(code(&refused), 0);
    assert!(said(&refused).contains("password"), "{refused:?}");
    assert!(!said(&refused).contains("wrong@"), "{refused:?}");
    drop(redis);
}
