//! Job control: an interactive shell on a terminal, with `leasehold` between it and the command.

use crate::harness::{Running, World, code, eventually};
use crate::processes::is_allowed;
use crate::session::{INTERACTIVE, Session};

/// Runs a program as the first process of a new pid namespace.
const UNSHARE: [&str; 7] =
    ["unshare", "--user", "--map-root-user", "--pid", "--mount-proc", "--fork", "--kill-child"];

#[test]
fn command_reads_the_terminal() {
    let world = World::new();
    let mut session = Session::start(&world);
    session.types("$L run lock -- sh -c 'echo ask''ing; read x; echo got:$x'\n");
    session.sees("asking");
    session.types("answer\n");
    session.sees("got:answer");
    session.sees("ready> ");
    // The shell has its terminal back.
    session.types("read x; echo again:$x\nyes\n");
    session.sees("again:yes");
}

#[test]
fn ctrl_c_reaches_the_command_before_and_after_it_had_the_terminal() {
    let world = World::new();
    let mut session = Session::start(&world);
    session.types("$L run lock -- sh -c 'echo sleep''ing; exec sleep 1000'\n");
    session.sees("sleeping");
    session.types("\x03");
    session.ended_by_ctrl_c();
    session.types("$L run lock -- sh -c 'echo ask''ing; read x; echo got:$x; exec sleep 1000'\n");
    session.sees("asking");
    session.types("answer\n");
    session.sees("got:answer");
    session.types("\x03");
    session.ended_by_ctrl_c();
}

#[test]
fn ctrl_c_stops_the_script_around_run() {
    let world = World::new();
    let mut session = Session::start(&world);
    let reads = "sh -c 'echo ask''ing; read x; echo got:$x; exec sleep 1000'";
    // The shell of a script must see the same, whether the command had the terminal when the key was pressed or not.
    for (command, before) in [("sh -c 'echo sleep''ing; exec sleep 1000'", "sleeping"), (reads, "asking")] {
        let once = format!("$L run lock -- {command}; echo went''-on");
        let again = format!("for i in 1 2 3; do $L run lock -- {command}; echo went''-on; done");
        for script in [once, again] {
            session.types(&format!("cat > script <<'EOF'\n{script}\nEOF\nbash script\n"));
            session.sees(before);
            if command == reads {
                session.types("answer\n");
                session.sees("got:answer");
            }
            session.types("\x03");
            let shown = session.ended_by_ctrl_c();
            assert!(!shown.contains("went-on"), "{shown}");
            // The interactive shell goes on, and has its terminal.
            session.types("read x; echo again:$x\nyes\n");
            session.sees("again:yes");
            assert_eq!(world.json(&["inspect", "lock"])["held"], false);
        }
    }
}

#[test]
fn ctrl_c_during_a_wait_stops_the_script_around_run() {
    let world = World::new();
    world.json(&["acquire", "lock", "--ttl", "1h"]);
    let mut session = Session::start(&world);
    session.types("bash -c '$L run lock -- true; echo went\"\"-on'\n");
    session.sees("waiting ");
    session.types("\x03");
    let shown = session.ended_by_ctrl_c();
    assert!(!shown.contains("went-on"), "{shown}");
}

#[test]
fn command_that_stops_itself_stops_the_job() {
    let world = World::new();
    let mut session = Session::start(&world);
    session.types("$L run lock -- sh -c 'kill -STOP $$; echo resu''med'\n");
    session.sees("Stopped");
    session.sees("ready> ");
    session.types("fg\n");
    session.sees("resumed");
    session.sees("ready> ");
}

#[test]
fn command_that_stops_itself_ends_with_ctrl_c_without_job_control() {
    let world = World::new();
    let session = Session::start(&world);
    ends_with_ctrl_c_without_job_control(&world, session);
}

fn ends_with_ctrl_c_without_job_control(world: &World, mut session: Session) {
    let script = "(until grep -q '^State:.[Tt]' /proc/$$/status; do sleep 0.01; done; echo stopped) &
        kill -STOP $$";
    std::fs::write(world.path("stops"), script).expect("written");
    // No shell could continue a job of this session. So the job must not stop, and must end with Ctrl-C.
    session.types("exec bash -c '$L run lock -- sh stops'\n");
    session.sees("stopped");
    session.types("\x03");
    assert_eq!(session.ended(), 130);
    world.held(false);
}

