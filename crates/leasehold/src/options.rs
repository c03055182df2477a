use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::storage::Limits;

/// The options of a lock: how it is acquired and kept. The setters of [`Lock`](crate::Lock) and [`Builder`](crate::Builder)
/// change these values.
///
/// The values are checked when a lock is acquired, before anything is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// How long the lease lasts without a renewal: 100 ms to 24 h, or less if the storage allows less.
    /// Default: 10 s, or the storage's maximum if that is less.
    pub ttl: Duration,
    /// How long to wait for the lock. Default: [`Wait::Forever`].
    pub wait: Wait,
    /// When the lease is renewed. Default: [`Renewal::Automatic`].
    pub renewal: Renewal,
    /// The time after which the lock is released, whatever the holder does; at least 100 ms. Default: none.
    pub max_hold: Option<Duration>,
    /// The time for which no other client is granted the lock, counted from the grant, even if it is released earlier;
    /// at most the longest TTL of the storage, and `max_hold`. [`Lock::at_least`](crate::Lock::at_least) says what
    /// holds if the process dies. Default: none.
    pub at_least: Option<Duration>,
    /// The text that `inspect` and other clients' errors show for this holder; at most 4 KiB. Default:
    /// `program@host:pid`.
    pub label: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(10),
            wait: Wait::Forever,
            renewal: Renewal::Automatic,
            max_hold: None,
            at_least: None,
            label: DEFAULT_LABEL.clone(),
        }
    }
}

/// How long to wait for a lock that another client holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Wait {
    /// This many tries in all, with a pause between them but not after the last one. The caller has no
    /// place in the queue. At least 1.
    Attempts {
        /// The number of tries in all.
        attempts: u32,
        /// The pause between two tries.
        interval: Duration,
    },
    /// A wait in the queue for at most this long.
    For(Duration),
    /// A wait in the queue without a limit. If the storage does not answer for 30 s, the wait ends with
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable).
    #[default]
    Forever,
}

impl From<Duration> for Wait {
    fn from(limit: Duration) -> Self {
        Self::For(limit)
    }
}

/// When a lease is renewed while it is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Renewal {
    /// Every third of the TTL.
    #[default]
    Automatic,
    /// At this interval, which is less than the TTL.
    Every(Duration),
    /// Only by `extend` and `ensure`, and once at the start if the lock was handed over for less than the
    /// TTL. The lock is lost when the TTL is over.
    Never,
}

/// The interval of [`Lock::retries`](crate::Lock::retries), unless it is set.
pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_millis(50);

/// The shortest `max_hold`.
const MAX_HOLD_MIN: Duration = Duration::from_millis(100);
/// The shortest renewal interval.
const RENEWAL_MIN: Duration = Duration::from_millis(10);
/// The longest label, in bytes.
const LABEL_MAX: usize = 4096;

impl Options {
    /// Checks every value against its bounds and those of the storage.
    pub(crate) fn check(&self, limits: &Limits) -> Result<()> {
        check_ttl(self.ttl, limits)?;
        if let Wait::Attempts { attempts: 0, .. } = self.wait {
            return Err(Error::invalid("at least one attempt is needed; 1 asks once attempts=`0`"));
        }
        if let Renewal::Every(every) = self.renewal
            && !(RENEWAL_MIN..self.ttl).contains(&every)
        {
            return Err(Error::invalid(format!(
                "the renewal interval is at least {RENEWAL_MIN:?} and less than the ttl renewal=`{every:?}` ttl=`{:?}`",
                self.ttl
            )));
        }
        if let Some(max_hold) = self.max_hold
            && max_hold < MAX_HOLD_MIN
        {
            return Err(Error::invalid(format!(
                "max_hold is at least {MAX_HOLD_MIN:?} max_hold=`{max_hold:?}`"
            )));
        }
        self.check_at_least(limits)?;
        if self.label.len() > LABEL_MAX {
            let length = self.label.len();
            return Err(Error::invalid(format!("a label has at most {LABEL_MAX} bytes length=`{length}`")));
        }
        Ok(())
    }

