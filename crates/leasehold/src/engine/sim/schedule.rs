//! What happens in a run, drawn from its seed: how many clients, which faults, how often.

use std::time::Duration;

use crate::storage::Owner;

/// SplitMix64: one addition and three mixing steps per draw, the same on every machine.
pub(super) struct Dice(u64);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x2545_f491_4f6c_dd1d)
    }

    pub(super) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `low..=high`.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.draw() % (high - low + 1)
    }

    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.draw() % u64::try_from(len).expect("a short list")).expect("below the length")
    }

    /// Whether something strikes that does so `permille` times in a thousand.
    pub(super) fn strikes(&mut self, permille: u64) -> bool {
        self.draw() % 1000 < permille
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.index(from.len())]
    }

    pub(super) fn owner(&mut self) -> Owner {
        let (a, b) = (self.draw(), self.draw());
        Owner::from_bytes(((u128::from(a) << 64) | u128::from(b)).to_be_bytes())
    }
}

pub(super) const MS: u64 = 1_000_000;
pub(super) const SECOND: u64 = 1000 * MS;

/// The conditions of one run. Chances are per thousand, times in nanoseconds.
#[derive(Debug)]
pub(super) struct Weather {
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
    /// How often holders ask for another TTL, beside what else they do.
    pub(super) extends: u64,
    /// Whether waiters are granted less than they ask for.
    pub(super) curt: bool,
    pub(super) twice: u64,
    pub(super) lose_hint: u64,
    pub(super) late_hint: u64,
    pub(super) spurious_hint: u64,
    pub(super) lag: u64,
    pub(super) crashes: u64,
    pub(super) pauses: u64,
    pub(super) amnesias: u64,
    pub(super) outages: u64,
    /// By how much the storage's clock is set, and how often, in turns forward and back.
    pub(super) step: u64,
    pub(super) steps: u64,
    /// How far a client's clock is from the storage's, in millionths.
    pub(super) drift: i64,
    pub(super) fair: bool,
    pub(super) breaks: bool,
    pub(super) batch_max: usize,
    pub(super) batches_in_flight: usize,
    /// Whether no hint comes at all, not even when all faults are over.
    pub(super) deaf: bool,
    /// Whether those who wait when the faults end go on waiting.
    pub(super) patient: bool,
}

/// A step of the storage's clock that no margin covers.
pub(super) const STEP_WITHIN: u64 = 5 * MS;

impl Weather {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let all = [100, 300, 1000, 3000, 10_000];
        let main = dice.pick(&all);
        let mut ttls = vec![Duration::from_millis(main)];
        if dice.strikes(300) {
            ttls.push(Duration::from_millis(dice.pick(&all)));
        }
        let chaos_for = std::cmp::min(main * dice.between(2, 7), 12_000) * MS;
        let chaos_for = std::cmp::max(chaos_for, SECOND / 2);
        let calm = dice.strikes(100);
        let mut chance = |most: u64, often: u64| {
            if !calm && dice.strikes(often) { dice.between(1, most) } else { 0 }
        };
        let (lose_request, lose_reply, late, twice) =
            (chance(300, 400), chance(300, 500), chance(300, 500), chance(200, 400));
        let (lose_hint, late_hint, spurious_hint) = (chance(1000, 400), chance(500, 400), chance(300, 200));
        let (lag, crashes, pauses) = (chance(30, 300) * MS, chance(3, 350), chance(4, 400));
        let (amnesias, outages) = (chance(2, 200), chance(2, 200));
        let steps = if amnesias == 0 { chance(4, 150) } else { 0 };
        let step = if dice.strikes(700) { dice.between(1, STEP_WITHIN) } else { dice.between(20, 3000) * MS };
        let drift = if steps == 0 && !calm { dice.pick(&[0, 0, 1000, 10_000, 9_900]) } else { 0 };
        Self {
            clients: dice.pick(&[2, 2, 3, 3, 4]),
            names: dice.pick(&[1, 1, 1, 2, 3]),
            ttls,
            latency: dice.pick(&[1, 1, 2, 5, 20]) * MS,
            chaos_for,
            user_every: std::cmp::max(chaos_for / dice.between(5, 25), 5 * MS),
            lose_request,
            lose_reply,
            late,
            late_reply: 0,
            extends: 0,
            curt: false,
            twice,
            lose_hint,
            late_hint,
            spurious_hint,
            lag,
            crashes,
            pauses,
            amnesias,
            outages,
            step,
            steps,
            drift,
            fair: dice.strikes(850),
            breaks: !calm && dice.strikes(80),
            batch_max: dice.pick(&[1, 2, 256]),
            batches_in_flight: dice.pick(&[1, 1, 2, 4]),
            deaf: !calm && dice.strikes(150),
            patient: dice.strikes(600),
        }
    }

    /// Answers that take their time, which is what a deadline that counts from the sending is for; and holders
    /// who change their minds about the TTL, which is what `Claim::shorten` is for.
    pub(super) fn with_whims(mut self, dice: &mut Dice) -> Self {
        if self.is_calm() {
            return self;
        }
        self.late_reply = if dice.strikes(400) { dice.between(50, 500) } else { 0 };
        if dice.strikes(250) {
            self.extends = dice.between(100, 700);
            self.late = std::cmp::max(self.late, dice.between(0, 300));
            self.chaos_for = std::cmp::max(self.chaos_for, 3 * SECOND);
            self.user_every = dice.between(50, 300) * MS;
            self.ttls =
                dice.pick(&[[100, 1000], [100, 3000], [300, 3000]]).map(Duration::from_millis).to_vec();
        }
        self
    }

    /// Locks that are handed over, to some waiters.
    pub(super) fn with_handovers(mut self, dice: &mut Dice) -> Self {
        self.curt = !self.is_calm() && dice.strikes(300);
        self
    }

    /// Whether nothing goes wrong, so that the number of calls is known.
    pub(super) fn is_calm(&self) -> bool {
        let faults = self.lose_request + self.lose_reply + self.late + self.twice + self.lose_hint;
        let faults = faults
            + self.late_reply
            + self.late_hint
            + self.spurious_hint
            + self.lag
            + self.crashes
            + self.pauses;
        faults + self.amnesias + self.outages + self.steps == 0
            && self.drift == 0
            && !self.breaks
            && !self.deaf
    }

    pub(super) fn longest_ttl(&self) -> u64 {
        self.ttls.iter().map(|ttl| crate::clock::nanos(*ttl)).fold(0, std::cmp::max)
    }
}
