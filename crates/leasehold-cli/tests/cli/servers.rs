//! What is the same over every server that asks for a password.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use serde_json::{Value, json};

use crate::harness::{Running, World, code, gone, ms, output, parse, text};

pub(crate) const CANARY: &str = "S3CRET-CANARY";

/// What a command has said, in which there must be no secret.
pub(crate) fn said(output: &Output) -> String {
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    assert!(!said.contains(CANARY), "{said}");
    said
}

/// Goes through all commands, from one taker to the next.
pub(crate) fn every_command_works(world: &World) {
    let watch = Running::start(&mut world.leasehold(["watch", "lock"]));
    assert_eq!(watch.line(), "unlocked  lock");

    let acquired = world.output(&["-vv", "acquire", "lock", "--ttl", "1h", "--label", "me"]);
    assert_eq!(code(&acquired), 0, "{}", said(&acquired));
    said(&acquired);
    let ticket = text(&acquired.stdout);
    assert!(watch.line().starts_with("locked"));

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

/// Ends the server under a command that holds a lock.
pub(crate) fn death_ends_the_command_with_the_lease(world: &World, kill: impl FnOnce()) {
    let script = "sleep 1000 & echo $$; echo $!; wait";
    let run = Running::start(&mut world.run(&["--ttl", &ms(3_000)], script));
    let pids = [run.line(), run.line()];
    kill();
    pids.iter().for_each(|pid| gone(pid));
    let run = run.finish();
    assert_eq!(code(&run), 76, "{run:?}");
    assert!(said(&run).contains("the lease ended before it could be renewed"), "{run:?}");
    // And nobody begins.
    let down = world.output(&["run", "lock", "--", "echo", "never"]);
    assert_eq!((code(&down), text(&down.stdout)), (69, String::new()));
    said(&down);
}

/// Stops the server under a command that holds a lock, and lets it go on when the command has ended.
pub(crate) fn silence_ends_the_command_with_the_lease(
    world: &World,
    stop: impl FnOnce(),
    go_on: impl FnOnce(),
) {
    let run = Running::start(&mut world.run(&["--ttl", &ms(3_000)], "echo $$; exec sleep 1000"));
    let pid = run.line();
    stop();
    gone(&pid);
    go_on();
    let run = run.finish();
    assert_eq!(code(&run), 76, "{run:?}");
    said(&run);
}

/// Looks at the arguments of everything that `run` starts.
pub(crate) fn a_password_in_a_store_file_is_on_no_command_line(world: &World) {
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

/// Says that it is the password, and not what it is.
pub(crate) fn a_wrong_password_is_a_bad_url(world: &World) {
    let wrong = World::at(world.store().replace(CANARY, "wrong"));
    let refused = output(&mut wrong.leasehold(["inspect", "lock"]));
    assert_ne!(code(&refused), 0);
    assert!(said(&refused).contains("password"), "{refused:?}");
    assert!(!said(&refused).contains("wrong@"), "{refused:?}");
}

/// What the doctor says of a storage: the exit code, the tier, and for each check the status and the details.
pub(crate) fn doctor(world: &World) -> (i32, Value, Vec<(String, String, String)>) {
    let examined = world.output(&["doctor", "--json"]);
    let report = parse(said(&examined).lines().next().expect("a line"));
    let field = |check: &Value, name: &str| check[name].as_str().expect("text").to_owned();
    let checks = report["checks"].as_array().expect("a list").iter();
    let checks =
        checks.map(|check| (field(check, "name"), field(check, "status"), field(check, "detail"))).collect();
    (code(&examined), report["tier"].clone(), checks)
}

pub(crate) fn of<'a>(checks: &'a [(String, String, String)], about: &str) -> (&'a str, &'a str) {
    let found = checks.iter().find(|(name, ..)| name == about);
    let (_, status, detail) = found.unwrap_or_else(|| panic!("nothing about {about}: {checks:#?}"));
    (status, detail)
}
