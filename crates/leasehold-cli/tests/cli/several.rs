//! Several locks for one command: all of them, or none.

use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{Running, World, code, eventually, ms, output, text};
use crate::processes::{await_end, await_idle, guardian, took};

const SHOW: &str = r#"echo "$LEASEHOLD_NAME"; echo $LEASEHOLD_TOKEN; echo $LEASEHOLD_TICKET"#;

/// Returns a call of `leasehold run OPTIONS NAMES -- sh -c SCRIPT`.
fn run(world: &World, names: &[&str], options: &[&str], script: &str) -> std::process::Command {
    let args = [&["run"], names, options, &["--", "sh", "-c", script]].concat();
    let mut command = world.leasehold(args);
    command.env("L", env!("CARGO_BIN_EXE_leasehold"));
    command
}

fn is_held(world: &World, name: &str) -> bool {
    world.json(&["inspect", name])["held"] == true
}

#[test]
fn command_finds_tokens_and_tickets_in_the_order_of_the_names() {
    let world = World::new();
    // So that the tokens differ.
    assert_eq!(code(&world.output(&["run", "b c", "--", "true"])), 0);
    let verify =
        "for t in $LEASEHOLD_TICKET; do $L -q verify $t || exit 9; done; echo verified; read _; exit 3";
    let mut running = Running::start(&mut run(&world, &["b c", "a"], &[], &format!("{SHOW}; {verify}")));
    assert_eq!((running.line(), running.line()), ("b c".to_owned(), "a".to_owned()));
    let (tokens, tickets) = (running.line(), running.line());
    let holders = ["b c", "a"].map(|name| world.json(&["inspect", name]).clone());
    let shown = holders.iter().map(|holder| holder["token"].as_str().expect("text")).collect::<Vec<_>>();
    assert_eq!(tokens, shown.join(" "));
    let tickets: Vec<_> = tickets.split(' ').collect();
    assert!(tickets[0].ends_with(".b%20c") && tickets[1].ends_with(".a"), "{tickets:?}");
    assert_eq!((tickets.len(), running.line()), (2, "verified".to_owned()));
    running.write("\n");
    let ended = running.finish();
    assert_eq!((code(&ended), text(&ended.stderr)), (3, String::new()));
    assert!(!is_held(&world, "a") && !is_held(&world, "b c"));
}

#[test]
fn it_runs_with_all_locks_or_not_at_all() {
    let world = World::new();
    let mut holder = Running::start(&mut run(&world, &["b"], &["--label", "other"], "echo in; read _"));
    holder.line();
    for options in [&["--try"][..], &["--wait", "50ms"], &["--retries", "1"]] {
        let refused = output(&mut run(&world, &["a", "b", "c"], options, "echo never"));
        assert_eq!((code(&refused), text(&refused.stdout)), (75, String::new()), "{options:?}");
        assert!(text(&refused.stderr).contains("other"), "{refused:?}");
        assert!(!is_held(&world, "a") && !is_held(&world, "c"), "{options:?}");
    }
    let waiting = Running::start(&mut run(&world, &["c", "b", "a"], &[], "echo all"));
    eventually("the waiter", || world.json(&["inspect", "b"])["waiters"] == 1);
    holder.write("\n");
    let waiting = waiting.finish();
    assert_eq!((code(&waiting), text(&waiting.stdout)), (0, "all".to_owned()), "{waiting:?}");
}

#[test]
fn commands_that_name_the_same_locks_in_other_orders_end_without_a_deadlock() {
    let world = World::new();
    let script = "mkdir busy && sleep 0.01 && rmdir busy";
    let orders: [&[&str]; 4] = [&["a", "b", "c"], &["c", "b", "a"], &["b", "c"], &["c", "a"]];
    for _ in 0..4 {
        let running = orders.map(|names| Running::start(&mut run(&world, names, &[], script)));
        for ended in running.map(Running::finish) {
            assert_eq!((code(&ended), text(&ended.stderr)), (0, String::new()));
        }
    }
}

