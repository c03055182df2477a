//! Signals are passed on, and end a wait without a trace.

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
