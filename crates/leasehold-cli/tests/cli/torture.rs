//! Kills random processes of several `run`s, and checks that two commands never run at once.
//!
//! `LEASEHOLD_TORTURE_KILLS` is the number of kills. `LEASEHOLD_TORTURE_SEED` repeats the choices, but not the timing.

use std::collections::HashSet;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal};

use crate::harness::{Running, World, eventually, ms};
use crate::processes::{children, file_of, pending, signal, signal_group};

const CONTENDERS: usize = 6;

/// The TTL, in milliseconds.
const TTL: u64 = 2_000;

/// The command locks two files, `head` for itself and `group` together with its children. A file stays locked while a process
/// lives that has it open. The next command must find both unlocked.
const COMMAND: &str = "exec 8>>group 9>>head
    # Another code than 1 is that of a `flock` that was killed itself.
    flock -n 9; [ $? != 1 ] || echo $LEASEHOLD_TOKEN >> violations
    flock -n 8; [ $? != 1 ] || echo $LEASEHOLD_TOKEN >> overlaps
    echo $LEASEHOLD_TOKEN $PPID >> grants
    sleep 1000 9>&- & sleep 0.0$((LEASEHOLD_TOKEN % 5)) 9>&-; kill $!; wait";

/// A generator of the numbers that choose. It repeats them for a seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// The process that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Victim {
    Run,
    Guardian,
    Command,
    Grandchild,
    /// `run` or its guardian: it is stopped, and continued a moment later.
    Stopped,
    /// `run`: it gets a request to end.
    Terminated,
}

#[test]
fn random_kills_never_let_two_commands_run_at_once() {
    let kills = setting("LEASEHOLD_TORTURE_KILLS").unwrap_or(150);
    let seed = setting("LEASEHOLD_TORTURE_SEED").unwrap_or(u64::from(std::process::id()));
    let world = Arc::new(World::new());
    let running: Arc<Vec<Mutex<Option<Pid>>>> = Arc::new((0..CONTENDERS).map(|_| Mutex::new(None)).collect());
    let killed: Arc<Mutex<HashSet<i32>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let contenders: Vec<_> = (0..CONTENDERS)
        .map(|number| {
            let (world, running, stop, killed) =
                (world.clone(), running.clone(), stop.clone(), killed.clone());
            thread::spawn(move || {
                let mut runs = 0_u64;
                while !stop.load(Ordering::SeqCst) {
                    let mut run = world.run(&["--ttl", &ms(TTL), "--grace", "100ms"], COMMAND);
                    let mut run = Running::start(&mut run);
                    *running[number].lock().expect("fine") = Some(run.pid());
                    if run.wait().signal() == Some(Signal::KILL.as_raw()) {
                        killed.lock().expect("fine").insert(run.pid().as_raw_nonzero().get());
                    }
                    *running[number].lock().expect("fine") = None;
                    runs += 1;
                }
                runs
            })
        })
        .collect();

    let mut random = Random(seed);
    let mut counts = std::collections::BTreeMap::new();
    let mut done = 0;
    while done < kills {
        let before = tokens(&world);
        for _ in 0..10 {
            pause(Duration::from_millis(random.below(25)));
            // Two times of three, the victim is a `run` that holds the lock: there is more to break.
            let holds = |run: &&Mutex<Option<Pid>>| {
                run.lock().expect("fine").is_some_and(|run| !children(run).is_empty())
            };
            let any = &running[usize::try_from(random.below(CONTENDERS as u64)).expect("small")];
            let run = if random.below(3) == 0 { any } else { running.iter().find(holds).unwrap_or(any) };
            let Some(victim) = strike(&mut random, run) else { continue };
            *counts.entry(victim).or_insert(0_u64) += 1;
            done += 1;
        }
        // Whichever process was killed, the lock becomes free in time.
        eventually("another grant", || tokens(&world).len() > before.len());
        let violations = fs::read_to_string(world.path("violations")).unwrap_or_default();
        assert_eq!(violations, "", "seed {seed}, after {done} kills: {counts:?}");
    }
    stop.store(true, Ordering::SeqCst);
    let runs: u64 = contenders.into_iter().map(|contender| contender.join().expect("fine")).sum();
    let violations = fs::read_to_string(world.path("violations")).unwrap_or_default();
    assert_eq!(violations, "", "seed {seed}, after {done} kills: {counts:?}");
    // Children live on by design if the command has ended before them, but not if `run` was killed.
    let (grants, killed) = (grants(&world), killed.lock().expect("fine"));
    let overlaps = fs::read_to_string(world.path("overlaps")).unwrap_or_default();
    let overlaps: Vec<u64> = overlaps.lines().map(|token| token.parse().expect("a number")).collect();
    let after_a_kill: Vec<_> = grants
        .windows(2)
        .filter(|pair| overlaps.contains(&pair[1].0) && killed.contains(&pair[0].1))
        .collect();
    assert!(after_a_kill.is_empty(), "seed {seed}, after {done} kills: {counts:?} {after_a_kill:?}");
    let tokens = tokens(&world);
    assert!(tokens.is_sorted_by(|a, b| a < b), "seed {seed}: {tokens:?}");
    world.held(false);
    let (grants, killed) = (tokens.len(), killed.len());
    eprintln!(
        "{done} kills of {runs} runs, {killed} of them by SIGKILL, {grants} grants, none at once: {counts:?}, seed {seed}"
    );
}

