//! Clients compete over storages that fail, delay, duplicate, lose answers, and execute calls after an
//! error, as a seed decides. Time is simulated, so hours pass in seconds and each failure can be repeated
//! from its seed. `LEASEHOLD_TEST_SEED` runs one seed; `LEASEHOLD_TEST_SEEDS` sets how many run.

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
/// After this time nothing is left: a ticket that no client resumed ends with its TTL.
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
        match runtime.expect("a runtime").block_on(run_seed(seed)) {
            Ok(n) => holds += n,
            Err(wrong) => panic!("{wrong}; again with LEASEHOLD_TEST_SEED={seed}"),
        }
    }
    println!("{holds} holds");
    assert!(holds > 0, "no client was granted a lock");
}

/// Runs a few clients under random faults. Returns the number of holds, or the first fault found.
async fn run_seed(seed: u64) -> Result<usize, String> {
    let (mut random, memory, history) = (Random(seed), Memory::new(), History::new());
    let mut clients: Vec<(Locks, Controls)> = Vec::new();
    for _ in 0..3 {
        let chaos = Chaos::new(memory.clone());
        let controls = chaos.controls();
        set_random_faults(&controls, &mut random);
        let locks = Locks::builder().on_current_runtime().build(chaos);
        clients.push((locks.map_err(|error| error.to_string())?, controls));
    }
    let all: Arc<[Locks]> = clients.iter().map(|(locks, _)| locks.clone()).collect();
    let tasks = (0..9).map(|i| {
        let (all, random, history) = (Arc::clone(&all), Random(random.draw()), history.clone());
        tokio::spawn(run_task(all, i % clients.len(), random, history))
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

/// Sets a random fault for each verb of a client.
fn set_random_faults(controls: &Controls, random: &mut Random) {
    for verb in [Verb::Acquire, Verb::Renew, Verb::Release] {
        let most = random.of(&[300, 3_000]);
        let by = Duration::from_millis(random.below(most));
        let faults = [
            Fault::Pass,
            Fault::Fail,
            Fault::LoseReply,
            Fault::Duplicate,
            Fault::Delay(by),
            Fault::Ghost(by),
        ];
        let percent = u8::try_from(random.below(60)).expect("BUG: below 60");
        controls.sometimes(verb, percent, random.of(&faults), random.draw());
    }
    let by = Duration::from_millis(random.below(3_000));
    controls.hints(random.of(&[
        HintFault::Pass,
        HintFault::Drop,
        HintFault::Duplicate,
        HintFault::Delay(by),
    ]));
}

/// Runs one task, which acquires, holds, and ends its lease in one of the ways that users do.
async fn run_task(all: Arc<[Locks]>, me: usize, mut random: Random, history: History) {
    for _ in 0..12 {
        let name = random.of(&NAMES);
        let ttl = Duration::from_millis(random.of(&TTLS));
        let mut lock = all[me].lock(name).ttl(ttl).wait(Duration::from_millis(random.below(20_000)));
        if random.below(4) == 0 {
            lock = lock.max_hold(Duration::from_millis(100 + random.below(10_000)));
        }
        let leaves_after = Duration::from_millis(random.of(&[1, 300, 60_000]));
        // Otherwise the wait was contended, unavailable or abandoned, so there was no hold.
        if let Ok(Ok(guard)) = timeout(leaves_after, lock.acquire()).await {
            hold(guard, &all, &mut random, &history).await;
        }
        sleep(Duration::from_millis(random.below(500))).await;
    }
}

/// Works until the lease is lost or the work is done, whichever comes first. A lease that was handed over
/// and resumed counts as one hold, because no other client may hold the lock in between.
async fn hold(mut guard: Guard, all: &[Locks], random: &mut Random, history: &History) {
    let (name, token, from) = (guard.name().clone(), guard.token(), Instant::now());
    for _ in 0..random.below(8) {
        if !guard.is_held() {
            break;
        }
        tokio::select! {
            biased;
            _ = guard.lost() => break,
            () = work(&guard, random) => {}
        }
        if random.below(5) == 0 {
            let until = Instant::now();
            let Some(resumed) = hand_over(guard, all, random).await else {
                return history.add(Hold::new(name, token, from, until));
            };
            guard = resumed;
        }
    }
    history.add(Hold::new(name, token, from, Instant::now()));
    match random.below(4) {
        0 => drop(guard),
        1 => guard.forget(),
        // An error is fine: the lock was lost, or the storage is unavailable. The hold is over.
        2 => drop(guard.release().await),
        _ => drop(timeout(Duration::from_millis(random.below(100)), guard.release()).await),
    }
}

/// Uses the guard in one of the ways that holders do. The storage need not answer.
async fn work(guard: &Guard, random: &mut Random) {
    let least = guard.remaining().mul_f64(1.2);
    match random.below(8) {
        0 | 1 => drop(guard.extend(Duration::from_millis(random.of(&TTLS))).await),
        2 => drop(guard.ensure(least).await),
        3 => drop(guard.verify().await),
        4 => drop(timeout(Duration::from_millis(random.below(50)), guard.extend(least)).await),
        _ => sleep(Duration::from_millis(random.below(6_000))).await,
    }
}

/// Makes a ticket of the lease, and lets this or another client resume it. The lease is often shortened
/// just before and extended just after, without waiting for the answers.
async fn hand_over(guard: Guard, all: &[Locks], random: &mut Random) -> Option<Guard> {
    let soon = Duration::from_millis(1 + random.below(50));
    if random.below(2) == 0 {
        drop(timeout(soon, guard.extend(Duration::from_millis(random.of(&TTLS)))).await);
    }
    let ticket = guard.into_ticket();
    for _ in 0..3 {
        let heir = &all[usize::try_from(random.below(3)).expect("BUG: below 3")];
        let leaves_after = Duration::from_millis(random.of(&[1, 300, 60_000]));
        match timeout(leaves_after, heir.resume(ticket.clone())).await {
            Ok(Ok(guard)) if guard.is_held() => {
                if random.below(2) == 0 {
                    tokio::select! {
                        biased;
                        _ = guard.lost() => {}
                        _ = timeout(soon, guard.extend(LONG)) => {}
                    }
                }
                return Some(guard);
            }
            Ok(Err(error)) if error.kind() == ErrorKind::Lost => return None,
            // Unavailable, abandoned, or lost on the way: the ticket may still be valid.
            _ => {}
        }
    }
    None
}

/// Checks that soon nothing is held, queued or in flight, and that a new client is granted the lock at
/// once.
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

/// A SplitMix64 generator, which gives the same numbers for the same seed on every machine.
struct Random(u64);

impl Random {
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
