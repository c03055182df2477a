//! Looks at locks without changing them: `inspect` and `list`.

use tokio_postgres::Row;

use super::failure::{Failure, Refusal};
use super::link::{Link, Params};
use super::replies::{Columns, holder};
use super::statements::Statement;
use crate::error::Result;
use crate::storage::{Holder, Name};

pub(super) async fn inspect(link: &Link, space: &str, name: &Name) -> Result<Option<Holder>> {
    match link.execute(Statement::Inspect, &[&space, &name.as_str()]).await {
        Ok(rows) => rows.first().map(|row| shown(link, row)).transpose(),
        // What the database cannot hold it does not hold.
        Err(Failure { refusal: Some(Refusal::Text), .. }) => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

pub(super) async fn list(
    link: &Link,
    space: &str,
    prefix: &str,
    after: Option<&Name>,
    limit: usize,
) -> Result<Vec<Holder>> {
    let after = after.map(Name::as_str).filter(|after| *after >= prefix);
    let from = after.unwrap_or(prefix);
    // In other encodings what is next is not what follows, or cannot be written.
    let below = if link.facts.utf8 { successor(prefix) } else { None };
    let (mut all, mut skipped) = (Vec::new(), 0_usize);
    loop {
        let wanted = i64::try_from(limit - all.len()).unwrap_or(i64::MAX);
        let seen = i64::try_from(all.len() + skipped).unwrap_or(i64::MAX);
        let params: Params<'_> = &[&space, &from, &after.is_some(), &below, &wanted, &prefix, &seen];
        let rows = match link.execute(Statement::List, params).await {
            // What the database cannot hold it does not hold.
            Err(Failure { refusal: Some(Refusal::Text), .. }) if after.is_none() => return Ok(all),
            rows => rows?,
        };
        for row in &rows {
            // Of others: no name of ours, such as one that is no UTF-8.
            match name_of(&Columns(row, link)) {
                Ok(_) => all.push(shown(link, row)?),
                Err(_) => skipped += 1,
            }
        }
        if all.len() >= limit || i64::try_from(rows.len()).is_ok_and(|rows| rows < wanted) {
            return Ok(all);
        }
    }
}

/// The smallest text that is larger than every text that begins with `prefix`, if there is one.
fn successor(prefix: &str) -> Option<String> {
    let mut chars: Vec<_> = prefix.chars().collect();
    while let Some(last) = chars.pop() {
        // Over the gap of the surrogates, which are no characters.
        let next = (u32::from(last) + 1..=u32::from(char::MAX)).find_map(char::from_u32);
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

fn shown(link: &Link, row: &Row) -> Result<Holder> {
    let row = Columns(row, link);
    let name = name_of(&row)?;
    let (owner, waiters) = (row.get("owner")?, row.get::<i64>("waiters")?);
    holder(&row, name, owner, "token", "label", u64::try_from(waiters).ok())
}

fn name_of(row: &Columns<'_>) -> Result<Name> {
    let name = std::str::from_utf8(row.get("name")?).ok().and_then(|name| Name::new(name).ok());
    name.ok_or_else(|| row.1.unexpected_reply())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_successor_is_above_all_that_begin_so() {
        for prefix in ["a", "shop:", "é", "z\u{10ffff}", "\u{d7ff}", "\u{7f}"] {
            let next = successor(prefix).expect("there is one");
            for rest in ["", "a", "\u{10ffff}\u{10ffff}"] {
                assert!(format!("{prefix}{rest}").as_str() < next.as_str(), "{prefix:?} {rest:?} {next:?}");
            }
        }
        assert_eq!(successor(""), None);
        assert_eq!(successor("\u{10ffff}"), None);
    }
}
