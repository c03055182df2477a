//! Makes names, owner ids and tokens from what a caller gives, and refuses what none can be made from.
//!
//! They stand apart from their types, because they fail with an [`Error`]. An error contains the holder of a lock, which
//! consists of those types. So the types know of no error, and no import goes in a circle.

use std::str::FromStr;

use super::{Name, Owner, Token};
use crate::error::{Error, ErrorKind, Result};

impl Name {
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
        Ok(Self::unchecked(name))
    }
}

impl FromStr for Owner {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let hex = text.len() == 32 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u128::from_str_radix(text, 16) {
            Ok(id) if hex => Ok(Self::from_bytes(id.to_be_bytes())),
            _ => Err(Error::new(ErrorKind::Invalid, "an owner id is 32 lower-case hexadecimal digits")),
        }
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        match text.parse() {
            Ok(token) if digits => Ok(Self::new(token)),
            _ => Err(Error::new(ErrorKind::Invalid, "a fencing token is a decimal number below 2^64")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bounds_of_a_name_are_named() {
        assert!(Name::new("x".repeat(512)).is_ok());
        for bad in ["", "a\0b", &"x".repeat(513)] {
            let error = Name::new(bad).expect_err("out of bounds");
            assert_eq!(error.kind(), ErrorKind::Invalid);
        }
        assert!(Name::new("x".repeat(513)).expect_err("long").to_string().contains("1 to 512 bytes"));
    }

    #[test]
    fn the_text_of_an_owner_id_round_trips() {
        let owner = Owner::random();
        assert_eq!(owner.to_string().parse::<Owner>().expect("valid"), owner);
        assert_eq!(Owner::from_bytes(owner.to_bytes()), owner);
        for bad in ["", "0", &"g".repeat(32), &"A".repeat(32), &"+".repeat(32)] {
            assert!(bad.parse::<Owner>().is_err(), "{bad}");
        }
    }
}
