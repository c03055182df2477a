//! Exclusion: one command at a time, and what the command finds in its environment.

use rustix::process::Signal;

use crate::harness::{Running, World, code, eventually, ms, output, text};
use crate::processes::{self, lives};

#[test]
fn second_waits_for_the_first() {
    let world = World::new();
    let mut first = Running::start(&mut world.run(&[], "echo in; read _; echo out"));
    assert_eq!(first.line(), "in");

    let refused = output(&mut world.run(&["--try"], "echo never"));
    assert_eq!((code(&refused), text(&refused.stdout)), (75, String::new()));

    let second = Running::start(&mut world.run(&[], "echo second"));
    world.waiters(1);
    first.write("\n");
    let first = first.finish();
    assert_eq!((code(&first), text(&first.stdout)), (0, "out".to_owned()));
    let second = second.finish();
    assert_eq!((code(&second), text(&second.stdout)), (0, "second".to_owned()));
    assert_eq!(text(&second.stderr), "");
}

#[test]
fn long_wait_is_reported_once_without_a_terminal() {
    let world = World::new();
    let mut holder = Running::start(&mut world.run(&["--label", "build"], "echo in; read _"));
    holder.line();
    let mut waiter = world.run(&[], "echo second");
    let stderr = world.path("stderr");
    waiter.stderr(std::fs::File::create(&stderr).expect("made"));
    let mut waiter = Running::start_with_stderr(&mut waiter);
    let read = || std::fs::read_to_string(&stderr).expect("there");
    eventually("the line", || !read().is_empty());
    assert!(read().starts_with("leasehold: waiting 10.0s for lock: held by build for "), "{}", read());
    let quiet = Running::start(&mut world.leasehold(["-q", "run", "lock", "--", "true"]));
    world.waiters(2);
    holder.write("\n");
    assert_eq!(code(&holder.finish()), 0);
    assert_eq!(waiter.wait().code(), Some(0));
    assert_eq!(read().lines().count(), 1);
    assert_eq!(text(&quiet.finish().stderr), "");
}

#[test]
fn command_that_would_wait_for_itself_is_warned_at_once() {
    let world = World::new();
    let bin = env!("CARGO_BIN_EXE_leasehold");
    let script =
        format!("{bin} run lock --wait 1s -- true; echo code:$?; {bin} -q run lock --wait 1ms -- true");
    let run = output(&mut world.run(&[], &script));
    assert_eq!(text(&run.stdout), "code:75", "{run:?}");
    let stderr = text(&run.stderr);
    assert!(stderr.lines().next().is_some_and(|line| line.contains("it would wait for itself")), "{stderr}");
    assert_eq!(stderr.matches("it would wait for itself").count(), 1, "{stderr}");
}

#[test]
fn command_that_would_wait_for_an_outer_lock_of_its_own_is_warned_at_once() {
    let world = World::new();
    let bin = env!("CARGO_BIN_EXE_leasehold");
    let warning = "it would wait for itself";
    // A lock within another lock within the first, at any depth, even where only the owners are passed on.
    for around in [
        "run b --",
        "run b -- $L run c --",
        "run b -- env -u LEASEHOLD_TICKET",
        "run b --hide-store -- env LEASEHOLD_STORE=$LEASEHOLD_STORE",
    ] {
        let script = format!("$L {around} $L run lock --wait 50ms -- true");
        let run = output(world.run(&[], &script).env("L", bin));
        let stderr = text(&run.stderr);
        assert_eq!((code(&run), stderr.matches(warning).count()), (75, 1), "{around}: {stderr}");
    }
    // A lock of the same name in another storage is another lock.
    let other = "$L run b --store sqlite:other.db -- $L run lock --wait 50ms -- echo in";
    let run = output(world.run(&[], other).env("L", bin));
    assert_eq!((code(&run), text(&run.stdout), text(&run.stderr)), (0, "in".to_owned(), String::new()));
}

