//! Resumes: starts them, executes their actions, and answers their callers.

use std::time::Duration;

use super::Actor;
use super::acquisition::{Stage, Verb};
use super::cleanups::{CleanupStage, Task};
use super::effects::Input;
use super::leases::LeaseOptions;
use crate::clock::Moment;
use crate::engine::call::Key;
use crate::engine::cleanup::{Cleanup, Leftovers};
use crate::engine::handle::{Delivery, Reply, Undo};
use crate::engine::resume::{self, Action, Resume};
use crate::engine::timing::any_executable_until;
use crate::error::{Error, ErrorKind, Result};
use crate::lost::Lost;
use crate::options::{Options, shared_label};
use crate::storage::Claim;
use crate::ticket::Ticket;

/// A resume, and the caller that waits for it.
pub(super) struct ResumeStage {
    pub(super) resume: Resume,
    options: LeaseOptions,
    reply: Reply<Delivery>,
    /// The claim by which this client was detaching the lease, unless the storage has confirmed that. And how long the
    /// lease lasts until then.
    pub(super) detaching: Option<(Claim, Duration)>,
}

impl Actor {
    /// Starts to resume a ticket.
    pub(super) fn resume(
        &mut self,
        now: Moment,
        key: Key,
        ticket: &Ticket,
        options: &Options,
        reply: Reply<Delivery>,
    ) {
        let name = ticket.name.clone();
        let detaching = match self.take_detaching(key) {
            Ok(detaching) => detaching,
            Err(error) => return drop(reply.send(Err(error))),
        };
        // Detached from now on: requests of the previous holder may still arrive, and must not tie the lease to a
        // process.
        let mut claim = Claim::new(name.clone(), key.owner, ticket.ttl).detached(true);
        claim.label = shared_label(&options.label);
        // Nothing is known of when the lease was granted.
        let options = LeaseOptions { settled: ticket.settled, at_least: None, ..LeaseOptions::new(options) };
        let resume = Resume::new(key.owner, name, ticket.token, now);
        self.insert(key, claim, Stage::Resume(Box::new(ResumeStage { resume, options, reply, detaching })));
        self.queue_step(key, Input::Wake);
    }

    /// Ends the cleanup by which this client detaches the lease, so that the resume takes its place. The resume detaches
    /// the lease itself, or starts that cleanup again if it fails.
    fn take_detaching(&mut self, key: Key) -> Result<Option<(Claim, Duration)>> {
        let Some(acquisition) = self.acquisitions.get(&key.owner) else { return Ok(None) };
        let (present, name) = (acquisition.key, &acquisition.claim.name);
        match &acquisition.stage {
            Stage::Cleanup(stage) if matches!(stage.task, Task::Detach { .. }) => {
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

    /// Passes an input to a resume, and executes its action.
    pub(super) fn step_resume(&mut self, key: Key, now: Moment, input: Input) {
        let Some(stage) = self.resume_stage(key) else { return };
        let action = match input {
            Input::Wake => stage.resume.step(now, resume::Input::Wake),
            Input::Inspected { call, found } => {
                stage.resume.step(now, resume::Input::Inspected { id: call.id, found })
            }
            Input::Renewed { call, answer } => stage.resume.step(now, resume::Input::Answer { call, answer }),
            Input::Cancel | Input::Close => Action::End(Error::closed()),
            _ => return,
        };
        match action {
            Action::None => {}
            Action::Inspect => {
                let id = self.next_call();
                if let Some(stage) = self.resume_stage(key) {
                    stage.resume.inspects(id);
                    self.inspect_lease(key, id, None);
                }
            }
            Action::Renew => self.send(key, Verb::Renew),
            Action::Granted { sent, ttl } => self.resumed(key, now, sent, ttl),
            Action::End(error) => self.not_resumed(key, now, error),
        }
    }

    fn resumed(&mut self, key: Key, now: Moment, sent: Moment, ttl: Duration) {
        let Some((claim, stage)) = self.remove_resume(key) else { return };
        let ResumeStage { resume, options, reply, .. } = *stage;
        // If a ticket is not settled, a request of the previous holder may still be executed.
        let unknown_until = if options.settled { Moment::ZERO } else { any_executable_until(now) };
        let status = self.begin_lease(key, claim, options, sent, resume.token(), ttl, unknown_until);
        let is_delivered = self.commands().is_some_and(|commands| {
            match reply.send(Ok(Delivery::new(status, commands, Undo::Detach))) {
                // The caller has left. The lease is detached here and now: a command to do so would come after a close
                // that the caller has sent meanwhile, and the close would release the lease.
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

    /// Answers the caller of a resume that has failed. The ticket stays valid, unless the lease is lost.
    fn not_resumed(&mut self, key: Key, now: Moment, error: Error) {
        let Some((_, stage)) = self.remove_resume(key) else { return };
        let ResumeStage { reply, detaching, .. } = *stage;
        if let Some((claim, lasts)) = detaching
            && error.kind() != ErrorKind::Lost
        {
            let expires = now.after(claim.ttl * 2);
            let leftovers = Leftovers { claim: None, unknown_until: Moment::ZERO, expires };
            let cleanup = Cleanup::new(key.owner, now, leftovers);
            self.clean_up(key, claim, CleanupStage::new(cleanup, Task::Detach { lasts }));
        }
        drop(reply.send(Err(error)));
    }

    fn resume_stage(&mut self, key: Key) -> Option<&mut ResumeStage> {
        match &mut self.get_mut(key)?.stage {
            Stage::Resume(stage) => Some(stage),
            _ => None,
        }
    }

    fn remove_resume(&mut self, key: Key) -> Option<(Claim, Box<ResumeStage>)> {
        self.resume_stage(key)?;
        let acquisition = self.remove(key)?;
        match acquisition.stage {
            Stage::Resume(stage) => Some((acquisition.claim, stage)),
            _ => None,
        }
    }
}
