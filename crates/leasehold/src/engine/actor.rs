//! The one task that owns every acquisition: feeds the pure machines and does what they say.

mod calls;
mod commands;
#[cfg(test)]
mod probe;
mod seats;
mod steps;
mod sweep;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{broadcast, mpsc};

use self::calls::{Done, list_all};
use self::seats::Seat;
use self::steps::Step;
use self::sweep::Sweep;
use super::alarm::Alarm;
use super::keeper::Keeper;
use super::lane::Lanes;
use super::linger::Linger;
use super::observers::Observers;
use super::owners::Owners;
use super::queue::Queues;
use super::{CLOSE_LIMIT, Command, Reply, Shared};
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind};
use crate::event::Event;
use crate::guard::Lost;
use crate::storage::{AnyStorage, Hint, Name, Storage};

pub(crate) struct Actor {
    storage: AnyStorage,
    clock: Clock,
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<Command>,
    /// Guards talk back through this; weak, so that the engine does not keep itself alive.
    commands: mpsc::WeakUnboundedSender<Command>,
    events: broadcast::Sender<Event>,
    seats: Owners<Seat>,
    queues: Queues,
    keeper: Keeper,
    observers: Observers,
    acquires: Lanes,
    renews: Lanes,
    releases: Lanes,
    calls: FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send>>>,
    hints: Option<Pin<Box<dyn Stream<Item = Hint> + Send>>>,
    /// When to subscribe to hints if something is still held by then.
    subscribe_at: Moment,
    /// Locks that were released here: whoever waits here need not wait for the storage's hint.
    nudges: Vec<Name>,
    /// Which holds are still to be verified after the storage may have forgotten some.
    sweep: Sweep,
    /// How many looks at holds are under way that nobody asked for.
    looking: usize,
    closing: Option<Closing>,
}

struct Closing {
    until: Moment,
    replies: Vec<Reply<()>>,
}

/// A wait longer than this is worth a line in the log.
const SLOW: Duration = Duration::from_secs(10);
/// How much of each kind is taken in before the lanes are looked at.
const BURST: usize = 1024;
/// How many turns the engine takes before it lets others run.
const YIELD_EVERY: u32 = 64;

impl Actor {
    pub(super) fn new(
        storage: AnyStorage,
        clock: Clock,
        shared: Arc<Shared>,
        inbox: mpsc::UnboundedReceiver<Command>,
        commands: mpsc::WeakUnboundedSender<Command>,
        events: broadcast::Sender<Event>,
    ) -> Self {
        let lane = || Lanes::new(&shared.limits);
        Self {
            acquires: lane(),
            renews: lane(),
            releases: lane(),
            observers: Observers::new(shared.guarantees.push),
            storage,
            clock,
            shared,
            inbox,
            commands,
            events,
            seats: Owners::default(),
            queues: Queues::default(),
            keeper: Keeper::default(),
            calls: FuturesUnordered::new(),
            hints: None,
            subscribe_at: Moment::FAR,
            nudges: Vec::new(),
            sweep: Sweep::default(),
            looking: 0,
            closing: None,
        }
    }

    /// Works until the last handle is dropped, or the client is closed, and nothing is owed any more.
    pub(super) async fn run(mut self, mut alarm: Alarm, mut linger: Linger) {
        let (mut open, mut turns, mut busy) = (true, 0_u32, false);
        loop {
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(YIELD_EVERY) {
                // A storage that answers at once would keep timers and other tasks waiting for ever.
                tokio::task::yield_now().await;
            }
            busy |= self.turn(&mut open);
            if self.finished(open) {
                return self.finish();
            }
            if linger.stays(self.clock.now(), std::mem::take(&mut busy), !self.calls.is_empty()) {
                tokio::task::yield_now().await;
                continue;
            }
            let next = self.next_wake();
            busy = true;
            tokio::select! {
                Some(done) = self.calls.next() => self.done(done),
                command = self.inbox.recv(), if open => match command {
                    Some(command) => self.command(command),
                    None => open = false,
                },
                hint = next_hint(&mut self.hints) => self.hint(hint),
                () = alarm.sleep_until(next) => busy = false,
            }
        }
    }

    /// Does all that can be done now, without waiting for anything; whether anything had come in.
    pub(super) fn turn(&mut self, open: &mut bool) -> bool {
        let came = self.take_what_is_ready(open);
        self.wake_who_is_due();
        self.sweep();
        self.depart();
        came
    }

