use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::engine::{Handle, LeaseStatus};
use crate::error::{Error, ErrorKind, Result};
use crate::lost::Lost;
use crate::options;
use crate::storage::{Name, Owner, Token};
use crate::ticket::Ticket;
use crate::watch::Watch;

/// Proves that this process holds a lock, until it is released, dropped or lost.
///
/// A lock with a TTL can be lost during the work: the process may be paused, the storage unreachable, or the lock
/// broken by an operator. [`Guard::lost`] completes at a local deadline at the latest, for which it makes no request.
/// Only the [`Token`], checked by the resource that the lock protects, makes a paused holder harmless.
///
/// Dropping a guard releases the lock in the background, at once. The release is repeated until the storage answers or
/// the lease ends. Use [`Guard::release`] to learn the result. A process that exits right after a drop may leave the
/// lease until its TTL; [`Locks::close`](crate::Locks::close) waits for the release.
#[must_use = "dropping a Guard releases the lock"]
pub struct Guard {
    status: Arc<LeaseStatus>,
    engine: Handle,
}

impl Guard {
    pub(crate) fn new(status: Arc<LeaseStatus>, engine: Handle) -> Self {
        Self { status, engine }
    }

    /// Takes the guard apart, so that dropping it has no effect. `None` if it was released.
    pub(crate) fn into_status(self) -> Option<Arc<LeaseStatus>> {
        self.status.give_up().then(|| Arc::clone(&self.status))
    }

    /// Releases the lock in the background, though others may share this guard.
    pub(crate) fn abandon(&self) {
        if self.status.give_up() {
            self.engine.abandon(&self.status);
        }
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

    /// Returns `true` if the lock is held right now. Reads the clock, makes no request and never blocks.
    ///
    /// The result is right even if the program was paused until this instant. Once it is `false`, it stays `false`. In a
    /// fork of the process that holds the lock it is always `false`.
    pub fn is_held(&self) -> bool {
        self.status.is_held()
    }

    /// Returns the remaining time of the lease if it is not renewed again; zero once it is lost. Makes no request.
    pub fn remaining(&self) -> Duration {
        self.status.remaining()
    }

    /// Waits until the lock is lost and returns the reason. Any number of tasks may wait.
    ///
    /// Completes at the local deadline at the latest, even if the storage does not answer. That deadline is earlier
    /// than the end of the lease at the storage. If the guard is shared, completes with [`Lost::Released`] when another
    /// place releases it, or when its term of an [`Election`](crate::Election) is over.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future changes nothing.
    pub async fn lost(&self) -> Lost {
        self.status.ended().await.unwrap_or(Lost::Released)
    }

    /// Waits until the lock is lost. A released lock is not.
    pub(crate) async fn lost_unreleased(&self) -> Lost {
        self.status.lost().await
    }

    /// Returns a view of this lease that borrows nothing and does not hold the lock, for a task that waits for its loss.
    pub fn watch(&self) -> Watch {
        Watch::new(Arc::clone(&self.status))
    }

    /// Returns the reason if the lock is lost.
    pub(crate) fn why_lost(&self) -> Option<Lost> {
        // Reads the clock first: a deadline that has passed becomes a loss then.
        if self.is_held() { None } else { self.status.why_lost() }
    }

    /// Ensures that at least `least` is left of the lease. Renews it now if less is left.
    ///
    /// # Errors
    ///
    /// - [`Lost`](crate::ErrorKind::Lost) if the lock is lost.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable) if the storage did not answer; the lock is still held.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the storage refuses the renewal, as a server does whose
    ///   permissions have changed. The lock is still held until its deadline.
    /// - [`Invalid`](crate::ErrorKind::Invalid) if a full TTL would not be enough.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future may leave a renewal in flight, which does no harm.
    pub async fn ensure(&self, least: Duration) -> Result<()> {
        let most = self.status.longest();
        if least > most {
            return Err(Error::invalid(format!(
                "a renewed lease lasts less than that; take the lock with a longer ttl ensure=`{least:?}` at_most=`{most:?}`"
            )));
        }
        let left = self.remaining();
        if !left.is_zero() && left >= least {
            return Ok(());
        }
        self.engine.renew(&self.status, None).await?;
        if self.remaining() >= least {
            return Ok(());
        }
        match self.status.why_lost() {
            Some(lost) => Err(Error::lost_for(self.name(), lost)),
            None => {
                let text = "the renewal was answered too late to leave that much; retry";
                let text = format!("{text} name=`{}` ensure=`{least:?}`", self.name());
                Err(Error::new(ErrorKind::Unavailable, text))
            }
        }
    }

    /// Lets the lease outlive this process: if the process dies, the lease ends with its TTL, or when
    /// [`Locks::resume`](crate::Locks::resume) resumes its [`Guard::ticket`] and releases it. Renews the lease; the guard
    /// works as before. Cannot be undone.
    ///
    /// This is for a process that starts others, which may continue its work after its death. A second process watches
    /// that work, and releases the ticket when the work has ended. Without this call, SQLite frees the lock of a killed
    /// process within milliseconds; every other storage keeps it for the TTL anyway.
    ///
    /// # Errors
    ///
    /// - [`Lost`](crate::ErrorKind::Lost) if the lock is lost.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable) if the storage did not answer. The lock is still held, and the
    ///   next renewal lets it outlive the process.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future may leave the lease bound to the process until the next renewal.
    pub async fn outlive_process(&self) -> Result<()> {
        self.engine.outlive(&self.status).await
    }

    /// Verifies with one request that the storage still has this lease.
    ///
    /// # Errors
    ///
    /// - [`Lost`](crate::ErrorKind::Lost) if it has not; the guard is lost from then on.
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
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) if the storage refuses the renewal, as a server does whose
    ///   permissions have changed. The lock is held as after `Unavailable`.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future may or may not change the TTL.
    pub async fn extend(&self, ttl: Duration) -> Result<()> {
        options::check_ttl(ttl, self.engine.limits())?;
        self.engine.renew(&self.status, Some(ttl)).await
    }