    fn check_at_least(&self, limits: &Limits) -> Result<()> {
        let Some(at_least) = self.at_least else { return Ok(()) };
        if at_least > limits.ttl_max {
            return Err(Error::invalid(format!(
                "at_least is at most the longest ttl, {:?} on this storage at_least=`{at_least:?}`",
                limits.ttl_max
            )));
        }
        match self.max_hold {
            Some(max_hold) if at_least > max_hold => Err(Error::invalid(format!(
                "at_least is longer than max_hold at_least=`{at_least:?}` max_hold=`{max_hold:?}`"
            ))),
            _ => Ok(()),
        }
    }
}

/// Checks a TTL against the bounds of the storage.
pub(crate) fn check_ttl(ttl: Duration, limits: &Limits) -> Result<()> {
    if (limits.ttl_min..=limits.ttl_max).contains(&ttl) {
        return Ok(());
    }
    let (min, max) = (limits.ttl_min, limits.ttl_max);
    Err(Error::invalid(format!(
        "the ttl is at least {min:?} and at most {max:?} on this storage ttl=`{ttl:?}`"
    )))
}

/// The label of a lock unless it is set: `program@host:pid`.
static DEFAULT_LABEL: LazyLock<String> = LazyLock::new(|| {
    let program = std::env::args_os().next().map(std::path::PathBuf::from);
    let program = program.as_deref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy());
    label_of(program.as_deref().unwrap_or("unknown"))
});

/// Returns the label of locks of that program.
pub(crate) fn label_of(program: &str) -> String {
    format!("{}@{}:{}", program, host(), std::process::id()).chars().take(1024).collect()
}

#[cfg(unix)]
fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(not(unix))]
fn host() -> String {
    std::env::var("COMPUTERNAME").unwrap_or_else(|_| "localhost".to_owned())
}

/// Returns the label in the form that records use.
pub(crate) fn shared_label(label: &str) -> Option<Arc<str>> {
    (!label.is_empty()).then(|| label.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn bounds_name_the_option_and_the_bound() {
        let limits = Limits::default();
        let ok = Options::default();
        assert!(ok.check(&limits).is_ok());
        let ms = Duration::from_millis;
        let cases = [
            (Options { ttl: ms(99), ..ok.clone() }, "ttl is at least 100ms"),
            (Options { ttl: ms(86_400_001), ..ok.clone() }, "at most 86400s"),
            (Options { ttl: Duration::MAX, ..ok.clone() }, "at most 86400s"),
            (
                Options { wait: Wait::Attempts { attempts: 0, interval: ms(1) }, ..ok.clone() },
                "at least one attempt",
            ),
            (Options { renewal: Renewal::Every(ms(10_000)), ..ok.clone() }, "less than the ttl"),
            (Options { renewal: Renewal::Every(ms(9)), ..ok.clone() }, "at least 10ms"),
            (Options { max_hold: Some(ms(99)), ..ok.clone() }, "max_hold is at least 100ms"),
            (
                Options { at_least: Some(ms(86_400_001)), ..ok.clone() },
                "at_least is at most the longest ttl, 86400s",
            ),
            (
                Options { at_least: Some(ms(201)), max_hold: Some(ms(200)), ..ok.clone() },
                "at_least is longer than max_hold",
            ),
            (Options { label: "x".repeat(4097), ..ok.clone() }, "at most 4096 bytes"),
        ];
        for (options, text) in cases {
            let error = options.check(&limits).expect_err(text);
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(text), "{error}");
        }
    }

    #[test]
    fn the_default_label_contains_the_host_and_the_process_id() {
        let label = &*DEFAULT_LABEL;
        let host = label.split_once('@').map(|(_, rest)| rest).expect("a host");
        assert!(host.ends_with(&format!(":{}", std::process::id())), "{label}");
        assert_eq!(label_of("nightly.js"), format!("nightly.js@{host}"));
    }
}
