use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Handle, LeaseStatus};
use crate::error::{Error, Result};
use crate::lost::Lost;
use crate::options;
use crate::storage::{Name, Owner, Token};
use crate::ticket::Ticket;

/// Proves that this process holds a lock, until it is released, dropped or lost.
///
/// A lock with a TTL can be lost while you work: the process may be paused, the storage unreachable, the
/// lock broken by an operator. [`Guard::lost`] tells you as soon as this process can know, from a local
/// deadline that needs nobody's answer. Only the [`Token`], checked by whatever you write to, makes a
/// paused holder harmless.
///
/// Dropping a guard gives the lock up: the release is sent in the background at once, and repeated until the
/// storage answers or the lease is over. Use [`Guard::release`] to know how it ended. A process that exits
/// right after a drop may leave the lease to its TTL; [`Locks::close`](crate::Locks::close) waits.
#[must_use = "dropping a Guard gives the lock up"]
pub struct Guard {
    status: Arc<LeaseStatus>,
    engine: Handle,
    /// Whether `drop` has nothing left to do.
    done: bool,
}

impl Guard {
    pub(crate) fn new(status: Arc<LeaseStatus>, engine: Handle) -> Self {
        Self { status, engine, done: false }
    }

    #[cfg(test)]
    pub(crate) fn status(&self) -> &LeaseStatus {
        &self.status
    }

    /// Returns the name of the lock.
    pub fn name(&self) -> &Name {
        &self.status.name
    }

    /// Returns the fencing token: larger than that of every earlier grant of this name.
    pub fn token(&self) -> Token {
        self.status.token
    }

    /// Returns the id of this acquisition.
    pub fn owner(&self) -> Owner {
        self.status.owner()
    }

    /// Returns `true` if the lock is held right now. Reads the clock, makes no request, never blocks.
    ///
    /// Right even if the program was paused until this instant. Once `false`, for ever `false`. Always `false` in a
    /// fork of the process that holds the lock.
    pub fn is_held(&self) -> bool {
        self.status.is_held()
    }

    /// Returns what is left of the lease if it is not renewed again; zero once lost. Asks nobody.
    pub fn remaining(&self) -> Duration {
        self.status.remaining()
    }

    /// Waits until the lock is lost and tells why. Any number of tasks may wait.
    ///
    /// Comes at the local deadline at the latest, which is earlier than the end of the lease at the
    /// storage, whether or not the storage answers.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future changes nothing.
    pub async fn lost(&self) -> Lost {
        self.status.lost().await
    }

    pub(crate) fn why_lost(&self) -> Option<Lost> {
        // Looks at the clock first, so that a deadline which has passed is known to have.
        if self.is_held() { None } else { self.status.why_lost() }
    }

    /// Makes sure that at least `least` is left of the lease: renews now if less is left.
    ///
    /// # Errors
    ///
    /// - [`Lost`](crate::ErrorKind::Lost) if the lock is lost.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable) if the storage did not answer; the lock is still held.
    /// - [`Invalid`](crate::ErrorKind::Invalid) if a full TTL would not be enough.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future may leave a renewal under way, which does no harm.
    pub async fn ensure(&self, least: Duration) -> Result<()> {
        let most = self.status.longest();
        if least > most {
            return Err(Error::invalid(format!(
                "a renewed lease lasts less than that; take the lock with a longer ttl ensure=`{least:?}` at_most=`{most:?}`"
            )));
        }
        if self.remaining() >= least {
            return Ok(());
        }
        self.engine.renew(&self.status, None).await?;
        if self.remaining() >= least {
            return Ok(());
        }
        match self.status.why_lost() {
            Some(lost) => Err(Error::lost_for(self.name(), lost)),
            None => Err(Error::unavailable(self.name(), least, None)),
        }
    }

    /// Unties the lease from this process: if the process dies, the lease ends with its TTL, or when
    /// [`Locks::resume`](crate::Locks::resume) takes its [`Guard::ticket`] up and releases it. Renews the lease; the guard
    /// goes on as before. Cannot be undone.
    ///
    /// For a process whose work may go on after its own death, in processes that it has started: a second process that
    /// watches over that work releases the ticket once the work has ended. Without this, SQLite frees the lock of a
    /// process that was killed within milliseconds; every other storage keeps it for the TTL anyway.
    ///
    /// # Errors
    ///
    /// - [`Lost`](crate::ErrorKind::Lost) if the lock is lost.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable) if the storage did not answer; the lock is still held, and the
    ///   next renewal unties it.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future may leave the lease tied until the next renewal.
    pub async fn outlive_process(&self) -> Result<()> {
        self.engine.outlive(&self.status).await
    }

    /// Asks the storage whether the lock is still held, now.
    ///
    /// # Errors
    ///
    /// - [`Lost`](crate::ErrorKind::Lost) if it is not; the guard is lost from then on.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable) if the storage did not answer; nothing has changed.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future changes nothing.
    pub async fn verify(&self) -> Result<()> {
        self.engine.verify(&self.status).await
    }

    /// Replaces the TTL: the lease lasts `ttl` from now, and as long after each renewal.
    ///
    /// # Errors
    ///
    /// - [`Invalid`](crate::ErrorKind::Invalid) if `ttl` is out of bounds.
    /// - [`Lost`](crate::ErrorKind::Lost) if the lock is lost.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable) if the storage did not answer. The lock is still held,
    ///   for the shorter of the two TTLs, and renewals go on with the new one.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future may or may not change the TTL.
    pub async fn extend(&self, ttl: Duration) -> Result<()> {
        options::check_ttl(ttl, self.engine.limits())?;
        self.engine.renew(&self.status, Some(ttl)).await
    }

    /// Gives the lock up. `Ok` means that it was held, without a break, until now.
    ///
    /// # Errors
    ///
    /// - [`Lost`](crate::ErrorKind::Lost) if it was lost before: the work may have overlapped with another's.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable) if the storage did not answer within 5 s or the lease.
    ///   The release is repeated in the background; at the latest the TTL frees the lock.
    ///
    /// # Cancel safety
    ///
    /// The release goes on when this future is dropped.
    pub async fn release(mut self) -> Result<()> {
        self.done = true;
        self.engine.release(&self.status).await
    }

    /// Writes the lease down to hand it to somebody else. Renewal stops; the lease ends with its TTL unless
    /// [`Locks::resume`](crate::Locks::resume) takes it up, here or in another process.
    ///
    /// The storage is told in the background that the lease outlives this process;
    /// [`Locks::close`](crate::Locks::close) waits until it knows. A process that dies before that takes the
    /// lease with it on SQLite, and whoever resumes the ticket finds it lost. So does whoever resumes the
    /// ticket of a guard that was lost before: maybe only after a moment, when this client's release arrives.
    pub fn into_ticket(mut self) -> Ticket {
        self.done = true;
        let ticket = self.ticket();
        self.engine.detach(&self.status);
        ticket
    }

    /// Returns the ticket of this lease without giving it away: it can be verified elsewhere while this guard
    /// holds, and is renewed and released by this guard.
    pub fn ticket(&self) -> Ticket {
        self.status.ticket()
    }

    /// Stops renewing and lets the lease end with its TTL, even if this process ends before.
    pub fn forget(mut self) {
        self.done = true;
        self.engine.detach(&self.status);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.done {
            self.engine.abandon(&self.status);
        }
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard")
            .field("name", self.name())
            .field("token", &self.token())
            .field("remaining", &self.remaining())
            .finish_non_exhaustive()
    }
}
