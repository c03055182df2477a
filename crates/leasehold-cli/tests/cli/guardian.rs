//! The second process that ends the command when `run` cannot.

use rustix::process::Signal;

use crate::harness::{Running, World, code, eventually, gone, is_stopped, lives, ms, text};
use crate::processes::{self, children, guardian};
use crate::signals::pending;

/// Prints the ids of the command and of a child of its own; both live until they are ended.
const TREE: &str = "sleep 1000 & echo $$; echo $!; wait";

/// Root without the right to signal whom it wants is as any user that starts `sudo`.
const WITHOUT_RIGHT: [&str; 2] = ["--bounding-set=-kill", "--inh-caps=-kill"];
const AS_ANOTHER: [&str; 2] = ["--reuid=65534", "--clear-groups"];

#[test]
fn killed_guardian_is_replaced() {
    let world = World::new();
    for then in [Signal::KILL, Signal::STOP] {
        let mut run = Running::start(&mut world.run(&["--ttl", &ms(2_000)], TREE));
        let pids = [run.line(), run.line()];
        let mut before = None;
        for _ in 0..3 {
            let now = guardian(run.pid(), before);
            processes::signal(now, Signal::KILL);
            before = Some(now);
        }
        // The new one knows what the old ones knew.
        processes::waits(guardian(run.pid(), before));
        assert!(pids.iter().all(|pid| lives(pid)));
        run.signal(then);
        pids.iter().for_each(|pid| gone(pid));
        run.signal(Signal::KILL);
        run.wait();
    }
}

#[test]
fn next_command_waits_until_the_one_of_a_killed_run_has_ended() {
    // What the guardian may not signal lives until the test ends it.
    if !processes::is_allowed(
        "setpriv",
        &[&WITHOUT_RIGHT[..], &["setpriv"], &AS_ANOTHER[..], &["true"]].concat(),
    ) {
        return;
    }
    let world = World::new();
    for kill_guardian in [false, true] {
        let ttl = if kill_guardian { ms(3_000) } else { "1h".to_owned() };
        let mut run = std::process::Command::new("setpriv");
        run.args(WITHOUT_RIGHT).arg(env!("CARGO_BIN_EXE_leasehold")).args(["run", "lock", "--ttl", &ttl]);
        run.args(["--", "sh", "-c", &format!("setpriv {} sleep 1000 & echo $!; wait", AS_ANOTHER.join(" "))]);
        let mut run = Running::start(run.env("LEASEHOLD_STORE", world.store()));
        let child = run.line();
        eventually("the other user", || processes::user(&child) == Some(65534));
        let guardian = guardian(run.pid(), None);
        processes::waits(guardian);
        run.signal(Signal::KILL);
        run.wait();
        if kill_guardian {
            processes::signal(guardian, Signal::KILL);
        }

        let mut next = Running::start(&mut world.run(&[], "echo in; cat"));
        world.waiters(1);
        assert!(lives(&child), "nothing has ended it yet");
        processes::signal(processes::pid(&child), Signal::KILL);
        // The guardian sees that; without it the TTL decides.
        assert_eq!(next.line(), "in");
        next.close_stdin();
        assert_eq!(next.wait().code(), Some(0));
    }
}

#[test]
fn lease_of_a_run_that_is_killed_after_its_command_is_released() {
    let world = World::new();
    let mut run = Running::start(&mut world.run(&["--ttl", "1h"], "echo $$; read line"));
    let command = run.line();
    processes::waits(guardian(run.pid(), None));
    // Each transaction waits for this.
    let file = std::fs::File::open(world.path("locks.db-live")).expect("there");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    run.close_stdin();
    // It is reaped once the guardian was told so, and before the release.
    eventually("the end of the command", || !std::path::Path::new("/proc").join(&command).exists());
    run.signal(Signal::KILL);
    run.wait();
    drop(file);
    world.held(false);
}

