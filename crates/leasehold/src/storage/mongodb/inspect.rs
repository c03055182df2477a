//! Looks at locks without changing them: `inspect` and `list`.

use mongodb::bson::{Document, doc};

use super::config::Config;
use super::link::Link;
use super::pipelines::{COMMAND_MAX, VERSION, projection};
use super::replies::{holder, id, waiters};
use crate::error::Result;
use crate::storage::cursor::successor;
use crate::storage::{Cursor, Holder, Name};

pub(super) async fn inspect(link: &Link, config: &Config, name: &Name) -> Result<Vec<Holder>> {
    let query = doc! {
        "find": &link.collection,
        "filter": { "_id": config.id(name.as_str()), "leasehold": VERSION },
        "projection": projection(&[]),
        "limit": 1,
    };
    let found = link.read(query, None, COMMAND_MAX).await?;
    let holders = found.iter().filter_map(|found| read(link, found, name.clone()).transpose());
    holders.collect()
}

pub(super) async fn list(
    link: &Link,
    config: &Config,
    prefix: &str,
    after: Option<&Cursor>,
    limit: usize,
) -> Result<Vec<Holder>> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let query = doc! {
        "find": &link.collection,
        "filter": filter(config, prefix, after),
        "projection": projection(&[]),
        "sort": { "_id": 1 },
        "limit": limit,
        "batchSize": limit,
    };
    let mut holders = Vec::new();
    for found in link.read(query, None, COMMAND_MAX).await? {
        let name = id(&found).and_then(|id| config.name(id)).and_then(|name| Name::new(name).ok());
        holders.extend(read(link, &found, name.ok_or_else(|| link.unexpected_reply())?)?);
    }
    Ok(holders)
}

/// Makes the filter of the held locks of a page.
fn filter(config: &Config, prefix: &str, after: Option<&Cursor>) -> Document {
    let after = after.filter(|after| after.name.as_str() >= prefix);
    let from = config.id(after.map_or(prefix, |after| after.name.as_str()));
    let mut ids = doc! { "$gte": &from };
    if let Some(end) = successor(&config.id(prefix)) {
        ids.insert("$lt", end);
    }
    let mut live = vec![doc! { "$gt": ["$until", "$$NOW"] }];
    if config.prefix.is_empty() {
        // The range contains the locks of all prefixes, whose `_id` has a NUL.
        live.push(doc! { "$lt": [{ "$indexOfBytes": ["$_id", "\0"] }, 0] });
    }
    let mut filter = doc! {
        "_id": ids,
        "leasehold": VERSION,
        "owner": { "$type": "string" },
        "token": { "$type": "long" },
        "$expr": { "$and": live },
    };
    if let Some(after) = after {
        let token = i64::try_from(after.token.get()).unwrap_or(i64::MAX);
        filter.insert("$or", vec![doc! { "_id": { "$ne": from } }, doc! { "token": { "$gt": token } }]);
    }
    filter
}

fn read(link: &Link, found: &Document, name: Name) -> Result<Option<Holder>> {
    let holder = holder(found, name).ok_or_else(|| link.unexpected_reply())?;
    Ok(holder.map(|holder| Holder { waiters: waiters(found), ..holder }))
}
