//! Resumes: tickets that are taken up.

use std::time::Duration;

use super::Actor;
use super::acquisition::{Stage, Verb};
use super::cleanups::{CleaningUp, Task};
use super::effects::Input;
use super::leases::Terms;
use crate::clock::Moment;
use crate::engine::call::Key;
use crate::engine::cleanup::Cleanup;
use crate::engine::handle::{Delivery, Reply, Undo};
use crate::engine::resume::{self, Action, Resume};
use crate::engine::timing::any_executable_until;
use crate::error::{Error, ErrorKind, Result};
use crate::lost::Lost;
use crate::options::{Options, shared_label};
use crate::storage::Claim;
use crate::ticket::Ticket;

/// A caller who takes a ticket up.
pub(super) struct Resuming {
    pub(super) resume: Resume,
    terms: Terms,
    reply: Reply<Delivery>,
    /// What was to be detached here and how long it lasts until then, if that is not known to have been done.
    pub(super) detaching: Option<(Claim, Duration)>,
}

impl Actor {
    pub(super) fn resume(
        &mut self,
        now: Moment,
        key: Key,
        ticket: &Ticket,
        options: &Options,
        reply: Reply<Delivery>,
    ) {
        let name = ticket.name.clone();
        let detaching = match self.take_back(key) {
            Ok(detaching) => detaching,
            Err(error) => return drop(reply.send(Err(error))),
        };
        // Detached for ever: requests of the holder before may still arrive, and must not tie it to a process.
        let mut claim = Claim::new(name.clone(), key.owner, ticket.ttl).detached(true);
        claim.label = shared_label(&options.label);
        let terms = Terms { settled: ticket.settled, ..Terms::new(options) };
        let resume = Resume::new(key.owner, name, ticket.token, now);
        self.insert(key, claim, Stage::Resume(Box::new(Resuming { resume, terms, reply, detaching })));
        self.tell(key, Input::Wake);
    }

    /// Makes room for the resume of a lease that this client has given away just now. The storage is told so by the
    /// resume, or afterwards.
    fn take_back(&mut self, key: Key) -> Result<Option<(Claim, Duration)>> {
        let Some(acquisition) = self.acquisitions.get(&key.owner) else { return Ok(None) };
        let (present, name) = (acquisition.key, &acquisition.claim.name);
        match &acquisition.stage {
            Stage::Cleanup(cleaning) if matches!(cleaning.task, Task::Detach { .. }) => {
                Ok(self.remove(present).map(|acquisition| {
                    let lasts = acquisition.lasts();
                    (acquisition.claim, lasts)
                }))
            }
            Stage::Cleanup(_) => Err(Error::lost_for(name, Lost::Taken)),
            Stage::Attempt(_) | Stage::Resume(_) | Stage::Lease(_) => {
                let text = format!("this client has that lease already; use its guard name=`{name}`");
                Err(Error::new(ErrorKind::Invalid, text))
            }
        }
    }

    pub(super) fn step_resume(&mut self, key: Key, now: Moment, input: Input) {
        let Some(resuming) = self.resuming(key) else { return };
        let action = match input {
            Input::Wake => resuming.resume.step(now, resume::Input::Wake),
            Input::Seen { look, seen } => {
                resuming.resume.step(now, resume::Input::Seen { look: look.id, seen })
            }
            Input::Renewed { call, answer } => {
                resuming.resume.step(now, resume::Input::Answer { call, answer })
            }
            Input::Leave | Input::Close => Action::End(Error::closed()),
            _ => return,
        };
        match action {
            Action::Rest => {}
            Action::Look => {
                let id = self.next_call();
                if let Some(resuming) = self.resuming(key) {
                    resuming.resume.looks(id);
                    self.look_at_lease(key, id, None);
                }
            }
            Action::Renew => self.send(key, Verb::Renew),
            Action::Granted { sent, ttl } => self.resumed(key, now, sent, ttl),
            Action::End(error) => self.not_resumed(key, now, error),
        }
    }

    fn resumed(&mut self, key: Key, now: Moment, sent: Moment, ttl: Duration) {
        let Some((claim, resuming)) = self.remove_resume(key) else { return };
        let Resuming { resume, terms, reply, .. } = *resuming;
        // A ticket that is not settled says that some request of the holder before may still be executed.
        let unknown_until = if terms.settled { Moment::ZERO } else { any_executable_until(now) };
        let hold = self.hold(key, claim, terms, sent, resume.token(), ttl, unknown_until);
        let is_delivered = self.commands().is_some_and(|commands| {
            match reply.send(Ok(Delivery::new(hold, commands, Undo::Detach))) {
                // The caller has left. The lease goes back to the ticket here and now: a command to do so would come
                // after a close that the caller has sent meanwhile, which releases what is held.
                Err(Ok(delivery)) => {
                    drop(delivery.take());
                    false
                }
                _ => true,
            }
        });
        if !is_delivered {
            self.detach(now, key);
        }
    }

    /// The lease stays with the ticket, unless it is lost.
    fn not_resumed(&mut self, key: Key, now: Moment, error: Error) {
        let Some((_, resuming)) = self.remove_resume(key) else { return };
        let Resuming { reply, detaching, .. } = *resuming;
        if let Some((claim, lasts)) = detaching
            && error.kind() != ErrorKind::Lost
        {
            let expires = now.after(claim.ttl * 2);
            let cleanup = Cleanup::new(key.owner, now, None, Moment::ZERO, expires);
            self.clean_up(key, claim, CleaningUp::new(cleanup, Task::Detach { lasts }));
        }
        drop(reply.send(Err(error)));
    }

    fn resuming(&mut self, key: Key) -> Option<&mut Resuming> {
        match &mut self.get_mut(key)?.stage {
            Stage::Resume(resuming) => Some(resuming),
            _ => None,
        }
    }

    fn remove_resume(&mut self, key: Key) -> Option<(Claim, Box<Resuming>)> {
        self.resuming(key)?;
        let acquisition = self.remove(key)?;
        match acquisition.stage {
            Stage::Resume(resuming) => Some((acquisition.claim, resuming)),
            _ => None,
        }
    }
}
