//! The only source of time in this crate.
//!
//! A lease ends even while the machine sleeps, so deadlines are kept on a clock that counts suspend:
//! `CLOCK_BOOTTIME` on Linux, `CLOCK_MONOTONIC` on Apple systems (which counts it there),
//! `QueryPerformanceCounter` through `std` on Windows.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A point on the clock that counts suspend: nanoseconds since an origin that all processes of one
/// boot share on Linux.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Moment(u64);

impl Moment {
    /// The origin of the clock.
    pub(crate) const ZERO: Self = Self(0);
    /// A point that is never reached.
    pub(crate) const FAR: Self = Self(u64::MAX);

    pub(crate) const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    pub(crate) const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Returns the time from `earlier` to `self`; zero if `earlier` is the later one.
    pub(crate) const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Returns the last multiple of `step` that is not later.
    pub(crate) fn floor(self, step: Duration) -> Self {
        Self(self.0 - self.0 % std::cmp::max(nanos(step), 1))
    }

    pub(crate) fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(nanos(by)))
    }
}

impl fmt::Debug for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", Duration::from_nanos(self.0))
    }
}

/// A clock. Cheap to clone; tests inject their own.
#[derive(Clone)]
pub(crate) struct Clock(Arc<dyn Fn() -> Moment + Send + Sync>);

impl Clock {
    /// Returns the machine's clock, which counts suspend.
    pub(crate) fn boot() -> Self {
        Self(Arc::new(boot_now))
    }

    /// Returns Tokio's clock, which tests can pause, plus the time that the machine has slept since.
    pub(crate) fn tokio() -> Self {
        let (start, slept) = (tokio::time::Instant::now(), slept());
        let origin = boot_now();
        Self(Arc::new(move || {
            let awake = tokio::time::Instant::now().saturating_duration_since(start);
            origin.after(awake).after(self::slept().saturating_sub(slept))
        }))
    }

    /// Returns a clock that reads a number of nanoseconds, which a test sets.
    #[cfg(test)]
    pub(crate) fn injected(nanos: Arc<std::sync::atomic::AtomicU64>) -> Self {
        Self(Arc::new(move || Moment(nanos.load(std::sync::atomic::Ordering::Relaxed))))
    }

    pub(crate) fn now(&self) -> Moment {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

/// Returns the microseconds of the wall clock since 1970.
///
/// It serves only as a floor for fencing tokens, which must grow even if the record of the last one was lost
/// (invariant 10). No deadline is ever compared with it.
pub(crate) fn wall_us() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the only source of the wall clock")]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Returns the nanoseconds of a duration, saturating after 584 years.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Returns the milliseconds of a duration, saturating.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn boot_now() -> Moment {
    read(rustix::time::ClockId::Boottime)
}

#[cfg(target_vendor = "apple")]
fn boot_now() -> Moment {
    read(rustix::time::ClockId::Monotonic)
}

#[cfg(not(any(target_os = "linux", target_os = "android", target_vendor = "apple")))]
fn boot_now() -> Moment {
    static ORIGIN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
    #[expect(clippy::disallowed_methods, reason = "the best clock that std offers here")]
    let now = std::time::Instant::now();
    Moment::ZERO.after(now.saturating_duration_since(*ORIGIN.get_or_init(|| now)))
}

/// Returns how long the machine has slept since boot.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn slept() -> Duration {
    read(rustix::time::ClockId::Boottime).since(read(rustix::time::ClockId::Monotonic))
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn slept() -> Duration {
    Duration::ZERO
}

#[cfg(unix)]
fn read(id: rustix::time::ClockId) -> Moment {
    let t = rustix::time::clock_gettime(id);
    let (secs, nanos) = (u64::try_from(t.tv_sec).unwrap_or(0), u64::try_from(t.tv_nsec).unwrap_or(0));
    Moment(secs.saturating_mul(1_000_000_000).saturating_add(nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_clock_goes_forward() {
        let clock = Clock::boot();
        let (a, b) = (clock.now(), clock.now());
        assert!(a <= b);
        assert!(a > Moment::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn tokio_clock_follows_paused_time() {
        let clock = Clock::tokio();
        let start = clock.now();
        tokio::time::advance(Duration::from_secs(90)).await;
        let passed = clock.now().since(start);
        assert!(passed >= Duration::from_secs(90) && passed < Duration::from_secs(91), "{passed:?}");
    }

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Moment::FAR.after(Duration::MAX), Moment::FAR);
        assert_eq!(Moment::ZERO.since(Moment::FAR), Duration::ZERO);
        assert_eq!(nanos(Duration::MAX), u64::MAX);
    }
}
