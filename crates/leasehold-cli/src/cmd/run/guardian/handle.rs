//! The guardian as `run` sees it.

use std::time::Duration;

use leasehold::{Owner, Ticket};
use rustix::process::Pid;
use tokio::signal::unix;

use super::message::Message;
use super::process::Process;
use super::turn::Turn;
use super::{after, broken};
use crate::args::OnLost;
use crate::exit::{Exit, Failure, Result};
use crate::signals;

/// Tells the guardian what it has to know, and starts another one when it ends. If this is dropped before
/// [`done`](Self::done), the guardian kills the group.
pub(in crate::cmd::run) struct Guardian {
    process: Process,
    on_lost: OnLost,
    grace: Duration,
    turn: Turn,
    /// What another guardian has to be told.
    known: Vec<Message>,
    /// How many guardians in a row have ended soon after their start.
    short_lived: u32,
    /// SIGCHLD, which comes when the guardian was stopped, too.
    child_signals: Option<unix::Signal>,
    /// Whether the guardian has ended, and no other one is started.
    is_given_up: bool,
}

/// What the guardian reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::cmd::run) enum Report {
    /// The guardian got a request to end. Only a sender that signals every process reaches it.
    Requested,
    /// The guardian answers [`Guardian::ask`].
    Answered,
    /// The guardian has ended, or does not read any more: replace it.
    Gone,
}

impl Guardian {
    pub(in crate::cmd::run) fn start(on_lost: OnLost, grace: Duration) -> Result<Self> {
        let turn = Turn::new().map_err(broken)?;
        Ok(Self {
            process: Process::start(on_lost, grace, &turn)?,
            on_lost,
            grace,
            turn,
            known: Vec::new(),
            short_lived: 0,
            child_signals: None,
            is_given_up: false,
        })
    }

    /// Continues the guardian from now on when it is stopped.
    pub(in crate::cmd::run) fn watch(&mut self) -> Result<()> {
        self.child_signals = Some(signals::of_children()?);
        Ok(())
    }

    /// Starts another guardian, and tells it all that this one was told. Fails if they all end at once.
    pub(in crate::cmd::run) fn replace(&mut self) -> Result<()> {
        const SOON: Duration = Duration::from_secs(1);
        const MOST: u32 = 10;
        self.short_lived = if self.process.is_younger_than(SOON) { self.short_lived + 1 } else { 0 };
        self.process.end();
        let next = if self.short_lived < MOST {
            Process::start(self.on_lost, self.grace, &self.turn)
        } else {
            Err(Failure::new(Exit::Bug, "the command's guardian ends again and again"))
        };
        self.is_given_up = next.is_err();
        self.process = next?;
        for message in &self.known {
            self.process.tell(message);
        }
        Ok(())
    }

    /// Names the leases that the guardian releases once the group has ended, but not before `at_least` is over.
    pub(in crate::cmd::run) fn leases(
        &mut self,
        tickets: impl Iterator<Item = Ticket>,
        url: &str,
        at_least: Option<Duration>,
    ) {
        for ticket in tickets {
            self.tell(Message::Lease { ticket, url: url.to_owned() });
        }
        if let Some(at_least) = at_least {
            self.tell(Message::Keep(after(at_least)));
        }
    }

    /// Names the group that the guardian ends.
    pub(in crate::cmd::run) fn group(&mut self, group: Pid) {
        self.tell(Message::Group(group));
    }

    /// Says that the head of the group was reaped.
    pub(in crate::cmd::run) fn reaped(&mut self) {
        self.tell(Message::Reaped);
    }

    /// Says how long the lease still lasts.
    pub(in crate::cmd::run) fn deadline(&mut self, remaining: Duration) {
        self.tell(Message::Deadline(after(remaining)));
    }

    /// Says that `run` acts on the loss of a lock. The guardian only makes sure that the group ends. From now on, the
    /// [`deadline`](Self::deadline) is that of the other leases.
    pub(in crate::cmd::run) fn lost(&mut self) {
        // Another guardian must not act on the loss, so it hears of no deadline before.
        self.known.retain(|known| !matches!(known, Message::Deadline(_)));
        self.tell(Message::Lost);
    }

    /// Says that a lease is over. The others are still to be released.
    pub(in crate::cmd::run) fn forget(&mut self, lease: Owner) {
        self.process.tell(&Message::Forget(lease));
        self.known.retain(|known| !matches!(known, Message::Lease { ticket, .. } if ticket.owner() == lease));
    }

    /// Asks for an answer. Returns `false` if no guardian can give one.
    pub(in crate::cmd::run) fn ask(&mut self) -> bool {
        self.process.tell(&Message::Ask);
        !self.is_given_up && !self.process.is_stuck()
    }

    /// Says that the group's id is about to be free for other processes. The lease still exists.
    pub(in crate::cmd::run) fn group_ended(&mut self) {
        self.process.tell(&Message::Ended);
        self.known.retain(|known| matches!(known, Message::Lease { .. } | Message::Keep(_)));
    }

    /// Says that the lease is over, or ends without the guardian.
    pub(in crate::cmd::run) fn done(&mut self) {
        self.process.tell(&Message::Done);
        self.process.hang_up();
        self.known.clear();
    }

    /// Waits for the next report. Loses none if it is dropped.
    pub(in crate::cmd::run) async fn hear(&mut self) -> Report {
        loop {
            if self.is_given_up {
                return std::future::pending().await;
            }
            if self.process.is_stuck() {
                return Report::Gone;
            }
            match self.process.report() {
                Ok(Some(report)) => return report,
                Ok(None) => {}
                Err(_) => return Report::Gone,
            }
            self.process.continue_if_stopped();
            let child_signal = async {
                match &mut self.child_signals {
                    Some(signals) => _ = signals.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.process.readable() => {}
                () = child_signal => {}
            }
        }
    }

    /// Returns `true` if `run` has to ask the group to end, because the guardian has not done so.
    pub(in crate::cmd::run) fn take_turn(&self) -> bool {
        self.turn.take()
    }

    /// Waits for the guardian's end, after [`done`](Self::done). Then it keeps nothing open that the caller of `run`
    /// waits for.
    pub(in crate::cmd::run) async fn ended(mut self) {
        const LONGEST: Duration = Duration::from_secs(1);
        if self.is_given_up {
            return;
        }
        let gone = async { while self.hear().await != Report::Gone {} };
        if tokio::time::timeout(LONGEST, gone).await.is_ok() {
            self.process.end();
        }
    }

    /// Tells this guardian, and each later one. A message replaces an earlier one of its kind.
    fn tell(&mut self, message: Message) {
        self.process.tell(&message);
        self.known.retain(|known| !message.replaces(known));
        self.known.push(message);
    }
}
