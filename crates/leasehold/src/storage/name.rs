use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};

/// The name of a lock: 1 to 512 bytes of UTF-8 without NUL, compared byte by byte.
///
/// A name is data: no storage makes it part of a script, a statement or a path. It is cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The length of the longest name, in bytes.
    pub const MAX_LEN: usize = 512;

    /// Checks a text and makes the name.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Invalid`] if it is empty, longer than [`Name::MAX_LEN`] bytes, or contains a NUL.
    ///
    /// ```
    /// use leasehold::storage::Name;
    /// assert_eq!(Name::new("invoice/42")?.as_str(), "invoice/42");
    /// assert!(Name::new("").is_err());
    /// # Ok::<(), leasehold::Error>(())
    /// ```
    pub fn new(name: impl AsRef<str>) -> Result<Self> {
        let name = name.as_ref();
        if name.is_empty() || name.len() > Self::MAX_LEN {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "a lock's name has 1 to {} bytes; choose another one length=`{}`",
                    Self::MAX_LEN,
                    name.len()
                ),
            ));
        }
        if name.contains('\0') {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!(
                    "a lock's name cannot contain a NUL; choose another one name=`{}`",
                    name.escape_debug()
                ),
            ));
        }
        Ok(Self(name.into()))
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
    fn a_name_of_a_wrong_length_is_refused_with_the_bounds() {
        assert!(Name::new("x".repeat(512)).is_ok());
        for bad in ["", "a\0b", &"x".repeat(513)] {
            let error = Name::new(bad).expect_err("out of bounds");
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
        assert!(Name::new("x".repeat(513)).expect_err("long").to_string().contains("1 to 512 bytes"));
    }

    #[test]
    fn a_displayed_name_cannot_forge_a_log_line() {
        let name = Name::new("a\n\u{1b}[31mb").expect("valid");
        assert_eq!(name.to_string(), "a\\n\\u{1b}[31mb");
    }
}
