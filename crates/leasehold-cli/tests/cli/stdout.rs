//! Stdout that cannot be written to: what each command does.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::harness::{Running, World, code, eventually, exit_code, ms, output, parse, scaled, text};
use crate::processes;

/// How a shell opens stdout, and what the error says. The stdout of `run` is that of its command.
const UNWRITABLE: [(&str, &str); 6] = [
    (">&-", "stdout is closed"),
    ("<&- >&-", "stdout is closed"),
    ("1</dev/null", "stdout is not open for writing"),
    ("1</etc/passwd", "stdout is not open for writing"),
    ("1</", "stdout is not open for writing"),
    (">/dev/full", "No space left on device"),
];

/// The null device, as a shell, and as Python, Node and `daemon` open it for results that are not wanted.
const UNWANTED: [&str; 3] = [">/dev/null", "1<>/dev/null", "1<>/dev/null 0<&1"];

/// Returns a shell in a world. `$L` is the program.
fn shell(world: &World, script: &str) -> Command {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", script])
        .env("L", env!("CARGO_BIN_EXE_leasehold"))
        .env("LEASEHOLD_STORE", world.store())
        .current_dir(world.path(""));
    shell
}

/// Makes a pipe without a reader.
fn unread() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

/// Returns a call of each command that prints, with its exit code.
fn commands(world: &World) -> Vec<(String, i32)> {
    let ticket = text(&world.output(&["acquire", "held", "--ttl", "1h"]).stdout);
    let over = text(&world.output(&["acquire", "over"]).stdout);
    assert_eq!(code(&world.output(&["release", &over])), 0);
    let released = text(&world.output(&["acquire", "released", "--ttl", "1h"]).stdout);
    let lines: [(&str, i32); 16] = [
        ("inspect held", 0),
        ("inspect held --json", 0),
        ("list", 0),
        ("list --json", 0),
        ("doctor", 0),
        ("doctor --json", 0),
        ("doctor --store sqlite:/proc/x", 1),
        ("watch held", 0),
        ("completions bash", 0),
        ("--help", 0),
        ("run --help", 0),
        ("--version", 0),
        ("break nothing", 0),
        ("verify OVER --json", 76),
        ("release OVER --json", 76),
        ("verify TICKET", 0),
    ];
    let lines = lines.into_iter().chain([("renew TICKET", 0), ("release RELEASED", 0)]);
    let put =
        |line: &str| line.replace("OVER", &over).replace("TICKET", &ticket).replace("RELEASED", &released);
    lines.map(|(line, exit)| (put(line), exit)).collect()
}

#[test]
fn result_that_cannot_be_printed_is_a_failure_of_every_command() {
    for (redirection, about) in UNWRITABLE {
        let world = World::new();
        for (command, own) in commands(&world) {
            let failed = output(&mut shell(&world, &format!("$L {command} {redirection}")));
            let stderr = text(&failed.stderr);
            // A failure of the command itself takes precedence.
            let expected = if own == 0 { 70 } else { own };
            assert_eq!(code(&failed), expected, "{command} {redirection}: {stderr}");
            assert_eq!(stderr.lines().count(), 1, "{command} {redirection}: {stderr}");
            assert!(own == 76 || stderr.contains(about), "{command} {redirection}: {stderr}");
        }
        // The command has done its work all the same.
        assert_eq!(world.json(&["inspect", "released"])["held"], false, "{redirection}");
        assert_eq!(world.json(&["inspect", "held"])["held"], true, "{redirection}");
    }
}

#[test]
fn reader_that_has_gone_changes_no_exit_code() {
    let world = World::new();
    for (command, own) in commands(&world) {
        let gone = world.leasehold(command.split(' ')).stdout(unread()).output().expect("ran");
        assert_eq!(code(&gone), own, "{command}: {gone:?}");
        assert_eq!(text(&gone.stderr).is_empty(), own != 76, "{command}: {gone:?}");
    }
}

#[test]
fn reader_that_goes_ends_what_waits_for_a_change() {
    let world = World::new();
    for command in [&["watch", "lock"][..], &["leader", "lock", "--watch", "--json"]] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let mut watch = world.leasehold(command);
        let mut watch = watch.stdout(writer).spawn().expect("starts");
        let mut reader = BufReader::new(reader);
        reader.read_line(&mut String::new()).expect("the state");
        processes::await_idle(Pid::from_child(&watch));
        assert!(watch.try_wait().expect("a child of this test").is_none());
        drop(reader);
        let mut status = None;
        eventually("the end", || {
            status = watch.try_wait().expect("a child of this test");
            status.is_some()
        });
        assert_eq!(exit_code(status.expect("just seen")), 0, "{command:?}");
    }
}

#[test]
fn result_that_is_not_wanted_can_go_to_the_null_device() {
    for redirection in UNWANTED {
        let world = World::new();
        for (command, own) in commands(&world) {
            if command.starts_with("watch") {
                continue; // It would not end.
            }
            let done = output(&mut shell(&world, &format!("$L {command} {redirection}")));
            assert_eq!(code(&done), own, "{command} {redirection}: {done:?}");
        }
        assert_eq!(code(&output(&mut shell(&world, &format!("$L acquire lock {redirection}")))), 0);
        assert_eq!(world.json(&["inspect", "lock"])["held"], true, "{redirection}");
    }
    let world = World::new();
    let null = File::options().read(true).write(true).open("/dev/null").expect("there");
    assert_eq!(code(&world.leasehold(["acquire", "lock"]).stdout(null).output().expect("ran")), 0);
    assert_eq!(world.json(&["inspect", "lock"])["held"], true);
}

