/// A fact about a server, a file, or another part of a storage: one line of `leasehold doctor`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// The subject, in one word.
    pub about: &'static str,
    /// The fact, and what to do if it falls short. Contains no secret.
    pub detail: String,
    /// Whether something should be done about it.
    pub severity: Severity,
}

/// The severity of a [`Finding`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Severity {
    /// Nothing needs to be done.
    Good,
    /// Locks work, but the storage promises less than it could.
    Warning,
    /// Locks do not work, or are not safe.
    Fault,
}

impl Severity {
    /// Returns the severity as one word: `good`, `warning`, `fault`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Warning => "warning",
            Self::Fault => "fault",
        }
    }
}

impl Finding {
    /// Makes a finding about which nothing needs to be done.
    pub fn good(about: &'static str, detail: impl Into<String>) -> Self {
        Self { about, detail: detail.into(), severity: Severity::Good }
    }

    /// Makes a finding about something that promises less than it could.
    pub fn warning(about: &'static str, detail: impl Into<String>) -> Self {
        Self { about, detail: detail.into(), severity: Severity::Warning }
    }

    /// Makes a finding about something that is broken or unsafe.
    pub fn fault(about: &'static str, detail: impl Into<String>) -> Self {
        Self { about, detail: detail.into(), severity: Severity::Fault }
    }

    /// Returns `true` if nothing needs to be done.
    pub fn is_good(&self) -> bool {
        self.severity == Severity::Good
    }

    /// Makes a good finding, or else a warning.
    #[cfg(feature = "_net")]
    #[cfg_attr(
        not(any(feature = "redis", feature = "postgres")),
        allow(dead_code, reason = "not every storage over a network uses it")
    )]
    pub(crate) fn new(about: &'static str, detail: impl Into<String>, good: bool) -> Self {
        if good { Self::good(about, detail) } else { Self::warning(about, detail) }
    }
}
