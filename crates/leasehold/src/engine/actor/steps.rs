//! Tells an acquisition what has happened, and does what its machine says.

use std::sync::Arc;
use std::time::Duration;

use super::Actor;
use super::calls::CALL_LIMIT;
use super::commands::{RELEASE_LIMIT, RESUME_LIMIT};
use super::seats::{Errand, Resuming, Seat, Stage};
use crate::clock::Moment;
use crate::engine::attempt::{self, Debt, Refusal};
use crate::engine::lease::{self, renew_limit};
use crate::engine::planted::{self, Bug};
use crate::engine::resolver::{self, Left, Resolver};
use crate::engine::{Handle, Resumed};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::guard::{Guard, Lost};
use crate::storage::{Acquire, Holder, Owner, Release, Renew, Token};

/// How long `resume` pauses between two tries.
const RESUME_PAUSE: Duration = Duration::from_millis(50);

/// What happens to an acquisition, whatever its stage.
pub(super) enum Step {
    Turn,
    Wake,
    Hint,
    Leave,
    Silence(Error),
    Close,
    Gone,
    /// Somebody holds what a ticket is for.
    Found(Result<Option<Holder>>),
    RenewNow,
    /// The storage may have forgotten it.
    Verify,
    Extend(Duration),
    Acquired {
        sent: Moment,
        answer: Result<Acquire>,
    },
    Renewed {
        sent: Moment,
        answer: Result<Renew>,
    },
    Released {
        sent: Moment,
        answer: Result<Release>,
    },
}

impl Actor {
    /// Tells an acquisition what has happened, and does what its machine says.
    pub(super) fn step(&mut self, owner: Owner, now: Moment, step: Step) {
        let subscribed = self.hints.is_some();
        let Some(seat) = self.seats.get_mut(&owner) else {
            return;
        };
        match &mut seat.stage {
            Stage::Seeking { attempt, .. } => {
                let input = match step {
                    Step::Turn => attempt::Input::Turn { subscribed },
                    Step::Wake => attempt::Input::Wake,
                    Step::Hint => attempt::Input::Hint,
                    Step::Leave | Step::Close => attempt::Input::Leave,
                    Step::Acquired { sent, answer } => attempt::Input::Answer { sent, answer },
                    Step::Silence(error) => attempt::Input::Silence(error),
                    Step::Extend(_)
                    | Step::RenewNow
                    | Step::Verify
                    | Step::Gone
                    | Step::Found(_)
                    | Step::Renewed { .. }
                    | Step::Released { .. } => return,
                };
                let action = attempt.step(now, input);
                self.seek(owner, now, action);
            }
            Stage::Resuming { .. } => self.step_resuming(owner, now, step),
            Stage::Held { .. } => self.step_held(owner, now, step),
            Stage::Clearing { .. } => self.step_clearing(owner, now, step),
        }
        self.rearm(owner);
    }

    pub(super) fn seek(&mut self, owner: Owner, now: Moment, action: attempt::Action) {
        match action {
            attempt::Action::Rest => self.announce_seen(owner),
            attempt::Action::Ask { wait } => {
                if wait {
                    self.subscribe();
                    self.announce_seen(owner);
                }
                if let Some(seat) = self.seats.get_mut(&owner) {
                    seat.claim.wait = wait;
                    self.acquires.push(owner, seat.claim.name.clone(), seat.claim.ttl);
                }
            }
            attempt::Action::Granted { sent, token, ttl, unknown_until } => {
                self.granted(owner, now, sent, token, ttl, unknown_until);
            }
            attempt::Action::End { refusal, debt } => self.refused(owner, now, refusal, &debt),
        }
    }

    pub(super) fn granted(
        &mut self,
        owner: Owner,
        now: Moment,
        sent: Moment,
        token: Token,
        ttl: Duration,
        unknown_until: Moment,
    ) {
        let Some(Seat { claim, stage: Stage::Seeking { attempt, terms, reply, .. }, .. }) =
            self.vacate(owner)
        else {
            return;
        };
        let waited = attempt.waited(now);
        let sent = if planted::is(Bug::DeadlineFromReply) { now } else { sent };
        let name = claim.name.clone();
        let hold = self.hold(claim, terms, sent, token, ttl, unknown_until);
        self.emit(Event::Acquired { name: name.clone(), token, waited });
        match self.commands.upgrade() {
            Some(commands) => {
                let handle = Handle { commands, shared: Arc::clone(&self.shared) };
                // A caller who left drops the guard along with the channel, which releases it.
                let _ = reply.send(Ok(Some(Guard::new(hold, handle))));
            }
            None => self.release(now, owner, None),
        }
        self.next_in_line(&name, owner, now);
    }

