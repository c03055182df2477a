//! Inspects one lock and lists all that are held.

use std::sync::Arc;
use std::time::Duration;

use rusqlite::{CachedStatement, Result, named_params};

use super::queue::IS_LIVE_ENTRY;
use super::transaction::{Record, Tx, token};
use crate::storage::{Cursor, Holder, Name, WAITER_TTL};

impl Tx<'_> {
    pub(super) fn inspect(&self, name: &Name) -> Result<Option<Holder>> {
        let record = self.record(name)?;
        let held = record.filter(|record| self.is_held(record));
        held.map(|record| self.holder(name, &record)).transpose().map(Option::flatten)
    }

    pub(super) fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        let mut rows = self.db.prepare_cached(
            "SELECT owner, token, boot, granted_us, expires_us, live, label, name FROM lock
             WHERE name >= :from AND (name, token) > (:after, :token) ORDER BY name",
        )?;
        let (after, token) = after.map_or(("", 0), |after| (after.name.as_str(), after.token.get()));
        let from = std::cmp::max(prefix, after);
        let token = i64::try_from(token).unwrap_or(i64::MAX);
        let mut rows = rows.query(named_params! { ":from": from, ":after": after, ":token": token })?;
        let mut holders = Vec::new();
        while holders.len() < limit
            && let Some(row) = rows.next()?
        {
            let name: String = row.get(7)?;
            if !name.starts_with(prefix) {
                break;
            }
            let record = Record::read(row)?;
            if self.is_held(&record)
                && let Ok(name) = Name::new(name)
            {
                holders.extend(self.holder(&name, &record)?);
            }
        }
        Ok(holders)
    }

    /// Returns the holder that a record shows, with the length of its queue.
    pub(super) fn holder(&self, name: &Name, record: &Record) -> Result<Option<Holder>> {
        let Some(owner) = record.owner else {
            return Ok(None);
        };
        let count = format!("SELECT count(*) FROM waiter WHERE name = :name AND {IS_LIVE_ENTRY}");
        let mut waiters: CachedStatement<'_> = self.db.prepare_cached(&count)?;
        let waiters: i64 = waiters.query_row(
            named_params! {
                ":name": name.as_str(),
                ":boot": self.boot.id(),
                ":now": self.now_us,
                ":latest": self.after(WAITER_TTL),
            },
            |row| row.get(0),
        )?;
        Ok(Some(Holder {
            label: record.label.as_deref().map(Arc::from),
            held_for: Some(duration(self.now_us.saturating_sub(record.granted_us))),
            waiters: u64::try_from(waiters).ok(),
            ..Holder::new(
                name.clone(),
                owner,
                token(record.token),
                duration(record.expires_us.saturating_sub(self.now_us)),
            )
        }))
    }
}

fn duration(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}
