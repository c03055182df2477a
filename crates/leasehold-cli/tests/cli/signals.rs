//! Signals: the command gets them, and they end a wait without a trace.

use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Running, World, code, eventually, scaled, text};
use crate::processes::{
    self, await_continued, await_end, await_handled, children, is_stopped, lives, signal_group, took,
};

#[test]
fn signal_during_a_wait_ends_the_program_and_leaves_no_waiter() {
    let world = World::new();
    let mut holder = Running::start(&mut world.run(&[], "echo in; read _"));
    holder.line();
    for (signal, expected) in
        [(Signal::HUP, 129), (Signal::INT, 130), (Signal::TERM, 143), (Signal::USR1, 138)]
    {
        for mut command in [world.run(&[], "echo never"), world.leasehold(["acquire", "lock"])] {
            let waiter = Running::start(&mut command);
            world.waiters(1);
            waiter.signal(signal);
            let waiter = waiter.finish();
            assert_eq!(
                (code(&waiter), text(&waiter.stdout), text(&waiter.stderr)),
                (expected, String::new(), String::new())
            );
            assert_eq!(world.json(&["inspect", "lock"])["waiters"], 0);
        }
    }
    holder.write("\n");
    assert_eq!(code(&holder.finish()), 0);
    assert_eq!(world.json(&["inspect", "lock"])["held"], false);
}

#[test]
fn silent_storage_does_not_keep_a_waiter_from_ending() {
    let world = World::new();
    let mut holder = Running::start(&mut world.run(&["--ttl", "1h"], "echo in; read _"));
    holder.line();
    for mut command in [world.run(&[], "echo never"), world.leasehold(["acquire", "lock"])] {
        let waiter = Running::start(&mut command);
        world.waiters(1);
        let busy = rusqlite::Connection::open(world.path("locks.db")).expect("opens");
        busy.execute_batch("BEGIN IMMEDIATE").expect("nothing writes for long");
        waiter.signal(Signal::TERM);
        let mut ended = None;
        let took = took(|| ended = Some(waiter.finish()));
        busy.execute_batch("ROLLBACK").expect("still open");
        assert!(took < scaled(Duration::from_secs(3)), "{took:?}");
        assert_eq!(code(&ended.expect("just set")), 143);
        // The waiter's entry, which it could not remove, expires.
        world.waiters(0);
    }
    holder.write("\n");
    assert_eq!(code(&holder.finish()), 0);
}

#[test]
fn signal_reaches_the_running_command() {
    let world = World::new();
    let script = "for s in HUP INT QUIT TERM USR1 USR2 WINCH ALRM; do trap \"echo got $s\" $s; done
        trap 'exit 5' USR2; echo in; while :; do sleep 1000 & wait $!; done";
    let run = Running::start(&mut world.run(&[], script));
    assert_eq!(run.line(), "in");
    for (signal, name) in [
        (Signal::HUP, "HUP"),
        (Signal::INT, "INT"),
        (Signal::QUIT, "QUIT"),
        (Signal::TERM, "TERM"),
        (Signal::USR1, "USR1"),
        (Signal::WINCH, "WINCH"),
        (Signal::ALARM, "ALRM"),
    ] {
        run.signal(signal);
        assert_eq!(run.line(), format!("got {name}"));
    }
    let groups = children(run.pid());
    run.signal(Signal::USR2);
    let mut run = run;
    assert_eq!(run.wait().code(), Some(5));
    // The command leaves sleeping children of its group behind.
    groups.into_iter().for_each(|(group, _)| signal_group(group, Signal::KILL));
    assert_eq!(world.json(&["inspect", "lock"])["held"], false);
}

#[test]
fn signal_that_was_ignored_at_the_start_stays_ignored() {
    let world = World::new();
    let bin = env!("CARGO_BIN_EXE_leasehold");
    let mut shell = std::process::Command::new("sh");
    let script =
        format!("trap '' HUP; exec {bin} run lock -- sh -c 'kill -HUP $$; echo alive; read _; echo out'");
    shell.args(["-c", &script]).env("LEASEHOLD_STORE", world.store());
    let mut run = Running::start(&mut shell);
    assert_eq!(run.line(), "alive");
    run.signal(Signal::HUP);
    run.write("\n");
    assert_eq!(code(&run.finish()), 0);
}