    pub(super) fn refused(&mut self, owner: Owner, now: Moment, refusal: Refusal, debt: &Debt) {
        self.acquires.withdraw(owner);
        let Some(Seat { claim, stage: Stage::Seeking { attempt, reply, .. }, .. }) = self.vacate(owner)
        else {
            return;
        };
        let (name, waited) = (claim.name.clone(), attempt.waited(now));
        let refusal = match refusal {
            Refusal::Contended(None) => {
                self.error_here(&name).map_or(refusal, |error| Refusal::Unavailable(Some(error)))
            }
            refusal => refusal,
        };
        let answer = match refusal {
            Refusal::Contended(_) if attempt.is_once() => Ok(None),
            Refusal::Contended(seen) => {
                let seen = seen.or_else(|| self.holder_here(&name));
                Err(Error::contended(&name, seen, waited))
            }
            Refusal::Left => Err(Error::closed()),
            Refusal::Refused(error) => Err(error),
            Refusal::Unavailable(source) => Err(Error::unavailable(&name, waited, source.as_ref())),
        };
        if let Err(error) = &answer
            && error.kind() == ErrorKind::Unavailable
            && attempt.is_endless()
        {
            // Silent for so long: the others who wait without a limit need not find that out one by one.
            for other in self.queues.others(&name, owner) {
                self.step(other, now, Step::Silence(error.clone()));
            }
        }
        let _ = reply.send(answer);
        if let Debt::Owed { awaiting, unknown_until, expires } = *debt
            && expires > now
            && !planted::is(Bug::DropWithoutResolver)
        {
            let awaiting = awaiting.map(|sent| (sent, sent.after(CALL_LIMIT)));
            let errand = Errand::Release { goodbye: None };
            let resolver = Resolver::new(owner, now, awaiting, unknown_until, expires);
            self.begin(owner, claim, resolver, errand);
        }
        self.next_in_line(&name, owner, now);
    }

    pub(super) fn step_resuming(&mut self, owner: Owner, now: Moment, step: Step) {
        let Some(Seat { claim, stage: Stage::Resuming(resuming), .. }) = self.seats.get_mut(&owner) else {
            return;
        };
        let (name, ttl) = (claim.name.clone(), claim.ttl);
        let over = now >= resuming.until;
        let granted = match step {
            Step::Wake if over => Err(Error::unavailable(&name, RESUME_LIMIT, None)),
            Step::Wake if now >= resuming.ask_at => {
                resuming.ask_at = Moment::FAR;
                if resuming.found {
                    self.renews.push(owner, name, ttl)
                } else {
                    self.find(owner, name)
                }
                return;
            }
            Step::Found(Ok(Some(holder))) if holder.owner == owner => {
                if holder.token == resuming.token {
                    (resuming.found, resuming.ask_at) = (true, now);
                    return;
                }
                let text = format!(
                    "the token in this ticket is not the lease's; the ticket was changed name=`{name}`"
                );
                Err(Error::new(ErrorKind::Invalid, text))
            }
            Step::Found(Ok(_)) => Err(Error::lost_for(&name, Lost::Taken)),
            Step::Renewed { sent, .. } if sent != resuming.sent => return,
            Step::Renewed { sent, answer: Ok(Renew::Renewed { ttl }) } => Ok((sent, ttl)),
            Step::Renewed { answer: Ok(Renew::NotHeld), .. } => Err(Error::lost_for(&name, Lost::Taken)),
            Step::Found(Err(error)) | Step::Renewed { answer: Err(error), .. }
                if over || error.kind() != ErrorKind::Unavailable =>
            {
                Err(error)
            }
            Step::Found(Err(_)) | Step::Renewed { answer: Err(_), .. } => {
                resuming.ask_at = now.after(RESUME_PAUSE);
                return;
            }
            Step::Close => Err(Error::closed()),
            _ => return,
        };
        self.renews.withdraw(owner);
        let Some(Seat { claim, stage: Stage::Resuming(resuming), .. }) = self.vacate(owner) else {
            return;
        };
        let Resuming { token, terms, reply, detaching, .. } = resuming;
        let resumed = match (granted, self.commands.upgrade()) {
            (Ok((sent, ttl)), Some(commands)) => {
                let hold = self.hold(claim, terms, sent, token, ttl, Moment::ZERO);
                Ok(Resumed::new(Guard::new(hold, Handle { commands, shared: Arc::clone(&self.shared) })))
            }
            // Nobody is left to take it: the lease stays with the ticket.
            (Ok(_), None) => Err(Error::closed()),
            (Err(error), _) => {
                if error.kind() != ErrorKind::Lost {
                    self.leave_to_ticket(detaching);
                }
                Err(error)
            }
        };
        // A caller who left drops what was resumed along with the channel, which gives it back to the ticket.
        let _ = reply.send(resumed);
    }