#[test]
fn jobs_are_controlled_where_the_session_is_of_another_pid_namespace() {
    let [unshare, options @ ..] = UNSHARE;
    if !is_allowed(unshare, &[&options[..], &["true"]].concat()) {
        return;
    }
    // The session of the shell is in the new namespace, and that of its ancestor is not.
    let world = World::new();
    let below = [&UNSHARE[..], &["sh", "-c", "\"$@\"; exit", "sh"]].concat();
    let session = Session::start_below(&world, &below);
    ends_with_ctrl_c_without_job_control(&world, session);

    // The shell is in the new namespace, and its session is not.
    let world = World::new();
    let mut session = Session::start(&world);
    session.types(&format!("{} {}\n", UNSHARE.join(" "), INTERACTIVE.join(" ")));
    session.sees("ready> ");
    session.types("$L run lock -- sh -c 'kill -STOP $$; echo resu''med; read x; echo got:$x'\n");
    session.sees("Stopped");
    session.sees("ready> ");
    session.types("fg\n");
    session.sees("resumed");
    session.types("answer\n");
    session.sees("got:answer");
    session.sees("ready> ");
    session.types("exit\n");
    session.sees("ready> ");
    world.held(false);
}

#[test]
fn ctrl_c_ends_the_first_process_of_a_namespace() {
    let [unshare, options @ ..] = UNSHARE;
    if !is_allowed(unshare, &[&options[..], &["true"]].concat()) {
        return;
    }
    let world = World::new();
    world.json(&["acquire", "held", "--ttl", "1h"]);
    let mut session = Session::start(&world);
    for (command, before) in [
        ("$L run lock -- sh -c 'echo sleep''ing; exec sleep 1000'", "sleeping"),
        ("$L run lock -- sh -c 'echo ask''ing; read x'", "asking"),
        ("$L run held -- true", "waiting "),
        ("$L acquire held", "waiting "),
    ] {
        session.types(&format!("{} {command}\n", UNSHARE.join(" ")));
        session.sees(before);
        session.types("\x03");
        session.ended_by_ctrl_c();
    }
}

#[test]
fn terminal_that_is_gone_is_one_sighup() {
    let world = World::new();
    let mut session = Session::start(&world);
    // The command has the terminal, so it gets SIGHUP from the kernel; the job gets it from the shell.
    let command = "sh -c 'trap \"echo hup >> hups\" HUP; echo ask''ing; read x; echo got:$x; until [ -e go ]; do sleep 0.01; done; echo >> out'";
    session.types(&format!("$L run lock -- {command}\n"));
    session.sees("asking");
    session.types("answer\n");
    session.sees("got:answer");
    session.hang_up();
    eventually("the signal", || world.path("hups").exists());
    world.json(&["inspect", "lock"]);
    // The shell sends SIGHUP to its jobs before it ends.
    session.ended();
    std::fs::write(world.path("go"), "").expect("written");
    eventually("the end of the command", || world.path("out").exists());
    assert_eq!(std::fs::read_to_string(world.path("hups")).expect("there"), "hup\n");
    world.held(false);
}

#[test]
fn run_within_run_reads_the_terminal_and_stops_with_ctrl_c() {
    let world = World::new();
    let mut session = Session::start(&world);
    session.types("bash -c '$L run outer -- $L run inner -- sh -c \"echo ask\\ing; read x; echo got:\\$x; exec sleep 1000\"; echo went\"\"-on'\n");
    session.sees("asking");
    session.types("answer\n");
    session.sees("got:answer");
    session.types("\x03");
    let shown = session.ended_by_ctrl_c();
    assert!(!shown.contains("went-on"), "{shown}");
}

#[test]
fn ctrl_z_stops_the_job_and_fg_continues_it() {
    let world = World::new();
    let mut session = Session::start(&world);
    // The command does not have the terminal. `exec`: a shell that gets the stop while it starts a command may go on.
    session.types("$L run lock -- sh -c 'echo start''ed; exec sleep 1000'\n");
    session.sees("started");
    session.types("\x1a");
    session.sees("Stopped");
    session.sees("ready> ");
    session.types("fg\n");
    session.sees("sleep 1000");
    assert_eq!(world.json(&["break", "lock"])["broken"], true);
    session.sees("the lock was lost");
    session.sees("ready> ");

    // The command has the terminal.
    session.types("$L run lock -- sh -c 'echo ask''ing; read x; echo got:$x; read y; echo got:$y'\n");
    session.sees("asking");
    session.types("one\n");
    session.sees("got:one");
    session.types("\x1a");
    session.sees("Stopped");
    session.types("echo shell:$((40+2))\n");
    session.sees("shell:42");
    session.types("fg\n");
    session.types("two\n");
    session.sees("got:two");
    session.sees("ready> ");
}

