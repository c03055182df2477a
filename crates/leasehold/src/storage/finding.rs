/// One thing that was found out about a server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Finding {
    /// What it is about, in a word.
    pub about: &'static str,
    /// What was found, and what to do where that falls short.
    pub detail: String,
    /// Whether it is as it should be.
    pub good: bool,
}

#[cfg(any(feature = "redis", feature = "postgres"))]
impl Finding {
    pub(crate) fn new(about: &'static str, detail: impl Into<String>, good: bool) -> Self {
        Self { about, detail: detail.into(), good }
    }

    pub(crate) fn good(about: &'static str, detail: impl Into<String>) -> Self {
        Self::new(about, detail, true)
    }

    pub(crate) fn bad(about: &'static str, detail: impl Into<String>) -> Self {
        Self::new(about, detail, false)
    }
}
