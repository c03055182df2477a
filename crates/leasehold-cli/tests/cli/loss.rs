//! Loss: the command does not outlive the lock.

use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::harness::{Running, World, code, eventually, ms, output, scaled, text};
use crate::processes::{await_end, lives, took};

/// Prints a line for each SIGTERM, until it gets SIGKILL.
const COUNT: &str = "trap 'echo term' TERM; echo in; while :; do sleep 1000 & wait $!; done";

/// Prints the ids of the command and of a child of it. Both live until they are ended.
const TREE: &str = "sleep 1000 & echo $$; echo $!; wait";
/// The same, and both ignore SIGTERM.
const STUBBORN: &str = "trap '' TERM; sleep 1000 & echo $$; echo $!; wait";

/// Reads the ids that `TREE` prints.
fn tree(run: &Running) -> [Pid; 2] {
    [run.pid_in_line(), run.pid_in_line()]
}

#[test]
fn broken_lock_ends_the_whole_group() {
    let world = World::new();
    for (options, script) in [
        (&["--ttl", &ms(3_000)][..], TREE),
        (&["--ttl", &ms(3_000), "--grace", "50ms"], STUBBORN),
        (&["--ttl", &ms(3_000), "--on-lost", "kill"], STUBBORN),
    ] {
        let run = Running::start(&mut world.run(options, script));
        let pids = tree(&run);
        assert_eq!(world.json(&["break", "lock"])["broken"], true);
        assert_eq!(code(&run.finish()), 76);
        pids.into_iter().for_each(await_end);
    }
}

#[test]
fn children_of_the_command_have_the_grace_time_too() {
    let world = World::new();
    // The command ends at once. Its child ends when the test writes to the FIFO.
    let script = "mkfifo go; sh -c 'trap \"cat go >/dev/null; echo cleaned up\" TERM; echo in; sleep 1000 & wait' & wait";
    let run = Running::start(&mut world.run(&["--ttl", &ms(3_000), "--grace", "1h"], script));
    assert_eq!(run.line(), "in");
    assert_eq!(world.json(&["break", "lock"])["broken"], true);
    std::fs::write(world.path("go"), "").expect("the child reads");
    assert_eq!(run.line(), "cleaned up");
    assert_eq!(code(&run.finish()), 76);
}

#[test]
fn ignored_loss_is_a_warning() {
    let world = World::new();
    let options = ["--ttl", &ms(3_000), "--on-lost", "ignore"];
    let mut run = Running::start(&mut world.run(&options, "echo in; read _; exit 7"));
    run.line();
    let ticket = world.json(&["inspect", "lock"])["owner"].clone();
    assert_eq!(world.json(&["break", "lock"])["owner"], ticket);
    run.write("\n");
    let run = run.finish();
    assert_eq!(code(&run), 7);
    let stderr = text(&run.stderr);
    assert!(stderr.starts_with("leasehold: warning: ") && stderr.lines().count() == 1, "{stderr}");
}

#[test]
fn storage_that_stops_answering_ends_the_command_with_the_lease() {
    let world = World::new();
    let run = Running::start(&mut world.run(&["--ttl", &ms(3_000)], TREE));
    let pids = tree(&run);
    let busy = rusqlite::Connection::open(world.path("locks.db")).expect("opens");
    busy.execute_batch("BEGIN IMMEDIATE").expect("each transaction is short");
    // The command ends although the storage does not answer.
    pids.into_iter().for_each(await_end);
    // `run` does not wait for an answer, which would change nothing.
    let mut ended = None;
    let took = took(|| ended = Some(run.finish()));
    busy.execute_batch("ROLLBACK").expect("still open");
    let run = ended.expect("just set");
    assert!(took < scaled(Duration::from_secs(3)), "{took:?} {run:?}");
    assert_eq!(code(&run), 76);
    assert!(text(&run.stderr).contains("the lease ended before it could be renewed"), "{run:?}");
}

#[test]
fn one_loss_is_one_sigterm() {
    let world = World::new();
    let broken = Running::start(&mut world.run(&["--ttl", &ms(3_000), "--grace", &ms(300)], COUNT));
    broken.line();
    assert_eq!(world.json(&["break", "lock"])["broken"], true);
    let once = |run: Running, before: &str| {
        let run = run.finish();
        assert_eq!((code(&run), text(&run.stdout)), (76, format!("{before}term")));
    };
    once(broken, "");
    let options = ["--max-hold", &ms(1_500), "--grace", &ms(300)];
    once(Running::start(&mut world.run(&options, COUNT)), "in\n");
}

#[test]
fn max_hold_ends_the_command() {
    let world = World::new();
    let run = output(&mut world.run(&["--max-hold", &ms(500)], "sleep 1000"));
    assert_eq!(code(&run), 76);
    assert!(text(&run.stderr).contains("max_hold"), "{run:?}");
    world.held(false);
}

#[test]
fn killed_run_takes_everything_with_it_and_frees_the_lock() {
    let world = World::new();
    for script in [TREE, STUBBORN] {
        let mut run = Running::start(&mut world.run(&["--ttl", "1h"], script));
        let pids = tree(&run);
        run.signal(Signal::KILL);
        run.wait();
        pids.into_iter().for_each(await_end);
        // Long before the TTL.
        assert_eq!(code(&output(&mut world.run(&[], "true"))), 0);
    }
}

#[test]
fn stopped_run_does_not_let_the_command_outlive_the_lease() {
    let world = World::new();
    for (options, script) in [
        (&["--ttl", &ms(1_000)][..], TREE),
        (&["--ttl", &ms(1_000), "--grace", "50ms"], STUBBORN),
        (&["--ttl", &ms(1_000), "--on-lost", "kill"], STUBBORN),
    ] {
        let run = Running::start(&mut world.run(options, script));
        let pids = tree(&run);
        run.signal(Signal::STOP);
        // While `run` is still stopped.
        pids.into_iter().for_each(await_end);
        world.held(false);
        run.signal(Signal::CONT);
        assert_eq!(code(&run.finish()), 76);
    }
}

#[test]
fn renewed_lease_leaves_the_command_alone() {
    let world = World::new();
    let mut run = Running::start(&mut world.run(&["--ttl", &ms(1_000)], TREE));
    let pids = tree(&run);
    // A few TTLs, seen by the lease being renewed.
    let owner = world.json(&["inspect", "lock"])["owner"].clone();
    let (mut renewals, mut last) = (0, 0);
    eventually("some renewals", || {
        let left = world.json(&["inspect", "lock"])["remaining_ms"].as_u64().expect("held");
        renewals += u32::from(left > last);
        last = left;
        renewals > 6
    });
    assert_eq!(world.json(&["inspect", "lock"])["owner"], owner);
    assert!(pids.into_iter().all(lives));
    run.signal(Signal::TERM);
    assert_eq!(run.wait().code(), Some(143));
}
