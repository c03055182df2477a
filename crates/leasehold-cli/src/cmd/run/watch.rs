//! The third stage of a run: the command runs, and this process watches it, the lock, the guardian and the signals.

use std::pin::Pin;
use std::time::Duration;

use leasehold::{Events, Guard, Guards, Lost};
use rustix::process::{Pid, Signal};
use tokio::time::Sleep;

use super::child::{Change, Child};
use super::guardian::{Guardian, Report};
use super::losses::Losses;
use super::requests::Action;
use super::{Job, Loss, clock};
use crate::args::OnLost;
use crate::exit::{Exit, Failure};
use crate::output::warn;

/// A running command, and what has happened to its locks.
pub(super) struct Watch<'a> {
    pub(super) job: &'a mut Job,
    pub(super) guards: &'a Guards,
    pub(super) guardian: &'a mut Guardian,
    pub(super) child: Child,
    /// The client's events, of which a renewal changes the deadline.
    pub(super) events: Events,
    pub(super) losses: Losses<'a>,
    /// The first loss.
    pub(super) lost: Option<Loss>,
    /// Why the guardian has ended and no other one started.
    pub(super) unguarded: Option<Failure>,
    pub(super) kill: Kill,
    search: Search,
}

/// What the watch waits for.
enum Input<'a> {
    Child(Change),
    Guardian(Report),
    Lost(&'a Guard, Lost),
    KillIsDue,
    Signal(Signal),
    RequestIsDue,
    SearchIsDue,
    /// Any event of the client; a renewal changes the deadline.
    ClientEvent,
}

impl<'a> Watch<'a> {
    pub(super) fn new(
        job: &'a mut Job,
        guards: &'a Guards,
        guardian: &'a mut Guardian,
        child: Child,
        events: Events,
    ) -> Self {
        let (losses, kill, search) = (Losses::new(guards), Kill::NotPlanned, Search::new());
        Self { job, guards, guardian, child, events, losses, lost: None, unguarded: None, kill, search }
    }

    /// Watches the command until it has ended.
    pub(super) async fn until_the_end(&mut self) -> Exit {
        loop {
            match self.next().await {
                Input::Child(Change::Ended(exit)) => return exit,
                Input::Child(Change::Stopped(by)) => self.job.terminal.stopped(&self.child, by),
                Input::Guardian(Report::Requested) => {
                    self.job.requests.sent_to_every_process(clock::boot_nanos());
                }
                Input::Guardian(Report::Answered) => self.job.forward_held(&self.child),
                Input::Guardian(Report::Gone) => self.replace_guardian(),
                Input::Lost(guard, why) => self.lose(guard, why),
                Input::KillIsDue => self.kill.send(&self.child),
                Input::Signal(signal) => self.job.forward(&self.child, signal),
                Input::RequestIsDue => self.act_on_requests(),
                Input::SearchIsDue => self.search_for_foreign_processes(),
                Input::ClientEvent => self.tell_deadline(),
            }
        }
    }

