use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::clock;
use crate::error::{Error, Result};
use crate::storage::{Limits, Name, Owner, Token};

/// A lease in writing, for another process or program. Any process that has the ticket can renew and release the lease.
///
/// Its text is one word of letters, digits and `.-_~%`, safe in a shell and in an environment variable:
/// `lh1.<owner>.<token>.<ttl in ms>.<name>`. A `~` follows the TTL while an earlier request for the lease may still
/// be executed: a claim whose reply was lost, or a renewal that shortens the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub(crate) name: Name,
    pub(crate) owner: Owner,
    pub(crate) token: Token,
    pub(crate) ttl: Duration,
    /// `true` if no earlier request can still be executed that acquires the lease again, or shortens it to `ttl`.
    pub(crate) settled: bool,
}

impl Ticket {
    /// Returns the name of the lock.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Returns the id of the acquisition.
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Returns the fencing token.
    pub fn token(&self) -> Token {
        self.token
    }

    /// Returns the TTL that the lease has when it is renewed.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }
}

const VERSION: &str = "lh1";
const UNSETTLED: &str = "~";
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

impl fmt::Display for Ticket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = utf8_percent_encode(self.name.as_str(), PLAIN);
        let unsettled = if self.settled { "" } else { UNSETTLED };
        write!(f, "{VERSION}.{}.{}.{}{unsettled}.{name}", self.owner, self.token, clock::millis(self.ttl))
    }
}

impl FromStr for Ticket {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong =
            || Error::invalid("not a ticket; one looks like `lh1.<owner>.<token>.<ttl in ms>.<name>`");
        let mut parts = text.splitn(5, '.');
        let mut part = || parts.next().ok_or_else(wrong);
        if part()? != VERSION {
            return Err(wrong());
        }
        let owner = part()?.parse().map_err(|_| wrong())?;
        let token = part()?.parse().map_err(|_| wrong())?;
        let ttl = part()?;
        let (ttl, settled) = ttl.strip_suffix(UNSETTLED).map_or((ttl, true), |ttl| (ttl, false));
        if !ttl.bytes().all(|b| b.is_ascii_digit()) {
            return Err(wrong());
        }
        let ttl = Duration::from_millis(ttl.parse().map_err(|_| wrong())?);
        crate::options::check_ttl(ttl, &Limits::default())?;
        let name = percent_decode_str(part()?).decode_utf8().map_err(|_| wrong())?;
        Ok(Self { name: Name::new(name)?, owner, token, ttl, settled })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_needs_no_quotes() {
        for name in ["a", "invoice/42", "ä b\n'\"$(x).%", "a.b.c", &"x".repeat(512)] {
            let ticket = Ticket {
                name: Name::new(name).expect("valid"),
                owner: Owner::random(),
                token: Token::new(u64::MAX >> 1),
                ttl: Duration::from_millis(1500),
                settled: name.len() > 1,
            };
            let text = ticket.to_string();
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_~%".contains(&b)), "{text}");
            assert_eq!(text.parse::<Ticket>().expect("valid"), ticket);
        }
    }

    #[test]
    fn a_text_that_is_no_ticket_is_refused() {
        let owner = "0".repeat(32);
        for bad in [
            "",
            "lh1",
            "x.y",
            &format!("lh2.{owner}.1.1000.a"),
            &format!("lh1.{owner}.-1.1000.a"),
            &format!("lh1.{owner}.1.+1000.a"),
            &format!("lh1.{owner}.1.1.a"),
            &format!("lh1.{owner}.1.1000."),
            &format!("lh1.{owner}.1.1000.%ff"),
            &format!("lh1.{owner}.1.1000"),
        ] {
            assert_eq!(bad.parse::<Ticket>().expect_err(bad).kind(), crate::ErrorKind::Invalid);
        }
    }
}