    /// Releases the lock. `Ok` means that it was held without interruption until now.
    ///
    /// # Errors
    ///
    /// - [`Lost`](crate::ErrorKind::Lost) if it was lost before: the work may have overlapped with that of another holder.
    /// - [`Unavailable`](crate::ErrorKind::Unavailable) if the storage did not answer within 5 s, or before the lease
    ///   ended. The release is repeated in the background, and the TTL frees the lock at the latest.
    /// - [`Unsupported`](crate::ErrorKind::Unsupported) or [`Invalid`](crate::ErrorKind::Invalid) if the storage
    ///   refuses the release, as a server does whose permissions have changed. Then the TTL frees the lock.
    ///
    /// # Cancel safety
    ///
    /// Dropping this future does not stop the release.
    pub async fn release(self) -> Result<()> {
        self.release_by_ref().await
    }

    /// Releases the lock and keeps the guard, for a guard that several places share, as objects of another language do.
    ///
    /// From the first call on, [`Guard::is_held`] returns `false`, and [`Guard::extend`], [`Guard::ensure`],
    /// [`Guard::verify`] and [`Guard::outlive_process`] return [`Invalid`](crate::ErrorKind::Invalid). Each later call
    /// returns `Ok` at once, and so does [`Guard::release`]; only the first one learns the result.
    ///
    /// # Errors
    ///
    /// The errors of [`Guard::release`].
    ///
    /// # Cancel safety
    ///
    /// Once this future has been polled, dropping it does not stop the release.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> leasehold::Result<()> {
    /// let locks = leasehold::Locks::connect("memory:").await?;
    /// let guard = locks.lock("invoice/42").acquire().await?;
    /// guard.release_by_ref().await?;
    /// assert!(!guard.is_held());
    /// guard.release_by_ref().await?;
    /// # Ok(()) }
    /// ```
    pub async fn release_by_ref(&self) -> Result<()> {
        if !self.status.give_up() {
            return Ok(());
        }
        self.engine.release(&self.status).await
    }

    /// Makes a ticket of the lease, for another process or for later. Renewal stops. The lease ends with its TTL unless
    /// [`Locks::resume`](crate::Locks::resume) resumes the ticket, in this or in another process.
    ///
    /// A request in the background tells the storage that the lease outlives this process;
    /// [`Locks::close`](crate::Locks::close) waits for its reply. If the process dies before that, SQLite ends the
    /// lease, and a resume of the ticket returns [`Lost`](crate::ErrorKind::Lost). The ticket of a guard that was lost
    /// is lost, too, but maybe only after a moment: when this client's release arrives.
    pub fn into_ticket(self) -> Ticket {
        let ticket = self.ticket();
        self.forget();
        ticket
    }

    /// Returns the ticket of this lease and keeps the guard. Another process can verify the ticket; this guard goes on
    /// to renew the lease, and releases it.
    pub fn ticket(&self) -> Ticket {
        self.status.ticket()
    }

    /// Stops renewing and lets the lease end with its TTL, even if this process ends before.
    pub fn forget(self) {
        if self.status.give_up() {
            self.engine.detach(&self.status);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.abandon();
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

/// Returns the result of the work, unless the lock was lost before the release.
pub(crate) fn unless_lost<T>(released: Result<()>, done: T) -> Result<T> {
    match released {
        Err(error) if error.kind() == ErrorKind::Lost => Err(error),
        _ => Ok(done),
    }
}
