//! Containers: the first process of a pid namespace, and a `/proc` that shows other processes or none.

use std::process::Command;

use crate::harness::{Running, World, code, eventually, ms, output, text};
use crate::processes::is_allowed;

/// Options of `unshare`: a pid namespace in which processes see no `/proc` of the namespace.
const UNSHARE: [&str; 5] = ["--user", "--map-root-user", "--pid", "--fork", "--kill-child"];

fn unshare(world: &World, options: &[&str], script: &str) -> Command {
    let mut command = Command::new("env");
    command.args(["--default-signal", "unshare"]).args(UNSHARE).args(options).args(["sh", "-c", script]);
    command.env("LEASEHOLD_STORE", world.store()).env("L", env!("CARGO_BIN_EXE_leasehold"));
    command.current_dir(world.path(""));
    command
}

#[test]
fn loss_ends_grandchildren_without_a_proc_of_the_namespace() {
    if !is_allowed("unshare", &[&UNSHARE[..], &["true"]].concat()) {
        return;
    }
    let world = World::new();
    // The command ends at once, its child only by SIGKILL. After that, the file must not grow.
    std::fs::write(
        world.path("command"),
        "sh -c 'trap \"\" TERM; while :; do echo x >> alive; sleep 0.01; done' & trap 'exit 0' TERM; echo in; wait",
    )
    .expect("written");
    let script = format!(
        "$L run lock --ttl {} --grace {} -- sh command; echo code:$?; a=$(wc -c < alive); sleep 0.2; b=$(wc -c < alive);
         [ $a = $b ] && echo dead; kill -KILL -1",
        ms(3_000),
        ms(300)
    );
    let mut command = unshare(&world, &[], &script);
    let run = Running::start(&mut command);
    assert_eq!(run.line(), "in");
    assert_eq!(world.json(&["break", "lock"])["broken"], true);
    assert_eq!(run.line(), "code:76");
    assert_eq!(run.line(), "dead");
}

#[test]
fn children_that_end_in_time_are_not_waited_for_without_a_proc_of_the_namespace() {
    if !is_allowed("unshare", &[&UNSHARE[..], &["true"]].concat()) {
        return;
    }
    let world = World::new();
    let command = "sleep 1000 & echo in; wait";
    // The first process of this namespace reaps no orphans.
    let script = format!("$L run lock --ttl {} --grace 1h -- sh -c '{command}' & exec sleep 1000", ms(3_000));
    let mut command = unshare(&world, &[], &script);
    let stderr = world.path("stderr");
    command.stderr(std::fs::File::create(&stderr).expect("made"));
    let run = Running::start_with_stderr(&mut command);
    assert_eq!(run.line(), "in");
    assert_eq!(world.json(&["break", "lock"])["broken"], true);
    eventually("the end", || std::fs::read_to_string(&stderr).expect("there").contains("the lock was lost"));
}

#[test]
fn first_process_reaps_what_it_inherits() {
    let options = ["--mount-proc"];
    if !is_allowed("unshare", &[&UNSHARE[..], &options, &["true"]].concat()) {
        return;
    }
    let world = World::new();
    let command = "sh -c \"sleep 0.05 & echo \\$! > orphan\"; p=$(cat orphan); while [ -d /proc/$p ]; do sleep 0.01; done; echo reaped";
    let script = format!("exec $L run lock -- sh -c '{command}'");
    let run = output(&mut unshare(&world, &options, &script));
    assert_eq!((code(&run), text(&run.stdout)), (0, "reaped".to_owned()), "{run:?}");
    // `exec` makes a child of the launcher a child of `leasehold`.
    let command = "p=$(cat left); while [ -d /proc/$p ]; do sleep 0.01; done; echo reaped";
    let script = format!("sleep 0.05 & echo $! > left; exec $L run lock -- sh -c '{command}'");
    let run = output(&mut unshare(&world, &options, &script));
    assert_eq!((code(&run), text(&run.stdout)), (0, "reaped".to_owned()), "{run:?}");
}