    pub(super) fn step_held(&mut self, owner: Owner, now: Moment, step: Step) {
        let Some(Seat { claim, stage, .. }) = self.seats.get_mut(&owner) else {
            return;
        };
        let Stage::Held { hold, lease, asked, .. } = stage else {
            return;
        };
        let (name, token) = (claim.name.clone(), hold.token);
        let (renewals, failures) = (lease.renewals(), lease.failures());
        let mut source = None;
        let input = match step {
            Step::Wake => lease::Input::Wake,
            // Somebody may have ended it. To look is enough: a hint renews nothing.
            Step::Hint => return self.verify(owner, None),
            Step::RenewNow => lease::Input::RenewNow,
            Step::Verify => lease::Input::Verify,
            Step::Extend(ttl) => lease::Input::Extend(ttl),
            Step::Gone => lease::Input::Gone,
            Step::Close => return self.lose(owner, now, Lost::Closed),
            Step::Renewed { sent, answer } => {
                source = answer.as_ref().err().cloned();
                let longest = self.shared.limits.ttl_max;
                let answer = answer.ok().map(|answer| match answer {
                    Renew::Renewed { ttl } => Renew::Renewed { ttl: std::cmp::min(ttl, longest) },
                    other => other,
                });
                lease::Input::Answer { sent, answer }
            }
            Step::Turn
            | Step::Leave
            | Step::Silence(_)
            | Step::Found(_)
            | Step::Acquired { .. }
            | Step::Released { .. } => return,
        };
        let action = lease.step(now, input);
        if let lease::Action::Lost(lost) = action {
            return self.lose(owner, now, lost);
        }
        let (renewed, failed) = (lease.renewals() != renewals, lease.failures() > failures);
        let (deadline, lasts, calls) = (lease.deadline(), lease.lasts(), lease.calls());
        if renewed && !hold.publish(now, lease) {
            // Somebody saw the deadline pass before this answer came.
            return self.lose(owner, now, Lost::Expired);
        }
        if renewed || failed {
            for asked in asked.extract_if(.., |asked| asked.after < calls) {
                let failed = || Error::unavailable(&name, renew_limit(lasts), source.as_ref());
                let _ = asked.reply.send(if renewed { Ok(()) } else { Err(failed()) });
            }
        }
        if renewed {
            self.emit(Event::Renewed { name: name.clone(), token });
        } else if failed && failures == 0 {
            // Once for each outage, or the news would drown in itself.
            self.emit(Event::RenewFailed { name: name.clone(), token, remaining: deadline.since(now) });
        }
        if action == lease::Action::Renew {
            self.renews.push(owner, name, lasts);
        }
    }

    pub(super) fn step_clearing(&mut self, owner: Owner, now: Moment, step: Step) {
        let Some(Seat { claim, stage, .. }) = self.seats.get_mut(&owner) else {
            return;
        };
        let Stage::Clearing { resolver, errand } = stage else {
            return;
        };
        let (name, ttl) = (claim.name.clone(), claim.ttl);
        let mut event = None;
        let input = match step {
            Step::Wake => {
                if let Errand::Release { goodbye: Some(goodbye) } = errand
                    && now >= goodbye.answer_by
                {
                    goodbye.answer(Err(Error::unavailable(&name, RELEASE_LIMIT, None)));
                }
                resolver::Input::Wake
            }
            Step::Acquired { sent, answer } => {
                let left = match answer {
                    Ok(Acquire::Held { .. }) if !claim.wait => Left::Nothing,
                    Ok(_) => Left::Something,
                    Err(_) => Left::Unknown(attempt::executable_until(sent, claim.ttl)),
                };
                resolver::Input::Claim { sent, left }
            }
            Step::Renewed { sent, answer } if matches!(errand, Errand::Detach { .. }) => {
                resolver::Input::Answer { sent, definite: answer.is_ok() }
            }
            Step::Released { sent, answer } => {
                if let Errand::Release { goodbye } = errand
                    && let Some(said) = goodbye
                {
                    event = said.answered(&name, now, &answer);
                    if answer.is_ok() {
                        *goodbye = None;
                    }
                }
                if matches!(answer, Ok(Release::Released)) {
                    self.nudges.push(name.clone());
                }
                resolver::Input::Answer { sent, definite: answer.is_ok() }
            }
            _ => return,
        };
        let action = resolver.step(now, input);
        match action {
            resolver::Action::Rest => {}
            resolver::Action::Send => match *errand {
                Errand::Detach { lasts } => self.renews.push(owner, name, lasts),
                Errand::Release { .. } => self.releases.push(owner, name, ttl),
            },
            resolver::Action::Done => {
                self.releases.withdraw(owner);
                self.renews.withdraw(owner);
                drop(self.vacate(owner));
            }
        }
        if let Some(event) = event {
            self.emit(event);
        }
    }

    pub(super) fn lose(&mut self, owner: Owner, now: Moment, lost: Lost) {
        let Some(Seat { claim, stage: Stage::Held { hold, lease, unknown_until, .. }, .. }) =
            self.seats.get(&owner)
        else {
            return;
        };
        let lost = hold.lose(lost);
        let (name, token) = (claim.name.clone(), hold.token);
        let (unknown_until, expires) = (*unknown_until, lease.ended_by(now));
        self.emit(Event::Lost { name, token, lost });
        if lost == Lost::Taken && unknown_until <= now {
            self.renews.withdraw(owner);
            self.shared.holds().remove(&owner);
            drop(self.vacate(owner));
        } else {
            // The storage may still have it: let the next one in at once.
            self.clear(now, owner, Errand::Release { goodbye: None }, unknown_until, expires);
        }
    }
}
