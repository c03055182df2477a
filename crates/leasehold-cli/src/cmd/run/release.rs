//! The last stage of a run: giving the locks up, and the exit code.

use leasehold::{ErrorKind, Guards, Locks, Lost, Name};

use super::{Job, Loss, Outcome};
use crate::args::OnLost;
use crate::exit::{Exit, Failure, Result, chain};
use crate::output::warn;
use crate::session;

impl Job {
    /// Gives the locks up, and returns how the run ends.
    pub(super) async fn release(&mut self, locks: &Locks, guards: Guards, outcome: Outcome) -> Result<Exit> {
        let Outcome { exit, lost, unguarded } = outcome;
        let ignore = self.args.on_lost == OnLost::Ignore;
        let first = guards[0].name().clone();
        let is_one = guards.len() == 1;
        if let Some(Loss { name, why }) = lost {
            // A lease that was given up because of --max-hold has to be released, and so have those beside the lost one.
            // Any other one has ended at the storage, or ends with its TTL, whether the storage answers by then or not.
            self.is_settled = is_one && why != Lost::MaxHold;
            self.lost = Some(why);
            drop(guards);
            return if ignore { Ok(exit) } else { Err(unfinished(locks, &name, why).await) };
        }
        let ended = match unguarded {
            Some(failure) if !ignore => Err(Failure::quiet(failure.exit)),
            _ => Ok(exit),
        };
        match self.signals.hurry(guards.release()).await {
            Some(Ok(())) => ended,
            Some(Err(error)) if error.kind() == ErrorKind::Lost && !ignore => match error.lost() {
                Some(why) if is_one => Err(unfinished(locks, &first, why).await),
                // The error names the lock.
                _ => Err(error.into()),
            },
            Some(Err(error)) => {
                self.leave_to_ttl(&chain(&error));
                ended
            }
            None => {
                self.leave_to_ttl("the storage has not answered");
                ended
            }
        }
    }

    /// Leaves the lease to its TTL, and says why.
    fn leave_to_ttl(&mut self, why: &str) {
        let name = self.name.escape_debug();
        warn(&format!(
            "warning: the lock could not be released, so the lease ends with its ttl name=`{name}`: {why}"
        ));
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