    /// Waits for the next input. Loses none if it is dropped.
    async fn next(&mut self) -> Input<'a> {
        tokio::select! {
            biased;
            change = self.child.change() => Input::Child(change),
            report = self.guardian.hear() => Input::Guardian(report),
            (guard, why) = self.losses.next() => Input::Lost(guard, why),
            () = self.kill.due() => Input::KillIsDue,
            signal = self.job.signals.next() => Input::Signal(signal),
            () = until(self.job.requests.due()) => Input::RequestIsDue,
            () = self.search.due() => Input::SearchIsDue,
            Some(_) = self.events.next() => Input::ClientEvent,
        }
    }

    /// Acts on the loss of a lock. Only the first loss ends the command.
    pub(super) fn lose(&mut self, lost: &Guard, why: Lost) {
        // After --max-hold, the storage still has the lease, and it has to be released.
        if why != Lost::MaxHold {
            self.guardian.forget(lost.owner());
        }
        if self.job.args.on_lost == OnLost::Ignore {
            let name = lost.name().as_str().escape_debug();
            warn(&format!(
                "warning: the lock is lost and the command goes on without it name=`{name}` why=`{why}`"
            ));
        }
        if self.lost.is_some() {
            return;
        }
        self.lost = Some(Loss { name: lost.name().clone(), why });
        self.guardian.lost();
        self.tell_deadline();
        match self.job.args.on_lost {
            OnLost::Term => {
                adopt_orphans();
                // If this process was stopped when the lease was over, the guardian has sent the SIGTERM.
                if self.guardian.take_turn() {
                    self.child.terminate();
                } else {
                    self.child.signal(Signal::CONT);
                }
                self.kill.plan(self.job.grace());
            }
            OnLost::Kill => {
                adopt_orphans();
                self.kill.send(&self.child);
            }
            OnLost::Ignore => {}
        }
    }

    /// Starts another guardian. If none starts, ends the command, unless it may go on without a lock.
    fn replace_guardian(&mut self) {
        let Err(failure) = self.guardian.replace() else { return };
        let why = failure.text.as_deref().unwrap_or_default();
        if self.job.args.on_lost == OnLost::Ignore {
            warn(&format!("warning: if this process dies, the command goes on error=`{why}`"));
        } else {
            warn(&format!("the command is ended, because it would outlive this process error=`{why}`"));
            adopt_orphans();
            self.child.terminate();
            self.kill.plan(self.job.grace());
        }
        self.unguarded = Some(failure);
    }

    fn act_on_requests(&mut self) {
        match self.job.requests.act(clock::boot_nanos()) {
            Action::Ask => {
                if !self.guardian.ask() {
                    self.job.forward_held(&self.child);
                }
            }
            Action::PassOn(signals) => {
                signals.into_iter().for_each(|signal| self.child.pass_on(signal));
            }
        }
    }

    /// Tells the guardian until when all locks are held, or after a loss, until when the other leases last.
    pub(super) fn tell_deadline(&mut self) {
        if self.lost.is_none() && !self.guards.is_held() {
            return;
        }
        let held = self.guards.iter().filter(|guard| guard.is_held());
        if let Some(remaining) = held.map(Guard::remaining).min() {
            self.guardian.deadline(remaining);
        }
    }

    fn search_for_foreign_processes(&mut self) {
        if let Some(pid) = self.child.foreign_process() {
            self.search.end();
            warn_of_foreign_process(&self.job.name, pid);
        }
    }
}

fn warn_of_foreign_process(name: &str, pid: Pid) {
    let name = name.escape_debug();
    warn(&format!(
        "warning: a process of the command runs as another user; it goes on when the lock is lost, and when this \
         process dies; start `leasehold` as that user, as in `sudo leasehold run` name=`{name}` pid=`{pid}`"
    ));
}

/// The SIGKILL that ends the command's group.
pub(super) enum Kill {
    NotPlanned,
    Planned(Pin<Box<Sleep>>),
    Sent,
}

impl Kill {
    /// Plans it, unless it was sent.
    fn plan(&mut self, after: Duration) {
        if !matches!(self, Self::Sent) {
            *self = Self::Planned(Box::pin(tokio::time::sleep(after)));
        }
    }

    /// Waits until it is to be sent.
    pub(super) async fn due(&mut self) {
        match self {
            Self::Planned(sleep) => sleep.as_mut().await,
            Self::NotPlanned | Self::Sent => std::future::pending().await,
        }
    }

    pub(super) fn send(&mut self, child: &Child) {
        child.signal(Signal::KILL);
        *self = Self::Sent;
    }

    pub(super) fn was_sent(&self) -> bool {
        matches!(self, Self::Sent)
    }
}

/// The search for processes that cannot be signaled. The first follows soon after the start, and each further one after
/// a longer pause, until one has found something.
struct Search {
    next: Option<Pin<Box<Sleep>>>,
    pause: Duration,
}

impl Search {
    fn new() -> Self {
        const FIRST: Duration = Duration::from_millis(100);
        Self { next: Some(Box::pin(tokio::time::sleep(FIRST))), pause: FIRST }
    }

    async fn due(&mut self) {
        const LONGEST: Duration = Duration::from_secs(10);
        match &mut self.next {
            Some(next) => {
                next.as_mut().await;
                self.pause = std::cmp::min(self.pause * 2, LONGEST);
                next.set(tokio::time::sleep(self.pause));
            }
            None => std::future::pending().await,
        }
    }

    fn end(&mut self) {
        self.next = None;
    }
}

/// Waits until this time of the boot clock.
async fn until(due: Option<u64>) {
    match due {
        Some(due) => tokio::time::sleep(Duration::from_nanos(due.saturating_sub(clock::boot_nanos()))).await,
        None => std::future::pending().await,
    }
}

/// Becomes the parent of the group's orphans, to reap them. The group counts as ended when its zombies are gone, and the
/// first process of a container may reap nothing. Not earlier, so that a daemon sees the parent that it expects.
fn adopt_orphans() {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
}
