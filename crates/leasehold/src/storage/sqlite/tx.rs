//! The verbs as statements. Everything here runs inside one transaction.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{CachedStatement, Connection, OptionalExtension, Result, Row, named_params, params};

use super::boot::Boot;
use super::hints::Hinter;
use super::live::{self, State};
use crate::clock::{self, Moment};
use crate::error::{Error, ErrorKind};
use crate::storage::{
    AcquireReply, Claim, Cursor, Holder, Name, Owner, ReleaseReply, RenewReply, Token, WAITER_TTL,
};

/// One transaction, at one moment, by one storage.
pub(super) struct Tx<'a> {
    pub(super) db: &'a Connection,
    pub(super) live_dir: &'a Path,
    /// The id of this storage's liveness file; none where there are no liveness files.
    pub(super) me: Option<&'a str>,
    pub(super) boot: &'a Boot,
    pub(super) hinter: &'a Hinter,
    pub(super) now: Moment,
    pub(super) now_us: i64,
    pub(super) effects: Effects,
}

/// What has to be told once the transaction is committed.
#[derive(Debug, Default)]
pub(super) struct Effects {
    /// Owners to hint, by the storage that they asked.
    pub(super) hints: Vec<(String, Owner)>,
    /// Owners to hint whose lease is bound to no storage any more: any may have asked for it.
    pub(super) hints_to_all: Vec<Owner>,
    /// Whose deaths an owner waits for.
    pub(super) deaths: Vec<(Owner, Vec<String>)>,
    /// Owners that wait for nobody's death any more.
    pub(super) settled: Vec<Owner>,
}

/// How many of those ahead a waiter watches.
const AHEAD: usize = 64;
/// What the column `kind` says of an exclusive lock.
const KIND: &str = "mutex";
/// How long a name must be idle to be pruned.
const IDLE: Duration = Duration::from_secs(60 * 60);
/// How many records one pruning looks at.
const PRUNED: usize = 128;
/// No lease is longer, so one that ends later is of another boot.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);
/// Whether a waiter's entry is alive, with `:boot`, `:now` and `:latest`. Where boots are not known, the clock tells: it
/// begins anew with each, and no entry lasts longer than [`WAITER_TTL`].
const WAITS: &str = "expires_us > :now
    AND (boot = :boot AND :boot <> '' OR (boot = '' OR :boot = '') AND expires_us <= :latest)";

struct Record {
    owner: Option<Owner>,
    token: i64,
    boot: String,
    granted_us: i64,
    expires_us: i64,
    live: Option<String>,
    label: Option<String>,
}

