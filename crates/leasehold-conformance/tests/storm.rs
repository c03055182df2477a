//! Clients fight over storages that fail, delay, duplicate, haunt and lose answers, as a seed decides. In
//! simulated time, so that hours pass in seconds and every failure can be repeated with its seed:
//! `LEASEHOLD_TEST_SEED` runs one, `LEASEHOLD_TEST_SEEDS` says how many to run.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use leasehold::storage::{Memory, Storage};
use leasehold::{ErrorKind, Guard, Locks, Name};
use leasehold_conformance::{Chaos, Controls, Fault, HintFault, History, Hold, Verb};
use tokio::time::{Instant, sleep, timeout};

const NAMES: [&str; 2] = ["x", "y"];
/// In milliseconds.
const TTLS: [u64; 4] = [300, 500, 2_000, 10_000];
const LONG: Duration = Duration::from_secs(15);
/// After this time nothing is left: a ticket that nobody resumed ends with its TTL.
const TIDY: Duration = Duration::from_secs(40);

#[test]
fn one_holder_at_a_time_whatever_fails() {
    let set = |name| std::env::var(name).ok().map(|n| n.parse::<u64>().expect("a seed is a number"));
    let seeds = match set("LEASEHOLD_TEST_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..set("LEASEHOLD_TEST_SEEDS").unwrap_or(150),
    };
    let mut holds = 0;
    for seed in seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        match runtime.expect("a runtime").block_on(storm(seed)) {
            Ok(n) => holds += n,
            Err(wrong) => panic!("{wrong}; again with LEASEHOLD_TEST_SEED={seed}"),
        }
    }
    println!("{holds} holds");
    assert!(holds > 0, "nobody was granted anything");
}

/// Lets a storm pass over a few clients. How many holds there were, or what went wrong.
async fn storm(seed: u64) -> Result<usize, String> {
    let (mut dice, memory, history) = (Dice(seed), Memory::new(), History::new());
    let mut clients: Vec<(Locks, Controls)> = Vec::new();
    for _ in 0..3 {
        let chaos = Chaos::new(memory.clone());
        let controls = chaos.controls();
        brew(&controls, &mut dice);
        let locks = Locks::builder().on_current_runtime().build(chaos);
        clients.push((locks.map_err(|error| error.to_string())?, controls));
    }
    let all: Arc<[Locks]> = clients.iter().map(|(locks, _)| locks.clone()).collect();
    let tasks = (0..9).map(|i| {
        let (all, dice, history) = (Arc::clone(&all), Dice(dice.draw()), history.clone());
        tokio::spawn(fight(all, i % clients.len(), dice, history))
    });
    for task in join_all(tasks.collect::<Vec<_>>()).await {
        task.map_err(|error| error.to_string())?;
    }
    if let Some((a, b)) = history.overlap() {
        return Err(format!("two holders at a time: {a} and {b}"));
    }
    if let Some((a, b)) = history.stale_token() {
        return Err(format!("a later holder has no larger token: {a} and then {b}"));
    }
    clients.iter().for_each(|(_, controls)| controls.heal());
    tidy(&memory, &clients).await?;
    Ok(history.len())
}

/// Gives every verb of a client a fault of its own.
fn brew(controls: &Controls, dice: &mut Dice) {
    for verb in [Verb::Acquire, Verb::Renew, Verb::Release] {
        let most = dice.of(&[300, 3_000]);
        let by = Duration::from_millis(dice.below(most));
        let faults = [
            Fault::Pass,
            Fault::Fail,
            Fault::LoseReply,
            Fault::Duplicate,
            Fault::Delay(by),
            Fault::Ghost(by),
        ];
        let percent = u8::try_from(dice.below(60)).expect("BUG: below 60");
        controls.sometimes(verb, percent, dice.of(&faults), dice.draw());
    }
    let by = Duration::from_millis(dice.below(3_000));
    controls.hints(dice.of(&[HintFault::Pass, HintFault::Drop, HintFault::Duplicate, HintFault::Delay(by)]));
}

/// One task: asks, holds, and ends it in one of the ways in which users do.
async fn fight(all: Arc<[Locks]>, me: usize, mut dice: Dice, history: History) {
    for _ in 0..12 {
        let name = dice.of(&NAMES);
        let ttl = Duration::from_millis(dice.of(&TTLS));
        let mut lock = all[me].lock(name).ttl(ttl).wait(Duration::from_millis(dice.below(20_000)));
        if dice.below(4) == 0 {
            lock = lock.max_hold(Duration::from_millis(100 + dice.below(10_000)));
        }
        let leaves_after = Duration::from_millis(dice.of(&[1, 300, 60_000]));
        // Contended, unavailable, or left: then there was no hold.
        if let Ok(Ok(guard)) = timeout(leaves_after, lock.acquire()).await {
            hold(guard, &all, &mut dice, &history).await;
        }
        sleep(Duration::from_millis(dice.below(500))).await;
    }
}

