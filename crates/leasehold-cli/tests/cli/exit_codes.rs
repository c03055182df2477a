//! Exit codes, each with its one line on stderr.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};

use crate::harness::{Running, World, code, ms, output, text};

/// Checks the exit code, and that stderr is one line that contains `about`.
fn fails(output: &Output, expected: i32, about: &str) {
    let stderr = text(&output.stderr);
    assert_eq!(code(output), expected, "{stderr}");
    assert!(stderr.starts_with("leasehold: ") && stderr.lines().count() == 1, "{stderr}");
    assert!(stderr.contains(about), "{stderr}");
}

#[test]
fn run_exits_with_the_code_of_its_command() {
    let world = World::new();
    for (script, expected) in
        [("exit 0", 0), ("exit 3", 3), ("exit 255", 255), ("kill -9 $$", 137), ("kill $$", 143)]
    {
        let run = output(&mut world.run(&[], script));
        assert_eq!((code(&run), text(&run.stderr)), (expected, String::new()), "{script}");
    }
    assert_eq!(world.json(&["inspect", "lock"])["held"], false);
}

#[test]
fn command_that_cannot_be_started_is_126_or_127() {
    let world = World::new();
    let file = world.path("file");
    std::fs::write(&file, "#!/no/such/interpreter\n").expect("written");
    let run = |command: &str| world.output(&["run", "lock", "--", command]);
    fails(&run(file.to_str().expect("UTF-8")), 126, "cannot be executed");
    fails(&run("/"), 126, "cannot be executed");
    fails(&run("no-such-command"), 127, "not found");
    fails(&run("./no-such-command"), 127, "not found");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("changed");
    fails(&run("./file"), 126, "cannot be executed");
    assert_eq!(world.json(&["inspect", "lock"])["held"], false);
}

