//! Busy polling: instead of sleeping at once when there is nothing to do, the engine polls for a moment.
//!
//! To sleep and to be woken up takes tens of microseconds on an idle machine. That is most of what an uncontended lock
//! costs, and in a busy client the next command or reply comes sooner. The engine learns whether it does. It does not
//! poll while other threads need the processor.
//!
//! | State | Event | Next state |
//! |---|---|---|
//! | asleep (`polling` is `None`) | there is nothing to do, and no try is skipped | polling |
//! | | there is nothing to do, and a try is skipped: lately it was in vain, or the machine is busy | asleep |
//! | polling | something has come in | as above; its misses are forgotten |
//! | | nothing has come in for [`POLL_FOR`] | asleep; after [`MISSES`] in a row, tries are skipped |
//! | | the poll itself is [`LATE`]: another thread had the processor | asleep; [`SKIPS_WHEN_BUSY`] tries are skipped |

use std::time::Duration;

use crate::clock::Moment;

/// Decides whether the engine polls or sleeps.
pub(crate) struct BusyPoll {
    /// Tells whether the machine is busy. Without it, the engine never polls.
    load: Option<Load>,
    /// Since when the engine polls in vain, and for what.
    polling: Option<(Moment, Awaited)>,
    /// When it last polled.
    last_poll: Moment,
    commands: Record,
    replies: Record,
    /// How many more times it polls before it checks the load again.
    until_check: u32,
    /// How many more times it does not poll, because the machine was busy.
    skips: u32,
}

/// What the engine waits for.
#[derive(Clone, Copy)]
enum Awaited {
    Commands,
    Replies,
}

/// Whether polling for something was worth it lately.
#[derive(Default)]
struct Record {
    /// How often in a row it was in vain.
    misses: u32,
    /// How many more times it is not tried.
    skips: u32,
}

/// How long the engine polls: somewhat longer than an idle machine needs to wake up the caller, or a server nearby.
const POLL_FOR: Duration = Duration::from_micros(100);
/// A poll that is so much later than the one before is late because another thread had the processor.
const LATE: Duration = Duration::from_micros(40);
/// How often in a row polling may be in vain before it is skipped.
const MISSES: u32 = 3;
/// The most tries that are skipped, as a power of two.
const SKIPS_MAX_LOG2: u32 = 8;
/// How many times the engine polls before it checks the load again.
const POLLS_PER_CHECK: u32 = 32;
/// How many times it does not poll after it has found the machine busy.
const SKIPS_WHEN_BUSY: u32 = 256;

impl BusyPoll {
    pub(crate) fn new() -> Self {
        Self { load: Load::new(), ..Self::disabled() }
    }

    /// Makes one that never polls. The time of tokio may stand still, and then polling would never end.
    pub(crate) fn disabled() -> Self {
        let (commands, replies) = Default::default();
        Self {
            load: None,
            polling: None,
            last_poll: Moment::ZERO,
            commands,
            replies,
            until_check: 0,
            skips: 0,
        }
    }

    /// Returns `true` if the engine polls again instead of sleeping. `came` is `true` if anything has come in since the
    /// last poll, `awaiting` if a call to the storage is in flight.
    pub(crate) fn continues(&mut self, now: Moment, came: bool, awaiting: bool) -> bool {
        if self.load.is_none() {
            return false;
        }
        let late = now.since(self.last_poll) > LATE;
        self.last_poll = now;
        match self.polling.take() {
            Some((since, awaited)) if !came => {
                if late {
                    self.skips = SKIPS_WHEN_BUSY;
                } else if now.since(since) < POLL_FOR {
                    self.polling = Some((since, awaited));
                } else {
                    self.record(awaited).missed();
                }
            }
            before => {
                if let Some((_, awaited)) = before {
                    self.record(awaited).misses = 0;
                }
                let awaited = if awaiting { Awaited::Replies } else { Awaited::Commands };
                self.polling = self.begins(awaited).then_some((now, awaited));
            }
        }
        self.polling.is_some()
    }

    fn begins(&mut self, awaited: Awaited) -> bool {
        if self.skips > 0 {
            self.skips -= 1;
            return false;
        }
        if !self.record(awaited).tries() {
            return false;
        }
        if self.until_check == 0 {
            if self.load.as_mut().is_none_or(Load::is_high) {
                self.skips = SKIPS_WHEN_BUSY;
                return false;
            }
            self.until_check = POLLS_PER_CHECK;
        }
        self.until_check -= 1;
        true
    }

    fn record(&mut self, awaited: Awaited) -> &mut Record {
        match awaited {
            Awaited::Commands => &mut self.commands,
            Awaited::Replies => &mut self.replies,
        }
    }
}

impl Record {
    fn tries(&mut self) -> bool {
        let tries = self.skips == 0;
        self.skips = self.skips.saturating_sub(1);
        tries
    }

