//! Stays awake for a moment when there is nothing to do. To fall asleep and be woken takes tens of microseconds on
//! an idle machine, which is most of what an uncontended lock costs, and the next command or answer of a busy client
//! comes sooner than that. Whether it does is learned; and where others want the processor, they get it.

use std::time::Duration;

use crate::clock::Moment;

pub(crate) struct Linger {
    /// How it sees whether the machine is busy; without, it never stays awake.
    crowd: Option<Crowd>,
    /// Since when it is awake for nothing, and for what.
    since: Option<(Moment, For)>,
    looked: Moment,
    commands: Habit,
    answers: Habit,
    /// How often it stays awake before it looks again whether others want the processor.
    trust: u32,
    /// How often it does not.
    rest: u32,
}

/// What is waited for.
#[derive(Clone, Copy)]
enum For {
    Commands,
    Answers,
}

/// Whether staying awake for something has been worth it.
#[derive(Default)]
struct Habit {
    /// How often in a row it was not.
    misses: u32,
    /// How often it is not tried.
    rest: u32,
}

/// How long to stay awake: somewhat longer than an idle machine needs to wake the caller, or a server nearby.
const MOMENT: Duration = Duration::from_micros(100);
/// A look that is so much later than the one before is late because another thread had the processor.
const LATE: Duration = Duration::from_micros(40);
/// How often in a row it may be in vain.
const MISSES: u32 = 3;
/// How seldom it is tried again at the most, as a power of two.
const SELDOM: u32 = 8;
/// How often it stays awake, or does not, until it looks again whether the machine is busy.
const TRUST: u32 = 32;
const REST: u32 = 256;

impl Linger {
    pub(crate) fn new() -> Self {
        Self { crowd: Crowd::new(), ..Self::never() }
    }

    /// One that always sleeps at once: where time is tokio's, it may stand still.
    pub(crate) fn never() -> Self {
        let (commands, answers) = Default::default();
        Self { crowd: None, since: None, looked: Moment::ZERO, commands, answers, trust: 0, rest: 0 }
    }

    /// Whether to look again rather than to fall asleep. `came` tells whether anything has come in since the last
    /// look, `awaiting` whether an answer is waited for.
    pub(crate) fn stays(&mut self, now: Moment, came: bool, awaiting: bool) -> bool {
        if self.crowd.is_none() {
            return false;
        }
        let late = now.since(self.looked) > LATE;
        self.looked = now;
        match self.since.take() {
            Some((since, what)) if !came => {
                if late {
                    self.rest = REST;
                } else if now.since(since) < MOMENT {
                    self.since = Some((since, what));
                } else {
                    self.habit(what).missed();
                }
            }
            before => {
                if let Some((_, what)) = before {
                    self.habit(what).misses = 0;
                }
                let what = if awaiting { For::Answers } else { For::Commands };
                self.since = self.tries(what).then_some((now, what));
            }
        }
        self.since.is_some()
    }

    fn tries(&mut self, what: For) -> bool {
        if self.rest > 0 {
            self.rest -= 1;
            return false;
        }
        if !self.habit(what).tries() {
            return false;
        }
        if self.trust == 0 {
            if self.crowd.as_mut().is_none_or(Crowd::is_there) {
                self.rest = REST;
                return false;
            }
            self.trust = TRUST;
        }
        self.trust -= 1;
        true
    }

    fn habit(&mut self, what: For) -> &mut Habit {
        match what {
            For::Commands => &mut self.commands,
            For::Answers => &mut self.answers,
        }
    }
}

impl Habit {
    fn tries(&mut self) -> bool {
        let tries = self.rest == 0;
        self.rest = self.rest.saturating_sub(1);
        tries
    }

    fn missed(&mut self) {
        self.misses = std::cmp::min(self.misses + 1, SELDOM);
        if self.misses >= MISSES {
            self.rest = 1 << self.misses;
        }
    }
}

/// Tells whether more threads want to run than there are processors.
#[cfg(target_os = "linux")]
struct Crowd {
    loads: std::fs::File,
    processors: usize,
    /// How many wanted to run when it looked, smoothed, in sixteenths: a runtime wakes a thread too many now and
    /// then.
    running: usize,
}

