//! Containers, which may have their own clocks, boot ids, mounts and process ids on one kernel.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use leasehold::storage::Claim;

use crate::tools::{Dir, LONG, claim, execute, is_held, is_renewed, open, query, run, take};
use crate::worker::Worker;

/// Returns a command that starts this test in namespaces of its own, after a script has prepared them.
pub(crate) fn inside(namespaces: &[&str], script: &str, arguments: &[&Path]) -> Command {
    let mut command = unshare(namespaces);
    let exe = std::env::current_exe().expect("this test");
    command.args(["sh", "-ec", &format!("{script}\nshift {}; exec \"$@\"", arguments.len()), "sh"]);
    command.args(arguments).arg(exe);
    command
}

fn unshare(namespaces: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--fork", "--kill-child"]).args(namespaces);
    let mut probe = Command::new("unshare");
    probe.args(["--user", "--map-root-user", "--fork", "--kill-child"]).args(namespaces).arg("true");
    let allowed = probe.stderr(Stdio::inherit()).status().expect("util-linux is there").success();
    assert!(allowed, "this machine does not allow namespaces, which this test needs: {namespaces:?}");
    command
}

#[test]
fn another_time_namespace_uses_the_same_time() {
    let uptime = fs::read_to_string("/proc/uptime").expect("read");
    let uptime: f64 = uptime.split(' ').next().expect("two numbers").parse().expect("a number");
    let back = format!("-{:.0}", (uptime / 2.0).floor());
    let time = |ahead: &str| inside(&["--time", "--boottime", ahead], "", &[]);
    let nested = || {
        let mut command =
            unshare(&["--time", "--boottime", "5000", "unshare", "--time", "--boottime", "70000"]);
        command.args(["--fork", "--kill-child"]).arg(std::env::current_exe().expect("this test"));
        command
    };
    for elsewhere in [time("100000"), time(&back), time("0"), nested()] {
        let dir = Dir::new();
        let shown = format!("{elsewhere:?}");
        let (mut here, mut there) = (Worker::start(&dir.file()), Worker::start_by(elsewhere, &dir.file()));
        // The lease is bound to a process, or detached.
        for verb in ["wait", "detach"] {
            here.say(&format!("{verb} here-{verb}"));
            here.hear_granted();
            there.say(&format!("{verb} there-{verb}"));
            there.hear_granted();
            for remaining in
                [there.remaining(&format!("here-{verb}")), here.remaining(&format!("there-{verb}"))]
            {
                let most_of_it = LONG - Duration::from_secs(20);
                assert!(remaining > most_of_it && remaining <= LONG, "{remaining:?} {shown}");
            }
        }
        // The death of a process is noticed in the other namespace, too.
        here.kill();
        there.take("here-wait");
    }
}

#[test]
fn a_process_that_cannot_know_its_clock_is_refused() {
    let dir = Dir::new();
    let cases = [
        // There is no procfs: a tmpfs is in its place, mounted there or bound.
        (&["--mount"][..], "mount -t tmpfs none /proc"),
        (&["--mount"], "mkdir \"$1/proc\"; mount -t tmpfs none \"$1/proc\"; mount --bind \"$1/proc\" /proc"),
    ];
    for (namespaces, script) in cases {
        let mut worker = Worker::spawn_by(inside(namespaces, script, &[dir.path()]), &dir.file());
        let heard = worker.hear();
        assert!(
            heard.starts_with("Unsupported: ") && heard.contains("mount this process's own /proc"),
            "{heard}"
        );
    }
}

#[test]
fn a_foreign_boot_id_ends_no_lease() {
    let covers = [
        // A file of the container's own, as with systemd-nspawn and LXC.
        "echo 6b1c3d5e-0000-4000-8000-000000000000 > \"$1/boot\"; mount --bind \"$1/boot\" /proc/sys/kernel/random/boot_id",
        // A file of the kernel with another value each time it is read.
        "mount --bind /proc/sys/kernel/random/uuid /proc/sys/kernel/random/boot_id",
        "mount -t tmpfs none /proc/sys/kernel/random; \
         echo 6b1c3d5e-0000-4000-8000-000000000000 > /proc/sys/kernel/random/boot_id",
        "mount -t tmpfs none /proc/sys/kernel/random",
        "mount --bind /dev/null /proc/sys/kernel/random/boot_id",
    ];
    for cover in covers {
        let dir = Dir::new();
        let container = || Worker::start_by(inside(&["--mount"], cover, &[dir.path()]), &dir.file());
        let (mut one, mut other, mut here) = (container(), container(), Worker::start(&dir.file()));
        for verb in ["wait", "detach"] {
            for (holder, name) in [(&mut one, "container"), (&mut here, "machine")] {
                holder.say(&format!("{verb} {name}-{verb}"));
                holder.hear_granted();
            }
            for name in ["container", "machine"] {
                assert!(other.remaining(&format!("{name}-{verb}")) > LONG / 2, "{cover}");
                assert!(here.remaining(&format!("container-{verb}")) > LONG / 2, "{cover}");
                assert!(one.remaining(&format!("machine-{verb}")) > LONG / 2, "{cover}");
            }
        }
        // The container does not write its own boot id into records.
        let boots: String =
            query(&dir.file(), "SELECT group_concat(DISTINCT boot) FROM lock WHERE name LIKE 'container%'");
        assert_eq!(boots, "", "{cover}");
        // A container can renew a ticket of the machine, and its lease stays valid there.
        run(async { take(&open(&dir.file()).await, &claim("ticket").detached(true)).await });
        let owner: String = query(&dir.file(), "SELECT lower(hex(owner)) FROM lock WHERE name = 'ticket'");
        assert_eq!(one.ask(&format!("renew ticket {owner}")), "renewed");
        assert!(here.remaining("ticket") > LONG / 2);
        // Waiters of the container and of the machine are in one queue.
        let turn = one.take("turn");
        here.queue("turn");
        other.queue("turn");
        assert_eq!(one.release("turn", turn.owner), "released");
        here.hear_granted();
    }
}

