//! Signals are passed on, and end a wait without a trace.

use std::os::unix::process::CommandExt as _;

use rustix::process::Signal;

use crate::harness::{Running, World, code, eventually, is_stopped, lives, text};

#[test]
fn while_waiting_they_end_us_and_leave_nothing() {
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
        let took = crate::processes::took(|| ended = Some(waiter.finish()));
        busy.execute_batch("ROLLBACK").expect("ours");
        assert!(took < crate::harness::scaled(std::time::Duration::from_secs(3)), "{took:?}");
        assert_eq!(code(&ended.expect("just set")), 143);
        // What it could not take back ends with its time.
        world.waiters(0);
    }
    holder.write("\n");
    assert_eq!(code(&holder.finish()), 0);
}

#[test]
fn while_running_they_reach_the_command() {
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
    // Its sleeping children were left to themselves; they are of its group, and go now.
    let group = std::fs::read_to_string(format!("/proc/{}/task/{0}/children", run.pid().as_raw_nonzero()));
    run.signal(Signal::USR2);
    let mut run = run;
    assert_eq!(run.wait().code(), Some(5));
    for group in group.unwrap_or_default().split_whitespace() {
        let group = group.parse().ok().and_then(rustix::process::Pid::from_raw).expect("an id");
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    assert_eq!(world.json(&["inspect", "lock"])["held"], false);
}

#[test]
fn ignored_at_start_stays_ignored() {
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
    // The next change finds nobody reading. It lasts until it was seen.
    let mut run = Running::start(&mut world.run(&[], "echo in; read _"));
    run.line();
    let pipeline = pipeline.finish();
    assert_eq!((code(&pipeline), text(&pipeline.stderr)), (0, String::new()));
    run.write("\n");
    assert_eq!(code(&run.finish()), 0);
}

#[test]
fn stopped_command_of_a_group_without_a_terminal_is_continued_with_us() {
    let world = World::new();
    let mut run = Running::start(&mut world.run(&[], "echo $$; read _; echo out"));
    let pid = run.line();
    let id = pid.parse().ok().and_then(rustix::process::Pid::from_raw).expect("an id");
    rustix::process::kill_process(id, Signal::STOP).expect("alive");
    eventually("the stop", || is_stopped(&pid));
    run.signal(Signal::CONT);
    eventually("the continuation", || lives(&pid) && !is_stopped(&pid));
    run.write("\n");
    assert_eq!(run.line(), "out");
    assert_eq!(code(&run.finish()), 0);
}

/// Writes a line for each signal it gets, and ends its whole group with the last.
fn counting(names: &[&str]) -> String {
    let traps: String = names.iter().map(|name| format!("trap 'echo {name} >> got' {name}; ")).collect();
    format!("{traps} trap 'kill -KILL 0' ALRM; echo in; while :; do sleep 1000 & wait $!; done")
}

/// Starts such a command; `run` is at the head of a group of its own.
fn start_counting(world: &World, names: &[&str]) -> Running {
    use std::os::unix::process::CommandExt as _;
    let run = Running::start(world.run(&["--ttl", "1h"], &counting(names)).process_group(0));
    assert_eq!(run.line(), "in");
    run
}

/// What such a command got, once it has ended.
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
        // As `timeout` does it. The first is handled by the time that the second comes.
        run.signal(signal);
        let id = run.pid().as_raw_nonzero().to_string();
        eventually("the first signal", || pending(&id) == 0);
        rustix::process::kill_process_group(run.pid(), signal).expect("there");
        rustix::process::kill_process_group(run.pid(), Signal::CONT).expect("there");
        let came = || !std::fs::read_to_string(world.path("got")).unwrap_or_default().is_empty();
        eventually("the signal", came);
        assert_eq!(got(&world, run), format!("{name}\n"));
    }
}

/// The signals that a process was sent and has not handled.
pub(crate) fn pending(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("there");
    let masks =
        status.lines().filter_map(|line| line.strip_prefix("ShdPnd:").or(line.strip_prefix("SigPnd:")));
    masks.map(|mask| u64::from_str_radix(mask.trim(), 16).expect("a number")).fold(0, |all, mask| all | mask)
}

