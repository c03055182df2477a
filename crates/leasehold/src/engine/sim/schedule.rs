//! The conditions of a run, drawn from its seed: how many clients, which faults, how often.

use std::time::Duration;

use crate::storage::Owner;

/// A source of random numbers, the same on every machine: SplitMix64, one addition and three mixing steps per draw.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x2545_f491_4f6c_dd1d)
    }

    /// Returns the next number.
    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number in `low..=high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.draw() % (high - low + 1)
    }

    /// Returns a number below `len`.
    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.draw() % u64::try_from(len).expect("a short list")).expect("below the length")
    }

    /// Returns `true` for `permille` of a thousand draws.
    pub(super) fn chance(&mut self, permille: u64) -> bool {
        self.draw() % 1000 < permille
    }

    /// Returns one of the values.
    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    /// Returns an owner id.
    pub(super) fn owner(&mut self) -> Owner {
        let (a, b) = (self.draw(), self.draw());
        Owner::from_bytes(((u128::from(a) << 64) | u128::from(b)).to_be_bytes())
    }
}

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MS;

/// The conditions of one run. Chances are per thousand, times in nanoseconds.
#[derive(Debug)]
pub(super) struct Conditions {
    pub(super) clients: usize,
    pub(super) names: usize,
    pub(super) ttls: Vec<Duration>,
    pub(super) latency: u64,
    /// How long faults and new claims go on.
    pub(super) chaos_for: u64,
    pub(super) user_every: u64,
    pub(super) lose_request: u64,
    pub(super) lose_reply: u64,
    pub(super) late: u64,
    pub(super) late_reply: u64,
    /// How often callers extend a guard, in addition to their other calls.
    pub(super) extends: u64,
    /// `true` if waiters are granted a shorter lease than they asked for.
    pub(super) short_handovers: bool,
    pub(super) twice: u64,
    pub(super) lose_hint: u64,
    pub(super) late_hint: u64,
    pub(super) spurious_hint: u64,
    pub(super) lag: u64,
    pub(super) crashes: u64,
    pub(super) pauses: u64,
    pub(super) forgets: u64,
    pub(super) outages: u64,
    /// By how much the storage's clock is set each time, forward and back in turns.
    pub(super) step: u64,
    /// How often it is set.
    pub(super) steps: u64,
    /// By how many millionths a client's clock runs faster or slower than the storage's.
    pub(super) drift: i64,
    pub(super) fair: bool,
    pub(super) breaks: bool,
    pub(super) batch_max: usize,
    pub(super) batches_in_flight: usize,
    /// `true` if no hint is ever sent, not even after the faults.
    pub(super) no_hints: bool,
    /// `true` if callers that wait when the faults end go on waiting.
    pub(super) patient: bool,
    /// How often a caller takes several locks at once, instead of one.
    pub(super) several: u64,
    /// How often a caller keeps a lock for a minimum time.
    pub(super) jobs: u64,
    /// How often a caller stands for election, instead of taking a lock.
    pub(super) elections: u64,
}

/// The largest step of the storage's clock that margins cover.
pub(super) const STEP_WITHIN: u64 = 5 * MS;

impl Conditions {
    pub(super) fn draw(random: &mut Random) -> Self {
        let (ttls, chaos_for) = ttls_and_length(random);
        let calm = random.chance(100);
        let mut chance = |most: u64, often: u64| {
            if !calm && random.chance(often) { random.between(1, most) } else { 0 }
        };
        let (lose_request, lose_reply, late, twice) =
            (chance(300, 400), chance(300, 500), chance(300, 500), chance(200, 400));
        let (lose_hint, late_hint, spurious_hint) = (chance(1000, 400), chance(500, 400), chance(300, 200));
        let (lag, crashes, pauses) = (chance(30, 300) * MS, chance(3, 350), chance(4, 400));
        let (forgets, outages) = (chance(2, 200), chance(2, 200));
        let steps = if forgets == 0 { chance(4, 150) } else { 0 };
        let step =
            if random.chance(700) { random.between(1, STEP_WITHIN) } else { random.between(20, 3000) * MS };
        let drift = if steps == 0 && !calm { random.pick(&[0, 0, 1000, 10_000, 9_900]) } else { 0 };
        Self {
            clients: random.pick(&[2, 2, 3, 3, 4]),
            names: random.pick(&[1, 1, 1, 2, 3]),
            ttls,
            latency: random.pick(&[1, 1, 2, 5, 20]) * MS,
            chaos_for,
            user_every: std::cmp::max(chaos_for / random.between(5, 25), 5 * MS),
            lose_request,
            lose_reply,
            late,
            late_reply: 0,
            extends: 0,
            short_handovers: false,
            twice,
            lose_hint,
            late_hint,
            spurious_hint,
            lag,
            crashes,
            pauses,
            forgets,
            outages,
            step,
            steps,
            drift,
            fair: random.chance(850),
            breaks: !calm && random.chance(80),
            batch_max: random.pick(&[1, 2, 256]),
            batches_in_flight: random.pick(&[1, 1, 2, 4]),
            no_hints: !calm && random.chance(150),
            patient: random.chance(600),
            several: 0,
            jobs: 0,
            elections: 0,
        }
    }

    /// Adds slow answers, which test that a deadline counts from the sending. Adds callers that change the TTL again and
    /// again, which test `Claim::shorten`.
    pub(super) fn with_whims(mut self, random: &mut Random) -> Self {
        if self.is_calm() {
            return self;
        }
        self.late_reply = if random.chance(400) { random.between(50, 500) } else { 0 };
        if random.chance(250) {
            self.extends = random.between(100, 700);
            self.late = std::cmp::max(self.late, random.between(0, 300));
            self.chaos_for = std::cmp::max(self.chaos_for, 3 * SECOND);
            self.user_every = random.between(50, 300) * MS;
            self.ttls =
                random.pick(&[[100, 1000], [100, 3000], [300, 3000]]).map(Duration::from_millis).to_vec();
        }
        self
    }

    /// Adds storages that hand a lock over for less than the TTL.
    pub(super) fn with_handovers(mut self, random: &mut Random) -> Self {
        self.short_handovers = !self.is_calm() && random.chance(300);
        self
    }

    /// Adds callers that take several locks at once, in crossing orders, and callers that keep a lock for a minimum time.
    pub(super) fn with_several(mut self, random: &mut Random) -> Self {
        if random.chance(250) {
            self.several = random.between(200, 900);
            self.names = random.pick(&[2, 3, 3, 4, 5]);
        }
        if random.chance(250) {
            self.jobs = random.between(100, 600);
        }
        self
    }

    /// Adds candidates of elections.
    pub(super) fn with_elections(mut self, random: &mut Random) -> Self {
        if random.chance(250) {
            self.elections = random.between(200, 1000);
        }
        self
    }

    /// Returns `true` if there are no faults, so that the number of calls is bounded.
    pub(super) fn is_calm(&self) -> bool {
        let faults = self.lose_request + self.lose_reply + self.late + self.twice + self.lose_hint;
        let faults = faults
            + self.late_reply
            + self.late_hint
            + self.spurious_hint
            + self.lag
            + self.crashes
            + self.pauses;
        faults + self.forgets + self.outages + self.steps == 0
            && self.drift == 0
            && !self.breaks
            && !self.no_hints
    }

    pub(super) fn longest_ttl(&self) -> u64 {
        self.ttls.iter().map(|ttl| crate::clock::nanos(*ttl)).fold(0, std::cmp::max)
    }
}

/// Draws the TTLs of a run, and how long its faults go on.
fn ttls_and_length(random: &mut Random) -> (Vec<Duration>, u64) {
    let all = [100, 300, 1000, 3000, 10_000];
    let main = random.pick(&all);
    let mut ttls = vec![Duration::from_millis(main)];
    if random.chance(300) {
        ttls.push(Duration::from_millis(random.pick(&all)));
    }
    let chaos_for = std::cmp::min(main * random.between(2, 7), 12_000) * MS;
    let chaos_for = std::cmp::max(chaos_for, SECOND / 2);
    (ttls, chaos_for)
}
