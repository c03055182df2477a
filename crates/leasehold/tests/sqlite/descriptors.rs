//! Descriptors of the lock file that other code has: closed ones, and those that children inherit.

use std::collections::HashSet;
#[cfg(target_os = "linux")]
use std::fs;

use crate::tools::{Dir, LONG, check_free, check_held, check_intact};
use crate::worker::Worker;

#[test]
fn closing_a_descriptor_of_the_file_ends_no_lease() {
    let dir = Dir::new();
    let (mut holder, granted) = Worker::holding(&dir.file(), "job");
    assert_eq!(holder.ask("touch"), "touched");
    let mut other = Worker::start(&dir.file());
    assert!(other.remaining("job") > LONG / 2);
    check_held(&dir.file(), "job");
    assert_eq!(holder.release("job", granted.owner), "released");
}

#[test]
fn closing_descriptors_of_the_file_damages_nothing() {
    let dir = Dir::new();
    let cycles = 200;
    let mut workers = Worker::start_many::<4>(&dir.file());
    for worker in &mut workers {
        assert_eq!(worker.ask("touch forever"), "touching");
        worker.say(&format!("cycles job {cycles}"));
    }
    let mut tokens = HashSet::new();
    for worker in &mut workers {
        for _ in 0..cycles {
            let heard = worker.hear();
            let token = heard.rsplit_once(' ').expect("three numbers").1;
            assert!(tokens.insert(token.to_owned()), "one token was granted twice");
        }
    }
    drop(workers);
    check_intact(&dir.file());
}

#[test]
fn a_child_that_was_started_keeps_no_lease_alive() {
    let dir = Dir::new();
    let (mut holder, _) = Worker::holding(&dir.file(), "job");
    let child = holder.ask("child").parse().expect("a pid");
    holder.kill();
    check_free(&dir.file(), "job");
    let child = rustix::process::Pid::from_raw(child).expect("a pid");
    rustix::process::test_kill_process(child).expect("the child outlived its parent");
    rustix::process::kill_process(child, rustix::process::Signal::KILL).expect("killed");
}

/// A forked child shares the open files of its parent, and lives on.
#[cfg(target_os = "linux")]
#[test]
fn a_forked_child_keeps_no_lease_alive() {
    use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
    let dir = Dir::new();
    let (mut holder, _) = Worker::holding(&dir.file(), "job");
    let fds = format!("/proc/{}/fd", holder.id());
    let live = fs::read_dir(fds).expect("listed").map(|fd| fd.expect("a descriptor").path()).find(|fd| {
        let to = fs::read_link(fd).expect("read");
        to.starts_with(dir.part("-live")) && to.is_file() && to.extension().is_none()
    });
    let live = live.expect("its liveness file is open");
    let fd = live.file_name().and_then(|fd| fd.to_str()).and_then(|fd| fd.parse().ok()).expect("a number");
    let pid = i32::try_from(holder.id()).ok().and_then(Pid::from_raw).expect("a pid");
    let process = pidfd_open(pid, PidfdFlags::empty()).expect("opened");
    // Forking gives a child the same: a descriptor of the same open file description.
    let kept = pidfd_getfd(process, fd, PidfdGetfdFlags::empty()).expect("got");
    holder.kill();
    Worker::start(&dir.file()).take("job");
    drop(kept);
}