    /// Takes all that has come in, so that claims which come together leave together.
    fn take_what_is_ready(&mut self, open: &mut bool) -> bool {
        let mut came = false;
        for _ in 0..BURST {
            let Some(Some(done)) = self.calls.next().now_or_never() else { break };
            came = true;
            self.done(done);
        }
        for _ in 0..BURST {
            let Some(hint) = next_hint(&mut self.hints).now_or_never() else { break };
            came = true;
            self.hint(hint);
        }
        for _ in 0..BURST {
            match self.inbox.try_recv() {
                Ok(command) => {
                    came = true;
                    self.command(command);
                }
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    *open = false;
                    break;
                }
            }
        }
        came
    }

    pub(super) fn finished(&self, open: bool) -> bool {
        match &self.closing {
            Some(closing) => self.seats.is_empty() || self.clock.now() >= closing.until,
            None => !open && self.seats.is_empty(),
        }
    }

    /// Lets go of the storage, and only then tells those who closed the client.
    pub(super) fn finish(mut self) {
        let (closing, left) = (self.closing.take(), self.seats.len());
        drop(self);
        for reply in closing.into_iter().flat_map(|closing| closing.replies) {
            let text = "the storage did not confirm every release; the TTL frees the rest";
            let late = || Error::new(ErrorKind::Unavailable, format!("{text} left=`{left}`"));
            // A caller that does not wait for it needs no answer; so wherever a reply is sent.
            let _ = reply.send(if left == 0 { Ok(()) } else { Err(late()) });
        }
    }

    pub(super) fn next_wake(&self) -> Moment {
        let closing = self.closing.as_ref().map_or(Moment::FAR, |closing| closing.until);
        let wakes = [self.keeper.next(), self.observers.wake(), self.subscribe_at, closing];
        wakes.into_iter().fold(Moment::FAR, std::cmp::min)
    }

    fn wake_who_is_due(&mut self) {
        let now = self.clock.now();
        while let Some(owner) = self.keeper.due(now) {
            self.step(owner, now, Step::Wake);
            // What it is due for cannot still be ahead of it, or it would be woken for ever.
            debug_assert!(self.seats.get(&owner).is_none_or(|seat| seat.wake > now), "woken in vain");
        }
        self.subscribe_if_held(now);
        for name in self.observers.due(now) {
            self.look(name);
        }
    }

    // ── what comes in ──────────────────────────────────────────────────────────────────────────────────

    fn command(&mut self, command: Command) {
        let now = self.clock.now();
        if self.closing.is_some() {
            return self.refuse(command);
        }
        match command {
            Command::Acquire { owner, name, options, once, reply } => {
                self.acquire(now, owner, name, options, once, reply);
            }
            Command::Break { name, reply } => self.break_lock(name, reply),
            Command::Close { reply } => self.close(now, reply),
            Command::Detach { owner } => self.detach(now, owner),
            Command::Inspect { name, reply } => {
                self.reply_with(reply, |storage| async move { storage.inspect(&name).await });
            }
            Command::Leave { owner } => self.step(owner, now, Step::Leave),
            Command::List { prefix, reply } => {
                self.reply_with(reply, |storage| async move { list_all(&storage, &prefix).await });
            }
            Command::Observe { name, changes } => {
                self.subscribe();
                if self.observers.add(name.clone(), changes, now) {
                    self.watch(&[name], &[]);
                }
            }
            Command::Release { owner, reply } => self.release(now, owner, reply),
            Command::Renew { owner, ttl, reply } => self.renew_for(now, owner, ttl, reply),
            Command::LeaveResume { owner, by } => self.leave_resume(owner, by),
            Command::Resume { by, ticket, options, reply } => self.resume(now, by, &ticket, options, reply),
            Command::Verify { owner, reply } => self.verify(owner, Some(reply)),
        }
    }

    /// Answers what comes after `close`.
    fn refuse(&mut self, command: Command) {
        match command {
            Command::Acquire { reply, .. } => drop(reply.send(Err(Error::closed()))),
            Command::Break { reply, .. } | Command::Inspect { reply, .. } => {
                drop(reply.send(Err(Error::closed())))
            }
            Command::List { reply, .. } => drop(reply.send(Err(Error::closed()))),
            Command::Resume { reply, .. } => drop(reply.send(Err(Error::closed()))),
            Command::Renew { reply, .. } | Command::Verify { reply, .. } => {
                drop(reply.send(Err(Error::closed())))
            }
            Command::Close { reply } => {
                if let Some(closing) = &mut self.closing {
                    closing.replies.push(reply);
                }
            }
            // Everything held is being released already; the guard knows that it is lost.
            Command::Release { .. }
            | Command::Detach { .. }
            | Command::Leave { .. }
            | Command::LeaveResume { .. }
            | Command::Observe { .. } => {}
        }
    }

    fn done(&mut self, done: Done) {
        let now = self.clock.now();
        match done {
            Done::Acquired(class, answers) => {
                self.acquires.landed(class);
                for (owner, sent, answer) in answers {
                    self.step(owner, now, Step::Acquired { sent, answer });
                }
            }
            Done::Renewed(class, answers) => {
                self.renews.landed(class);
                for (owner, sent, answer) in answers {
                    self.step(owner, now, Step::Renewed { sent, answer });
                }
            }
            Done::Released(class, answers) => {
                self.releases.landed(class);
                for (owner, sent, answer) in answers {
                    self.step(owner, now, Step::Released { sent, answer });
                }
                for name in std::mem::take(&mut self.nudges) {
                    self.hint_first(&name);
                }
            }
            Done::Broken { holder } => {
                self.emit(Event::Broken {
                    name: holder.name.clone(),
                    owner: holder.owner,
                    token: holder.token,
                });
                self.step(holder.owner, now, Step::Hint);
                self.hint_first(&holder.name);
            }
            Done::Verified { owner, seen, reply } => {
                self.looking -= usize::from(reply.is_none());
                let answer = match seen {
                    Ok(Some(holder)) if holder.owner == owner => Ok(()),
                    Ok(_) => {
                        self.step(owner, now, Step::Gone);
                        return; // the guard knows why
                    }
                    Err(error) => Err(error),
                };
                match reply {
                    Some(reply) => drop(reply.send(answer)),
                    None => self.looked(owner),
                }
            }
            Done::Found { owner, seen } => self.step(owner, now, Step::Found(seen)),
            Done::Looked { name, seen } => {
                if self.observers.seen(&name, seen.ok(), now) {
                    self.watch(&[], &[name]);
                }
            }
            Done::Replied => {}
        }
    }

    fn hint(&mut self, hint: Hint) {
        let now = self.clock.now();
        match hint {
            Hint::Owner(owner) => self.step(owner, now, Step::Hint),
            Hint::Name(name) => {
                self.observers.hint(&name, now);
                self.hint_first(&name);
            }
            Hint::Any => self.hint_all(now),
            Hint::Restarted => {
                self.restarted(now);
                self.hint_all(now);
            }
        }
    }

    fn hint_all(&mut self, now: Moment) {
        self.observers.hint_all(now);
        for owner in self.queues.firsts() {
            self.step(owner, now, Step::Hint);
        }
    }

    fn emit(&self, event: Event) {
        match &event {
            Event::Lost { name, token, lost } => {
                tracing::warn!(target: "leasehold", %name, %token, %lost, "lost")
            }
            Event::Broken { name, token, .. } => tracing::warn!(target: "leasehold", %name, %token, "broken"),
            Event::RenewFailed { name, token, remaining } => {
                tracing::warn!(target: "leasehold", %name, %token, ?remaining, "renewal not answered");
            }
            Event::Acquired { name, token, waited } if *waited >= SLOW => {
                tracing::info!(target: "leasehold", %name, %token, ?waited, "acquired after a long wait");
            }
            other => tracing::debug!(target: "leasehold", event = ?other),
        }
        // No reader: nobody to tell.
        let _ = self.events.send(event);
    }
}

/// Tells the guards whose engine goes away.
impl Drop for Actor {
    fn drop(&mut self) {
        // Taken out first: whoever is woken may look at what is held.
        let holds = std::mem::take(&mut *self.shared.holds());
        for hold in holds.into_values() {
            hold.lose(Lost::Closed);
        }
    }
}

async fn next_hint(hints: &mut Option<Pin<Box<dyn Stream<Item = Hint> + Send>>>) -> Hint {
    match hints {
        Some(stream) => match AssertUnwindSafe(stream.next()).catch_unwind().await {
            Ok(Some(hint)) => hint,
            // The storage has nothing more to say, or panicked; waiters fall back on asking again.
            Ok(None) | Err(_) => {
                *hints = Some(Box::pin(futures_util::stream::pending()));
                std::future::pending().await
            }
        },
        None => std::future::pending().await,
    }
}