/// Works until the lease is lost or the work is done, whichever comes first. A lease that was handed over and
/// resumed is one hold, for nobody may have held in between.
async fn hold(mut guard: Guard, all: &[Locks], dice: &mut Dice, history: &History) {
    let (name, token, from) = (guard.name().clone(), guard.token(), Instant::now());
    for _ in 0..dice.below(8) {
        if !guard.is_held() {
            break;
        }
        tokio::select! {
            biased;
            _ = guard.lost() => break,
            () = work(&guard, dice) => {}
        }
        if dice.below(5) == 0 {
            let until = Instant::now();
            let Some(resumed) = hand_over(guard, all, dice).await else {
                return history.add(Hold::new(name, token, from, until));
            };
            guard = resumed;
        }
    }
    history.add(Hold::new(name, token, from, Instant::now()));
    match dice.below(4) {
        0 => drop(guard),
        1 => guard.forget(),
        // Lost or unavailable: what counts is that it is over.
        2 => drop(guard.release().await),
        _ => drop(timeout(Duration::from_millis(dice.below(100)), guard.release()).await),
    }
}

/// Does one of the things that holders do. Whether the storage answers is not what counts here.
async fn work(guard: &Guard, dice: &mut Dice) {
    let least = guard.remaining().mul_f64(1.2);
    match dice.below(8) {
        0 | 1 => drop(guard.extend(Duration::from_millis(dice.of(&TTLS))).await),
        2 => drop(guard.ensure(least).await),
        3 => drop(guard.verify().await),
        4 => drop(timeout(Duration::from_millis(dice.below(50)), guard.extend(least)).await),
        _ => sleep(Duration::from_millis(dice.below(6_000))).await,
    }
}

/// Writes the lease down, and lets this or another client resume it. Often it is shortened just before and
/// extended just after, and whether that was answered is not waited for.
async fn hand_over(guard: Guard, all: &[Locks], dice: &mut Dice) -> Option<Guard> {
    let soon = Duration::from_millis(1 + dice.below(50));
    if dice.below(2) == 0 {
        drop(timeout(soon, guard.extend(Duration::from_millis(dice.of(&TTLS)))).await);
    }
    let ticket = guard.into_ticket();
    for _ in 0..3 {
        let heir = &all[usize::try_from(dice.below(3)).expect("BUG: below 3")];
        let leaves_after = Duration::from_millis(dice.of(&[1, 300, 60_000]));
        match timeout(leaves_after, heir.resume(ticket.clone())).await {
            Ok(Ok(guard)) if guard.is_held() => {
                if dice.below(2) == 0 {
                    tokio::select! {
                        biased;
                        _ = guard.lost() => {}
                        _ = timeout(soon, guard.extend(LONG)) => {}
                    }
                }
                return Some(guard);
            }
            Ok(Err(error)) if error.kind() == ErrorKind::Lost => return None,
            // Unavailable, left, or lost on its way: the ticket may be as good as before.
            _ => {}
        }
    }
    None
}

/// Sees that in a while nothing is held, queued or under way, and that a newcomer is served at once.
async fn tidy(memory: &Memory, clients: &[(Locks, Controls)]) -> Result<(), String> {
    let start = Instant::now();
    loop {
        sleep(Duration::from_millis(100)).await;
        let mut left = Vec::new();
        for name in NAMES {
            let name = Name::new(name).map_err(|error| error.to_string())?;
            left.extend(memory.inspect(&name).await.map_err(|error| error.to_string())?);
        }
        left.extend(clients.iter().flat_map(|(locks, _)| locks.held()));
        let in_flight: usize = clients.iter().map(|(_, controls)| controls.in_flight()).sum();
        if left.is_empty() && in_flight == 0 {
            break;
        }
        if start.elapsed() > TIDY {
            return Err(format!("after {TIDY:?}, held {left:?}, {in_flight} in flight"));
        }
    }
    for ((locks, _), name) in clients.iter().zip(NAMES) {
        let served = timeout(Duration::from_secs(7), locks.lock(name).acquire()).await;
        let guard = served.map_err(|_| "a newcomer is not served".to_owned())?;
        guard.map_err(|error| error.to_string())?.release().await.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// SplitMix64: the same throws for the same seed on every machine.
struct Dice(u64);

impl Dice {
    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.draw() % n
    }

    fn of<T: Copy>(&mut self, sides: &[T]) -> T {
        let n = u64::try_from(sides.len()).expect("BUG: a die has few sides");
        let side = usize::try_from(self.below(n)).expect("BUG: below the number of sides");
        sides[side]
    }
}
