//! Looks at locks without changing them: `inspect` and `list`.

use tokio_postgres::Row;

use super::failure::{Failure, Refusal};
use super::link::{Link, Params};
use super::replies::{Columns, holder};
use super::statements::Statement;
use crate::error::Result;
use crate::storage::cursor::successor;
use crate::storage::{Cursor, Holder, Name};

pub(super) async fn inspect(link: &Link, space: &str, name: &Name) -> Result<Vec<Holder>> {
    match link.execute(Statement::Inspect, &[&space, &name.as_str()]).await {
        Ok(rows) => rows.iter().map(|row| read(link, row)).collect(),
        // The database cannot hold such a text, so it does not hold the lock.
        Err(Failure { refusal: Some(Refusal::Text), .. }) => Ok(Vec::new()),
        Err(failure) => Err(failure.into()),
    }
}

pub(super) async fn list(
    link: &Link,
    space: &str,
    prefix: &str,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<Vec<Holder>> {
    let after = after.filter(|after| after.name.as_str() >= prefix);
    let from = after.map_or(prefix, |after| after.name.as_str());
    let token = after.map(|after| i64::try_from(after.token.get()).unwrap_or(i64::MAX));
    // In other encodings the order is not that of the characters, or the text cannot be written.
    let below = if link.facts.utf8 { successor(prefix) } else { None };
    let (mut all, mut skipped) = (Vec::new(), 0_usize);
    loop {
        let wanted = i64::try_from(limit - all.len()).unwrap_or(i64::MAX);
        let seen = i64::try_from(all.len() + skipped).unwrap_or(i64::MAX);
        let params: Params<'_> = &[&space, &from, &token, &below, &wanted, &prefix, &seen];
        let rows = match link.execute(Statement::List, params).await {
            // The database cannot hold such a text, so no name begins with it.
            Err(Failure { refusal: Some(Refusal::Text), .. }) if after.is_none() => return Ok(all),
            rows => rows?,
        };
        for row in &rows {
            // Another program may have written what is no name, such as a text that is not UTF-8.
            match name_of(&Columns(row, link)) {
                Ok(_) => all.push(read(link, row)?),
                Err(_) => skipped += 1,
            }
        }
        if all.len() >= limit || i64::try_from(rows.len()).is_ok_and(|rows| rows < wanted) {
            return Ok(all);
        }
    }
}

fn read(link: &Link, row: &Row) -> Result<Holder> {
    let row = Columns(row, link);
    let name = name_of(&row)?;
    let (owner, waiters) = (row.get("owner")?, row.get::<i64>("waiters")?);
    holder(&row, name, owner, "token", "label", u64::try_from(waiters).ok())
}

fn name_of(row: &Columns<'_>) -> Result<Name> {
    let name = std::str::from_utf8(row.get("name")?).ok().and_then(|name| Name::new(name).ok());
    name.ok_or_else(|| row.1.unexpected_reply())
}
