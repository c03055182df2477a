//! Releases: ends a lease and removes a waiter's entry.

use rusqlite::{Result, params};

use super::transaction::Tx;
use crate::storage::{Claim, ReleaseReply};

impl Tx<'_> {
    pub(super) fn release(&mut self, claim: &Claim) -> Result<ReleaseReply> {
        self.dequeue(claim)?;
        self.effects.settled.push(claim.owner);
        let Some(record) = self.record(&claim.name)? else {
            return Ok(ReleaseReply::NotHeld);
        };
        let held = self.is_held(&record);
        if record.owner != Some(claim.owner) {
            if !held {
                self.hint_first(&claim.name)?;
            }
            return Ok(ReleaseReply::NotHeld);
        }
        let mut free = self.db.prepare_cached(
            "UPDATE lock SET owner = NULL, live = NULL, label = NULL, boot = ?2, expires_us = ?3 WHERE name = ?1",
        )?;
        free.execute(params![claim.name.as_str(), self.boot.id(), self.now_us])?;
        self.hint_first(&claim.name)?;
        if !held {
            return Ok(ReleaseReply::NotHeld);
        }
        // Also if this storage granted it: another client may have ended the lease.
        self.hint_holder(record.live, claim.owner);
        Ok(ReleaseReply::Released)
    }
}
