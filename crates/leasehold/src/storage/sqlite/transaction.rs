//! One transaction on the lock file: what all calls need in it.
//!
//! The calls themselves are in `acquire`, `renew`, `release` and `inspect`; the queue of waiters is in `queue`.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OptionalExtension, Result, Row};

use super::boot::Boot;
use super::effects::Effects;
use super::hints::Hinter;
use super::live::{self, State};
use crate::clock::Moment;
use crate::error::{Error, ErrorKind};
use crate::storage::{Claim, Name, Owner, Token};

/// A transaction at one moment, by one storage.
pub(super) struct Tx<'a> {
    pub(super) db: &'a Connection,
    pub(super) live_dir: &'a Path,
    /// The id of this storage's liveness file; `None` where there are no liveness files.
    pub(super) me: Option<&'a str>,
    pub(super) boot: &'a Boot,
    pub(super) hinter: &'a Hinter,
    pub(super) now: Moment,
    pub(super) now_us: i64,
    pub(super) effects: Effects,
}

/// A row of the table `lock`.
pub(super) struct Record {
    /// The owner of the lease; `None` if the lock was released.
    pub(super) owner: Option<Owner>,
    pub(super) token: i64,
    pub(super) boot: String,
    pub(super) granted_us: i64,
    pub(super) expires_us: i64,
    /// The liveness file that the lease is bound to; `None` for a detached lease.
    pub(super) live: Option<String>,
    pub(super) label: Option<String>,
}

/// The longest lease. A record that ends later is of another boot.
const LONGEST_LEASE: Duration = Duration::from_secs(24 * 60 * 60);

impl Tx<'_> {
    /// Reads the record of a lock.
    pub(super) fn record(&self, name: &Name) -> Result<Option<Record>> {
        let mut record = self.db.prepare_cached(
            "SELECT owner, token, boot, granted_us, expires_us, live, label FROM lock WHERE name = ?1",
        )?;
        record.query_row([name.as_str()], Record::read).optional()
    }

    /// Returns `true` if the lease of a record has not ended.
    ///
    /// A lease of a live process is of this boot, whatever its record says. Otherwise the boot decides, too.
    pub(super) fn is_held(&self, record: &Record) -> bool {
        record.owner.is_some()
            && record.expires_us > self.now_us
            && match record.live.as_deref().map_or(State::Unknown, |live| self.look(live)) {
                State::Dead => false,
                State::Alive(_) => true,
                State::Unknown => self.may_be_of_this_boot(record),
            }
    }

    /// Returns `true` unless the record is known to be older than this boot of the machine.
    pub(super) fn may_be_of_this_boot(&self, record: &Record) -> bool {
        // The clock begins anew with each boot. A lease that was granted later than now, or ends too far in the future,
        // is of another one.
        let by_clock = || record.granted_us <= self.now_us && record.expires_us <= self.after(LONGEST_LEASE);
        self.boot.is(&record.boot).unwrap_or_else(by_clock)
    }

    /// Returns `true` unless the storage is known to be dead.
    pub(super) fn is_alive(&self, live: &str) -> bool {
        self.look(live) != State::Dead
    }

    fn look(&self, live: &str) -> State {
        if Some(live) == self.me {
            return State::Alive(None);
        }
        let state = live::look(self.live_dir, live);
        if state == State::Dead {
            live::remove_dead(self.live_dir, live);
        }
        state
    }

    /// Refuses a claim that is executed later than its patience allows.
    pub(super) fn in_time(&self, claim: &Claim, sent: Moment) -> crate::Result<()> {
        if self.now.since(sent) < claim.patience {
            return Ok(());
        }
        let text = format!("the claim came too late and was refused; ask again name=`{}`", claim.name);
        Err(Error::new(ErrorKind::Unavailable, text))
    }

    /// Hints an owner that holds, or did until now. Another client may have ended or shortened its lease.
    pub(super) fn hint_holder(&mut self, live: Option<String>, owner: Owner) {
        match live {
            Some(live) => self.effects.hints.push((live, owner)),
            None => self.effects.hints_to_all.push(owner),
        }
    }

    /// Returns the stored time that is so much later than now.
    pub(super) fn after(&self, by: Duration) -> i64 {
        self.now_us.saturating_add(micros(by))
    }
}

impl Record {
    /// Reads the columns `owner, token, boot, granted_us, expires_us, live, label`.
    pub(super) fn read(row: &Row<'_>) -> Result<Self> {
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

pub(super) fn token(token: i64) -> Token {
    Token::new(u64::try_from(token).unwrap_or(0))
}

pub(super) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
