//! What the system has run out of is said to be that.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::containers::inside;
use super::{Dir, LONG, STARVED, Worker};

/// Whether a worker got on, if what it said is that the system has run out of something.
fn got_on(heard: &str, words: &[&str]) -> bool {
    let said = heard.starts_with("Internal: ") && words.iter().any(|word| heard.contains(word));
    assert!(heard == "open" || said, "{heard}");
    heard == "open"
}

#[test]
fn a_process_without_descriptors_is_told_that_it_has_none() {
    let dir = Dir::new();
    let (mut opened, mut refused) = (0, 0);
    // A file that is there, and one that is not.
    for file in [dir.file(), dir.path().join("new.db")] {
        drop(Worker::start(&dir.file()));
        for left in 0..24 {
            let mut command = Command::new("sh");
            let exe = std::env::current_exe().expect("this test");
            command.args(["-c", "ulimit -n 64; exec \"$@\"", "sh"]).arg(exe).env(STARVED, left.to_string());
            match got_on(&Worker::spawn_by(command, &file).hear(), &["ulimit -n"]) {
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
    let mut holder = Worker::start(&dir.file());
    let granted = holder.take("job");
    holder.say("starve");
    assert_eq!(holder.hear(), "starved");
    let mut other = Worker::start(&dir.file());
    for _ in 0..3 {
        holder.say(&format!("renew job {}", granted.owner));
        assert_eq!(holder.hear(), "renewed");
        assert!(other.remaining("job") > LONG / 2);
    }
    other.queue("job");
    holder.say(&format!("release job {}", granted.owner));
    assert_eq!(holder.hear(), "released");
    // Its hint could not be written, so the waiter asks on its heartbeat.
    other.hear_granted();
}

#[test]
fn a_disk_without_space_is_told() {
    let (mut opened, mut refused) = (0, 0);
    for kib in [4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 512] {
        let dir = Dir::new();
        let script = format!("mount -t tmpfs -o size={kib}k none \"$1\"");
        let command = inside(&["--mount"], &script, &[dir.path()]);
        match got_on(&Worker::spawn_by(command, &dir.file()).hear(), &["space", "full"]) {
            true => opened += 1,
            false => refused += 1,
        }
    }
    assert!(opened > 0 && refused > 0, "{opened} {refused}");
}

#[test]
fn a_disk_that_may_not_be_written_is_told() {
    let dir = Dir::new();
    let heard = |file: &Path| {
        let command = inside(
            &["--mount"],
            "mount --bind \"$1\" \"$1\"; mount -o remount,bind,ro \"$1\"",
            &[dir.path()],
        );
        Worker::spawn_by(command, file).hear()
    };
    assert!(!got_on(&heard(&dir.file()), &["read-only"]));
    assert!(!got_on(&heard(&dir.path().join("new/locks.db")), &["read-only"]));
    drop(Worker::start(&dir.file()));
    assert!(!got_on(&heard(&dir.file()), &["read-only"]));
    fs::remove_dir_all(dir.path().join("locks.db-live")).expect("removed");
    assert!(!got_on(&heard(&dir.file()), &["read-only"]));
}
