//! Makes names, owner ids, tokens and shares from what a caller gives, and refuses what none can be made from.
//!
//! They stand apart from their types, because they fail with an [`Error`]. An error contains the holder of a lock, which
//! consists of those types. So the types know of no error, and no import goes in a circle.

use std::str::FromStr;

use super::{Name, Owner, Share, Token};
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

impl Share {
    /// Makes a share of `permits` out of `limit`.
    ///
    /// # Errors
    ///
    /// [`Invalid`](ErrorKind::Invalid) if there are no permits, or more than the limit.
    pub fn new(permits: u32, limit: u32) -> Result<Self> {
        if permits == 0 || permits > limit {
            let text = "a share takes at least 1 permit, and no more than its limit";
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("{text} permits=`{permits}` limit=`{limit}`"),
            ));
        }
        Ok(Self { permits, limit })
    }

    /// Refuses a share that a storage does not grant. `limit_max` is its [`Limits::share_max`](super::Limits::share_max).
    pub(super) fn check(self, limit_max: u32) -> Result<()> {
        let Self { permits, limit } = Self::new(self.permits, self.limit)?;
        if limit > limit_max {
            let text = if limit_max == 1 {
                "this storage grants exclusive locks only, one permit of one"
            } else {
                "the limit of a share is larger than this storage allows; use a smaller one"
            };
            let values = format!("permits=`{permits}` limit=`{limit}` max=`{limit_max}`");
            return Err(Error::new(ErrorKind::Unsupported, format!("{text} {values}")));
        }
        Ok(())
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

    #[test]
    fn a_share_has_permits_and_no_more_than_its_limit() {
        for (permits, limit) in [(0, 0), (0, 1), (2, 1), (u32::MAX, 5)] {
            assert_eq!(Share::new(permits, limit).expect_err("invalid").kind(), ErrorKind::Invalid);
            assert_eq!(Share { permits, limit }.check(9).expect_err("invalid").kind(), ErrorKind::Invalid);
        }
        for (permits, limit) in [(1, 1), (3, 5), (u32::MAX, u32::MAX)] {
            assert_eq!(Share::new(permits, limit).expect("valid"), Share { permits, limit });
        }
    }

    #[test]
    fn a_storage_grants_shares_up_to_its_limit() {
        let check = |permits, limit, max| Share { permits, limit }.check(max).map_err(|error| error.kind());
        assert_eq!(check(1, 1, 1), Ok(()));
        assert_eq!(check(1, 2, 1), Err(ErrorKind::Unsupported));
        assert_eq!(check(2, 5, 5), Ok(()));
        assert_eq!(check(2, 6, 5), Err(ErrorKind::Unsupported));
    }
}
