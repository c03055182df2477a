//! Shows who holds locks.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
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
const PAGE_MIN: usize = 16;
const PAGE_MAX: usize = 1_000;
/// How often a list is begun that the server compacts away between two pages.
const LISTS_MAX: usize = 3;

impl Session {
    /// Returns the holder of a lock.
    pub(super) async fn inspect(&self, name: &Name) -> Result<Vec<Holder>, Fault> {
        let owners = self.owners(name).await?;
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
    /// The order of the keys is another one: those of `a!` come before those of `a`. So a lock is listed when all keys were
    /// read of each lock whose name is its own, or what its own begins with.
    pub(super) async fn list(
        &self,
        prefix: &str,
        after: Option<&Cursor>,
        limit: usize,
    ) -> Result<Vec<Holder>, Fault> {
        for _ in 1..LISTS_MAX {
            match self.list_once(prefix, after, limit).await {
                Err(fault) if fault.is_compacted() => {}
                listed => return listed,
            }
        }
        self.list_once(prefix, after, limit).await
    }

    async fn list_once(
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
        let is_behind = |name: &Name, kv: &KeyValue| {
            after.is_none_or(|after| Cursor::new(name.clone(), token(kv.create_revision)) > *after)
        };
        let mut all: BTreeMap<Name, (KeyValue, u64)> = BTreeMap::new();
        let (mut key, range_end) = self.keys.range_of_names(prefix, from);
        // Besides those that are returned, it reads the last one before them and the next one after.
        let (mut at, mut size) = (0, limit.saturating_add(2).clamp(PAGE_MIN, PAGE_MAX));
        let mut left: HashMap<i64, i64> = HashMap::new();
        let mut holders = Vec::new();
        loop {
            let (range_end, limit_of_page) = (range_end.clone(), i64::try_from(size).unwrap_or(i64::MAX));
            let request = RangeRequest { range_end, limit: limit_of_page, revision: at, ..one(key) };
            let page = self.api.range(&request).await?;
            let last = page.kvs.last().map(|kv| kv.key.clone()).filter(|_| page.more);
            // The pages show one moment.
            at = page.header.map_or(at, |header| if at == 0 { header.revision } else { at });
            page.kvs.into_iter().for_each(|kv| self.add(&mut all, kv, prefix));
            while let Some(next) = all.first_entry()
                && holders.len() < limit
                && last.as_ref().is_none_or(|last| self.is_complete(next.key(), from, last))
            {
                let (name, (kv, owners)) = next.remove_entry();
                if !is_behind(&name, &kv) {
                    continue;
                }
                let left = match left.get(&kv.lease) {
                    Some(left) => *left,
                    None if kv.lease == 0 => 0,
                    None => *left.entry(kv.lease).or_insert(self.api.time_to_live(kv.lease).await?),
                };
                let holder = self.seen(&name, &kv, left);
                holders.extend(holder.map(|holder| Holder { waiters: owners.checked_sub(1), ..holder }));
            }
            match last {
                Some(last) if holders.len() < limit => key = [last, vec![0]].concat(),
                _ => return Ok(holders),
            }
            size = std::cmp::min(2 * size, PAGE_MAX);
        }
    }

    /// Returns `true` if all keys up to that one, from those of the name `from` on, show all owners of a lock and all locks before
    /// it, in the order of the names.
    fn is_complete(&self, name: &Name, from: &str, last: &[u8]) -> bool {
        let name = name.as_str();
        let parts = name.char_indices().skip(1).map(|(end, _)| &name[..end]);
        let mut before = parts.filter(|part| *part >= from).chain([name]);
        before.all(|part| self.keys.is_behind(last, part))
    }

    /// Counts a key, and keeps it if it is the oldest of its lock.
    fn add(&self, all: &mut BTreeMap<Name, (KeyValue, u64)>, kv: KeyValue, prefix: &str) {
        let Some((name, _)) = self.keys.parse(&kv.key) else { return };
        if !name.as_str().starts_with(prefix) {
            return;
        }
        match all.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert((kv, 1));
            }
            Entry::Occupied(mut entry) => {
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
        let owner = Keys::owner(&kv.key)?;
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
