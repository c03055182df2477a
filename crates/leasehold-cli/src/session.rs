//! One connection: made, used and closed, and left in good order if a signal comes.

use std::time::Duration;

use leasehold::storage::Limits;
use leasehold::{Error, ErrorKind, Guard, Lock, Locks, Name, Ticket, Wait};

use crate::args::{LockOptions, Patience};
use crate::exit::{Exit, Failure, Result};
use crate::output::{Output, state};
use crate::signals::Signals;
use crate::store::Store;

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) output: Output,
}

impl Context {
    /// Connects, does `work`, and closes. A signal drops the work, and still closes.
    pub(crate) async fn with_locks<T>(&self, work: impl AsyncFnOnce(&Locks) -> Result<T>) -> Result<T> {
        let mut signals = Signals::ending()?;
        let locks = signals.interrupt(Locks::connect(self.store.url())).await??;
        match signals.interrupt(work(&locks)).await.and_then(|done| done) {
            // What was achieved is told, whatever signal comes now: it may be a ticket.
            Ok(done) => locks.close().await.map(|()| done).map_err(Into::into),
            Err(failure) => {
                close(&locks).await;
                Err(failure)
            }
        }
    }
}

/// Waits until everything is released, as a storage that answers does in a moment: at most 1 s. What is left ends with
/// its TTL. No signal shortens that: the one that has brought this about may come twice, as `timeout` sends it, and would
/// leave a lock that no process knows of.
pub(crate) async fn close(locks: &Locks) {
    const LONGEST: Duration = Duration::from_secs(1);
    let _ = tokio::time::timeout(LONGEST, locks.close()).await;
}

/// Who has the lock now, for a message about somebody who has it no more: ``now=`held by …` ``. Nothing if the
/// storage does not say so at once.
pub(crate) async fn now(locks: &Locks, name: &Name) -> String {
    const LONGEST: Duration = Duration::from_secs(1);
    match tokio::time::timeout(LONGEST, locks.inspect(name)).await {
        Ok(Ok(holders)) => format!(" now=`{}`", state(&holders)),
        _ => String::new(),
    }
}

/// Says of a lost lock that a ticket names what a ticket's bearer wants to know.
pub(crate) async fn of_ticket(error: Error, name: &Name, locks: &Locks) -> Failure {
    if error.kind() != ErrorKind::Lost {
        return error.into();
    }
    let now = now(locks, name).await;
    Failure::new(Exit::Lost, format!("the lease of this ticket has ended name=`{name}`{now}"))
}

/// The lease of a ticket, taken up. Unless it is released, the lease stays with the ticket: also on an error, on a
/// signal, and on a panic, which all drop this.
pub(crate) struct Resumed(Option<Guard>);

impl Resumed {
    pub(crate) async fn resume(locks: &Locks, ticket: Ticket) -> Result<Self, Error> {
        locks.resume(ticket).await.map(|guard| Self(Some(guard)))
    }

    pub(crate) async fn extend(&self, ttl: Duration) -> Result<(), Error> {
        self.0.as_ref().expect("BUG: taken by value only").extend(ttl).await
    }

    pub(crate) async fn release(mut self) -> Result<(), Error> {
        self.0.take().expect("BUG: taken by value only").release().await
    }

    pub(crate) fn into_ticket(mut self) -> Ticket {
        self.0.take().expect("BUG: taken by value only").into_ticket()
    }
}

impl Drop for Resumed {
    fn drop(&mut self) {
        if let Some(guard) = self.0.take() {
            guard.forget();
        }
    }
}

/// Releases the lease of a ticket, for a process that cannot any more. Asks again as long as the storage does not answer.
pub(crate) async fn release_ticket(url: &str, ticket: Ticket) {
    const AGAIN: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(60);
    let release = async {
        while let Err(error) = try_release_ticket(url, ticket.clone()).await
            // What the system has run out of may be there again.
            && [ErrorKind::Unavailable, ErrorKind::Internal].contains(&error.kind())
        {
            tokio::time::sleep(AGAIN).await;
        }
    };
    // What is not released by then ends with its TTL.
    let _ = tokio::time::timeout(LONGEST, release).await;
}

async fn try_release_ticket(url: &str, ticket: Ticket) -> leasehold::Result<()> {
    let locks = Locks::connect(url).await?;
    let released = match Resumed::resume(&locks, ticket).await {
        Ok(lease) => lease.release().await,
        Err(error) => Err(error),
    };
    let closed = locks.close().await;
    released.and(closed)
}

/// Refuses a TTL that the storage does not allow, before anything is sent.
pub(crate) fn check_ttl(what: &str, ttl: Duration, locks: &Locks) -> Result<()> {
    let Limits { ttl_min: min, ttl_max: max, .. } = locks.limits();
    if (min..=max).contains(&ttl) {
        return Ok(());
    }
    Err(Failure::usage(format!(
        "{what} is at least {min:?} and at most {max:?} on this storage given=`{ttl:?}`"
    )))
}

/// Refuses to hold a lock for longer than the storage allows, before there is a command that would rely on it.
pub(crate) fn check_at_least(at_least: Option<Duration>, locks: &Locks) -> Result<()> {
    let longest = locks.limits().ttl_max;
    match at_least {
        Some(least) if least > longest => Err(Failure::usage(format!(
            "--at-least is at most the longest ttl that this storage allows at_least=`{least:?}` ttl_max=`{longest:?}`"
        ))),
        _ => Ok(()),
    }
}

/// The lock that the options describe.
pub(crate) fn lock(locks: &Locks, name: &str, options: &LockOptions) -> Lock {
    let lock = locks.lock(name);
    let lock = match options.ttl {
        Some(ttl) => lock.ttl(ttl),
        // The library's default, or what the storage allows.
        None => lock,
    };
    let lock = match &options.label {
        Some(label) => lock.label(label),
        None => lock,
    };
    if options.try_once {
        return lock.wait(attempts(1, Duration::ZERO));
    }
    match (options.retries, options.wait) {
        (Some(n), _) => {
            let interval = options.interval.unwrap_or(LockOptions::DEFAULT_INTERVAL);
            lock.wait(attempts(n.saturating_add(1), interval))
        }
        (None, Patience::For(limit)) => lock.wait(limit),
        (None, Patience::Forever) => lock.wait(Wait::Forever),
    }
}

fn attempts(attempts: u32, interval: Duration) -> Wait {
    Wait::Attempts { attempts, interval }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As on an error, a signal or a panic between the resumption and its end.
    #[tokio::test(flavor = "current_thread")]
    async fn a_resumed_lease_that_is_dropped_stays_with_its_ticket() {
        let dir = tempfile::tempdir().expect("a directory");
        let url = format!("sqlite:{}", dir.path().join("locks.db").display());
        let connect = async || Locks::connect(&url).await.expect("connected");
        let first = connect().await;
        let ticket = first.lock("lock").acquire().await.expect("free").into_ticket();
        first.close().await.expect("answered");

        let second = connect().await;
        let resumed = Resumed::resume(&second, ticket.clone()).await.expect("there");
        drop(resumed);
        second.close().await.expect("answered");

        let third = connect().await;
        let holders = third.inspect("lock").await.expect("answered");
        let holder = holders.first().expect("held");
        assert_eq!((holder.owner, holder.token), (ticket.owner(), ticket.token()));
        let resumed = Resumed::resume(&third, ticket).await.expect("still there");
        resumed.release().await.expect("held until now");
        assert!(third.inspect("lock").await.expect("answered").is_empty());
    }
}
