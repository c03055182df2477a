//! Signals that the launcher had blocked or ignored: they do not disturb `leasehold`, and stay so for the command.

use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Running, World, code, eventually, output, text};
use crate::processes::{self, await_continued, pending};

/// Returns `env OPTIONS leasehold run lock --ttl 1h -- sh -c SCRIPT`.
fn run(world: &World, options: &[&str], script: &str) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal").args(options).arg(env!("CARGO_BIN_EXE_leasehold"));
    command.args(["run", "lock", "--ttl", "1h", "--", "sh", "-c", script]);
    command.env("LEASEHOLD_STORE", world.store()).current_dir(world.path(""));
    command
}

/// Returns the sets of blocked and ignored signals that a command has printed.
fn masks(output: &std::process::Output) -> Vec<u64> {
    let text = text(&output.stdout);
    let masks = text.lines().map(|line| line.split_whitespace().nth(1).expect("a mask"));
    masks.map(|mask| u64::from_str_radix(mask, 16).expect("a number")).collect()
}

/// Runs a command by a shell.
fn forked(command: &Command) -> std::process::Output {
    let mut shell = Command::new("bash");
    shell.args(["-c", "\"$@\"; exit", "bash"]).arg(command.get_program()).args(command.get_args());
    shell.envs(command.get_envs().filter_map(|(key, value)| Some((key, value?))));
    output(&mut shell)
}

#[test]
fn command_starts_with_the_signals_that_run_was_given() {
    let world = World::new();
    for options in [
        &[][..],
        &["--ignore-signal=PIPE"],
        &["--ignore-signal=CHLD"],
        &["--ignore-signal=CONT"],
        &["--block-signal=CHLD"],
        &["--block-signal"],
        &["--ignore-signal"],
        &["--block-signal=TERM,USR1,CHLD,TSTP", "--ignore-signal=INT,PIPE,XCPU,TTOU,CHLD,URG"],
    ] {
        let show = "grep -E 'SigBlk|SigIgn' /proc/self/status";
        let mut plain = Command::new("env");
        plain.arg("--default-signal").args(options).args(["sh", "-c", show]);
        let mut run = run(&world, options, show);
        // Spawned by this test, and forked by a shell: glibc ignores two signals of its own in what it spawns.
        let (as_spawned, as_forked) =
            ((output(&mut plain), output(&mut run)), (forked(&plain), forked(&run)));
        for (plain, run) in [as_spawned, as_forked] {
            assert_eq!(code(&run), 0, "{run:?}");
            assert_eq!(masks(&run), masks(&plain), "{options:?}");
            assert_eq!(masks(&run).len(), 2);
        }
    }
}

#[test]
fn environment_of_the_command_does_not_show_how_it_was_started() {
    let world = World::new();
    for options in [&[][..], &["--ignore-signal=PIPE"]] {
        let run = output(&mut run(
            &world,
            options,
            "env | grep LEASEHOLD | grep -v LEASEHOLD_TEST | cut -d= -f1 | sort",
        ));
        let names =
            ["LEASEHOLD_HELD", "LEASEHOLD_NAME", "LEASEHOLD_STORE", "LEASEHOLD_TICKET", "LEASEHOLD_TOKEN"];
        assert_eq!(text(&run.stdout).lines().collect::<Vec<_>>(), names, "{options:?}");
    }
}

#[test]
fn end_of_the_command_is_seen_even_if_sigchld_is_blocked_or_ignored() {
    let world = World::new();
    for options in [&["--block-signal=CHLD"][..], &["--ignore-signal=CHLD"], &["--block-signal"]] {
        // With a TTL of an hour, nothing else wakes the program for a long time.
        let run = output(&mut run(&world, options, "sleep 0.1; exit 5"));
        assert_eq!(code(&run), 5, "{options:?} {run:?}");
        world.held(false);
        let world = World::new();
        let killed = output(&mut self::run(&world, options, "kill -KILL $$"));
        assert_eq!(code(&killed), 137, "{options:?} {killed:?}");
    }
}

#[test]
fn blocked_signal_is_passed_on() {
    let world = World::new();
    // It stays blocked for the command, where it is pending then. A shell would unblock it.
    let run = Running::start(&mut run(&world, &["--block-signal=TERM"], "echo $$; exec sleep 1000"));
    let command = run.pid_in_line();
    run.signal(Signal::TERM);
    eventually("the signal", || pending(command) == 1 << (Signal::TERM.as_raw() - 1));
    processes::signal(command, Signal::KILL);
    assert_eq!(code(&run.finish()), 137);
}

#[test]
fn ignored_or_blocked_sigcont_continues_the_command_too() {
    let world = World::new();
    for options in [&["--ignore-signal=CONT"][..], &["--block-signal=CONT"]] {
        let mut run = Running::start(&mut run(&world, options, "echo $$; read _; echo out"));
        let command = run.pid_in_line();
        processes::stop(command);
        run.signal(Signal::CONT);
        await_continued(command);
        run.write("\n");
        assert_eq!(run.line(), "out");
        assert_eq!(code(&run.finish()), 0);
    }
}
