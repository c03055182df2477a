//! The commands over every storage: what they do does not depend on it.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Running, World, code, eventually, limit, ms, output, parse, scaled, text};
use crate::processes::{self, await_end, await_handled, children, took};
use crate::servers::{CANARY, doctor, over_every_server, over_every_storage, said};

/// Goes through all commands, from one holder to the next.
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

    // The waiter gets the lock when it is released.
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
fn every_command_works_over_every_storage_and_shows_no_password() {
    over_every_storage(every_command_works);
}

#[test]
fn prefix_in_a_url_keeps_locks_apart() {
    over_every_server(|_, world| {
        let other = World::at(world.store().replace("prefix=cli:", "prefix=other:"));
        world.json(&["acquire", "lock", "--ttl", "1h"]);
        assert_eq!(world.json(&["inspect", "lock"])["held"], true);
        assert_eq!(other.json(&["inspect", "lock"])["held"], false);
    });
}

#[test]
fn doctor_finds_no_fault_in_a_storage_with_the_default_settings() {
    over_every_storage(|world| {
        let (exit, tier, checks) = doctor(world);
        assert_eq!((exit, &tier), (0, &json!("restart-safe")), "{checks:#?}");
        assert!(checks.len() > 5 && checks.iter().all(|(_, status, _)| status != "fail"), "{checks:#?}");
        assert_eq!(text(&world.output(&["list"]).stdout), "", "the scratch lock is gone");
    });
}

#[test]
fn commands_of_many_runs_never_overlap_and_their_tokens_grow() {
    const RUNS: usize = 8;
    over_every_storage(|world| {
        let script = "mkdir inside || exit 9; echo $LEASEHOLD_TOKEN >> tokens; rmdir inside";
        let runs: Vec<_> = (0..RUNS).map(|_| Running::start(&mut world.run(&[], script))).collect();
        for run in runs {
            let run = run.finish();
            assert_eq!(code(&run), 0, "{run:?}");
            said(&run);
        }
        let tokens = std::fs::read_to_string(world.path("tokens")).expect("written");
        let tokens: Vec<u64> = tokens.lines().map(|line| line.parse().expect("a number")).collect();
        assert_eq!(tokens.len(), RUNS);
        assert!(tokens.is_sorted_by(|a, b| a < b), "{tokens:?}");
    });
}

#[test]
fn death_of_a_server_ends_the_command_with_the_lease() {
    over_every_server(|servers, world| {
        let script = "sleep 1000 & echo $$; echo $!; wait";
        let run = Running::start(&mut world.run(&["--ttl", &ms(3_000)], script));
        let pids = [run.pid_in_line(), run.pid_in_line()];
        servers.kill();
        pids.into_iter().for_each(await_end);
        let run = run.finish();
        assert_eq!(code(&run), 76, "{run:?}");
        assert!(said(&run).contains("the lease ended before it could be renewed"), "{run:?}");
        // No other command begins.
        let down = world.output(&["run", "lock", "--", "echo", "never"]);
        assert_eq!((code(&down), text(&down.stdout)), (69, String::new()));
        said(&down);
    });
}

#[test]
fn silence_of_a_server_ends_the_command_with_the_lease() {
    over_every_server(|servers, world| {
        let run = Running::start(&mut world.run(&["--ttl", &ms(3_000)], "echo $$; exec sleep 1000"));
        let command = run.pid_in_line();
        servers.stop();
        await_end(command);
        servers.go_on();
        let run = run.finish();
        assert_eq!(code(&run), 76, "{run:?}");
        said(&run);
    });
}

