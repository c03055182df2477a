//! Renews: gives a lease that is held a full TTL, or brings its end forward.

use rusqlite::{Result, named_params};

use super::transaction::Tx;
use crate::clock::Moment;
use crate::storage::{Claim, RenewReply};

impl Tx<'_> {
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
        // The lease is bound to another storage, or is not held, or its owner has to be hinted.
        let record = self.record(&claim.name)?;
        let Some(record) = record.filter(|record| record.owner == Some(claim.owner) && self.is_held(record))
        else {
            return Ok(Ok(RenewReply::NotHeld));
        };
        self.extend(claim)?;
        if claim.shorten && self.after(claim.ttl) < record.expires_us {
            // Also if this storage granted it: another client may have sent this claim.
            self.hint_holder(record.live, claim.owner);
        }
        Ok(renewed)
    }

    /// Gives a lease that is known to be held a full TTL.
    ///
    /// May detach it, but never binds it to a process again. Otherwise a late renewal would make another process's lease
    /// depend on the life of the process that sent it.
    pub(super) fn extend(&self, claim: &Claim) -> Result<()> {
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
}
