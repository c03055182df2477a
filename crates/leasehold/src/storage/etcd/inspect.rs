//! Shows who holds locks.

use std::collections::HashMap;
use std::time::Duration;

use super::acquire::token;
use super::errors::Fault;
use super::holds::Id;
use super::keys::{Keys, Value};
use super::ops::one;
use super::proto::{KeyValue, RangeRequest};
use super::session::Session;
use crate::storage::{Cursor, Holder, Name};

/// How many keys one request reads.
const PAGE: i64 = 1_000;

impl Session {
    /// Returns the holder of a lock.
    pub(super) async fn inspect(&self, name: &Name) -> Result<Vec<Holder>, Fault> {
        let (_, owners) = self.owners(name).await?;
        let waiters = owners.len().saturating_sub(1);
        let Some(first) = owners.first() else { return Ok(Vec::new()) };
        let left = self.api.time_to_live(first.lease).await?;
        let holder = self.seen(name, first, left);
        Ok(holder
            .map(|holder| Holder { waiters: u64::try_from(waiters).ok(), ..holder })
            .into_iter()
            .collect())
    }

    /// Returns the holders of locks, in the order of their names.
    ///
    /// The order of the keys is another one: `a!` comes before `a/`. So all keys with the prefix are read.
    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<Holder>, Fault> {
        let from = after.map_or(prefix, |after| after.name.as_str());
        if !from.starts_with(prefix) && from > prefix {
            return Ok(Vec::new());
        }
        let from = if from.starts_with(prefix) { from } else { prefix };
        let mut all: HashMap<Name, (KeyValue, u64)> = HashMap::new();
        let (mut key, range_end) = self.keys.range_of_names(prefix, from);
        let mut at = 0;
        loop {
            let range_end = range_end.clone();
            let request = RangeRequest { range_end, limit: PAGE, revision: at, ..one(key) };
            let page = self.api.range(&request).await?;
            let Some(last) = page.kvs.last().map(|kv| kv.key.clone()) else { break };
            // The pages show one moment.
            at = page.header.map_or(at, |header| if at == 0 { header.revision } else { at });
            page.kvs.into_iter().for_each(|kv| self.add(&mut all, kv));
            if !page.more {
                break;
            }
            key = [last, vec![0]].concat();
        }
        let mut all: Vec<_> = all.into_iter().filter(|(name, _)| name.as_str().starts_with(prefix)).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        let is_behind = |name: &Name, kv: &KeyValue| {
            after.is_none_or(|after| Cursor::new(name.clone(), token(kv.create_revision)) > *after)
        };
        let mut left: HashMap<i64, i64> = HashMap::new();
        let mut holders = Vec::new();
        for (name, (kv, owners)) in all.into_iter().filter(|(name, (kv, _))| is_behind(name, kv)) {
            if holders.len() >= limit {
                break;
            }
            let left = match left.get(&kv.lease) {
                Some(left) => *left,
                None => *left.entry(kv.lease).or_insert(self.api.time_to_live(kv.lease).await?),
            };
            let holder = self.seen(&name, &kv, left);
            holders.extend(holder.map(|holder| Holder { waiters: owners.checked_sub(1), ..holder }));
        }
        Ok(holders)
    }

    /// Counts a key, and keeps it if it is the oldest of its lock. A key without a lease is that of no lock.
    fn add(&self, all: &mut HashMap<Name, (KeyValue, u64)>, kv: KeyValue) {
        let Some((name, _)) = self.keys.parse(&kv.key).filter(|_| kv.lease != 0) else { return };
        match all.entry(name) {
            std::collections::hash_map::Entry::Vacant(entry) => {
                entry.insert((kv, 1));
            }
            std::collections::hash_map::Entry::Occupied(mut entry) => {
                let (first, owners) = entry.get_mut();
                *owners += 1;
                if kv.create_revision < first.create_revision {
                    *first = kv;
                }
            }
        }
    }

    /// Returns a holder, whose lease lives for so many seconds; `None` if the lease has ended.
    fn seen(&self, name: &Name, kv: &KeyValue, left: i64) -> Option<Holder> {
        let owner = Keys::owner(&kv.key);
        let value = Value::read(&kv.value);
        let own = self
            .holds
            .get(&Id { name: name.clone(), owner })
            .filter(|hold| hold.created == Some(kv.create_revision));
        let remaining = match own {
            Some(own) => own.end.since(self.api.now()),
            None if kv.lease == 0 => Duration::MAX,
            None => {
                let left = Duration::from_secs(u64::try_from(left).ok()?);
                // The lease may be kept alive for other locks.
                value.as_ref().map_or(left, |value| std::cmp::min(value.ttl, left))
            }
        };
        let mut holder = Holder::new(name.clone(), owner, token(kv.create_revision), remaining);
        holder.label = value.and_then(|value| value.label);
        Some(holder)
    }
}
