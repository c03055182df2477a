use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The name of a lock: 1 to 512 bytes of UTF-8 without NUL, compared byte by byte.
///
/// A name is data: no storage makes it part of a script, a statement or a path. It is cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The length of the longest name, in bytes.
    pub const MAX_LEN: usize = 512;

    /// Makes a name of a text that was checked.
    pub(super) fn unchecked(name: &str) -> Self {
        Self(name.into())
    }

    /// Returns the name as it was given.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for Name {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

/// Shows the name with control characters escaped, so that it cannot forge a log line.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_debug())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_displayed_name_cannot_forge_a_log_line() {
        let name = Name::new("a\n\u{1b}[31mb").expect("valid");
        assert_eq!(name.to_string(), "a\\n\\u{1b}[31mb");
    }
}
