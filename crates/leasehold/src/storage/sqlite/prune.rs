//! Prunes the lock file, so that names that are no longer used cost nothing.

use std::time::Duration;

use rusqlite::{Result, params};

use super::transaction::{Record, Tx, micros};

/// How long a name must be idle to be pruned.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// The number of records that one pruning examines.
const EXAMINED: usize = 128;

impl Tx<'_> {
    /// Removes the records of some idle names. After the last record, removes expired entries of queues.
    ///
    /// The largest token of the removed names becomes the high-water mark, so the next token of each is still larger
    /// than its last. Takes the name after which to begin, and returns the one for the next pruning.
    pub(super) fn prune(&self, from: &str) -> Result<String> {
        let idle_since = self.now_us.saturating_sub(micros(IDLE));
        let (mut high_water, mut idle, mut last, mut examined) = (0, Vec::new(), String::new(), 0);
        let mut rows = self.db.prepare_cached(
            "SELECT owner, token, boot, granted_us, expires_us, live, label, name FROM lock
             WHERE name > ?1 ORDER BY name LIMIT ?2",
        )?;
        let mut rows = rows.query(params![from, i64::try_from(EXAMINED).unwrap_or(i64::MAX)])?;
        while let Some(row) = rows.next()? {
            let record = Record::read(row)?;
            last = row.get(7)?;
            examined += 1;
            let in_use = self.may_be_of_this_boot(&record) && record.expires_us >= idle_since;
            if !(in_use || self.is_held(&record)) {
                high_water = std::cmp::max(high_water, record.token);
                idle.push(last.clone());
            }
        }
        drop(rows);
        if !idle.is_empty() {
            let mut raise =
                self.db.prepare_cached("UPDATE meta SET value = max(value, ?1) WHERE key = 'high_water'")?;
            raise.execute([high_water])?;
            let mut remove = self.db.prepare_cached("DELETE FROM lock WHERE name = ?1")?;
            for name in idle {
                remove.execute([name])?;
            }
        }
        if examined < EXAMINED {
            self.remove_expired_entries()?;
            last.clear();
        }
        Ok(last)
    }
}
