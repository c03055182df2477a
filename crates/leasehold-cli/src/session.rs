//! One connection: made, used and closed, and left in good order if a signal comes.

use std::time::Duration;

use leasehold::{Error, ErrorKind, Lock, Locks, Name, Wait};

use crate::args::{LockOptions, Patience};
use crate::exit::{Exit, Failure, Result};
use crate::output::{Output, describe};
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
                let _ = close(&locks, &mut signals).await;
                Err(failure)
            }
        }
    }
}

/// Waits until everything is released, at most 5 s and not beyond the next signal.
pub(crate) async fn close(locks: &Locks, signals: &mut Signals) -> Result<()> {
    const LONGEST: Duration = Duration::from_secs(5);
    match signals.interrupt(tokio::time::timeout(LONGEST, locks.close())).await? {
        Ok(closed) => closed.map_err(Into::into),
        // The engine has its own limit, so this is it being stuck: what is left ends with its TTL.
        Err(_) => Ok(()),
    }
}

/// Who has the lock now, for a message about somebody who has it no more: ``now=`held by …` ``. Nothing if the
/// storage does not say so at once.
pub(crate) async fn now(locks: &Locks, name: &Name) -> String {
    const LONGEST: Duration = Duration::from_secs(1);
    match tokio::time::timeout(LONGEST, locks.inspect(name)).await {
        Ok(Ok(Some(holder))) => format!(" now=`{}`", describe(&holder)),
        Ok(Ok(None)) => " now=`free`".to_owned(),
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

/// The lock that the options describe.
pub(crate) fn lock(locks: &Locks, name: &str, options: &LockOptions) -> Lock {
    let lock = locks.lock(name).ttl(options.ttl);
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