#[test]
fn error_names_the_cause_why_a_command_cannot_be_executed() {
    let world = World::new();
    let make = |name: &str, contents: &[u8], mode: u32| {
        let file = world.path(name);
        // Another process writes: a child that another test starts meanwhile would inherit the file, open for writing, and it could
        // not be executed.
        let write =
            std::process::Command::new("tee").arg(&file).stdin(Stdio::piped()).stdout(Stdio::null()).spawn();
        let mut write = write.expect("started");
        write.stdin.take().expect("piped").write_all(contents).expect("it reads");
        assert!(write.wait().expect("it ends").success());
        std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).expect("changed");
        format!("./{name}")
    };
    let mut foreign = std::fs::read("/bin/true").expect("there");
    // There is no machine of this number.
    foreign[18..20].copy_from_slice(&[0xee, 0xee]);
    let link = |to: &str, name: &str| {
        std::os::unix::fs::symlink(to, world.path(name)).expect("made");
        format!("./{name}")
    };
    let cases = [
        (make("gone", b"#!/no/such\n", 0o755), 126, "its interpreter was not found; install it"),
        (make("env", b"#! /no/such/env python\n", 0o755), 126, "interpreter=`/no/such/env`"),
        (make("dos", b"#!/bin/sh\r\n", 0o755), 126, "carriage return"),
        (make("odd", b"#!/etc/passwd\n", 0o755), 126, "its interpreter is not executable"),
        (make("plain", b"echo", 0o644), 126, "run `chmod +x` on it"),
        (make("foreign", &foreign, 0o755), 126, "another kind of machine"),
        (link("nothing", "dangling"), 127, "a symbolic link to nothing"),
        (link("loop", "loop"), 126, "too many symbolic links"),
        ("/".to_owned(), 126, "it is a directory"),
        ("/dev/null".to_owned(), 126, "it is no regular file"),
        ("./plain/x".to_owned(), 127, "a part of its path is no directory"),
        (format!("./{}", "x".repeat(300)), 126, "its path is too long"),
        ("./nothing".to_owned(), 127, "there is no such file"),
        ("no-such-command".to_owned(), 127, "check its name and PATH"),
        (String::new(), 127, "was not found"),
    ];
    for (command, expected, about) in cases {
        fails(&world.output(&["run", "lock", "--", &command]), expected, about);
    }
    let busy = make("busy", &std::fs::read("/bin/true").expect("there"), 0o755);
    let mut writer = std::process::Command::new("sh")
        .args(["-c", "exec 3>>\"$0\"; echo open; read -r end"])
        .arg(world.path("busy"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut said = [0; 5];
    writer.stdout.take().expect("piped").read_exact(&mut said).expect("it has the file open");
    fails(&world.output(&["run", "lock", "--", &busy]), 126, "while another process writes to its file");
    drop(writer.stdin.take());
    writer.wait().expect("it ends");
    assert_eq!(code(&world.output(&["run", "lock", "--", &busy])), 0);
    // `leasehold` must not open it: no process writes to it.
    rustix::fs::mkfifoat(rustix::fs::CWD, world.path("fifo"), rustix::fs::Mode::RWXU).expect("made");
    fails(&world.output(&["run", "lock", "--", "./fifo"]), 126, "it is no regular file");
    // An empty file is an empty script, as it is for a shell.
    let empty = make("empty", b"", 0o755);
    assert_eq!(code(&world.output(&["run", "lock", "--", &empty])), 0);
    assert_eq!(world.json(&["inspect", "lock"])["held"], false);
}

#[test]
fn bad_usage_is_64() {
    let world = World::new();
    let cases: &[&[&str]] = &[
        &[],
        &["frobnicate"],
        &["run"],
        &["run", "lock"],
        &["run", "lock", "true"],
        &["run", "--", "lock", "true"],
        &["run", "lock", "--try", "--wait", "1s", "--", "true"],
        &["run", "lock", "--try", "--retries", "1", "--", "true"],
        &["run", "lock", "--wait", "1s", "--retries", "1", "--", "true"],
        &["run", "lock", "--interval", "1s", "--", "true"],
        &["run", "lock", "--on-lost", "kill", "--grace", "1s", "--", "true"],
        &["run", "lock", "--at-least", "2s", "--max-hold", "1s", "--", "true"],
        &["run", "lock", "--at-least", "25h", "--", "true"],
        &["run", "lock", "--ttl", "5", "--", "true"],
        &["run", "lock", "--ttl", "1ms", "--", "true"],
        &["run", "lock", "--ttl", "25h", "--", "true"],
        &["run", "", "--", "true"],
        &["acquire", "lock", "--max-hold", "1s"],
        &["inspect"],
        &["inspect", "lock", "-q", "-v"],
        &["inspect", "lock", "--store", "memory:", "--store-file", "x"],
        &["inspect", "lock", "--store", "nonsense:"],
        &["release", "no-ticket"],
    ];
    for args in cases {
        fails(&world.output(args), 64, "");
    }
}

#[test]
fn error_says_what_is_wrong_with_an_option() {
    let world = World::new();
    let units = "(ms s m h d)";
    let cases: &[(&[&str], &str)] = &[
        (&["run", "lock", "--ttl", "1M", "--", "true"], units),
        (&["run", "lock", "--ttl", "1month", "--", "true"], units),
        (&["acquire", "lock", "--wait", "1year"], units),
        (&["acquire", "lock", "--wait", "-1s"], "must not be negative"),
        (&["acquire", "lock", "--ttl", "-5s"], "must not be negative"),
        (&["acquire", "lock", "--ttl=-5s"], "must not be negative"),
        (&["acquire", "lock", "--retries", "-1"], "must not be negative"),
        (&["acquire", "lock", "--retries", "x"], "whole number"),
        (&["run", "-x", "--", "true"], "leasehold run -- -x -- CMD"),
        (&["run", "--name", "--", "true"], "leasehold run -- --name -- CMD"),
    ];
    for (args, about) in cases {
        fails(&world.output(args), 64, about);
        assert!(!text(&world.output(args).stderr).contains("use '--"), "{args:?}");
    }
}

#[test]
fn storage_that_no_two_commands_share_is_refused() {
    let world = World::new();
    for args in [
        &["run", "lock", "--", "true"][..],
        &["acquire", "lock"],
        &["inspect", "lock"],
        &["list"],
        &["doctor"],
    ] {
        for store in ["memory:", "memory:name", "memory:?x=1"] {
            let refused = output(world.leasehold(args).env("LEASEHOLD_STORE", store));
            fails(&refused, 64, "use sqlite:");
        }
    }
}

#[test]
fn contended_names_the_holder() {
    let world = World::new();
    let mut holder = Running::start(&mut world.run(&["--label", "the\nholder"], "echo in; read _"));
    holder.line();
    for wait in
        [&["--try"][..], &["--wait", "0s"], &["--wait", "50ms"], &["--retries", "2", "--interval", "10ms"]]
    {
        let run = output(&mut world.run(wait, "echo never"));
        fails(&run, 75, r"holder=`the\nholder`");
        assert_eq!(text(&run.stdout), "");
    }
    fails(&world.output(&["acquire", "lock", "--try"]), 75, "name=`lock`");
    assert_eq!(world.json(&["inspect", "lock"])["waiters"], 0);
    holder.write("\n");
    assert_eq!(code(&holder.finish()), 0);
}

#[test]
fn storage_that_cannot_be_reached_is_69() {
    let world = World::new();
    // No file can be created there.
    let store = "sqlite:/proc/locks.db";
    fails(&world.output(&["--store", store, "run", "lock", "--", "true"]), 69, "");
    fails(&world.output(&["--store", store, "inspect", "lock"]), 69, "");
}

#[test]
fn loss_while_the_command_runs_is_76_and_names_the_next_holder() {
    let world = World::new();
    let run = Running::start(
        &mut world.run(&["--ttl", &ms(3_000)], "trap 'exit 0' TERM; echo in; sleep 1000 & wait"),
    );
    run.line();
    assert_eq!(world.json(&["break", "lock"])["broken"], true);
    let next = world.json(&["acquire", "lock", "--label", "next"]);
    assert_eq!(next["name"], "lock");
    let run = run.finish();
    fails(&run, 76, "name=`lock`");
    fails(&run, 76, "now=`");
}

#[test]
fn error_names_the_cause_where_a_mount_is_wrong() {
    // The script runs in a mount namespace of its own, if this machine allows one.
    const ALONE: [&str; 5] = ["--user", "--map-root-user", "--mount", "sh", "-c"];
    let mut probe = std::process::Command::new("unshare");
    if !probe.args(ALONE).arg("mount -t tmpfs none /mnt").output().is_ok_and(|o| o.status.success()) {
        eprintln!("not run: this machine does not allow mounts in a namespace, as in most containers");
        return;
    }
    let world = World::new();
    let within = |script: &str| {
        let mut shell = std::process::Command::new("unshare");
        shell.args(ALONE).arg(script).env("L", env!("CARGO_BIN_EXE_leasehold"));
        output(shell.env("LEASEHOLD_STORE", world.store()).current_dir(world.path("")))
    };
    let noexec = "mount -t tmpfs -o noexec none /mnt && cp /bin/true /mnt && $L run lock -- /mnt/true";
    fails(&within(noexec), 126, "(noexec)");
    for command in ["run lock -- true", "acquire lock", "doctor --json"] {
        let blind = within(&format!("mount -t tmpfs none /proc && $L {command}"));
        let said = format!("{}{}", text(&blind.stdout), text(&blind.stderr));
        assert!(
            said.contains("mount this process's own /proc") && !said.contains("retry"),
            "{command}: {said}"
        );
        assert_eq!(code(&blind), if command.starts_with("doctor") { 1 } else { 64 }, "{said}");
    }
}