#[cfg(target_os = "linux")]
impl Crowd {
    fn new() -> Option<Self> {
        let processors = std::thread::available_parallelism().ok()?.get();
        let loads = std::fs::File::open("/proc/loadavg").ok()?;
        (processors > 1).then_some(Self { loads, processors, running: 0 })
    }

    fn is_there(&mut self) -> bool {
        let Some(running) = self.look() else { return true };
        self.running = (self.running * 3).saturating_add(running.saturating_mul(16)) / 4;
        self.running > self.processors * 16 + 8
    }

    /// How many threads run or want to, this one among them (proc_loadavg(5)).
    fn look(&self) -> Option<usize> {
        use std::os::unix::fs::FileExt;
        let mut text = [0; 64];
        let len = self.loads.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..len)?).ok()?;
        let (running, _) = text.split(' ').nth(3)?.split_once('/')?;
        running.parse().ok()
    }
}

/// Where that cannot be seen, nobody stays awake.
#[cfg(not(target_os = "linux"))]
enum Crowd {}

#[cfg(not(target_os = "linux"))]
impl Crowd {
    fn new() -> Option<Self> {
        None
    }

    fn is_there(&mut self) -> bool {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine with processors to spare, where something comes `after` the engine has nothing to do.
    struct Quiet {
        linger: Linger,
        now: Moment,
    }

    impl Quiet {
        fn new() -> Option<Self> {
            let mut linger = Linger::new();
            linger.crowd.as_ref()?;
            linger.trust = u32::MAX;
            Some(Self { linger, now: Moment::from_nanos(1_000_000_000) })
        }

        /// Whether it is awake when something comes, and how often it looked in vain.
        fn comes(&mut self, after: Duration, awaiting: bool) -> (bool, u32) {
            let at = self.now.after(after);
            let (mut came, mut looks) = (true, 0);
            while self.linger.stays(self.now, came, awaiting) {
                came = false;
                looks += 1;
                self.now = self.now.after(Duration::from_micros(1));
                if self.now >= at {
                    return (true, looks);
                }
            }
            self.now = at;
            (false, looks)
        }
    }

    const SOON: Duration = Duration::from_micros(30);
    const LATER: Duration = Duration::from_millis(2);

    #[test]
    fn is_awake_for_what_comes_soon() {
        let Some(mut quiet) = Quiet::new() else { return };
        for i in 0..1000 {
            assert!(quiet.comes(SOON, i % 2 == 0).0);
        }
    }

    #[test]
    fn sleeps_when_little_happens() {
        let Some(mut quiet) = Quiet::new() else { return };
        let looks: u32 = (0..10_000).map(|_| quiet.comes(LATER, false).1).sum();
        // Of each 2 ms a look takes 1 µs here.
        assert!(looks < 10_000 * 2000 / 1000, "{looks} µs awake in 20 s");
    }

    #[test]
    fn learns_for_commands_and_for_answers_apart() {
        let Some(mut quiet) = Quiet::new() else { return };
        let mut awake = 0;
        for _ in 0..1000 {
            awake += u32::from(quiet.comes(LATER, true).0);
            assert!(quiet.comes(SOON, false).0, "its caller is quick, though the storage is slow");
        }
        assert_eq!(awake, 0);
    }

    #[test]
    fn is_awake_again_when_there_is_more_to_do() {
        let Some(mut quiet) = Quiet::new() else { return };
        for _ in 0..10_000 {
            quiet.comes(LATER, false);
        }
        let asleep = (0..1000).take_while(|_| !quiet.comes(SOON, false).0).count();
        assert!(asleep <= 1 << SELDOM, "{asleep}");
    }

    #[test]
    fn sleeps_where_others_want_the_processor() {
        let Some(mut quiet) = Quiet::new() else { return };
        assert!(quiet.linger.stays(quiet.now, true, false));
        quiet.now = quiet.now.after(LATE * 2);
        assert!(!quiet.linger.stays(quiet.now, false, false), "another thread had it");
        let asleep = (0..1000).take_while(|_| !quiet.comes(SOON, false).0).count();
        assert_eq!(asleep, usize::try_from(REST).expect("few"));
    }

    #[test]
    fn never_stays_where_time_may_stand_still() {
        assert!(!Linger::never().stays(Moment::ZERO, true, true));
    }
}
