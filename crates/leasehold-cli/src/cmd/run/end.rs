//! The fourth stage of a run: the command has ended, and perhaps not yet the rest of its group.

use std::time::Duration;

use futures_util::FutureExt as _;
use rustix::process::Pid;

use super::child::Child;
use super::watch::Watch;
use super::{Outcome, group};
use crate::args::OnLost;
use crate::exit::Exit;
use crate::output::warn;

impl Watch<'_> {
    /// Takes the terminal back, and waits for the rest of the group if the lock is lost.
    pub(super) async fn end(mut self, exit: Exit) -> Outcome {
        let had_terminal = self.job.terminal.take_back(&self.child);
        let exit = self.job.seen_from_outside(exit, had_terminal);
        if self.lost.is_none() && !self.guards.is_held() {
            let (guard, why) = self.losses.next().await;
            self.lose(guard, why);
        }
        while let Some((guard, why)) = self.losses.next().now_or_never() {
            self.lose(guard, why);
        }
        let must_end = self.lost.is_some() || self.unguarded.is_some();
        if must_end && self.job.args.on_lost != OnLost::Ignore {
            self.end_group().await;
        } else {
            self.guardian.group_ended();
            self.child.reap();
        }
        Outcome { exit, lost: self.lost, unguarded: self.unguarded }
    }

    /// Waits until the command's children have ended. They have the rest of the grace time.
    async fn end_group(&mut self) {
        self.child.reap();
        self.guardian.reaped();
        while !self.kill.was_sent() {
            tokio::select! {
                biased;
                () = self.child.group_ended() => break,
                () = self.kill.due() => self.kill.send(&self.child),
                // The locks beside the lost one are still renewed.
                Some(_) = self.events.next() => self.tell_deadline(),
            }
        }
        ended_or_warned(&self.child, &self.job.name).await;
        self.guardian.group_ended();
    }
}

/// Waits until the group has ended after its SIGKILL. Warns if it does not.
async fn ended_or_warned(child: &Child, name: &str) {
    // A process that has much memory to give back takes that long to end.
    const LONGEST: Duration = Duration::from_secs(1);
    let ended = tokio::time::timeout(LONGEST, child.group_ended()).await.is_ok();
    // A zombie does nothing any more. It may stay where no process reaps it.
    if !ended && group::has_running_members(child.group()) {
        warn_of_survivor(name, child.group());
    }
}

fn warn_of_survivor(name: &str, group: Pid) {
    let name = name.escape_debug();
    warn(&format!(
        "warning: a process of the command goes on without the lock, and cannot be ended: it runs as another user, or \
         hangs in the kernel name=`{name}` group=`{group}`"
    ));
}