    fn missed(&mut self) {
        self.misses = std::cmp::min(self.misses + 1, SKIPS_MAX_LOG2);
        if self.misses >= MISSES {
            self.skips = 1 << self.misses;
        }
    }
}

/// Tells whether more threads are ready to run than there are processors.
#[cfg(target_os = "linux")]
struct Load {
    file: std::fs::File,
    processors: usize,
    /// How many threads were ready to run at each check, smoothed, in sixteenths. A runtime wakes up one thread too
    /// many now and then.
    running: usize,
}

#[cfg(target_os = "linux")]
impl Load {
    fn new() -> Option<Self> {
        let processors = std::thread::available_parallelism().ok()?.get();
        let file = std::fs::File::open("/proc/loadavg").ok()?;
        (processors > 1).then_some(Self { file, processors, running: 0 })
    }

    fn is_high(&mut self) -> bool {
        let Some(running) = self.read() else { return true };
        self.running = (self.running * 3).saturating_add(running.saturating_mul(16)) / 4;
        self.running > self.processors * 16 + 8
    }

    /// Returns how many threads run or are ready to, this one included (proc_loadavg(5)).
    fn read(&self) -> Option<usize> {
        use std::os::unix::fs::FileExt;
        let mut text = [0; 64];
        let len = self.file.read_at(&mut text, 0).ok()?;
        let text = std::str::from_utf8(text.get(..len)?).ok()?;
        let (running, _) = text.split(' ').nth(3)?.split_once('/')?;
        running.parse().ok()
    }
}

/// The load cannot be read on other systems, so the engine never polls there.
#[cfg(not(target_os = "linux"))]
enum Load {}

#[cfg(not(target_os = "linux"))]
impl Load {
    fn new() -> Option<Self> {
        None
    }

    fn is_high(&mut self) -> bool {
        match *self {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An idle machine, on which a command or a reply comes some time after the engine has nothing to do.
    struct Idle {
        busy_poll: BusyPoll,
        now: Moment,
    }

    impl Idle {
        fn new() -> Option<Self> {
            let mut busy_poll = BusyPoll::new();
            busy_poll.load.as_ref()?;
            busy_poll.until_check = u32::MAX;
            Some(Self { busy_poll, now: Moment::from_nanos(1_000_000_000) })
        }

        /// Lets something come `after` some time. Returns whether the engine polls then, and how often it has polled.
        fn comes(&mut self, after: Duration, awaiting: bool) -> (bool, u32) {
            let at = self.now.after(after);
            let (mut came, mut polls) = (true, 0);
            while self.busy_poll.continues(self.now, came, awaiting) {
                came = false;
                polls += 1;
                self.now = self.now.after(Duration::from_micros(1));
                if self.now >= at {
                    return (true, polls);
                }
            }
            self.now = at;
            (false, polls)
        }
    }

    const SOON: Duration = Duration::from_micros(30);
    const LATER: Duration = Duration::from_millis(2);

    #[test]
    fn polls_for_what_comes_soon() {
        let Some(mut idle) = Idle::new() else { return };
        for i in 0..1000 {
            assert!(idle.comes(SOON, i % 2 == 0).0);
        }
    }

    #[test]
    fn sleeps_when_little_happens() {
        let Some(mut idle) = Idle::new() else { return };
        let polls: u32 = (0..10_000).map(|_| idle.comes(LATER, false).1).sum();
        // One poll takes 1 µs of each 2 ms here.
        assert!(polls < 10_000 * 2000 / 1000, "{polls} µs awake in 20 s");
    }

    #[test]
    fn learns_for_commands_and_for_replies_separately() {
        let Some(mut idle) = Idle::new() else { return };
        let mut awake = 0;
        for _ in 0..1000 {
            awake += u32::from(idle.comes(LATER, true).0);
            assert!(idle.comes(SOON, false).0, "its caller is quick, though the storage is slow");
        }
        assert_eq!(awake, 0);
    }

    #[test]
    fn polls_again_when_there_is_more_to_do() {
        let Some(mut idle) = Idle::new() else { return };
        for _ in 0..10_000 {
            idle.comes(LATER, false);
        }
        let asleep = (0..1000).take_while(|_| !idle.comes(SOON, false).0).count();
        assert!(asleep <= 1 << SKIPS_MAX_LOG2, "{asleep}");
    }

    #[test]
    fn sleeps_where_other_threads_need_the_processor() {
        let Some(mut idle) = Idle::new() else { return };
        assert!(idle.busy_poll.continues(idle.now, true, false));
        idle.now = idle.now.after(LATE * 2);
        assert!(!idle.busy_poll.continues(idle.now, false, false), "another thread had it");
        let asleep = (0..1000).take_while(|_| !idle.comes(SOON, false).0).count();
        assert_eq!(asleep, usize::try_from(SKIPS_WHEN_BUSY).expect("few"));
    }

    #[test]
    fn never_polls_where_time_may_stand_still() {
        assert!(!BusyPoll::disabled().continues(Moment::ZERO, true, true));
    }
}