#[test]
fn watch_ends_when_its_reader_has_gone() {
    let world = World::new();
    let mut shell = std::process::Command::new("sh");
    let script = format!("{} watch lock | head -n 1", env!("CARGO_BIN_EXE_leasehold"));
    shell.args(["-c", &script]).env("LEASEHOLD_STORE", world.store());
    let pipeline = Running::start(&mut shell);
    assert_eq!(pipeline.line(), "unlocked  lock");
    // The next change has no reader. The lock is held until `watch` has seen it.
    let mut run = Running::start(&mut world.run(&[], "echo in; read _"));
    run.line();
    let pipeline = pipeline.finish();
    assert_eq!((code(&pipeline), text(&pipeline.stderr)), (0, String::new()));
    run.write("\n");
    assert_eq!(code(&run.finish()), 0);
}

#[test]
fn stopped_command_without_a_terminal_is_continued_by_sigcont() {
    let world = World::new();
    let mut run = Running::start(&mut world.run(&[], "echo $$; read _; echo out"));
    let command = run.pid_in_line();
    processes::stop(command);
    run.signal(Signal::CONT);
    await_continued(command);
    run.write("\n");
    assert_eq!(run.line(), "out");
    assert_eq!(code(&run.finish()), 0);
}

/// Returns a script that writes a line for each of these signals, and ends its whole group with SIGALRM.
fn counting(names: &[&str]) -> String {
    let traps: String = names.iter().map(|name| format!("trap 'echo {name} >> got' {name}; ")).collect();
    format!("{traps} trap 'kill -KILL 0' ALRM; echo in; while :; do sleep 1000 & wait $!; done")
}

/// Starts such a command. `run` is at the head of a group of its own.
fn start_counting(world: &World, names: &[&str]) -> Running {
    let run = Running::start(world.run(&["--ttl", "1h"], &counting(names)).process_group(0));
    assert_eq!(run.line(), "in");
    run
}

/// Ends such a command, and returns the signals that it got.
fn got(world: &World, run: Running) -> String {
    run.signal(Signal::ALARM);
    assert_eq!(code(&run.finish()), 137);
    std::fs::read_to_string(world.path("got")).unwrap_or_default()
}

#[test]
fn one_request_is_one_signal() {
    for (signal, name) in
        [(Signal::TERM, "TERM"), (Signal::HUP, "HUP"), (Signal::INT, "INT"), (Signal::QUIT, "QUIT")]
    {
        let world = World::new();
        let run = start_counting(&world, &[name]);
        // `timeout` does this. The program has handled the first signal when the second comes.
        run.signal(signal);
        await_handled(run.pid());
        signal_group(run.pid(), signal);
        signal_group(run.pid(), Signal::CONT);
        let came = || !std::fs::read_to_string(world.path("got")).unwrap_or_default().is_empty();
        eventually("the signal", came);
        assert_eq!(got(&world, run), format!("{name}\n"));
    }
}

#[test]
fn request_to_every_process_is_not_passed_on() {
    for guardian_first in [true, false] {
        let world = World::new();
        let run = start_counting(&world, &["TERM"]);
        let guardian = processes::guardian(run.pid(), None);
        let command = children(run.pid()).into_iter().find(|(_, args)| args.starts_with("sh "));
        let command = command.expect("the command").0;
        // systemd does this, in any order. The command has handled the signal when `run` gets it.
        processes::signal(command, Signal::TERM);
        eventually("the signal", || world.path("got").exists());
        let order = if guardian_first { [guardian, run.pid()] } else { [run.pid(), guardian] };
        order.into_iter().for_each(|pid| processes::signal(pid, Signal::TERM));
        await_handled(run.pid());
        // Signals do not overtake each other: what was passed on came before this one.
        run.signal(Signal::WINCH);
        assert_eq!(got(&world, run), "TERM\n");
    }
}

#[test]
fn another_request_is_another_signal() {
    let world = World::new();
    let run = start_counting(&world, &["TERM"]);
    let terms = || std::fs::read_to_string(world.path("got")).unwrap_or_default().lines().count();
    run.signal(Signal::TERM);
    eventually("the first signal", || terms() == 1);
    // A signal that comes too soon is the same request, so the test sends it until it is another one.
    eventually("the second signal", || {
        run.signal(Signal::TERM);
        terms() == 2
    });
    assert!(got(&world, run).starts_with("TERM\nTERM\n"));
}

