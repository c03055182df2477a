//! Sleeps until a moment on the lease clock. On Linux a suspend does not delay the end of the sleep: tokio's
//! timers stop while the machine sleeps, and a lease does not.

use std::time::Duration;

use crate::clock::{Clock, Moment};

pub(crate) struct Alarm {
    clock: Clock,
    #[cfg(target_os = "linux")]
    timer: Option<Timer>,
}

/// The longest sleep of a timer that does not count suspend. It limits how late after a suspend the engine
/// notices a loss.
const SLICE: Duration = Duration::from_secs(1);

impl Alarm {
    /// Makes an alarm on tokio's time, which tests can pause.
    pub(crate) fn tokio(clock: Clock) -> Self {
        Self {
            clock,
            #[cfg(target_os = "linux")]
            timer: None,
        }
    }

    /// Makes an alarm that ends in time after a suspend, if the system has such a timer.
    pub(crate) fn boot(clock: Clock) -> Self {
        Self {
            clock,
            #[cfg(target_os = "linux")]
            timer: Timer::new()
                .inspect_err(|error| {
                    tracing::warn!(target: "leasehold", %error, "no timer that counts suspend: a loss during one is noticed a second later");
                })
                .ok(),
        }
    }

    /// Sleeps until `at`, or a little shorter.
    pub(crate) async fn sleep_until(&mut self, at: Moment) {
        if at == Moment::FAR {
            return std::future::pending().await;
        }
        #[cfg(target_os = "linux")]
        if let Some(timer) = &mut self.timer
            && timer.sleep_until(at).await.is_ok()
        {
            return;
        }
        let left = at.since(self.clock.now());
        tokio::time::sleep(std::cmp::min(left, SLICE)).await;
    }
}

/// A timer on `CLOCK_BOOTTIME` (timerfd_create(2)).
#[cfg(target_os = "linux")]
struct Timer {
    fd: tokio::io::unix::AsyncFd<rustix::fd::OwnedFd>,
    armed: Moment,
}

#[cfg(target_os = "linux")]
impl Timer {
    fn new() -> std::io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let fd = timerfd_create(TimerfdClockId::Boottime, flags)?;
        Ok(Self { fd: crate::fd::watch(fd)?, armed: Moment::FAR })
    }

    async fn sleep_until(&mut self, at: Moment) -> std::io::Result<()> {
        // To wake up too early costs less than to set the timer anew for each lock that is released.
        if at < self.armed {
            self.arm(at)?;
        }
        let mut ready = self.fd.readable().await?;
        ready.clear_ready();
        drop(ready);
        let mut expirations = [0; 8];
        // There is nothing to read if the timer was set anew meanwhile.
        let _ = rustix::io::read(&self.fd, &mut expirations);
        self.armed = Moment::FAR;
        Ok(())
    }

    fn arm(&mut self, at: Moment) -> std::io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let at_least = std::cmp::max(at.as_nanos(), 1); // zero would disarm it
        let split = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        let it_value =
            Timespec { tv_sec: split(at_least / 1_000_000_000), tv_nsec: split(at_least % 1_000_000_000) };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        timerfd_settime(&self.fd, TimerfdTimerFlags::ABSTIME, &Itimerspec { it_interval, it_value })?;
        self.armed = at;
        Ok(())
    }
}
