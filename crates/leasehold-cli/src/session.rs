//! The connection of one command: made, used and closed, even if a signal comes.

use std::time::Duration;

use leasehold::storage::Limits;
use leasehold::{Error, ErrorKind, Guard, Lock, Locks, Name, Ticket, Wait};

use crate::args::{LockOptions, WaitLimit};
use crate::exit::{Exit, Failure, Result};
use crate::output::{Output, state};
use crate::signals::Signals;
use crate::store::Store;

/// What each command needs: the storage's URL and the printer.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) store: Store,
    pub(crate) output: Output,
}

impl Context {
    /// Connects, does `work`, and closes. A signal drops the work; the connection is closed all the same.
    pub(crate) async fn with_locks<T>(&self, work: impl AsyncFnOnce(&Locks) -> Result<T>) -> Result<T> {
        let mut signals = Signals::ending()?;
        let locks = signals.interrupt(Locks::connect(self.store.url())).await??;
        match signals.interrupt(work(&locks)).await.and_then(|done| done) {
            // A result is reported, whatever signal comes now: it may be a ticket.
            Ok(done) => locks.close().await.map(|()| done).map_err(Into::into),
            Err(failure) => {
                close(&locks).await;
                Err(failure)
            }
        }
    }
}

/// Closes the client, and waits at most 1 s until everything is released. What is left ends with its TTL. No signal shortens
/// this: `timeout` sends a signal twice, and the second one would leave a lock of which no process knows.
pub(crate) async fn close(locks: &Locks) {
    const LONGEST: Duration = Duration::from_secs(1);
    let _ = tokio::time::timeout(LONGEST, locks.close()).await;
}

/// Returns the present holder, for a message about a former one: ``now=`held by …` ``. Returns nothing if the storage does
/// not answer within a second.
pub(crate) async fn current_holder(locks: &Locks, name: &Name) -> String {
    const LONGEST: Duration = Duration::from_secs(1);
    match tokio::time::timeout(LONGEST, locks.inspect(name)).await {
        Ok(Ok(holders)) => format!(" now=`{}`", state(&holders)),
        _ => String::new(),
    }
}

/// Makes a failure of an error of a ticket. If the lease has ended, the text names the present holder.
pub(crate) async fn ticket_failure(error: Error, name: &Name, locks: &Locks) -> Failure {
    if error.kind() != ErrorKind::Lost {
        return error.into();
    }
    let now = current_holder(locks, name).await;
    Failure::new(Exit::Lost, format!("the lease of this ticket has ended name=`{name}`{now}"))
}

/// The resumed lease of a ticket. If this is dropped, by an error, a signal or a panic, the lease stays with the ticket.
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

/// Releases the leases of tickets, for a process that has died, or has the storage keep them for what is the `rest` at
/// that time. Retries while the storage does not answer.
pub(crate) async fn end_leases(url: &str, mut tickets: Vec<Ticket>, rest: impl Fn() -> Duration) {
    const AGAIN: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(60);
    let end = async {
        while let Err(error) = try_end_leases(url, &mut tickets, &rest).await
            && may_succeed_later(&error)
        {
            tokio::time::sleep(AGAIN).await;
        }
    };
    // A lease that is not released by then ends with its TTL.
    let _ = tokio::time::timeout(LONGEST, end).await;
}

async fn try_end_leases(
    url: &str,
    tickets: &mut Vec<Ticket>,
    rest: &impl Fn() -> Duration,
) -> leasehold::Result<()> {
    let locks = Locks::connect(url).await?;
    let mut ended = Ok(());
    while let Some(ticket) = tickets.last() {
        match end_lease(&locks, ticket.clone(), rest()).await {
            Err(error) if may_succeed_later(&error) => {
                ended = Err(error);
                break;
            }
            // Any other error, such as a loss, is an answer, too.
            _ => drop(tickets.pop()),
        }
    }
    let closed = locks.close().await;
    ended.and(closed)
}

async fn end_lease(locks: &Locks, ticket: Ticket, rest: Duration) -> leasehold::Result<()> {
    let lease = Resumed::resume(locks, ticket).await?;
    if rest.is_zero() {
        return lease.release().await;
    }
    let Limits { ttl_min, ttl_max, .. } = locks.limits();
    lease.extend(rest.clamp(ttl_min, ttl_max)).await
}

/// Returns `true` if the same request may be answered later. `Internal`: the system may have run out of something that
/// becomes free.
fn may_succeed_later(error: &Error) -> bool {
    [ErrorKind::Unavailable, ErrorKind::Internal].contains(&error.kind())
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

/// Returns the lock that the options describe.
pub(crate) fn lock(locks: &Locks, name: &str, options: &LockOptions) -> Lock {
    let lock = locks.lock(name);
    let lock = match options.ttl {
        Some(ttl) => lock.ttl(ttl),
        // Without a TTL, the library takes its default, or the longest that the storage allows.
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
        (None, WaitLimit::For(limit)) => lock.wait(limit),
        (None, WaitLimit::Forever) => lock.wait(Wait::Forever),
    }
}

fn attempts(attempts: u32, interval: Duration) -> Wait {
    Wait::Attempts { attempts, interval }
}

#[cfg(test)]
mod tests {
    use super::*;

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