#[test]
fn loss_of_one_ends_the_command_and_frees_the_others() {
    let world = World::new();
    let held = Running::start(&mut run(&world, &["a", "b"], &["--ttl", "1h"], "echo in; exec sleep 1000"));
    held.line();
    assert_eq!(world.json(&["break", "b"])["broken"], true);
    let ended = held.finish();
    assert_eq!(code(&ended), 76, "{ended:?}");
    assert!(text(&ended.stderr).contains("name=`b`"), "{ended:?}");
    assert!(!is_held(&world, "a"));
}

#[test]
fn each_loss_that_is_ignored_is_a_warning() {
    let world = World::new();
    let options = ["--ttl", &ms(3_000), "--on-lost", "ignore"];
    // The script ends only when each loss was reported.
    let script = "$L break b >&2; read _; $L break a >&2; read _; exit 7";
    let mut command = run(&world, &["a", "b", "c"], &options, script);
    let (mut running, said) = Running::start_with_lines_of_stderr(&mut command);
    for name in ["b", "a"] {
        let warning = std::iter::from_fn(|| said.recv_timeout(crate::harness::limit()).ok())
            .find(|line| line.contains("warning: the lock is lost"));
        let warning = warning.expect("a warning");
        assert!(warning.contains(&format!("name=`{name}`")), "{warning}");
        running.write("\n");
    }
    assert_eq!(running.wait().code(), Some(7));
    assert_eq!(said.into_iter().filter(|line| line.contains("warning")).count(), 0);
}

#[test]
fn killed_run_leaves_none_of_them_held() {
    let world = World::new();
    let mut held =
        Running::start(&mut run(&world, &["a", "b", "c"], &["--ttl", "1h"], "echo in; exec sleep 1000"));
    held.line();
    // A new guardian knows all of them, too.
    let first = guardian(held.pid(), None);
    crate::processes::signal(first, Signal::KILL);
    let next = guardian(held.pid(), Some(first));
    await_idle(held.pid());
    await_idle(next);
    held.signal(Signal::KILL);
    held.wait();
    eventually("the releases", || ["a", "b", "c"].iter().all(|name| !is_held(&world, name)));
}

/// Prints a line for each SIGTERM, until it gets SIGKILL.
const COUNT: &str = "trap 'echo term' TERM; echo in; while :; do sleep 1000 & wait $!; done";

#[test]
fn run_that_is_killed_after_a_loss_leaves_the_others_as_it_would_without_one() {
    for (ttl, options) in [("1h", &[][..]), (&ms(1_000), &["--at-least", "1h"])] {
        let world = World::new();
        let options = [&["--ttl", ttl, "--grace", "1h"], options].concat();
        let mut held = Running::start(&mut run(&world, &["a", "b"], &options, COUNT));
        assert_eq!(held.line(), "in");
        assert_eq!(world.json(&["break", "b"])["broken"], true);
        assert_eq!(held.line(), "term");
        let remaining = || world.json(&["inspect", "a"])["remaining_ms"].as_u64().unwrap_or(0);
        if ttl != "1h" {
            // What the guardian has heard before the loss is over after some renewals.
            let (mut renewals, mut last) = (0, 0);
            eventually("some renewals", || {
                let left = remaining();
                renewals += u32::from(left > last);
                last = left;
                renewals > 6
            });
        }
        let guardian = guardian(held.pid(), None);
        await_idle(guardian);
        held.signal(Signal::KILL);
        held.wait();
        await_end(guardian);
        if ttl == "1h" {
            assert!(!is_held(&world, "a"));
        } else {
            assert!(remaining() > 30 * 60 * 1000, "{}", remaining());
        }
        assert!(!is_held(&world, "b"));
    }
}

