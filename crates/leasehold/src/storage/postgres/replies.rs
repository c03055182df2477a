//! Reads the rows that the statements return.

use std::time::Duration;

use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};
use uuid::Uuid;

use super::call::Around;
use super::link::Link;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Holder, Name, Owner, Token};

/// The answer of a small statement: a row for each claim that it has done, with its place.
pub(super) fn done<'a>(around: Around<'_>, claims: usize, rows: &'a [Row]) -> Result<Vec<(usize, &'a Row)>> {
    rows.first().map_or(Ok(()), |row| learn(around, row))?;
    rows.iter().map(|row| Ok((place(around.link, claims, row)?, row))).collect()
}

/// The place of the claim that a row is about; the server counts from 1.
pub(super) fn place(link: &Link, claims: usize, row: &Row) -> Result<usize> {
    let i: i64 = Columns(row, link).get("i")?;
    let place = usize::try_from(i).ok().and_then(|i| i.checked_sub(1)).filter(|place| *place < claims);
    place.ok_or_else(|| link.senseless())
}

pub(super) fn holder(
    row: &Columns<'_>,
    name: Name,
    owner: Uuid,
    token: &str,
    label: &str,
    waiters: Option<u64>,
) -> Result<Holder> {
    let token = u64::try_from(row.get::<i64>(token)?).map_err(|_| row.1.senseless())?;
    let remaining = micros(row.get("remaining")?);
    Ok(Holder {
        label: row.get::<Option<Readable>>(label)?.map(|label| label.0.into()),
        held_for: Some(micros(row.get("held_for")?)),
        waiters,
        ..Holder::new(name, Owner::from_bytes(owner.into_bytes()), Token::new(token), remaining)
    })
}

/// A row, and the connection that it came from.
pub(super) struct Columns<'a>(pub(super) &'a Row, pub(super) &'a Link);

impl<'a> Columns<'a> {
    pub(super) fn get<T: FromSql<'a>>(&self, column: &str) -> Result<T> {
        self.0.try_get(column).map_err(|_| self.1.senseless())
    }
}

/// Text of which others may have written more than UTF-8 is.
pub(super) struct Readable(String);

impl<'a> FromSql<'a> for Readable {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(String::from_utf8_lossy(raw).into_owned()))
    }

    fn accepts(of: &Type) -> bool {
        *of == Type::BYTEA
    }
}

/// Takes in what the answer tells of the server's clock; refuses an answer that is not one.
pub(super) fn heard(around: Around<'_>, claims: usize, rows: &[Row]) -> Result<()> {
    if rows.len() != claims {
        return Err(around.link.senseless());
    }
    rows.first().map_or(Ok(()), |row| learn(around, row))
}

pub(super) fn learn(around: Around<'_>, row: &Row) -> Result<()> {
    let Around { server, link, sent, .. } = around;
    let now = u64::try_from(Columns(row, link).get::<i64>("now")?).map_err(|_| link.senseless())?;
    server.time.learn(sent, server.now(), now);
    Ok(())
}

pub(super) fn read_token(link: &Link, token: i64) -> Result<Token> {
    u64::try_from(token).map(Token::new).map_err(|_| link.senseless())
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

/// An acquire that an earlier connection has sent is being executed or committed; what comes of it is unknown.
pub(super) fn under_way(name: &Name) -> Error {
    unavailable("an earlier statement of this client is not finished; retry", name)
}

pub(super) fn unavailable(text: &str, name: &Name) -> Error {
    Error::new(ErrorKind::Unavailable, format!("{text} name=`{name}`"))
}
