//! Every exit code, each with its one line.

use std::os::unix::fs::PermissionsExt;
use std::process::Output;

use crate::harness::{Running, World, code, ms, output, text};

/// The code, and exactly one line on stderr that says `about`.
fn fails(output: &Output, expected: i32, about: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(code(output), expected, "{stderr}");
    assert!(stderr.starts_with("leasehold: ") && stderr.lines().count() == 1, "{stderr}");
    assert!(stderr.contains(about), "{stderr}");
}

#[test]
fn the_commands_own() {
    let world = World::new();
    for (script, expected) in
        [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill $$", 143)]
    {
        let run = output(&mut world.run(&[], script));
        assert_eq!((code(&run), text(&run.stderr)), (expected, String::new()), "{script}");
    }
    assert_eq!(world.json(&["inspect", "lock"])["held"], false);
}

#[test]
fn a_command_that_cannot_be_started() {
    let world = World::new();
    let file = world.path("file");
    std::fs::write(&file, "#!/no/such/interpreter\n").expect("written");
    let run = |command: &str| world.output(&["run", "lock", "--", command]);
    fails(&run(file.to_str().expect("UTF-8")), 126, "cannot be executed");
    fails(&run("/"), 126, "cannot be executed");
    fails(&run("no-such-command"), 127, "not found");
    fails(&run("./no-such-command"), 127, "not found");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("changed");
    fails(&run("./file"), 126, "cannot be executed");
    assert_eq!(world.json(&["inspect", "lock"])["held"], false);
}

#[test]
fn bad_usage() {
    let world = World::new();
    let cases: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["run"],
        &["run", "lock"],
        &["run", "lock", "true"],
        &["run", "--", "lock", "true"],
        &["run", "lock", "--try", "--wait", "1s", "--", "true"],
        &["run", "lock", "--try", "--retries", "1", "--", "true"],
        &["run", "lock", "--wait", "1s", "--retries", "1", "--", "true"],
        &["run", "lock", "--interval", "1s", "--", "true"],
        &["run", "lock", "--on-lost", "kill", "--grace", "1s", "--", "true"],
        &["run", "lock", "--at-least", "2s", "--max-hold", "1s", "--", "true"],
        &["run", "lock", "--at-least", "25h", "--", "true"],
        &["run", "lock", "--ttl", "5", "--", "true"],
        &["run", "lock", "--ttl", "1ms", "--", "true"],
        &["run", "lock", "--ttl", "25h", "--", "true"],
        &["run", "", "--", "true"],
        &["acquire", "lock", "--max-hold", "1s"],
        &["inspect"],
        &["inspect", "lock", "-q", "-v"],
        &["inspect", "lock", "--store", "memory:", "--store-file", "x"],
        &["inspect", "lock", "--store", "nonsense:"],
        &["release", "no-ticket"],
    ];
    for args in cases {
        fails(&world.output(args), 64, "");
    }
}

#[test]
fn what_is_wrong_with_an_option_is_told() {
    let world = World::new();
    let units = "(ms s m h d)";
    let cases: &[(&[&str], &str)] = &[
        (&["run", "lock", "--ttl", "1M", "--", "true"], units),
        (&["run", "lock", "--ttl", "1month", "--", "true"], units),
        (&["acquire", "lock", "--wait", "1year"], units),
        (&["acquire", "lock", "--wait", "-1s"], "must not be negative"),
        (&["acquire", "lock", "--ttl", "-5s"], "must not be negative"),
        (&["acquire", "lock", "--ttl=-5s"], "must not be negative"),
        (&["acquire", "lock", "--retries", "-1"], "must not be negative"),
        (&["acquire", "lock", "--retries", "x"], "whole number"),
        (&["run", "-x", "--", "true"], "leasehold run -- -x -- CMD"),
        (&["run", "--name", "--", "true"], "leasehold run -- --name -- CMD"),
    ];
    for (args, about) in cases {
        fails(&world.output(args), 64, about);
        assert!(!text(&world.output(args).stderr).contains("use '--"), "{args:?}");
    }
}

#[test]
fn a_storage_that_no_two_commands_share() {
    let world = World::new();
    for args in [
        &["run", "lock", "--", "true"][..],
        &["acquire", "lock"],
        &["inspect", "lock"],
        &["list"],
        &["doctor"],
    ] {
        for store in ["memory:", "memory:name", "memory:?x=1"] {
            let refused = output(world.leasehold(args).env("LEASEHOLD_STORE", store));
            fails(&refused, 64, "use sqlite:");
        }
    }
}

#[test]
fn contended_tells_who_holds_it() {
    let world = World::new();
    let mut holder = Running::start(&mut world.run(&["--label", "the\nholder"], "echo in; read _"));
    holder.line();
    for wait in
        [&["--try"][..], &["--wait", "0s"], &["--wait", "50ms"], &["--retries", "2", "--interval", "10ms"]]
    {
        let run = output(&mut world.run(wait, "echo never"));
        fails(&run, 75, r"holder=`the\nholder`");
        assert_eq!(text(&run.stdout), "");
    }
    fails(&world.output(&["acquire", "lock", "--try"]), 75, "name=`lock`");
    assert_eq!(world.json(&["inspect", "lock"])["waiters"], 0);
    holder.write("\n");
    assert_eq!(code(&holder.finish()), 0);
}

#[test]
fn storage_that_cannot_be_reached() {
    let world = World::new();
    // Nothing can be made there.
    let store = "sqlite:/proc/locks.db";
    fails(&world.output(&["--store", store, "run", "lock", "--", "true"]), 69, "");
    fails(&world.output(&["--store", store, "inspect", "lock"]), 69, "");
}

#[test]
fn lost_while_running() {
    let world = World::new();
    let run = Running::start(
        &mut world.run(&["--ttl", &ms(3_000)], "trap 'exit 0' TERM; echo in; sleep 1000 & wait"),
    );
    run.line();
    assert_eq!(world.json(&["break", "lock"])["broken"], true);
    // Whoever comes next is named.
    let next = world.json(&["acquire", "lock", "--label", "next"]);
    assert_eq!(next["name"], "lock");
    let run = run.finish();
    fails(&run, 76, "name=`lock`");
    fails(&run, 76, "now=`");
}