#[test]
fn stopped_guardian_is_continued() {
    let world = World::new();
    let mut run = Running::start(&mut world.run(&["--ttl", "1h"], TREE));
    let pids = [run.line(), run.line()];
    let guardian = guardian(run.pid(), None);
    processes::signal(guardian, Signal::STOP);
    let id = guardian.as_raw_nonzero().to_string();
    // It may be continued before it is ever seen stopped.
    eventually("the stop", || pending(&id) == 0);
    eventually("the continuation", || lives(&id) && !is_stopped(&id));
    run.signal(Signal::KILL);
    run.wait();
    pids.iter().for_each(|pid| gone(pid));
}

#[test]
fn command_without_a_guardian_is_ended_with_a_reason() {
    let world = World::new();
    let run = Running::start(&mut world.run(&["--ttl", "1h"], TREE));
    let pids = [run.line(), run.line()];
    let mut killed = 0;
    // Each new one dies before it can be of use, as one would that the system does not let run.
    eventually("the end of the command", || {
        let guardians = children(run.pid()).into_iter().filter(|(_, args)| args.contains("__guard"));
        killed += guardians.map(|(pid, _)| processes::signal(pid, Signal::KILL)).count();
        !lives(&pids[0])
    });
    pids.iter().for_each(|pid| gone(pid));
    let run = run.finish();
    assert!(code(&run) == 70 && killed > 1, "{run:?} {killed}");
    let stderr = text(&run.stderr);
    assert!(stderr.contains("the command is ended, because it would outlive this process"), "{stderr}");
    world.held(false);
}

#[test]
fn loss_while_run_is_stopped_is_one_sigterm() {
    let world = World::new();
    let script = "trap 'echo term >> terms' TERM; echo in; while :; do sleep 1000 & wait $!; done";
    let run = Running::start(&mut world.run(&["--ttl", &ms(1_000), "--grace", &ms(3_000)], script));
    run.line();
    run.signal(Signal::STOP);
    let terms = || std::fs::read_to_string(world.path("terms")).unwrap_or_default();
    eventually("the signal of the guardian", || !terms().is_empty());
    run.signal(Signal::CONT);
    assert_eq!(code(&run.finish()), 76);
    assert_eq!(terms(), "term\n");
}

#[test]
fn command_that_runs_as_another_user_is_told_of_at_once() {
    let both = [&WITHOUT_RIGHT[..], &["setpriv"], &AS_ANOTHER[..], &["true"]].concat();
    if !processes::is_allowed("setpriv", &both) {
        return;
    }
    let world = World::new();
    for script in [
        "exec setpriv --reuid=65534 --clear-groups sleep 1000",
        "setpriv --reuid=65534 --clear-groups sleep 1000",
    ] {
        let mut command = std::process::Command::new("setpriv");
        command.args(WITHOUT_RIGHT).arg(env!("CARGO_BIN_EXE_leasehold"));
        command.args([
            "run",
            "lock",
            "--ttl",
            "1h",
            "--grace",
            "100ms",
            "--",
            "sh",
            "-c",
            &format!("echo $$; {script}; true"),
        ]);
        let told = world.path("told");
        command.env("LEASEHOLD_STORE", world.store()).stderr(std::fs::File::create(&told).expect("made"));
        let mut run = Running::start_with_stderr(&mut command);
        let group = processes::pid(&run.line());
        let read = || std::fs::read_to_string(&told).expect("there");
        eventually("the warning", || {
            read().contains("runs as another user; it goes on when the lock is lost")
        });
        assert_eq!(read().lines().count(), 1, "{}", read());
        // It says so too when it could not end it; as long as the command itself lives, it waits.
        assert_eq!(world.json(&["break", "lock"])["broken"], true);
        if script.starts_with("exec") {
            processes::signal(group, Signal::KILL);
        } else {
            eventually("the second warning", || read().contains("cannot be ended"));
        }
        assert_eq!(run.wait().code(), Some(76), "{}", read());
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
}