#[test]
fn ticket_that_cannot_be_printed_leaves_no_lock() {
    let world = World::new();
    for (redirection, about) in UNWRITABLE {
        for options in ["", "--json", "-q"] {
            let lost =
                output(&mut shell(&world, &format!("$L acquire lock --ttl 1h {options} {redirection}")));
            let stderr = text(&lost.stderr);
            assert_eq!(code(&lost), 70, "{lost:?}");
            assert!(stderr.contains(about) && stderr.lines().count() == 1, "{lost:?}");
            let known = about.starts_with("stdout");
            let then = if known { "so the lock was not taken" } else { "so the lock was released again" };
            assert!(stderr.contains(then), "{lost:?}");
            assert_eq!(world.json(&["inspect", "lock"])["held"], false);
        }
    }
    let piped = world.leasehold(["acquire", "lock", "--ttl", "1h"]).stdout(unread()).output().expect("ran");
    assert_eq!(code(&piped), 70, "{piped:?}");
    assert!(text(&piped.stderr).contains("released again"), "{piped:?}");
    assert_eq!(world.json(&["inspect", "lock"])["held"], false);
}

#[test]
fn long_result_goes_through_a_pipe_that_does_not_block() {
    const ROOM: usize = 4096;
    let world = World::new();
    // Each character becomes six bytes in JSON.
    world.json(&["acquire", "lock", "--label", &"\u{1}".repeat(4000)]);
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    assert_eq!(rustix::pipe::fcntl_setpipe_size(&writer, ROOM).expect("small"), ROOM);
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).expect("set");
    let mut command = world.leasehold(["inspect", "lock", "--json"]);
    let mut inspect = command.stdout(writer).spawn().expect("starts");
    drop(command);
    eventually("a full pipe", || rustix::io::ioctl_fionread(&reader).expect("a pipe") == ROOM as u64);
    let mut printed = String::new();
    reader.read_to_string(&mut printed).expect("read");
    assert!(inspect.wait().expect("ended").success());
    assert_eq!(parse(&printed)["label"].as_str().map(str::len), Some(4000));
}

/// Makes a pipe that is full, and that nothing reads.
fn full() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::NONBLOCK).expect("set");
    for piece in [&[0; 4096][..], &[0]] {
        while rustix::io::write(&writer, piece).is_ok() {}
    }
    rustix::fs::fcntl_setfl(&writer, rustix::fs::OFlags::empty()).expect("set");
    (reader, writer)
}

#[test]
fn signal_ends_a_command_whose_stdout_nothing_reads() {
    let world = World::new();
    let mut commands = commands(&world);
    // A failure of the command itself takes precedence.
    commands.retain(|(_, own)| *own != 76);
    for (command, own) in commands.into_iter().chain([("acquire lock --ttl 1h".to_owned(), 0)]) {
        let (_reader, writer) = full();
        let mut blocked = world.leasehold(command.split(' ')).stdout(writer).spawn().expect("starts");
        let pid = Pid::from_child(&blocked);
        let place = processes::file_of(pid, "wchan");
        eventually(&format!("{command}: the wait for the reader"), || {
            let place = std::fs::read_to_string(&place).expect("there");
            place.contains("pipe_write")
                || place.contains("poll") && !place.contains("epoll") && place != "ep_poll"
        });
        processes::signal(pid, Signal::TERM);
        let mut status = None;
        eventually(&command, || {
            status = blocked.try_wait().expect("a child of this test");
            status.is_some()
        });
        let ended = exit_code(status.expect("just seen"));
        assert_eq!(ended, if own == 1 { 1 } else { 143 }, "{command}");
    }
    assert_eq!(world.json(&["inspect", "lock"])["held"], false);
    assert_eq!(world.json(&["inspect", "held"])["held"], true);
    assert_eq!(world.json(&["inspect", "released"])["held"], false);
}

#[test]
fn log_that_nothing_reads_disturbs_no_lease() {
    let world = World::new();
    let (_reader, writer) = full();
    // Each of several renewals is logged.
    let script = format!("echo in; sleep {}; echo out", scaled(Duration::from_secs(1)).as_secs_f64());
    let mut command = world.run(&["-vv", "--ttl", &ms(500)], &script);
    let mut run = Running::start_with_stderr(command.stderr(writer));
    assert_eq!([run.line(), run.line()], ["in", "out"]);
    assert_eq!(exit_code(run.wait()), 0);
}

#[test]
fn descriptor_that_run_got_closed_is_closed_for_its_command() {
    let world = World::new();
    for fd in 0..3 {
        let script =
            format!("$L run lock -- sh -c 'test -e /proc/$$/fd/{fd}; exit $?' {fd}>&-; echo code:$?");
        let closed = output(&mut shell(&world, &script));
        assert_eq!(text(&closed.stdout), "code:1", "{fd}: {closed:?}");
        let open = output(&mut shell(&world, &script.replace(&format!("{fd}>&-"), "")));
        assert_eq!(text(&open.stdout), "code:0", "{fd}: {open:?}");
    }
    // So a ticket is not lost in a `leasehold` below another one.
    let inner = output(&mut shell(&world, "$L run lock -- $L acquire inner >&-"));
    assert_eq!(code(&inner), 70, "{inner:?}");
    assert_eq!(world.json(&["inspect", "inner"])["held"], false);
}
