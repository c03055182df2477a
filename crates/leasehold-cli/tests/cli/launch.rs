//! What the launcher had blocked or ignored neither disturbs us nor changes for the command.

use std::process::Command;

use rustix::process::Signal;

use crate::harness::{Running, World, code, eventually, is_stopped, lives, output, text};
use crate::processes;
use crate::signals::pending;

/// `env OPTIONS leasehold run lock --ttl 1h -- sh -c SCRIPT`
fn run(world: &World, options: &[&str], script: &str) -> Command {
    let mut command = Command::new("env");
    command.arg("--default-signal").args(options).arg(env!("CARGO_BIN_EXE_leasehold"));
    command.args(["run", "lock", "--ttl", "1h", "--", "sh", "-c", script]);
    command.env("LEASEHOLD_STORE", world.store()).current_dir(world.path(""));
    command
}

/// What a process has blocked and ignored.
fn masks(output: &std::process::Output) -> Vec<u64> {
    let text = text(&output.stdout);
    let masks = text.lines().map(|line| line.split_whitespace().nth(1).expect("a mask"));
    masks.map(|mask| u64::from_str_radix(mask, 16).expect("a number")).collect()
}

/// Runs the same by a shell.
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
        // As this test spawns it, and as a shell does: glibc ignores two signals of its own in what it spawns.
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
fn its_environment_has_nothing_of_how_it_was_started() {
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
fn its_end_is_seen_whatever_became_of_sigchld() {
    let world = World::new();
    for options in [&["--block-signal=CHLD"][..], &["--ignore-signal=CHLD"], &["--block-signal"]] {
        // With a TTL of an hour nothing else wakes us for a long time.
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
    let command = run.line();
    run.signal(Signal::TERM);
    eventually("the signal", || pending(&command) == 1 << (Signal::TERM.as_raw() - 1));
    processes::signal(processes::pid(&command), Signal::KILL);
    assert_eq!(code(&run.finish()), 137);
}

#[test]
fn ignored_or_blocked_sigcont_continues_the_command_with_us() {
    let world = World::new();
    for options in [&["--ignore-signal=CONT"][..], &["--block-signal=CONT"]] {
        let mut run = Running::start(&mut run(&world, options, "echo $$; read _; echo out"));
        let pid = run.line();
        processes::signal(processes::pid(&pid), Signal::STOP);
        eventually("the stop", || is_stopped(&pid));
        run.signal(Signal::CONT);
        eventually("the continuation", || lives(&pid) && !is_stopped(&pid));
        run.write("\n");
        assert_eq!(run.line(), "out");
        assert_eq!(code(&run.finish()), 0);
    }
}
