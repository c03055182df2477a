//! Reads the replies of the scripts.

use std::time::Duration;

use redis::Value;

use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Holder, Name, Owner, Token};

/// The reply of a script, read from the front.
pub(super) struct Reply<'p> {
    values: std::vec::IntoIter<Value>,
    /// The server's clock in µs; 0 if the script does not return it.
    pub(super) time: u64,
    /// The server, as errors name it.
    pub(super) place: &'p str,
}

/// The part of a reply that belongs to one claim.
pub(super) enum Entry<L> {
    Number(i64),
    List(L),
}

impl<'p> Reply<'p> {
    /// Returns the reply, and the nonce of the request that it answers, if it has one.
    pub(super) fn new(value: Value, place: &'p str) -> (Self, Option<u64>) {
        let values = match value {
            Value::Array(values) => values,
            _ => Vec::new(),
        };
        let mut reply = Self { values: values.into_iter(), time: 0, place };
        let nonce = reply.number().ok();
        (reply, nonce)
    }

    /// Takes the entry of one claim: a list of its own, or a number.
    pub(super) fn entry(&mut self) -> Result<Entry<Self>> {
        match self.values.next() {
            Some(Value::Array(values)) => {
                Ok(Entry::List(Self { values: values.into_iter(), time: self.time, place: self.place }))
            }
            value => self.integer_in(value).map(Entry::Number),
        }
    }

    pub(super) fn integer(&mut self) -> Result<i64> {
        let value = self.values.next();
        self.integer_in(value)
    }

    pub(super) fn number(&mut self) -> Result<u64> {
        u64::try_from(self.integer()?).map_err(|_| self.malformed())
    }

    pub(super) fn text(&mut self) -> Result<String> {
        match self.values.next() {
            Some(Value::BulkString(bytes)) => String::from_utf8(bytes).map_err(|_| self.malformed()),
            Some(Value::SimpleString(text)) => Ok(text),
            _ => Err(self.malformed()),
        }
    }

    /// Takes owner, token, time left, time held, waiters and label. Returns `None` if there is no owner.
    pub(super) fn holder(&mut self, name: &Name) -> Result<Option<Holder>> {
        let owner = self.text()?;
        let token = self.text()?;
        let left = self.integer()?;
        let held_for = self.integer()?;
        let waiters = u64::try_from(self.integer()?).ok();
        let label = self.text()?;
        if owner.is_empty() {
            return Ok(None);
        }
        let malformed = |_| self.malformed();
        let (owner, token): (Owner, Token) =
            (owner.parse().map_err(malformed)?, token.parse().map_err(malformed)?);
        // A lock of another library may have no end.
        let remaining = u64::try_from(left).map_or(Duration::MAX, Duration::from_millis);
        Ok(Some(Holder {
            label: Some(label).filter(|label| !label.is_empty()).map(Into::into),
            held_for: u64::try_from(held_for).ok().map(Duration::from_millis),
            waiters,
            ..Holder::new(name.clone(), owner, token, remaining)
        }))
    }

    /// Returns the error for a reply that no script of this storage makes.
    pub(super) fn malformed(&self) -> Error {
        malformed(self.place)
    }

    fn integer_in(&self, value: Option<Value>) -> Result<i64> {
        match value {
            Some(Value::Int(number)) => Ok(number),
            Some(Value::BulkString(digits)) => {
                let digits = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok());
                digits.ok_or_else(|| self.malformed())
            }
            _ => Err(self.malformed()),
        }
    }
}

/// Returns the error for a reply that no Redis makes to such a command.
pub(super) fn malformed(place: &str) -> Error {
    let text = "the server's reply is malformed; check that it is a Redis or a Valkey, and retry";
    Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}`"))
}

/// Returns the error for a claim that was executed after its patience.
pub(super) fn too_late(name: &Name) -> Error {
    let text = "the claim came too late and was refused; retry";
    Error::new(ErrorKind::Unavailable, format!("{text} name=`{name}`"))
}

/// Returns the error for a lock whose key is of another type.
pub(super) fn wrong_type(found: &str, name: &Name) -> Error {
    let text = "the key of this lock is used for something else; choose another name, or another URL option `prefix`";
    Error::new(ErrorKind::Unsupported, format!("{text} name=`{name}` type=`{}`", found.escape_debug()))
}
