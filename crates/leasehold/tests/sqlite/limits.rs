//! Errors for what the system has run out of.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::containers::inside;
use crate::tools::{Dir, LONG};
use crate::worker::{DESCRIPTORS, Worker};

/// Returns `true` if a worker opened the file. Otherwise its error must say what the system has run out of.
fn has_opened(heard: &str, words: &[&str]) -> bool {
    let reported = heard.starts_with("Internal: ") && words.iter().any(|word| heard.contains(word));
    assert!(heard == "open" || reported, "{heard}");
    heard == "open"
}

#[test]
fn a_process_without_descriptors_gets_an_error_that_says_so() {
    let dir = Dir::new();
    let (mut opened, mut refused) = (0, 0);
    // One file exists, and one does not.
    for file in [dir.file(), dir.path().join("new.db")] {
        drop(Worker::start(&dir.file()));
        for left in 0..24 {
            let mut command = Command::new("sh");
            let exe = std::env::current_exe().expect("this test");
            command
                .args(["-c", "ulimit -n 64; exec \"$@\"", "sh"])
                .arg(exe)
                .env(DESCRIPTORS, left.to_string());
            match has_opened(&Worker::spawn_by(command, &file).hear(), &["ulimit -n"]) {
                true => opened += 1,
                false => refused += 1,
            }
        }
    }
    assert!(opened > 0 && refused > 10, "{opened} {refused}");
}

#[test]
fn a_holder_that_runs_out_of_descriptors_keeps_its_lease() {
    let dir = Dir::new();
    let (mut holder, granted) = Worker::holding(&dir.file(), "job");
    assert_eq!(holder.ask("starve"), "starved");
    let mut other = Worker::start(&dir.file());
    for _ in 0..3 {
        assert_eq!(holder.renew("job", granted.owner), "renewed");
        assert!(other.remaining("job") > LONG / 2);
    }
    other.queue("job");
    assert_eq!(holder.release("job", granted.owner), "released");
    // The hint could not be written, so the waiter asks on its heartbeat.
    other.hear_granted();
}

#[test]
fn a_full_disk_is_reported() {
    let (mut opened, mut refused) = (0, 0);
    for kib in [4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512] {
        let dir = Dir::new();
        let script = format!("mount -t tmpfs -o size={kib}k none \"$1\"");
        let command = inside(&["--mount"], &script, &[dir.path()]);
        match has_opened(&Worker::spawn_by(command, &dir.file()).hear(), &["space", "full"]) {
            true => opened += 1,
            false => refused += 1,
        }
    }
    assert!(opened > 0 && refused > 0, "{opened} {refused}");
}

#[test]
fn a_read_only_disk_is_reported() {
    let dir = Dir::new();
    let heard = |file: &Path| {
        let command = inside(
            &["--mount"],
            "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"",
            &[dir.path()],
        );
        Worker::spawn_by(command, file).hear()
    };
    assert!(!has_opened(&heard(&dir.file()), &["read-only"]));
    assert!(!has_opened(&heard(&dir.path().join("new/locks.db")), &["read-only"]));
    drop(Worker::start(&dir.file()));
    assert!(!has_opened(&heard(&dir.file()), &["read-only"]));
    fs::remove_dir_all(dir.part("-live")).expect("removed");
    assert!(!has_opened(&heard(&dir.file()), &["read-only"]));
}
