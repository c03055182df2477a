//! The queue of each lock: the entries of the owners that wait, in order.

use std::sync::LazyLock;

use rusqlite::{Result, named_params, params};

use super::transaction::Tx;
use crate::storage::{Claim, Name, Owner, WAITER_TTL};

/// The condition that a waiter's entry is alive, with `:boot`, `:now` and `:latest`.
///
/// Where one of the two boots is not known, the clock decides. It begins anew with each boot, and no entry lasts longer
/// than [`WAITER_TTL`].
pub(super) const IS_LIVE_ENTRY: &str = "expires_us > :now
    AND (boot = :boot AND :boot <> '' OR (boot = '' OR :boot = '') AND expires_us <= :latest)";

/// Selects the entries of a lock, in order.
pub(super) static ENTRIES: LazyLock<String> = LazyLock::new(|| {
    format!("SELECT ticket, owner, live, {IS_LIVE_ENTRY} FROM waiter WHERE name = :name ORDER BY ticket")
});

/// The most storages ahead of a waiter that it watches.
const WATCHED_AHEAD: usize = 64;

impl Tx<'_> {
    /// Refreshes the owner's entry, or appends one.
    pub(super) fn enqueue(&self, claim: &Claim) -> Result<()> {
        let (name, owner, expires) = (claim.name.as_str(), claim.owner.to_bytes(), self.after(WAITER_TTL));
        let mut refresh = self.db.prepare_cached(
            "UPDATE waiter SET live = ?3, boot = ?4, expires_us = ?5 WHERE owner = ?2 AND name = ?1",
        )?;
        if refresh.execute(params![name, owner, self.me, self.boot.id(), expires])? > 0 {
            return Ok(());
        }
        let mut append = self.db.prepare_cached(
            "INSERT INTO waiter (name, ticket, owner, live, boot, expires_us)
             SELECT ?1, coalesce(max(ticket), 0) + 1, ?2, ?3, ?4, ?5 FROM waiter WHERE name = ?1",
        )?;
        append.execute(params![name, owner, self.me, self.boot.id(), expires])?;
        Ok(())
    }

    /// Removes the owner's entry.
    pub(super) fn dequeue(&self, claim: &Claim) -> Result<()> {
        let mut remove = self.db.prepare_cached("DELETE FROM waiter WHERE owner = ?2 AND name = ?1")?;
        remove.execute(params![claim.name.as_str(), claim.owner.to_bytes()])?;
        Ok(())
    }

    /// Returns the storages of the waiters before this owner.
    pub(super) fn ahead(&self, claim: &Claim) -> Result<Vec<String>> {
        let mut ahead = self.db.prepare_cached(
            "SELECT DISTINCT live FROM waiter
             WHERE name = ?1 AND live IS NOT NULL AND live IS NOT ?3
               AND ticket < (SELECT ticket FROM waiter WHERE owner = ?2 AND name = ?1) LIMIT ?4",
        )?;
        let cap = i64::try_from(WATCHED_AHEAD).unwrap_or(i64::MAX);
        let ahead = ahead
            .query_map(params![claim.name.as_str(), claim.owner.to_bytes(), self.me, cap], |row| {
                row.get(0)
            })?;
        let mut alive = Vec::new();
        for live in ahead.collect::<Result<Vec<String>>>()? {
            // The death of a dead storage would be hinted at once, and again after the next claim.
            if self.hinter.watches_death(&live) || self.is_alive(&live) {
                alive.push(live);
            } else {
                let mut forget =
                    self.db.prepare_cached("DELETE FROM waiter WHERE name = ?1 AND live = ?2")?;
                forget.execute([claim.name.as_str(), &live])?;
            }
        }
        Ok(alive)
    }

    /// Hints the first waiter of a free lock.
    pub(super) fn hint_first(&mut self, name: &Name) -> Result<()> {
        if let Some((Some(live), owner)) = self.first(name)? {
            self.effects.hints.push((live, owner));
        }
        Ok(())
    }

    /// Returns the first waiter that is alive, with its storage. Removes the entries before it.
    pub(super) fn first(&self, name: &Name) -> Result<Option<(Option<String>, Owner)>> {
        let mut waiters = self.db.prepare_cached(&ENTRIES)?;
        let mut rows = waiters.query(named_params! {
            ":name": name.as_str(),
            ":boot": self.boot.id(),
            ":now": self.now_us,
            ":latest": self.after(WAITER_TTL),
        })?;
        let (mut first, mut last_dead) = (None, None);
        while let Some(row) = rows.next()? {
            let live: Option<String> = row.get(2)?;
            if row.get(3)? && live.as_deref().is_none_or(|live| self.is_alive(live)) {
                first = Some((live, Owner::from_bytes(row.get(1)?)));
                break;
            }
            last_dead = Some(row.get::<_, i64>(0)?);
        }
        drop(rows);
        if let Some(ticket) = last_dead {
            let mut remove_dead =
                self.db.prepare_cached("DELETE FROM waiter WHERE name = ?1 AND ticket <= ?2")?;
            remove_dead.execute(params![name.as_str(), ticket])?;
        }
        Ok(first)
    }

    /// Removes all entries that have expired.
    pub(super) fn remove_expired_entries(&self) -> Result<()> {
        let mut waiters =
            self.db.prepare_cached(&format!("DELETE FROM waiter WHERE NOT ({IS_LIVE_ENTRY})"))?;
        waiters.execute(named_params! {
            ":boot": self.boot.id(),
            ":now": self.now_us,
            ":latest": self.after(WAITER_TTL),
        })?;
        Ok(())
    }
}
