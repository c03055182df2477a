//! Reads the rows of a reply. What each column means is in the header of its statement.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use super::call::Call;
use super::link::Link;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Holder, Name, Owner, Token};

/// A row, and the connection over which it came.
pub(super) struct Columns<'a>(pub(super) &'a Row, pub(super) &'a Link);

impl<'a> Columns<'a> {
    pub(super) fn get<T: FromSql<'a>>(&self, column: &str) -> Result<T> {
        self.0.try_get(column).map_err(|_| self.1.unexpected_reply())
    }

    /// Reads a fencing token.
    pub(super) fn token(&self, column: &str) -> Result<Option<Token>> {
        let Some(token) = self.get::<Option<i64>>(column)? else { return Ok(None) };
        u64::try_from(token).map(|token| Some(Token::new(token))).map_err(|_| self.1.unexpected_reply())
    }

    /// Reads the index of the claim that a row is about; the server counts from 1.
    pub(super) fn index(&self, claims: usize) -> Result<usize> {
        let index = usize::try_from(self.get::<i64>("i")?).ok().and_then(|i| i.checked_sub(1));
        index.filter(|index| *index < claims).ok_or_else(|| self.1.unexpected_reply())
    }
}

/// Text of another program, which may not be UTF-8.
pub(super) struct LossyText(String);

impl<'a> FromSql<'a> for LossyText {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::BYTEA
    }
}

/// Checks a reply with a row for each claim, and learns the server's clock from it.
pub(super) fn check_all(call: Call<'_>, claims: usize, rows: &[Row]) -> Result<()> {
    if rows.len() != claims {
        return Err(call.link.unexpected_reply());
    }
    rows.first().map_or(Ok(()), |row| learn_clock(call, row))
}

/// Returns the rows of a reply for some of the claims, with the indexes of those. Learns the server's clock from it.
pub(super) fn check_some<'a>(
    call: Call<'a>,
    claims: usize,
    rows: &'a [Row],
) -> Result<Vec<(usize, Columns<'a>)>> {
    rows.first().map_or(Ok(()), |row| learn_clock(call, row))?;
    let indexed = |row: &'a Row| {
        let row = Columns(row, call.link);
        Ok((row.index(claims)?, row))
    };
    rows.iter().map(indexed).collect()
}

fn learn_clock(call: Call<'_>, row: &Row) -> Result<()> {
    let Call { server, link, sent, .. } = call;
    let now = u64::try_from(Columns(row, link).get::<i64>("now")?).map_err(|_| link.unexpected_reply())?;
    server.time.learn(sent, server.now(), now);
    Ok(())
}

pub(super) fn holder(
    row: &Columns<'_>,
    name: Name,
    owner: Uuid,
    token: &str,
    label: &str,
    waiters: Option<u64>,
) -> Result<Holder> {
    let token = row.token(token)?.ok_or_else(|| row.1.unexpected_reply())?;
    let remaining = micros(row.get("remaining")?);
    Ok(Holder {
        label: row.get::<Option<LossyText>>(label)?.map(|label| label.0.into()),
        held_for: Some(micros(row.get("held_for")?)),
        waiters,
        ..Holder::new(name, Owner::from_bytes(owner.into_bytes()), token, remaining)
    })
}

pub(super) fn micros(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

pub(super) fn late(name: &Name) -> Error {
    unavailable("the claim came too late and was refused; ask again", name)
}

pub(super) fn locked(name: &Name) -> Error {
    unavailable("another transaction has locked the lock's row; retry when it has ended", name)
}

/// Returns the error of a release that found nothing while an acquire of an earlier connection is still being executed:
/// the outcome of that acquire is unknown.
pub(super) fn acquire_in_flight(name: &Name) -> Error {
    unavailable("an earlier statement of this client is not finished; retry", name)
}

fn unavailable(text: &str, name: &Name) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{text} name=`{name}`"))
}
