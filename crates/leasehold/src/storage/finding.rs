/// What was found out about a server, a file, or another part of a storage: one line of `leasehold doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What it is about, in a word.
    pub about: &'static str,
    /// What was found, and what to do where that falls short. Shows no secret.
    pub detail: String,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad a [`Finding`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// It is as it should be.
    Good,
    /// Locks work, but less is promised than could be.
    Warning,
    /// Locks do not work, or are not safe.
    Fault,
}

impl Finding {
    /// Reports what is as it should be.
    pub fn good(about: &'static str, detail: impl Into<String>) -> Self {
        Self { about, detail: detail.into(), severity: Severity::Good }
    }

    /// Reports what promises less than it could.
    pub fn warning(about: &'static str, detail: impl Into<String>) -> Self {
        Self { about, detail: detail.into(), severity: Severity::Warning }
    }

    /// Reports what is broken.
    pub fn fault(about: &'static str, detail: impl Into<String>) -> Self {
        Self { about, detail: detail.into(), severity: Severity::Fault }
    }

    /// Returns `true` if it is as it should be.
    pub fn is_good(&self) -> bool {
        self.severity == Severity::Good
    }

    /// Reports what is good, or else a warning.
    #[cfg(feature = "_net")]
    #[cfg_attr(
        not(any(feature = "redis", feature = "postgres")),
        allow(dead_code, reason = "not every storage over a network uses it")
    )]
    pub(crate) fn new(about: &'static str, detail: impl Into<String>, good: bool) -> Self {
        if good { Self::good(about, detail) } else { Self::warning(about, detail) }
    }
}
