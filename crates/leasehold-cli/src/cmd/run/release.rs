//! The last stage of a run: giving the lock up, and the exit code.

use leasehold::{ErrorKind, Guard, Locks, Lost, Name};

use super::{Job, Outcome};
use crate::args::OnLost;
use crate::exit::{Exit, Failure, Result, chain};
use crate::output::warn;
use crate::session;

impl Job {
    /// Gives the lock up, and returns how the run ends.
    pub(super) async fn release(&mut self, locks: &Locks, guard: Guard, outcome: Outcome) -> Result<Exit> {
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
        let failed = "the lock could not be released";
        match self.signals.hurry(guard.release()).await {
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
