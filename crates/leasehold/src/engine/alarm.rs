//! Sleeps until a moment on the lease clock. On Linux also through a suspend: tokio's timers stop while the
//! machine sleeps, and a lease does not.

use std::time::Duration;

use crate::clock::{Clock, Moment};

pub(crate) struct Alarm {
    clock: Clock,
    #[cfg(target_os = "linux")]
    timer: Option<Timer>,
}

/// The longest sleep where the timer does not count suspend: bounds how late a loss is told after one.
const SLICE: Duration = Duration::from_secs(1);

impl Alarm {
    /// One that follows tokio's time, which tests can pause.
    pub(crate) fn tokio(clock: Clock) -> Self {
        Self {
            clock,
            #[cfg(target_os = "linux")]
            timer: None,
        }
    }

    /// One that also rings in time after a suspend, where the system has such a timer.
    pub(crate) fn boot(clock: Clock) -> Self {
        Self {
            clock,
            #[cfg(target_os = "linux")]
            timer: Timer::new()
                .inspect_err(|error| {
                    tracing::warn!(target: "leasehold", %error, "no timer that counts suspend: a loss during one is told a second later");
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
        // An alarm that rings too early costs less than setting it anew for each lock that is released.
        if at < self.armed {
            self.arm(at)?;
        }
        let mut ready = self.fd.readable().await?;
        ready.clear_ready();
        drop(ready);
        let mut expirations = [0; 8];
        // Nothing to read: it was set anew meanwhile.
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
