//! Finds holders by their records: `SCAN` goes over every key of the database.

use std::collections::BTreeSet;

use redis::{cmd, from_redis_value};

use super::answers::explain;
use super::claims::{inspect_request, inspected};
use super::keys::Keys;
use super::link::{Link, Server};
use super::request::senseless;
use crate::error::Result;
use crate::storage::{Holder, Name};

/// How many keys the server looks at, and how many names it is asked for, at a time.
pub(in crate::storage) const STEP: usize = 1000;

/// Returns the holders at one server whose names begin with `prefix` and come after `after`, in no order.
pub(in crate::storage) async fn on(
    server: &std::sync::Arc<Server>,
    keys: &Keys,
    prefix: &str,
    after: Option<&Name>,
) -> Result<Vec<Holder>> {
    let link = server.link().await?;
    let names = names(&link, keys, prefix, after).await?;
    let names: Vec<_> = names.iter().collect();
    let mut holders = Vec::new();
    for names in names.chunks(STEP) {
        let answer = inspect_request(keys, names).on(server, &link).await?;
        holders.extend(inspected(answer, names)?.into_iter().filter_map(|seen| seen.ok().flatten()));
    }
    Ok(holders)
}

/// Returns the names of which one server has a record.
pub(in crate::storage) async fn names(
    link: &Link,
    keys: &Keys,
    prefix: &str,
    after: Option<&Name>,
) -> Result<BTreeSet<Name>> {
    let (pattern, mut cursor, mut names) = (keys.pattern(prefix), "0".to_owned(), BTreeSet::new());
    loop {
        let mut scan = cmd("SCAN");
        scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(STEP).arg("TYPE").arg("string");
        let answer = link.call(&scan).await.map_err(|e| explain(&e, &link.place))?;
        let (next, found): (String, Vec<Vec<u8>>) =
            from_redis_value(answer).map_err(|_| senseless(&link.place))?;
        let found = found.iter().filter_map(|record| keys.name_of(record));
        names.extend(
            found.filter(|name| name.as_str().starts_with(prefix) && after.is_none_or(|after| name > after)),
        );
        if next == "0" {
            return Ok(names);
        }
        cursor = next;
    }
}

/// Sorts, and cuts off what is beyond the limit.
pub(in crate::storage) fn page(mut holders: Vec<Holder>, limit: usize) -> Vec<Holder> {
    holders.sort_by(|a, b| a.name.cmp(&b.name));
    holders.truncate(limit);
    holders
}
