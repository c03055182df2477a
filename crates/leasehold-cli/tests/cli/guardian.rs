//! The guardian: the second process, which ends the command when `run` cannot.

use std::fs::File;
use std::process::Command;

use rustix::process::{Pid, Signal};

use crate::harness::{Running, World, code, eventually, ms, text};
use crate::processes::{
    self, await_continued, await_end, await_handled, await_idle, children, guardian, lives, signal_group,
};

/// Prints the ids of the command and of a child of it. Both live until they are ended.
const TREE: &str = "sleep 1000 & echo $$; echo $!; wait";

/// Options of `setpriv`: root without the right to signal other users is as any user that starts `sudo`.
const WITHOUT_RIGHT: [&str; 2] = ["--bounding-set=-kill", "--inh-caps=-kill"];
const AS_ANOTHER: [&str; 2] = ["--reuid=65534", "--clear-groups"];

#[test]
fn killed_guardian_is_replaced() {
    let world = World::new();
    for then in [Signal::KILL, Signal::STOP] {
        let mut run = Running::start(&mut world.run(&["--ttl", &ms(2_000)], TREE));
        let pids = [run.pid_in_line(), run.pid_in_line()];
        let mut before = None;
        for _ in 0..3 {
            let now = guardian(run.pid(), before);
            processes::signal(now, Signal::KILL);
            before = Some(now);
        }
        // The new one knows what the old ones knew.
        let last = guardian(run.pid(), before);
        await_idle(run.pid());
        await_idle(last);
        assert!(pids.into_iter().all(lives));
        run.signal(then);
        pids.into_iter().for_each(await_end);
        run.signal(Signal::KILL);
        run.wait();
    }
}

#[test]
fn next_command_waits_until_the_one_of_a_killed_run_has_ended() {
    // A process that the guardian may not signal lives until the test ends it.
    if !processes::is_allowed(
        "setpriv",
        &[&WITHOUT_RIGHT[..], &["setpriv"], &AS_ANOTHER[..], &["true"]].concat(),
    ) {
        return;
    }
    let world = World::new();
    for kill_guardian in [false, true] {
        let ttl = if kill_guardian { ms(3_000) } else { "1h".to_owned() };
        let mut run = Command::new("setpriv");
        run.args(WITHOUT_RIGHT).arg(env!("CARGO_BIN_EXE_leasehold")).args(["run", "lock", "--ttl", &ttl]);
        run.args(["--", "sh", "-c", &format!("setpriv {} sleep 1000 & echo $!; wait", AS_ANOTHER.join(" "))]);
        let mut run = Running::start(run.env("LEASEHOLD_STORE", world.store()));
        let child = run.pid_in_line();
        eventually("the other user", || processes::user(child) == Some(65534));
        let guardian = guardian(run.pid(), None);
        await_idle(guardian);
        run.signal(Signal::KILL);
        run.wait();
        if kill_guardian {
            processes::signal(guardian, Signal::KILL);
        }

        let mut next = Running::start(&mut world.run(&[], "echo in; cat"));
        world.waiters(1);
        assert!(lives(child), "nothing has ended it yet");
        processes::signal(child, Signal::KILL);
        // The guardian sees the end of the child. Without the guardian, the TTL decides.
        assert_eq!(next.line(), "in");
        next.close_stdin();
        assert_eq!(next.wait().code(), Some(0));
    }
}

#[test]
fn lease_of_a_run_that_is_killed_after_its_command_is_released() {
    let world = World::new();
    let mut run = Running::start(&mut world.run(&["--ttl", "1h"], "echo $$; read line"));
    let command = run.pid_in_line();
    await_idle(guardian(run.pid(), None));
    // Each transaction waits for this lock.
    let file = File::open(world.path("locks.db-live")).expect("there");
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive).expect("locked");
    run.close_stdin();
    // `run` reaps the command after a message to the guardian, and before the release.
    eventually("the end of the command", || !processes::file_of(command, "").exists());
    run.signal(Signal::KILL);
    run.wait();
    drop(file);
    world.held(false);
}

#[test]
fn stopped_guardian_is_continued() {
    let world = World::new();
    let mut run = Running::start(&mut world.run(&["--ttl", "1h"], TREE));
    let pids = [run.pid_in_line(), run.pid_in_line()];
    let guardian = guardian(run.pid(), None);
    // `run` may continue it before the test ever sees it stopped.
    processes::signal(guardian, Signal::STOP);
    await_handled(guardian);
    await_continued(guardian);
    run.signal(Signal::KILL);
    run.wait();
    pids.into_iter().for_each(await_end);
}

#[test]
fn command_without_a_guardian_is_ended_with_a_reason() {
    let world = World::new();
    let run = Running::start(&mut world.run(&["--ttl", "1h"], TREE));
    let pids = [run.pid_in_line(), run.pid_in_line()];
    let mut killed = 0;
    // Each new guardian dies at once, as it would on a system that does not let it run.
    eventually("the end of the command", || {
        let guardians = children(run.pid()).into_iter().filter(|(_, args)| args.contains("__guard"));
        killed += guardians.map(|(pid, _)| processes::signal(pid, Signal::KILL)).count();
        !lives(pids[0])
    });
    pids.into_iter().for_each(await_end);
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
fn command_that_runs_as_another_user_is_reported_at_once() {
    let both = [&WITHOUT_RIGHT[..], &["setpriv"], &AS_ANOTHER[..], &["true"]].concat();
    if !processes::is_allowed("setpriv", &both) {
        return;
    }
    let world = World::new();
    for script in [
        "exec setpriv --reuid=65534 --clear-groups sleep 1000",
        "setpriv --reuid=65534 --clear-groups sleep 1000",
    ] {
        let stderr = world.path("stderr");
        let (mut run, group) = start_without_right(&world, script, File::create(&stderr).expect("made"));
        let read = || std::fs::read_to_string(&stderr).expect("there");
        eventually("the warning", || {
            read().contains("runs as another user; it goes on when the lock is lost")
        });
        assert_eq!(read().lines().count(), 1, "{}", read());
        // There is another warning if `run` could not end it. While the command itself lives, `run` waits.
        assert_eq!(world.json(&["break", "lock"])["broken"], true);
        if script.starts_with("exec") {
            processes::signal(group, Signal::KILL);
        } else {
            eventually("the second warning", || read().contains("cannot be ended"));
        }
        assert_eq!(run.wait().code(), Some(76), "{}", read());
        signal_group(group, Signal::KILL);
    }
}

/// Starts a `run` that may not signal other users. Returns it with the group of its command.
fn start_without_right(world: &World, script: &str, stderr: File) -> (Running, Pid) {
    let mut command = Command::new("setpriv");
    command.args(WITHOUT_RIGHT).arg(env!("CARGO_BIN_EXE_leasehold"));
    command.args(["run", "lock", "--ttl", "1h", "--grace", "100ms", "--"]);
    command.args(["sh", "-c", &format!("echo $$; {script}; true")]);
    let run = Running::start_with_stderr(command.env("LEASEHOLD_STORE", world.store()).stderr(stderr));
    let group = run.pid_in_line();
    (run, group)
}