impl Tx<'_> {
    pub(super) fn acquire(&mut self, claim: &Claim, sent: Moment) -> Result<crate::Result<AcquireReply>> {
        if let Err(late) = self.in_time(claim, sent) {
            return Ok(Err(late));
        }
        let record = self.record(&claim.name)?;
        let held = record.as_ref().filter(|record| self.is_held(record));
        if let Some(record) = held
            && record.owner == Some(claim.owner)
        {
            self.extend(claim)?;
            return Ok(Ok(granted(record.token, claim)));
        }
        if held.is_some() {
            return self.wait(claim, held).map(Ok);
        }
        match self.first(&claim.name)? {
            Some((_, first)) if first != claim.owner => {
                // It may have missed its hint.
                self.pass_on(&claim.name)?;
                self.wait(claim, None).map(Ok)
            }
            first => {
                if first.is_some() {
                    self.leave(claim)?;
                }
                self.grant(claim, record.as_ref()).map(Ok)
            }
        }
    }

    pub(super) fn renew(&mut self, claim: &Claim, sent: Moment) -> Result<crate::Result<RenewReply>> {
        if claim.shorten
            && let Err(late) = self.in_time(claim, sent)
        {
            return Ok(Err(late));
        }
        let renewed = Ok(RenewReply::Renewed { ttl: claim.ttl });
        if !claim.shorten && self.extend_own(claim)? {
            return Ok(renewed);
        }
        // Bound to another storage, or to be told of, or not held.
        let record = self.record(&claim.name)?;
        let Some(record) = record.filter(|record| record.owner == Some(claim.owner) && self.is_held(record))
        else {
            return Ok(Ok(RenewReply::NotHeld));
        };
        self.extend(claim)?;
        if claim.shorten && self.after(claim.ttl) < record.expires_us {
            // Its own engine: another client may have sent this.
            self.hint_holder(record.live, claim.owner);
        }
        Ok(renewed)
    }

    /// Hints an owner that holds, or did until now.
    fn hint_holder(&mut self, live: Option<String>, owner: Owner) {
        match live {
            Some(live) => self.effects.hints.push((live, owner)),
            None => self.effects.hints_to_all.push(owner),
        }
    }

    pub(super) fn release(&mut self, claim: &Claim) -> Result<ReleaseReply> {
        self.leave(claim)?;
        self.effects.settled.push(claim.owner);
        let Some(record) = self.record(&claim.name)? else {
            return Ok(ReleaseReply::NotHeld);
        };
        let held = self.is_held(&record);
        if record.owner != Some(claim.owner) {
            if !held {
                self.pass_on(&claim.name)?;
            }
            return Ok(ReleaseReply::NotHeld);
        }
        let mut free = self.db.prepare_cached(
            "UPDATE lock SET owner = NULL, live = NULL, label = NULL, boot = ?2, expires_us = ?3 WHERE name = ?1",
        )?;
        free.execute(params![claim.name.as_str(), self.boot.id(), self.now_us])?;
        self.pass_on(&claim.name)?;
        if !held {
            return Ok(ReleaseReply::NotHeld);
        }
        // Its own engine too: another client may have ended the lease.
        self.hint_holder(record.live, claim.owner);
        Ok(ReleaseReply::Released)
    }

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

    /// Forgets some of the names that nobody uses, so that a million names once used cost nothing. Their
    /// tokens are folded into one, so the next token of such a name is still larger than its last.
    /// Takes where to go on from, and returns where to go on next time.
    pub(super) fn prune(&self, from: &str) -> Result<String> {
        let idle_since = self.now_us.saturating_sub(micros(IDLE));
        let (mut high_water, mut idle, mut last, mut seen) = (0, Vec::new(), String::new(), 0);
        let mut rows = self.db.prepare_cached(
            "SELECT owner, token, boot, granted_us, expires_us, live, label, name FROM lock
             WHERE name > ?1 ORDER BY name LIMIT ?2",
        )?;
        let mut rows = rows.query(params![from, i64::try_from(PRUNED).unwrap_or(i64::MAX)])?;
        while let Some(row) = rows.next()? {
            let record = Record::read(row)?;
            last = row.get(7)?;
            seen += 1;
            let of_now = self.may_be_of_this_boot(&record) && record.expires_us >= idle_since;
            if !(of_now || self.is_held(&record)) {
                high_water = std::cmp::max(high_water, record.token);
                idle.push(last.clone());
            }
        }
        drop(rows);
        if !idle.is_empty() {
            let mut fold =
                self.db.prepare_cached("UPDATE meta SET value = max(value, ?1) WHERE key = 'high_water'")?;
            fold.execute([high_water])?;
            let mut forget = self.db.prepare_cached("DELETE FROM lock WHERE name = ?1")?;
            for name in idle {
                forget.execute([name])?;
            }
        }
        let mut waiters = self.db.prepare_cached(&format!("DELETE FROM waiter WHERE NOT ({WAITS})"))?;
        if seen < PRUNED {
            waiters.execute(named_params! {
                ":boot": self.boot.id(),
                ":now": self.now_us,
                ":latest": self.after(WAITER_TTL),
            })?;
            last.clear();
        }
        Ok(last)
    }

    fn record(&self, name: &Name) -> Result<Option<Record>> {
        let mut record = self.db.prepare_cached(
            "SELECT owner, token, boot, granted_us, expires_us, live, label FROM lock WHERE name = ?1",
        )?;
        record.query_row([name.as_str()], Record::read).optional()
    }

    /// Whose process is seen to live, holds; else the boot decides, too.
    fn is_held(&self, record: &Record) -> bool {
        record.owner.is_some()
            && record.expires_us > self.now_us
            && match record.live.as_deref().map_or(State::Unknown, |live| self.look(live)) {
                State::Dead => false,
                State::Alive(_) => true,
                State::Unknown => self.may_be_of_this_boot(record),
            }
    }

    /// Returns `true` unless it is known that a record was written before the machine was started.
    fn may_be_of_this_boot(&self, record: &Record) -> bool {
        // The clock begins anew with each boot: what was granted later than now, or lasts too long, is of another.
        let by_clock = || record.granted_us <= self.now_us && record.expires_us <= self.after(LONGEST);
        self.boot.is(&record.boot).unwrap_or_else(by_clock)
    }

    fn is_alive(&self, live: &str) -> bool {
        self.look(live) != State::Dead
    }

    fn look(&self, live: &str) -> State {
        if Some(live) == self.me {
            return State::Alive(None);
        }
        let state = live::look(self.live_dir, live);
        if state == State::Dead {
            live::bury(self.live_dir, live);
        }
        state
    }

    fn grant(&mut self, claim: &Claim, record: Option<&Record>) -> Result<AcquireReply> {
        let last = match record {
            Some(record) => record.token,
            None => {
                let mut high_water =
                    self.db.prepare_cached("SELECT value FROM meta WHERE key = 'high_water'")?;
                high_water.query_row([], |row| row.get(0)).optional()?.unwrap_or(0)
            }
        };
        let wall_us = i64::try_from(clock::wall_us()).unwrap_or(0);
        let token = std::cmp::max(last.saturating_add(1), wall_us);
        let mut grant = self.db.prepare_cached(
            "INSERT INTO lock (name, kind, owner, token, boot, granted_us, expires_us, live, label)
             VALUES (:name, :kind, :owner, :token, :boot, :now, :expires, :live, :label)
             ON CONFLICT (name) DO UPDATE SET kind = :kind, owner = :owner, token = :token, boot = :boot,
               granted_us = :now, expires_us = :expires, live = :live, label = :label",
        )?;
        grant.execute(named_params! {
            ":name": claim.name.as_str(),
            ":kind": KIND,
            ":owner": claim.owner.to_bytes(),
            ":token": token,
            ":boot": self.boot.id(),
            ":now": self.now_us,
            ":expires": self.after(claim.ttl),
            ":live": self.bound_to(claim),
            ":label": claim.label.as_deref(),
        })?;
        self.effects.settled.push(claim.owner);
        Ok(granted(token, claim))
    }

    /// Gives a lease known to be held a full TTL. May detach it, and never binds it to a process again: a
    /// renewal that comes late must not tie somebody else's lease to the life of whoever sent it.
    fn extend(&self, claim: &Claim) -> Result<()> {
        let mut extend = self.db.prepare_cached(
            "UPDATE lock SET boot = :boot, live = iif(:detached, NULL, live),
               expires_us = iif(:shorten, :expires, max(expires_us, :expires))
             WHERE name = :name",
        )?;
        extend.execute(named_params! {
            ":name": claim.name.as_str(),
            ":boot": self.boot.id(),
            ":expires": self.after(claim.ttl),
            ":shorten": claim.shorten,
            ":detached": claim.detached,
        })?;
        Ok(())
    }

    /// Gives a lease a full TTL if it is held and certainly alive: the common case, in one statement.
    fn extend_own(&self, claim: &Claim) -> Result<bool> {
        let mut extend = self.db.prepare_cached(
            "UPDATE lock SET boot = :boot, live = iif(:detached, NULL, live),
               expires_us = max(expires_us, :expires)
             WHERE name = :name AND owner = :owner AND expires_us > :now
               AND (live = :me OR live IS NULL AND boot = :boot AND :boot <> '')",
        )?;
        let extended = extend.execute(named_params! {
            ":name": claim.name.as_str(),
            ":owner": claim.owner.to_bytes(),
            ":boot": self.boot.id(),
            ":now": self.now_us,
            ":expires": self.after(claim.ttl),
            ":detached": claim.detached,
            ":me": self.me,
        })?;
        Ok(extended > 0)
    }

    /// Refuses a claim that is executed later than its patience allows.
    fn in_time(&self, claim: &Claim, sent: Moment) -> crate::Result<()> {
        if self.now.since(sent) < claim.patience {
            return Ok(());
        }
        let text = format!("the claim came too late and was refused; ask again name=`{}`", claim.name);
        Err(Error::new(ErrorKind::Unavailable, text))
    }

    /// Answers a claim that was not granted, and puts it in the queue if it waits.
    fn wait(&mut self, claim: &Claim, held: Option<&Record>) -> Result<AcquireReply> {
        if claim.wait {
            self.enqueue(claim)?;
            let mut deaths = self.ahead(claim)?;
            deaths.extend(held.and_then(|record| record.live.clone()));
            self.effects.deaths.push((claim.owner, deaths));
        }
        let holder = match held {
            Some(record) => self.holder(&claim.name, record)?,
            None => None,
        };
        let retry_after = holder.as_ref().map(|holder| holder.remaining);
        Ok(AcquireReply::Held { holder, retry_after })
    }

    fn enqueue(&self, claim: &Claim) -> Result<()> {
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

    /// The storages of those who wait before this owner.
    fn ahead(&self, claim: &Claim) -> Result<Vec<String>> {
        let mut ahead = self.db.prepare_cached(
            "SELECT DISTINCT live FROM waiter
             WHERE name = ?1 AND live IS NOT NULL AND live IS NOT ?3
               AND ticket < (SELECT ticket FROM waiter WHERE owner = ?2 AND name = ?1) LIMIT ?4",
        )?;
        let cap = i64::try_from(AHEAD).unwrap_or(i64::MAX);
        let ahead = ahead
            .query_map(params![claim.name.as_str(), claim.owner.to_bytes(), self.me, cap], |row| {
                row.get(0)
            })?;
        let mut alive = Vec::new();
        for live in ahead.collect::<Result<Vec<String>>>()? {
            // To watch one that is dead already would be to ask again at once, and again.
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

    /// Removes a waiter's entry.
    fn leave(&self, claim: &Claim) -> Result<()> {
        let mut leave = self.db.prepare_cached("DELETE FROM waiter WHERE owner = ?2 AND name = ?1")?;
        leave.execute(params![claim.name.as_str(), claim.owner.to_bytes()])?;
        Ok(())
    }

    /// Hints whoever is first in the queue of a free lock.
    fn pass_on(&mut self, name: &Name) -> Result<()> {
        if let Some((Some(live), owner)) = self.first(name)? {
            self.effects.hints.push((live, owner));
        }
        Ok(())
    }

    /// The first waiter that is alive, with its storage; those before it are dropped.
    fn first(&self, name: &Name) -> Result<Option<(Option<String>, Owner)>> {
        let mut waiters = self.db.prepare_cached(&format!(
            "SELECT ticket, owner, live, {WAITS} FROM waiter WHERE name = :name ORDER BY ticket",
        ))?;
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
            let mut drop_dead =
                self.db.prepare_cached("DELETE FROM waiter WHERE name = ?1 AND ticket <= ?2")?;
            drop_dead.execute(params![name.as_str(), ticket])?;
        }
        Ok(first)
    }

    fn holder(&self, name: &Name, record: &Record) -> Result<Option<Holder>> {
        let Some(owner) = record.owner else {
            return Ok(None);
        };
        let mut waiters: CachedStatement<'_> =
            self.db.prepare_cached(&format!("SELECT count(*) FROM waiter WHERE name = :name AND {WAITS}"))?;
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

    /// The storage whose death ends a lease.
    fn bound_to(&self, claim: &Claim) -> Option<&str> {
        if claim.detached { None } else { self.me }
    }

    fn after(&self, by: Duration) -> i64 {
        self.now_us.saturating_add(micros(by))
    }
}

impl Record {
    fn read(row: &Row<'_>) -> Result<Self> {
        Ok(Self {
            owner: row.get::<_, Option<[u8; 16]>>(0)?.map(Owner::from_bytes),
            token: row.get(1)?,
            boot: row.get(2)?,
            granted_us: row.get(3)?,
            expires_us: row.get(4)?,
            live: row.get(5)?,
            label: row.get(6)?,
        })
    }
}

fn granted(last: i64, claim: &Claim) -> AcquireReply {
    AcquireReply::Granted { token: token(last), ttl: claim.ttl }
}

fn token(token: i64) -> Token {
    Token::new(u64::try_from(token).unwrap_or(0))
}

fn duration(us: i64) -> Duration {
    Duration::from_micros(u64::try_from(us).unwrap_or(0))
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