#[test]
fn nested_run_sets_the_variables_of_the_inner_lock_over_inherited_ones() {
    let world = World::new();
    let show = "echo $LEASEHOLD_NAME $LEASEHOLD_TOKEN $LEASEHOLD_TICKET $LEASEHOLD_STORE";
    let bin = env!("CARGO_BIN_EXE_leasehold");
    let script = format!("{show}; {bin} run inner -- sh -c '{show}'");
    let mut command =
        world.leasehold(["--store", "sqlite:locks.db", "run", "outer", "--", "sh", "-c", &script]);
    for inherited in ["LEASEHOLD_NAME", "LEASEHOLD_TOKEN", "LEASEHOLD_TICKET", "LEASEHOLD_STORE"] {
        command.env(inherited, "memory:inherited");
    }
    let output = output(&mut command);
    assert_eq!(code(&output), 0, "{output:?}");
    let stdout = text(&output.stdout);
    let lines: Vec<Vec<_>> = stdout.lines().map(|line| line.split(' ').collect()).collect();
    for (line, name) in lines.iter().zip(["outer", "inner"]) {
        assert_eq!(line[0], name);
        assert!(line[1].parse::<u64>().is_ok(), "{line:?}");
        assert!(line[2].starts_with("lh1.") && line[2].ends_with(&format!(".{}.10000.{name}", line[1])));
        // The path of a relative file is passed on as an absolute one.
        assert!(line[3].starts_with("sqlite:/") && line[3].ends_with("/locks.db"), "{line:?}");
    }
    assert_ne!(lines[0][2], lines[1][2]);
}

#[test]
fn stdin_and_arguments_pass_through_unchanged() {
    let world = World::new();
    let mut cat = Running::start(&mut world.leasehold(["run", "lock", "--", "cat"]));
    cat.write("a b\nc\n");
    let cat = cat.finish();
    assert_eq!((code(&cat), text(&cat.stdout)), (0, "a b\nc".to_owned()));

    let args = ["run", "lock", "--", "printf", "%s\n", "--store", "-x", "--", "", "a b", "--help"];
    let printf = output(&mut world.leasehold(args));
    assert_eq!(text(&printf.stdout), "--store\n-x\n--\n\na b\n--help");
}

#[test]
fn command_is_started_as_a_shell_would() {
    let world = World::new();
    // No signal is blocked, SIGPIPE is not ignored, and the command is at the head of a group of its own.
    let run =
        output(&mut world.run(&[], "grep -E 'SigBlk|SigIgn' /proc/self/status; ps -o pgid= -p $$; echo $$"));
    let stdout = text(&run.stdout);
    let words: Vec<_> = stdout.split_whitespace().collect();
    let mask = |at: usize| u64::from_str_radix(words[at], 16).expect("a mask");
    assert_eq!((mask(1), mask(3) & (1 << 12)), (0, 0), "{stdout}");
    assert_eq!(words[4], words[5], "{stdout}");
    // No descriptor of `leasehold` is open.
    let open = output(&mut world.leasehold(["run", "lock", "--", "ls", "/proc/self/fd"]));
    let without_us = output(std::process::Command::new("ls").arg("/proc/self/fd"));
    assert_eq!(text(&open.stdout), text(&without_us.stdout));
}

#[test]
fn lock_is_held_for_the_minimum_even_if_the_command_has_ended() {
    let world = World::new();
    let run = output(&mut world.run(&["--ttl", &ms(60_000), "--at-least", &ms(2_000)], "exit 4"));
    assert_eq!(code(&run), 4, "{run:?}");
    let holder = world.json(&["inspect", "lock"]);
    assert_eq!(holder["held"], true, "{holder}");
    assert!(holder["remaining_ms"].as_u64().expect("a number") <= 60_000 / 2, "{holder}");
    world.held(false);
}

#[test]
fn processes_left_behind_live_on_and_keep_nothing() {
    let world = World::new();
    // The process keeps no pipe of the test open.
    let run = output(&mut world.run(&[], "sleep 1000 >/dev/null 2>&1 & echo $!"));
    let left = processes::pid(&text(&run.stdout));
    assert_eq!(code(&run), 0);
    assert!(lives(left));
    assert_eq!(world.json(&["inspect", "lock"])["held"], false);
    processes::signal(left, Signal::KILL);
}