#[test]
fn a_part_mounted_apart_from_its_directory_is_refused() {
    let dir = Dir::new();
    let (there, file) = (dir.path().join("there"), dir.path().join("there/locks.db"));
    fs::create_dir(&there).expect("made");
    let _holder = Worker::holding(&dir.file(), "job");
    let parts = |parts: &[&str]| {
        let mount = |part: &&str| format!("touch \"$2{part}\"; mount --bind \"$1{part}\" \"$2{part}\"; ");
        parts.iter().map(mount).collect::<String>()
    };
    let live = "mkdir -p \"$2-live\"; mount --bind \"$1-live\" \"$2-live\"; ".to_owned();
    // The database; all parts; a part in its right place; another directory of liveness files.
    for script in [
        parts(&[""]),
        parts(&["", "-wal", "-shm"]) + &live,
        live.clone(),
        parts(&["-wal"]),
        "mount --bind \"$1\" \"$1\"; mount --bind \"${1%/*}\" \"${2%/*}\"; mount --bind \"$1\" \"$2\""
            .to_owned(),
        "mount --bind \"${1%/*}\" \"${2%/*}\"; mount -t tmpfs none \"$2-live\"".to_owned(),
    ] {
        let command = inside(&["--mount"], &script, &[&dir.file(), &file]);
        let heard = Worker::spawn_by(command, &file).hear();
        assert!(
            heard.starts_with("Unsupported: ") && heard.contains("mount the directory"),
            "{script}: {heard}"
        );
        for left in fs::read_dir(&there).expect("listed") {
            let left = left.expect("an entry").path();
            if left.is_dir() { fs::remove_dir(left) } else { fs::remove_file(left) }.expect("removed");
        }
    }
    // Mounting the whole directory is accepted.
    let script = "mount --bind \"${1%/*}\" \"${2%/*}\"";
    let mut worker = Worker::start_by(inside(&["--mount"], script, &[&dir.file(), &file]), &file);
    assert!(worker.remaining("job") > LONG / 2);
}

#[test]
fn a_mount_over_the_file_in_use_is_noticed() {
    let dir = Dir::new();
    let mut worker = Worker::start_by(inside(&["--mount"], "", &[]), &dir.file());
    let granted = worker.take("job");
    let child = format!("/proc/{0}/task/{0}/children", worker.id());
    let pid = fs::read_to_string(child).expect("read");
    let mounted = Command::new("nsenter")
        .args(["--user", "--mount", "--preserve-credentials", "--target", pid.trim()])
        .args(["mount", "--bind"])
        .args([dir.file(), dir.file()])
        .status();
    assert!(mounted.expect("util-linux is there").success());
    assert_eq!(worker.renew("job", granted.owner), "not held");
    let heard = worker.ask("try job");
    assert!(heard.contains("mount the directory"), "{heard}");
    drop(run(open(&dir.file())));
}

#[test]
fn closing_descriptors_in_another_pid_namespace_ends_no_lease() {
    let dir = Dir::new();
    let other = || Worker::start_by(inside(&["--pid", "--mount-proc"], "", &[]), &dir.file());
    let (mut holder, mut second) = (other(), other());
    let granted = holder.take("job");
    for _ in 0..3 {
        assert_eq!(holder.ask("touch"), "touched");
        assert!(Worker::start(&dir.file()).remaining("job") > LONG / 2);
        assert!(second.remaining("job") > LONG / 2);
        assert!(other().remaining("job") > LONG / 2);
    }
    second.queue("job");
    assert_eq!(holder.release("job", granted.owner), "released");
    second.hear_granted();
}

#[test]
fn a_ticket_that_a_container_renewed_stays_valid() {
    let dir = Dir::new();
    run(async {
        let storage = open(&dir.file()).await;
        let mine = claim("job").detached(true);
        take(&storage, &mine).await;
        // A container without the kernel's boot id writes it so.
        execute(&dir.file(), "UPDATE lock SET boot = ''");
        is_held(&storage, &claim("job")).await;
        let other = Claim::new(mine.name.clone(), mine.owner, LONG);
        is_renewed(&storage, &other).await;
    });
}
