//! Acquires: grants a free lock to the first waiter, or to any owner if no other waits.

use rusqlite::{OptionalExtension, Result, named_params};

use super::transaction::{Record, Tx, token};
use crate::clock::{self, Moment};
use crate::storage::{AcquireReply, Claim};

/// The value of the column `kind` of an exclusive lock.
const KIND: &str = "mutex";

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
            return self.refuse(claim, held).map(Ok);
        }
        match self.first(&claim.name)? {
            Some((_, first)) if first != claim.owner => {
                // The first waiter may have missed its hint.
                self.hint_first(&claim.name)?;
                self.refuse(claim, None).map(Ok)
            }
            first => {
                if first.is_some() {
                    self.dequeue(claim)?;
                }
                self.grant(claim, record.as_ref()).map(Ok)
            }
        }
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
            ":live": if claim.detached { None } else { self.me },
            ":label": claim.label.as_deref(),
        })?;
        self.effects.settled.push(claim.owner);
        Ok(granted(token, claim))
    }

    /// Answers a claim that was not granted, and puts it into the queue if it waits.
    fn refuse(&mut self, claim: &Claim, held: Option<&Record>) -> Result<AcquireReply> {
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
}

fn granted(last: i64, claim: &Claim) -> AcquireReply {
    AcquireReply::Granted { token: token(last), ttl: claim.ttl }
}