/// The names of the signals up to 31, by number.
const NAMES: [&str; 32] = [
    "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// What a signal to `run` does, as the help says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    PassedOn,
    None,
    StopsRun,
    EndsBoth,
}

/// Returns each signal's name with the effects that the help gives it.
fn effects_in_help(help: &str) -> Vec<(String, Vec<Effect>)> {
    assert!(help.contains("those from 34 to 64"), "{help}");
    assert!(help.contains("32 and 33 belong to the C library"), "{help}");
    let section = |title: &str| {
        let from = help.find(title).unwrap_or_else(|| panic!("{title}: {help}"));
        let words = help[from..].split("\n\n").next().expect("the rest");
        let words = words.split(|c: char| !c.is_ascii_alphanumeric());
        let names = words.filter(|word| NAMES[1..].contains(word));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let mut ending = section("Signals that end");
    ending.extend((34..=64).map(|n: i32| n.to_string()));
    let sections = [
        (Effect::PassedOn, section("Signals that are passed on")),
        (Effect::None, section("Signals without effect")),
        (Effect::StopsRun, section("Signals that stop")),
        (Effect::EndsBoth, ending),
    ];
    let named = |name: &String| {
        sections.iter().filter(|(_, names)| names.contains(name)).map(|(effect, _)| *effect).collect()
    };
    let names = (1..=64_usize).filter(|n| ![32, 33].contains(n));
    let names = names.map(|n| NAMES.get(n).map_or(n.to_string(), ToString::to_string));
    names.map(|name| (name.clone(), named(&name))).collect()
}

/// Starts a command that reports the signal `name`, and ends with exit code 9 after SIGWINCH.
fn start_reporting(world: &World, name: &str) -> Running {
    // The first two cannot be handled, and the traps of CHLD and WINCH mean something else here.
    let trap = if ["KILL", "STOP", "CHLD", "WINCH"].contains(&name) {
        String::new()
    } else {
        format!("trap 'echo got' {name}; ")
    };
    let script = format!("{trap}trap 'echo next; exit 9' WINCH; echo $$; while :; do sleep 0.05; done");
    let mut command = world.leasehold(["run", "lock", "--ttl", "1h", "--", "bash", "-c", &script]);
    // The group has a parent that can continue it. The kernel does not stop an orphaned group by a terminal's signals,
    // and the group of a test in the background may be orphaned.
    Running::start(command.process_group(0))
}

/// Sends a signal that has no name in Rust.
fn kill(run: &Running, name: &str) {
    let kill = format!("kill -{name} {}", run.pid().as_raw_nonzero());
    let killed = std::process::Command::new("bash").args(["-c", &kill]).status().expect("starts");
    assert!(killed.success(), "{kill}");
}

#[test]
fn help_is_true_for_every_signal() {
    let help = text(&World::new().output(&["run", "--help"]).stdout);
    for (name, effects) in effects_in_help(&help) {
        let &[effect] = &effects[..] else { panic!("{name}: {effects:?} {help}") };
        if name == "TSTP" {
            // The tests on a terminal are about this one.
            continue;
        }
        let world = World::new();
        let mut run = start_reporting(&world, &name);
        let command = run.pid_in_line();
        kill(&run, &name);
        match effect {
            Effect::PassedOn | Effect::None => {
                if effect == Effect::PassedOn && name != "WINCH" {
                    assert_eq!(run.line(), "got", "{name}");
                }
                if name != "WINCH" {
                    run.signal(Signal::WINCH);
                }
                assert_eq!(run.line(), "next", "{name}");
                assert_eq!(run.wait().code(), Some(9), "{name}");
            }
            Effect::StopsRun => {
                eventually("the stop", || is_stopped(run.pid()));
                assert!(lives(command) && !is_stopped(command), "{name}");
                run.signal(Signal::KILL);
                await_end(command);
            }
            Effect::EndsBoth => {
                if ["SEGV", "BUS"].contains(&name.as_str()) {
                    await_handled(run.pid());
                    kill(&run, &name);
                }
                let ended_by = run.wait().signal().map(|n| usize::try_from(n).expect("positive"));
                let ended_by = ended_by.map(|n| NAMES.get(n).map_or(n.to_string(), ToString::to_string));
                assert_eq!(ended_by.as_deref(), Some(&*name));
                await_end(command);
                world.held(false);
            }
        }
    }
}