#[test]
fn pipelines_keep_the_terminal() {
    let world = World::new();
    let mut session = Session::start(&world);
    // The reader at the end of the pipe is in the group of `leasehold`, and reads the terminal, as a pager does.
    session.types("$L run lock -- seq 3 | sh -c 'cat; echo ask''ing; read x < /dev/tty; echo got:$x'\n");
    session.sees("asking");
    session.types("answer\n");
    session.sees("got:answer");
    session.sees("ready> ");
}

#[test]
fn background_job_that_asks_is_stopped_until_it_is_in_the_foreground() {
    let world = World::new();
    let mut session = Session::start(&world);
    session.types("$L run lock -- sh -c 'read x; echo got:$x' &\n");
    session.sees("ready> ");
    let mut stopped = false;
    for _ in 0..200 {
        session.types("jobs\n");
        session.sees("jobs");
        session.sees("ready> ");
        stopped = session.has_shown("Stopped");
        if stopped {
            break;
        }
    }
    assert!(stopped, "never seen: the stop");
    session.types("fg\n");
    session.types("answer\n");
    session.sees("got:answer");
}

#[test]
fn line_of_a_wait_shows_the_holder_and_is_cleared() {
    let world = World::new();
    let ticket = world.json(&["acquire", "lock", "--ttl", "1h", "--label", "some\u{1b}body"]);
    let ticket = ticket["ticket"].as_str().expect("text").to_owned();
    let mut session = Session::start(&world);
    session.types("$L run lock -- echo granted''-now\n");
    session.sees("waiting ");
    session.sees(r"held by some\u{1b}body");
    assert_eq!(code(&world.output(&["release", &ticket])), 0);
    session.sees("\r\u{1b}[K");
    session.sees("granted-now");
}

#[test]
fn elect_gives_the_terminal_to_the_command_of_each_term() {
    let world = World::new();
    let mut session = Session::start(&world);
    let command = "sh -c 'echo term''-asks; read x; echo got:$x; read y; echo got:$y'";
    session.types(&format!("$L elect lock -- {command}\n"));
    // In the first two terms, the command is ended while it has the terminal.
    for answer in ["one", "two"] {
        session.sees("term-asks");
        session.types(&format!("{answer}\n"));
        session.sees(&format!("got:{answer}"));
        assert_eq!(world.json(&["break", "lock"])["broken"], true);
        session.sees("standing for election again");
    }
    // In the third term, the job is stopped and continued while the command has the terminal.
    session.sees("term-asks");
    session.types("three\n");
    session.sees("got:three");
    session.types("\x1a");
    session.sees("Stopped");
    session.sees("ready> ");
    session.types("fg\n");
    session.types("four\n");
    session.sees("got:four");
    session.sees("ready> ");
    session.types("read x; echo again:$x\nyes\n");
    session.sees("again:yes");
    world.held(false);
}

#[test]
fn ctrl_c_ends_elect_in_a_later_term_and_between_two_terms() {
    let world = World::new();
    let mut session = Session::start(&world);
    session.types("$L elect lock -- sh -c 'echo term''-asks; read x; echo got:$x; exec sleep 1000'\n");
    for _ in 0..2 {
        session.sees("term-asks");
        session.types("x\n");
        session.sees("got:x");
        assert_eq!(world.json(&["break", "lock"])["broken"], true);
    }
    session.sees("term-asks");
    session.types("\x03");
    session.ended_by_ctrl_c();

    session.types("$L elect lock -- sh -c 'echo term''-asks; read x; echo got:$x; exec sleep 1000'\n");
    session.sees("term-asks");
    session.types("x\n");
    session.sees("got:x");
    // The next holder is in line before the term ends, so that there is a wait.
    let next = Running::start(&mut world.run(&[], "echo in; read _"));
    world.waiters(1);
    assert_eq!(world.json(&["break", "lock"])["broken"], true);
    next.line();
    session.sees("waiting ");
    session.types("\x03");
    session.ended_by_ctrl_c();
}
