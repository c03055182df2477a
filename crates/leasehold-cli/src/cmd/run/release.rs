//! The last stage of a run: giving the lock up, and the exit code.

use std::time::Duration;

use leasehold::{ErrorKind, Guard, Locks, Lost, Name};

use super::{Job, Outcome, clock};
use crate::args::OnLost;
use crate::exit::{Exit, Failure, Result, chain};
use crate::output::warn;
use crate::session;

impl Job {
    /// Gives the lock up, and returns how the run ends.
    pub(super) async fn release(
        &mut self,
        locks: &Locks,
        guard: Guard,
        granted: u64,
        outcome: Outcome,
    ) -> Result<Exit> {
        let Outcome { exit, lost, unguarded } = outcome;
        let ignore = self.args.on_lost == OnLost::Ignore;
        let name = guard.name().clone();
        if let Some(why) = lost {
            // A lease that was given up because of --max-hold has to be released. Any other one has ended at the
            // storage, or ends with its TTL, whether the storage answers by then or not.
            self.is_settled = why != Lost::MaxHold;
            drop(guard);
            return if ignore { Ok(exit) } else { Err(unfinished(locks, &name, why).await) };
        }
        let ended = match unguarded {
            Some(failure) if !ignore => Err(Failure::quiet(failure.exit)),
            _ => Ok(exit),
        };
        let rest = self.rest_of_minimum(granted);
        let failed = if rest.is_zero() {
            "the lock could not be released"
        } else {
            "the lease could not be set to end after --at-least"
        };
        let give_up =
            async { if rest.is_zero() { guard.release().await } else { leave(locks, guard, rest).await } };
        match self.signals.hurry(give_up).await {
            Some(Ok(())) => ended,
            Some(Err(error)) if error.kind() == ErrorKind::Lost && !ignore => match error.lost() {
                Some(why) => Err(unfinished(locks, &name, why).await),
                None => Err(error.into()),
            },
            Some(Err(error)) => {
                self.leave_to_ttl(failed, &name, &chain(&error));
                ended
            }
            None => {
                self.leave_to_ttl(failed, &name, "the storage has not answered");
                ended
            }
        }
    }

    /// Returns how much is left of `--at-least`.
    fn rest_of_minimum(&self, granted: u64) -> Duration {
        let held = Duration::from_nanos(clock::boot_nanos().saturating_sub(granted));
        self.args.at_least.unwrap_or_default().saturating_sub(held)
    }

    /// Leaves the lease to its TTL, and says why.
    fn leave_to_ttl(&mut self, failed: &str, name: &Name, why: &str) {
        warn(&format!("warning: {failed}, so the lease ends with its ttl name=`{name}`: {why}"));
        self.is_settled = true;
    }
}

/// Reports a loss, and the holder after it if the lease was ended by another client.
async fn unfinished(locks: &Locks, name: &Name, why: Lost) -> Failure {
    let now = match why {
        Lost::Taken => session::current_holder(locks, name).await,
        _ => String::new(),
    };
    Failure::new(
        Exit::Lost,
        format!(
            "the lock was lost while the command ran; treat its work as unfinished name=`{name}` why=`{why}`{now}"
        ),
    )
}

/// Lets the lease last for `rest`, and leaves it there.
async fn leave(locks: &Locks, guard: Guard, rest: Duration) -> leasehold::Result<()> {
    let extended = guard.extend(std::cmp::max(rest, locks.limits().ttl_min)).await;
    guard.forget();
    extended
}
