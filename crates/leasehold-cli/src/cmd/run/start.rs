//! The first two stages of a run: taking the lock, and starting the command.

use leasehold::{ErrorKind, Guard, Locks};
use rustix::process::Signal;

use super::Job;
use super::child::Child;
use super::guardian::Guardian;
use crate::exit::{Failure, Result};
use crate::session::{self, Context};
use crate::{signals, waiting};

impl Job {
    /// Takes the lock, and shows meanwhile what it waits for.
    pub(super) async fn acquire(&mut self, locks: &Locks, cx: &Context) -> Result<Guard> {
        let lock = session::lock(locks, &self.name, &self.args.lock);
        let lock = match self.args.max_hold {
            Some(max_hold) => lock.max_hold(max_hold),
            None => lock,
        };
        let lock = match self.args.at_least {
            Some(at_least) => lock.at_least(at_least),
            None => lock,
        };
        let acquired = self.signals.interrupt(async {
            tokio::select! {
                guard = lock.acquire() => guard,
                never = waiting::show(locks, locks.events(), cx.output) => match never {},
            }
        });
        Ok(acquired.await??)
    }

    /// Starts the command, once the guardian knows the deadline and the group that it has to end.
    pub(super) async fn start(&mut self, guard: &Guard, guardian: &mut Guardian) -> Result<Child> {
        let variables = self.environment.variables(guard);
        guardian.deadline(guard.remaining());
        // A signal that came during the acquisition means that the command is not wanted any more.
        if let Some(exit) = signals::ended_so_far() {
            return Err(Failure::quiet(exit));
        }
        let mut child = Child::spawn(&self.command, &variables)?;
        // This comes before the command begins: the command may outlive this process for a moment, and the lease has to
        // outlive the command.
        let (ready, untied) = tokio::join!(child.ready(), guard.outlive_process());
        ready?;
        match untied {
            Err(error) if error.kind() != ErrorKind::Lost => {
                child.signal(Signal::KILL);
                child.reap();
                return Err(error.into());
            }
            // The next stage sees a loss.
            _ => {}
        }
        // Not earlier: the command inherits what is ignored.
        self.signals.add_cont()?;
        guardian.watch()?;
        guardian.group(child.group());
        if guard.is_held() {
            child.start();
        } else {
            child.signal(Signal::KILL);
        }
        Ok(child)
    }
}
