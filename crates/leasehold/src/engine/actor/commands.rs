//! What callers ask for.

use std::time::Duration;

use super::seats::{Asked, Errand, Goodbye, Resuming, Seat, Stage, Terms};
use super::steps::Step;
use super::{Actor, CLOSE_LIMIT, Closing};
use crate::clock::Moment;
use crate::engine::attempt::{Attempt, patience};
use crate::engine::observers::Observers;
use crate::engine::planted::{self, Bug};
use crate::engine::resolver::Resolver;
use crate::engine::{Reply, Resumed};
use crate::error::{Error, ErrorKind};
use crate::guard::{Guard, Lost};
use crate::options::{Options, shared_label};
use crate::storage::{Claim, Name, Owner};
use crate::ticket::Ticket;

/// How long `release` waits for an answer.
pub(super) const RELEASE_LIMIT: Duration = Duration::from_secs(5);
/// How long `resume` waits for an answer.
pub(super) const RESUME_LIMIT: Duration = Duration::from_secs(5);

impl Actor {
    pub(super) fn acquire(
        &mut self,
        now: Moment,
        owner: Owner,
        name: Name,
        options: Options,
        once: bool,
        reply: Reply<Option<Guard>>,
    ) {
        let mut claim = Claim::new(name.clone(), owner, options.ttl).patience(patience(options.ttl));
        claim.label = shared_label(&options.label);
        if planted::is(Bug::GhostAcquire) {
            claim.patience = Duration::MAX;
        }
        let terms = Terms { renewal: options.renewal, max_hold: options.max_hold, settled: true };
        let attempt = Box::new(Attempt::new(owner, options.ttl, options.wait, once, now));
        let lines_up = attempt.lines_up();
        self.sit(owner, claim, Stage::Seeking { attempt, terms, reply, announced: false });
        if !lines_up || self.queues.join(&name, owner) {
            self.step(owner, now, Step::Turn);
        } else {
            let holder = self.holder_here(&name);
            self.announce(owner, holder);
        }
    }

    pub(super) fn resume(
        &mut self,
        now: Moment,
        by: Owner,
        ticket: &Ticket,
        options: Options,
        reply: Reply<Resumed>,
    ) {
        let (owner, name) = (ticket.owner, ticket.name.clone());
        let mut detaching = None;
        match self.seats.get(&owner).map(|seat| &seat.stage) {
            None => {}
            // It was just given away here: the storage is told so by resuming it, or afterwards.
            Some(Stage::Clearing { errand: Errand::Detach { .. }, .. }) => {
                self.renews.withdraw(owner);
                detaching = self.vacate(owner).map(|seat| {
                    let lasts = seat.lasts();
                    (seat.claim, lasts)
                });
            }
            Some(Stage::Clearing { .. }) => {
                let _ = reply.send(Err(Error::lost_for(&name, Lost::Taken)));
                return;
            }
            Some(_) => {
                let text = format!("this client has that lease already; use its guard name=`{name}`");
                let _ = reply.send(Err(Error::new(ErrorKind::Invalid, text)));
                return;
            }
        }
        // Detached for ever: whoever handed it over may still be heard of, and must not tie it to a process.
        let mut claim = Claim::new(name, owner, ticket.ttl).detached(true);
        claim.label = shared_label(&options.label);
        let resuming = Resuming {
            by,
            token: ticket.token,
            terms: Terms { renewal: options.renewal, max_hold: options.max_hold, settled: ticket.settled },
            reply,
            until: now.after(RESUME_LIMIT),
            ask_at: now,
            detaching,
            found: false,
            sent: Moment::ZERO,
        };
        self.sit(owner, claim, Stage::Resuming(resuming));
        self.step(owner, now, Step::Wake);
    }

    /// Whoever resumes a ticket is gone. The lease stays with the ticket.
    pub(super) fn leave_resume(&mut self, owner: Owner, by: Owner) {
        if let Some(Seat { stage: Stage::Resuming(resuming), .. }) = self.seats.get(&owner)
            && resuming.by == by
        {
            self.renews.withdraw(owner);
            if let Some(Seat { stage: Stage::Resuming(resuming), .. }) = self.vacate(owner) {
                self.leave_to_ticket(resuming.detaching);
            }
        }
    }

    /// Detaches a lease that is not resumed after all.
    pub(super) fn leave_to_ticket(&mut self, detaching: Option<(Claim, Duration)>) {
        if let Some((claim, lasts)) = detaching {
            let (owner, now) = (claim.owner, self.clock.now());
            let (expires, errand) = (now.after(claim.ttl * 2), Errand::Detach { lasts });
            self.begin(owner, claim, Resolver::new(owner, now, None, Moment::ZERO, expires), errand);
        }
    }

    pub(super) fn renew_for(&mut self, now: Moment, owner: Owner, ttl: Option<Duration>, reply: Reply<()>) {
        // Lost meanwhile: the guard knows why.
        let Some(Seat { stage: Stage::Held { asked, lease, .. }, .. }) = self.seats.get_mut(&owner) else {
            return;
        };
        asked.push(Asked { after: lease.calls(), reply });
        self.step(owner, now, ttl.map_or(Step::RenewNow, Step::Extend));
    }

    pub(super) fn release(&mut self, now: Moment, owner: Owner, reply: Option<Reply<()>>) {
        // Seen first, so that a deadline which has passed is a loss and not a release.
        self.step(owner, now, Step::Wake);
        let Some(Seat { stage: Stage::Held { hold, lease, unknown_until, .. }, .. }) = self.seats.get(&owner)
        else {
            return;
        };
        let deadline = lease.deadline();
        let goodbye = Goodbye {
            reply,
            token: hold.token,
            held: hold.age(),
            deadline,
            answer_by: std::cmp::min(deadline, now.after(RELEASE_LIMIT)),
            repeated: false,
        };
        let (unknown_until, expires) = (*unknown_until, lease.ended_by(now));
        self.clear(now, owner, Errand::Release { goodbye: Some(goodbye) }, unknown_until, expires);
    }

    pub(super) fn detach(&mut self, now: Moment, owner: Owner) {
        self.step(owner, now, Step::Wake);
        let Some(Seat { claim, stage: Stage::Held { lease, .. }, .. }) = self.seats.get_mut(&owner) else {
            return;
        };
        (claim.detached, claim.shorten, claim.ttl) = (true, false, lease.ttl());
        let (expires, errand) = (lease.ended_by(now), Errand::Detach { lasts: lease.lasts() });
        self.clear(now, owner, errand, Moment::ZERO, expires);
    }

    pub(super) fn close(&mut self, now: Moment, reply: Reply<()>) {
        self.closing = Some(Closing { until: now.after(CLOSE_LIMIT), replies: vec![reply] });
        let mut owners: Vec<_> = self.seats.keys().copied().collect();
        owners.sort_unstable(); // one order, so that a run can be repeated
        for owner in owners {
            self.step(owner, now, Step::Close);
        }
        self.observers = Observers::new(false);
    }
}