fn tokens(world: &World) -> Vec<u64> {
    grants(world).into_iter().map(|(token, _)| token).collect()
}

/// Returns each grant's token, and the process id of its `run`.
fn grants(world: &World) -> Vec<(u64, i32)> {
    let grants = fs::read_to_string(world.path("grants")).unwrap_or_default();
    let grant = |line: &str| {
        let (token, run) = line.split_once(' ').expect("two numbers");
        (token.parse().expect("a number"), run.parse().expect("a number"))
    };
    grants.lines().map(grant).collect()
}

/// Kills a process of this contender. `run` is not killed while it has no guardian that waits for messages: that is
/// documented as out of reach.
fn strike(random: &mut Random, running: &Mutex<Option<Pid>>) -> Option<Victim> {
    let run = (*running.lock().expect("fine"))?;
    // `run` is still called `env` for a moment.
    let parts = children(run);
    let guardian = parts.iter().find(|(_, args)| args.contains("__guard")).map(|(pid, _)| *pid);
    let command = parts.iter().find(|(_, args)| !args.contains("__guard")).map(|(pid, _)| *pid);
    let is_guarded = command.is_none() || guardian.is_some_and(is_ready);
    let victim = match random.below(12) {
        0..=3 => Victim::Run,
        4 | 5 => Victim::Guardian,
        6 | 7 => Victim::Command,
        8 => Victim::Grandchild,
        9 => Victim::Terminated,
        _ => Victim::Stopped,
    };
    match victim {
        Victim::Run if is_guarded => signal(run, Signal::KILL),
        Victim::Run => return None,
        Victim::Guardian => signal(guardian?, Signal::KILL),
        // Its children are killed, too: they live on by design if the command ends by itself.
        Victim::Command => signal_group(command?, Signal::KILL),
        Victim::Grandchild => signal(children(command?).first()?.0, Signal::KILL),
        Victim::Terminated => signal(run, Signal::TERM),
        Victim::Stopped => {
            let stopped = if random.below(2) == 0 { run } else { guardian? };
            signal(stopped, Signal::STOP);
            pause(Duration::from_millis(random.below(30)));
            signal(stopped, Signal::CONT);
        }
    }
    // The guardian is not killed, either, while `run` still dies. A `run` that ends by itself is done with.
    if matches!(victim, Victim::Run | Victim::Command | Victim::Terminated) {
        *running.lock().expect("fine") = None;
    }
    Some(victim)
}

/// Returns `true` if a guardian has read all messages and waits for the next, and was not just killed.
fn is_ready(guardian: Pid) -> bool {
    let place = fs::read_to_string(file_of(guardian, "wchan")).unwrap_or_default();
    let is_killed = || pending(guardian) & (1 << (Signal::KILL.as_raw() - 1)) != 0;
    place.contains("poll") && !is_killed()
}

/// Lets other processes run, so that what follows comes at a random moment.
#[expect(clippy::disallowed_methods, reason = "what is random is when something is killed")]
fn pause(time: Duration) {
    thread::sleep(time);
}