#[test]
fn wrong_lists_of_names_are_refused() {
    let world = World::new();
    for (args, about) in [
        (&["run", "a", "b", "a", "--", "true"][..], "listed twice"),
        (&["run", "a", ""], "no command was given"),
        (&["run", "a", "", "--", "true"], "a lock's name"),
        (&["run", "a", "b\nc", "--", "true"], r"a name with a line break cannot be one of several"),
        (&["run", "--", "-a", "b\nc", "--", "true"], r"name=`b\nc`"),
        // The name was forgotten, and no word of the command becomes one.
        (&["run", "--", "git", "log", "--", "file"], "no lock was named"),
        (&["elect", "a", "b", "--", "true"], "unexpected argument 'b'"),
        (&["elect", "--", "-a", "b", "--", "true"], "an election has one name"),
    ] {
        let world = World::new();
        let refused = world.output(args);
        assert_eq!(code(&refused), 64, "{refused:?}");
        assert!(text(&refused.stderr).contains(about), "{about}: {refused:?}");
        let is_asked = ["listed twice", "a lock's name"].contains(&about);
        assert_eq!(world.path("locks.db").exists(), is_asked, "{refused:?}");
    }
    // Alone, it is the whole variable.
    assert_eq!(code(&world.output(&["run", "b\nc", "--", "true"])), 0);
    let dashes = world.output(&["run", "--", "-a", "b", "--", "sh", "-c", SHOW]);
    assert_eq!(code(&dashes), 0, "{dashes:?}");
    assert!(text(&dashes.stdout).starts_with("-a\nb\n"), "{dashes:?}");
}

#[test]
fn more_locks_than_a_variable_can_name_are_refused_before_any_is_taken() {
    // A ticket has about 80 bytes, and the kernel passes 128 KiB.
    let names: Vec<_> = (0..1800).map(|n| format!("account-{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let world = World::new();
    let refused = output(&mut run(&world, &names, &[], "echo never"));
    assert_eq!((code(&refused), text(&refused.stdout)), (64, String::new()), "{refused:?}");
    assert!(text(&refused.stderr).contains("LEASEHOLD_TICKET"), "{refused:?}");
    assert!(!world.path("locks.db").exists());
    let count = "set -- $LEASEHOLD_TICKET; echo $#";
    let fits = output(&mut run(&world, &names[..1500], &[], count));
    assert_eq!((code(&fits), text(&fits.stdout)), (0, "1500".to_owned()), "{fits:?}");
}

#[test]
fn each_of_them_is_held_for_the_minimum() {
    let world = World::new();
    let options = ["--ttl", &ms(60_000), "--at-least", &ms(2_000)];
    assert_eq!(code(&output(&mut run(&world, &["a", "b"], &options, "true"))), 0);
    assert!(is_held(&world, "a") && is_held(&world, "b"));
    eventually("the end of the minimum", || !is_held(&world, "a") && !is_held(&world, "b"));
}

#[test]
fn command_that_would_wait_for_one_of_its_own_locks_is_warned_at_once() {
    let world = World::new();
    let script = "$L run c b --wait 50ms -- true";
    let within = output(&mut run(&world, &["a", "b"], &[], script));
    let said = text(&within.stderr);
    assert_eq!((code(&within), said.matches("it would wait for itself").count()), (75, 1), "{said}");
}

/// Starts a command with a minimum, which may be longer than the TTL, and kills `run`, and perhaps the guardian, too.
fn kill_with_minimum(world: &World, ttl: u64, minimum: u64, guardian_too: bool) {
    let options = ["--ttl", &ms(ttl), "--at-least", &ms(minimum)];
    let mut held = Running::start(&mut world.run(&options, "echo $$; exec sleep 1000"));
    let command = held.pid_in_line();
    let guardian = guardian(held.pid(), None);
    await_idle(guardian);
    if guardian_too {
        held.signal(Signal::STOP);
        crate::processes::signal(guardian, Signal::KILL);
    }
    held.signal(Signal::KILL);
    held.wait();
    await_end(command);
    await_end(guardian);
}

#[test]
fn minimum_of_a_run_that_is_killed_is_kept() {
    for (ttl, minimum, guardian_too) in [(500, 3_000, false), (60_000, 3_000, false), (3_000, 3_000, true)] {
        let world = World::new();
        let mut left = json!(null);
        let took = took(|| {
            kill_with_minimum(&world, ttl, minimum, guardian_too);
            left = world.json(&["inspect", "lock"])["remaining_ms"].clone();
        });
        let left = Duration::from_millis(left.as_u64().expect("it is held"));
        let minimum = crate::harness::scaled(Duration::from_millis(minimum));
        assert!(left <= minimum && left + took >= minimum, "{left:?} after {took:?}, ttl {ttl} ms");
        world.held(false);
    }
}