#[test]
fn request_to_every_process_is_not_passed_on() {
    for guardian_first in [true, false] {
        let world = World::new();
        let run = start_counting(&world, &["TERM"]);
        let guardian = crate::processes::guardian(run.pid(), None);
        let command =
            crate::processes::children(run.pid()).into_iter().find(|(_, args)| args.starts_with("sh "));
        let command = command.expect("the command").0;
        // As systemd does it, which knows no order. The command has handled it by the time that `run` gets it.
        crate::processes::signal(command, Signal::TERM);
        eventually("the signal", || world.path("got").exists());
        let order = if guardian_first { [guardian, run.pid()] } else { [run.pid(), guardian] };
        order.into_iter().for_each(|pid| crate::processes::signal(pid, Signal::TERM));
        let id = run.pid().as_raw_nonzero().to_string();
        eventually("the signal", || pending(&id) == 0);
        // Another signal overtakes none: what was passed on came before it.
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
    // What comes too soon is the same request, so it is sent until it is another.
    eventually("the second signal", || {
        run.signal(Signal::TERM);
        terms() == 2
    });
    assert!(got(&world, run).starts_with("TERM\nTERM\n"));
}

#[test]
fn help_is_true_for_every_signal() {
    const NAMES: [&str; 32] = [
        "", "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
        "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU",
        "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
    ];
    let world = World::new();
    let help = text(&world.output(&["run", "--help"]).stdout);
    let section = |title: &str| {
        let from = help.find(title).unwrap_or_else(|| panic!("{title}: {help}"));
        let words = help[from..].split("\n\n").next().expect("the rest");
        let words = words.split(|c: char| !c.is_ascii_alphanumeric());
        let names = words.filter(|word| NAMES[1..].contains(word));
        names.map(str::to_owned).collect::<Vec<_>>()
    };
    let passed_on = section("Signals that are passed on");
    let ignored = section("Signals without effect");
    let stopping = section("Signals that stop");
    let mut ending = section("Signals that end");
    assert!(help.contains("those from 34 to 64"), "{help}");
    ending.extend((34..=64).map(|n: i32| n.to_string()));

    assert!(help.contains("32 and 33 belong to the C library"), "{help}");
    for n in (1..=64_i32).filter(|n| ![32, 33].contains(n)) {
        let name =
            usize::try_from(n).ok().and_then(|n| NAMES.get(n)).map_or(n.to_string(), ToString::to_string);
        let says = [&passed_on, &ignored, &stopping, &ending].map(|list| list.contains(&name));
        assert_eq!(says.iter().filter(|said| **said).count(), 1, "{name}: {help}");
        if name == "TSTP" {
            // On a terminal: another test.
            continue;
        }
        let world = World::new();
        let script = format!(
            "trap 'echo got' {n}; trap 'echo next; exit 9' WINCH; echo $$; while :; do sleep 0.05; done"
        );
        // Those cannot be handled, and the traps of CHLD and WINCH mean something else here.
        let script = if ["KILL", "STOP", "CHLD", "WINCH"].contains(&name.as_str()) {
            "trap 'echo next; exit 9' WINCH; echo $$; while :; do sleep 0.05; done".to_owned()
        } else {
            script
        };
        let mut command = world.leasehold(["run", "lock", "--ttl", "1h", "--", "bash", "-c", &script]);
        // In a group whose parent can continue it: the kernel stops no orphaned group by a terminal's signals, and the
        // one of a test in the background may be orphaned.
        let mut run = Running::start(command.process_group(0));
        let pid = run.line();
        let kill = format!("kill -{n} {}", run.pid().as_raw_nonzero());
        assert!(std::process::Command::new("bash").args(["-c", &kill]).status().expect("starts").success());
        match says {
            [true, ..] => {
                assert_eq!(run.line(), if name == "WINCH" { "next" } else { "got" }, "{name}");
                if name != "WINCH" {
                    run.signal(Signal::WINCH);
                    assert_eq!(run.line(), "next", "{name}");
                }
                assert_eq!(run.wait().code(), Some(9), "{name}");
            }
            [_, true, ..] => {
                run.signal(Signal::WINCH);
                assert_eq!(run.line(), "next", "{name}");
                assert_eq!(run.wait().code(), Some(9), "{name}");
            }
            [_, _, true, _] => {
                let id = run.pid().as_raw_nonzero().to_string();
                eventually("the stop", || is_stopped(&id));
                assert!(lives(&pid) && !is_stopped(&pid), "{name}");
                run.signal(Signal::KILL);
                crate::harness::gone(&pid);
            }
            _ => {
                use std::os::unix::process::ExitStatusExt as _;
                if ["SEGV", "BUS"].contains(&name.as_str()) {
                    let id = run.pid().as_raw_nonzero().to_string();
                    eventually("the first one", || pending(&id) == 0);
                    let _ = std::process::Command::new("bash").args(["-c", &kill]).status();
                }
                assert_eq!(run.wait().signal(), Some(n), "{name}");
                crate::harness::gone(&pid);
                world.held(false);
            }
        }
    }
}
