//! A seeded, deterministic simulator: several engines over a model of a storage, under one virtual clock, without
//! threads, sockets or sleep.
//!
//! It runs the whole engine except for the loop that sleeps. Instead of that loop, the simulator calls
//! [`Actor::turn`](super::actor::Actor::turn) whenever something has arrived or is due. A seed decides what the network,
//! the storage, the clocks and the callers do, so a run that fails can be repeated.
//!
//! `LEASEHOLD_SIM_SCHEDULES=n` runs `n` seeds, and `LEASEHOLD_SIM_SEED=s` begins with seed `s`.

mod client;
mod crowd;
mod invariants;
mod leading;
mod model;
mod schedule;
mod seeds;
mod together;
mod wire;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;

use leasehold_defects::{CATALOG, Defect as Sabotage};
use tokio::runtime::{EnterGuard, Runtime};

use self::client::Client;
use self::invariants::{Law, Violation};
use self::world::{Tally, World};
use super::actor::Actor;
use super::work::Defect;

/// How many schedules run unless the environment sets another number.
const SCHEDULES: u64 = 10_000;
/// How many lines of the trace of a failed run are shown.
const LAST: usize = 150;

#[test]
fn every_schedule_keeps_every_law() {
    let (first, schedules) = (number("LEASEHOLD_SIM_SEED", 1), number("LEASEHOLD_SIM_SCHEDULES", SCHEDULES));
    let _time = paused_time();
    let mut sum = Tally::default();
    let mut failed = Vec::new();
    for seed in first..first + schedules {
        match run(seed, None) {
            Ok(tally) => sum.add(&tally),
            Err((steps, violation)) => failed.push((steps, seed, violation)),
        }
    }
    if let Some((_, seed, _)) = failed.iter().min_by_key(|(steps, ..)| steps) {
        for (steps, seed, violation) in &failed {
            println!("seed {seed}, {steps} steps: {violation}");
        }
        fail(*seed);
    }
    println!("{schedules} schedules from seed {first}: {sum:?}");
    assert!(schedules < 1000 || sum.grants > schedules, "too few grants: {sum:?}");
    assert!(schedules < 1000 || sum.terms > schedules / 4, "too few terms: {sum:?}");
}

#[test]
fn a_schedule_is_repeated_by_its_seed() {
    let _time = paused_time();
    for seed in 1..30 {
        let traces = [(); 2].map(|()| {
            let mut world = World::new(seed, None, true);
            let _ = world.run();
            world.trace
        });
        assert!(traces[0] == traces[1], "seed {seed}");
    }
}

#[test]
fn every_planted_defect_is_caught() {
    const WITHIN: u64 = 6000;
    let _time = paused_time();
    let mut missed = Vec::new();
    for entry in CATALOG.iter().filter(|entry| !entry.caught.laws.is_empty()) {
        let (defect, mut seeds) = (entry.defect, 1..=WITHIN);
        match seeds.find_map(|seed| run(seed, Some(defect)).err().map(|(_, violation)| (seed, violation))) {
            None => missed.push(format!("{defect} is not caught")),
            Some((seed, violation)) => {
                println!("{defect}: seed {seed}: {violation}");
                if !entry.caught.laws.contains(&&*format!("{:?}", violation.law)) {
                    missed.push(format!("{defect} is caught for another reason: {violation}"));
                }
            }
        }
    }
    assert!(missed.is_empty(), "\n{}", missed.join("\n"));
}

#[test]
fn crowds_keep_every_law_and_cost_only_what_has_changed() {
    let _time = paused_time();
    for seed in 1..=4 {
        crowd::run(seed, None).unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    }
}

#[test]
fn work_that_grows_with_the_number_of_locks_is_caught() {
    let _time = paused_time();
    for defect in [Defect::QueueSearch, Defect::ObserverScan, Defect::LanesWalked] {
        let violation = crowd::run(1, Some(defect)).expect_err("the defect is caught");
        println!("{defect:?}: {violation}");
        assert_eq!(violation.law, Law::Proportion, "{defect:?} is caught for another reason: {violation}");
    }
}

/// Runs one schedule again, and shows its trace if it fails.
pub(super) fn replay(seed: u64) {
    let _time = paused_time();
    if run(seed, None).is_err() {
        fail(seed);
    }
}

fn run(seed: u64, sabotage: Option<Sabotage>) -> Result<Tally, (u64, Violation)> {
    let mut world = World::new(seed, sabotage, false);
    caught(&mut world).map_err(|violation| (world.tally.steps, violation))
}

/// Runs a world. A failed assertion of the engine is a violation, too.
fn caught(world: &mut World) -> Result<Tally, Violation> {
    catch_unwind(AssertUnwindSafe(|| world.run())).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(Violation::new(Law::Panic, text.unwrap_or_default()))
    })
}

/// Panics with the trace of a schedule that fails.
fn fail(seed: u64) -> ! {
    let mut world = World::new(seed, None, true);
    let violation = caught(&mut world).expect_err("the same schedule fails again");
    let machines: Vec<_> = (0..).zip(&world.clients).map(|(index, client)| machines(index, client)).collect();
    let trace = world.trace.unwrap_or_default();
    let last = trace.len().saturating_sub(LAST);
    panic!(
        "\n{}\n{}\n{}\n{violation}\n\nFor sim/seeds.rs:\n\n#[test]\nfn seed_{seed}() {{\n    sim::replay({seed});\n}}\n",
        trace.first().map_or("", String::as_str),
        trace[last..].join("\n"),
        machines.concat()
    );
}

/// Returns the state of each stage of a client.
fn machines(index: usize, client: &Client) -> String {
    let machines = client.actor().map(Actor::machines).unwrap_or_default();
    let now = client.clock();
    format!(
        "client {index} at {now:?}:\n{}",
        machines.iter().map(|m| format!("    {m}\n")).collect::<String>()
    )
}

/// Enters a runtime whose time stands still. The engine limits its calls with tokio's timers, which never fire here:
/// the simulator keeps those limits itself.
fn paused_time() -> EnterGuard<'static> {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().expect("a runtime without I/O")
    });
    RUNTIME.enter()
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().map_or(otherwise, |text| text.parse().expect("a number"))
}
