//! The first two stages of a run: taking the locks, and starting the command.

use futures_util::future::join_all;
use leasehold::{ErrorKind, Guard, Guards, Lock, Locks};
use rustix::process::Signal;

use super::Job;
use super::child::Child;
use super::guardian::Guardian;
use crate::exit::{Failure, Result};
use crate::session::{self, Context};
use crate::{signals, waiting};

impl Job {
    /// Takes the locks, and shows meanwhile what it waits for.
    pub(super) async fn acquire(&mut self, locks: &Locks, cx: &Context) -> Result<Guards> {
        let all = locks.all(self.names.iter().map(|name| self.lock(locks, name)));
        let acquired = self.signals.interrupt(async {
            tokio::select! {
                guards = all.acquire() => guards,
                never = waiting::show(locks, locks.events(), cx.output) => match never {},
            }
        });
        Ok(acquired.await??)
    }

    /// Returns one of the locks, as the options describe it.
    fn lock(&self, locks: &Locks, name: &str) -> Lock {
        let lock = session::lock(locks, name, &self.args.lock);
        let lock = match self.args.max_hold {
            Some(max_hold) => lock.max_hold(max_hold),
            None => lock,
        };
        match self.args.at_least {
            Some(at_least) => lock.at_least(at_least),
            None => lock,
        }
    }

    /// Starts the command, once the guardian knows the deadline and the group that it has to end.
    pub(super) async fn start(&mut self, guards: &Guards, guardian: &mut Guardian) -> Result<Child> {
        let variables = self.environment.variables(guards);
        guardian.deadline(guards.remaining());
        // A signal that came during the acquisition means that the command is not wanted any more.
        if let Some(exit) = signals::ended_so_far() {
            return Err(Failure::quiet(exit));
        }
        let mut child = Child::spawn(&self.command, &variables)?;
        // This comes before the command begins: the command may outlive this process for a moment, and the leases have to
        // outlive the command.
        let untie = join_all(guards.iter().map(Guard::outlive_process));
        let (ready, untied) = tokio::join!(child.ready(), untie);
        ready?;
        // The next stage sees a loss.
        if let Some(error) = untied
            .into_iter()
            .filter_map(leasehold::Result::err)
            .find(|error| error.kind() != ErrorKind::Lost)
        {
            child.signal(Signal::KILL);
            child.reap();
            return Err(error.into());
        }
        // Not earlier: the command inherits what is ignored.
        self.signals.add_cont()?;
        guardian.watch()?;
        guardian.group(child.group());
        if guards.is_held() {
            child.start();
        } else {
            child.signal(Signal::KILL);
        }
        Ok(child)
    }
}