#[test]
fn elect_waits_an_outage_out_that_is_there_when_it_starts() {
    over_every_server(|servers, world| {
        servers.stop();
        let mut elect = world.leasehold(["elect", "lock", "--", "echo", "leads"]);
        let (mut elected, warnings) = Running::start_with_lines_of_stderr(&mut elect);
        let warning = warnings.recv_timeout(limit()).expect("a warning");
        assert!(warning.contains("trying again until the storage answers"), "{warning}");
        assert!(!warning.contains(CANARY), "{warning}");
        servers.go_on();
        assert_eq!(elected.line(), "leads");
        assert_eq!(elected.wait().code(), Some(0));
        assert_eq!(warnings.into_iter().collect::<Vec<_>>(), [""; 0]);
    });
}

#[test]
fn elect_does_not_wait_for_what_time_does_not_mend() {
    over_every_server(|_, world| {
        let wrong = World::at(world.store().replace(CANARY, "wrong"));
        let refused = output(&mut wrong.leasehold(["elect", "lock", "--", "echo", "never"]));
        assert_eq!((code(&refused), text(&refused.stdout)), (64, String::new()), "{refused:?}");
    });
}

#[test]
fn password_in_a_store_file_is_on_no_command_line() {
    over_every_server(|_, world| {
        let file = world.path("store");
        std::fs::write(&file, world.store()).expect("written");
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("changed");
        let args =
            ["--store-file", "store", "run", "lock", "--", "sh", "-c", "echo $LEASEHOLD_STORE; read _"];
        let mut command = world.leasehold(args);
        let mut run = Running::start(command.env_remove("LEASEHOLD_STORE"));
        assert_eq!(run.line(), world.store());
        let parts = children(run.pid());
        assert!(parts.len() >= 2, "the command and its guardian: {parts:?}");
        for pid in parts.into_iter().map(|(pid, _)| pid).chain([run.pid()]) {
            let line = std::fs::read(processes::file_of(pid, "cmdline")).expect("alive");
            assert!(!String::from_utf8_lossy(&line).contains(CANARY));
        }
        run.write("\n");
        assert_eq!(code(&run.finish()), 0);
    });
}

#[test]
fn wrong_password_is_reported_and_not_repeated() {
    over_every_server(|_, world| {
        let wrong = World::at(world.store().replace(CANARY, "wrong"));
        let refused = output(&mut wrong.leasehold(["inspect", "lock"]));
        assert_ne!(code(&refused), 0);
        assert!(said(&refused).contains("password"), "{refused:?}");
        assert!(!said(&refused).contains("wrong@"), "{refused:?}");
    });
}

#[test]
fn second_signal_leaves_no_lock_and_no_waiter_behind() {
    over_every_server(|servers, world| {
        let ticket = text(&world.output(&["acquire", "lock", "--ttl", "1h"]).stdout);
        for mut command in [world.leasehold(["acquire", "lock"]), world.run(&[], "echo never")] {
            let waiter = Running::start(&mut command);
            world.waiters(1);
            servers.stop();
            // `timeout` sends the same signal to its child, and then to the group of its child.
            for _ in 0..2 {
                waiter.signal(Signal::TERM);
                await_handled(waiter.pid());
            }
            servers.go_on();
            assert_eq!(code(&waiter.finish()), 143);
            // An entry that was left would expire only after seconds.
            assert_eq!(world.json(&["inspect", "lock"])["waiters"], 0);
        }
        assert_eq!(code(&world.output(&["release", &ticket])), 0);
    });
}

#[test]
fn signal_shortens_a_release_that_is_not_answered() {
    over_every_server(|servers, world| {
        let mut run = Running::start(&mut world.run(&["--ttl", "1h"], "echo $PPID; read _; exit 3"));
        let pid = run.pid_in_line();
        servers.stop();
        let mut ended = None;
        let took = took(|| {
            run.write("\n");
            eventually("the end of the command", || children(pid).len() < 2);
            run.signal(Signal::TERM);
            ended = Some(run.finish());
        });
        servers.go_on();
        let ended = ended.expect("just set");
        assert_eq!(code(&ended), 3, "{ended:?}");
        assert!(text(&ended.stderr).contains("ends with its ttl"), "{ended:?}");
        assert!(took < scaled(Duration::from_secs(3)), "{took:?}");
    });
}
