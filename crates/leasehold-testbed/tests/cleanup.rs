//! Nothing is left of a server, whether the test returns, panics, or is killed.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use leasehold_testbed::{Error, Postgres, Redis, Result, Server, until};

#[test]
fn nothing_is_left_after_drop() -> Result<()> {
    let redis = Redis::start()?;
    let directory = directory(&redis);
    assert!(!processes(&directory).is_empty());
    drop(redis);
    assert!(!directory.exists());
    assert_eq!(processes(&directory), Vec::<String>::new());
    Ok(())
}

#[test]
fn nothing_is_left_after_a_panic() {
    nothing_is_left_after("panic");
}

#[test]
fn nothing_is_left_after_kill_9() {
    nothing_is_left_after("kill9");
}

#[test]
fn nothing_is_left_of_a_stopped_server_after_exit() {
    nothing_is_left_after("exit");
}

#[test]
fn nothing_is_left_of_a_stopped_postgres_after_kill_9() {
    // PostgreSQL's processes have sessions of their own, and while stopped they do not notice the end of
    // their parent.
    nothing_is_left_after("postgres");
}

#[test]
fn nothing_is_left_of_a_small_disk_after_exit() {
    nothing_is_left_after("disk");
}

#[test]
fn what_is_not_installed_is_said_with_the_command_that_installs_it() {
    let output = Command::new(std::env::current_exe().expect("we are a program"))
        .args(["--ignored", "--exact", "--nocapture", "dies"])
        .env("TESTBED_DIES", "missing")
        .env("PATH", "")
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("is not installed") && said.contains("scripts/setup"), "{said}");
}

/// Runs the test below in another process, which ends as `how` says.
fn nothing_is_left_after(how: &str) {
    let mut child = Command::new(std::env::current_exe().expect("we are a program"))
        .args(["--ignored", "--exact", "--nocapture", "dies"])
        .env("TESTBED_DIES", how)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(child.stdout.take().expect("it is piped")).lines();
    let directory = lines
        .map_while(|line| line.ok())
        .find_map(|line| line.split_once("directory=").map(|(_, directory)| PathBuf::from(directory)));
    let directory = directory.expect("it says where its server is");
    if ["kill9", "postgres"].contains(&how) {
        assert!(directory.exists());
        assert!(!processes(&directory).is_empty());
        child.kill().expect("it runs");
    }
    assert!(!child.wait().expect("it ends").success());
    until("nothing to be left", || match processes(&directory).len() {
        0 if !directory.exists() => Ok(()),
        n => Err(Error::new(format!("{n} processes are left"))),
    })
    .expect("the reaper cleans up");
}

#[test]
#[ignore = "the tests above run it in a process of its own"]
fn dies() {
    if std::env::var("TESTBED_DIES").as_deref() == Ok("disk") {
        let postgres = Postgres::options().small_disk(160).start().expect("it starts, and we may mount");
        println!("directory={}", directory(&postgres).display());
        std::process::exit(3);
    }
    if std::env::var("TESTBED_DIES").as_deref() == Ok("postgres") {
        let postgres = Postgres::start().expect("it starts");
        postgres.stop();
        println!("directory={}", directory(&postgres).display());
        loop {
            std::thread::park();
        }
    }
    let redis = Redis::start().expect("it starts");
    println!("directory={}", directory(&redis).display());
    match std::env::var("TESTBED_DIES").as_deref() {
        Ok("panic") => panic!("as asked"),
        Ok("kill9") => loop {
            std::thread::park();
        },
        Ok("exit") => {
            redis.stop();
            std::process::exit(3);
        }
        _ => {}
    }
}

fn directory(server: &Server) -> PathBuf {
    server.log().parent().expect("a log is in a directory").to_owned()
}

/// Returns the processes that work in the directory, and the reaper, which has it as its argument.
fn processes(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").expect("this is Linux");
    let found = entries.flatten().filter_map(|entry| {
        let cwd = std::fs::read_link(entry.path().join("cwd")).ok()?;
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        (cwd.starts_with(directory) || line.contains(&*directory.to_string_lossy())).then_some(line)
    });
    found.collect()
}
