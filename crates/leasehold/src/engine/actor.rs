//! The one task that owns every acquisition: feeds the pure machines and does what they say.

mod acquisition;
mod attempts;
mod calls;
mod cleanups;
mod commands;
mod effects;
mod leases;
#[cfg(test)]
mod probe;
mod resumes;
mod sweep;

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_core::Stream;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{broadcast, mpsc};

use self::acquisition::{Acquisition, Verb};
use self::calls::{Batch, Done};
use self::effects::{Effect, Input};
use self::sweep::Sweep;
use super::alarm::Alarm;
use super::handle::{Command, Commands, Reply, Shared};
use super::keeper::Keeper;
use super::lane::Lanes;
use super::linger::Linger;
use super::observers::Observers;
use super::owners::Owners;
use super::queue::Queues;
use super::work;
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::lost::Lost;
use crate::process::Process;
use crate::storage::{AcquireReply, AnyStorage, Hint};

/// Where an engine runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Home {
    /// On a thread of its own, which a fork of the process does not have.
    Thread,
    /// As a task of the runtime of its caller, which may go on in a fork.
    CurrentRuntime,
}

pub(crate) struct Actor {
    storage: AnyStorage,
    clock: Clock,
    process: Process,
    home: Home,
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<Command>,
    /// Guards talk back through this; weak, so that the engine does not keep itself alive.
    sender: mpsc::WeakUnboundedSender<Command>,
    events: broadcast::Sender<Event>,
    acquisitions: Owners<Acquisition>,
    queues: Queues,
    keeper: Keeper,
    observers: Observers,
    acquires: Lanes,
    renews: Lanes,
    releases: Lanes,
    /// What follows from what has happened, and is not done yet.
    effects: VecDeque<Effect>,
    calls: FuturesUnordered<Pin<Box<dyn Future<Output = Done> + Send>>>,
    /// The number of the last call.
    last_call: u64,
    hints: Option<Pin<Box<dyn Stream<Item = Hint> + Send>>>,
    /// When to subscribe to hints if something is still held by then.
    subscribe_at: Moment,
    /// Which holds are still to be verified after the storage may have forgotten some.
    sweep: Sweep,
    /// How many looks at holds are in flight that no caller asked for.
    looking: usize,
    closing: Option<Closing>,
}

/// How the engine's work ends.
enum End {
    Finished,
    /// This is a fork of the process that it works for.
    Forked,
}

struct Closing {
    until: Moment,
    replies: Vec<Reply<()>>,
}

/// A wait longer than this is worth a line in the log: one while it lasts, and one when it ends with the lock.
const SLOW: Duration = Duration::from_secs(10);
/// How much of each kind is taken in before the lanes are looked at.
const BURST: usize = 1024;
/// How many turns the engine takes before it lets others run.
const YIELD_EVERY: u32 = 64;

impl Actor {
    pub(super) fn new(
        storage: AnyStorage,
        clock: Clock,
        home: Home,
        shared: Arc<Shared>,
        inbox: mpsc::UnboundedReceiver<Command>,
        sender: mpsc::WeakUnboundedSender<Command>,
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
            process: Process::current(),
            home,
            shared,
            inbox,
            sender,
            events,
            acquisitions: Owners::default(),
            queues: Queues::default(),
            keeper: Keeper::default(),
            effects: VecDeque::new(),
            calls: FuturesUnordered::new(),
            last_call: 0,
            hints: None,
            subscribe_at: Moment::FAR,
            sweep: Sweep::default(),
            looking: 0,
            closing: None,
        }
    }

    /// Works until the last handle is dropped, or the client is closed, and nothing is owed any more. If it panics,
    /// calls are told how.
    pub(super) async fn run(mut self, mut alarm: Alarm, mut linger: Linger) {
        match AssertUnwindSafe(self.work(&mut alarm, &mut linger)).catch_unwind().await {
            Ok(End::Finished) => self.finish(),
            // What is dropped here may say goodbye to servers, over connections that the parent goes on using.
            Ok(End::Forked) => std::mem::forget(self),
            Err(panic) => {
                let text = "the engine of this client has panicked; report it, and make a new client";
                let error = Error::panicked(text, &*panic);
                tracing::error!(target: "leasehold", %error, "no engine");
                // Before the replies are dropped, so that no call is told less.
                let _ = self.shared.failure.set(error);
            }
        }
    }

    async fn work(&mut self, alarm: &mut Alarm, linger: &mut Linger) -> End {
        let (mut open, mut turns, mut busy) = (true, 0_u32, false);
        // A thread stays behind when a process is forked. A task of another runtime may find itself in the fork.
        let (may_fork, process) = (matches!(self.home, Home::CurrentRuntime), self.process);
        loop {
            if may_fork && !process.is_current() {
                return End::Forked;
            }
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(YIELD_EVERY) {
                // A storage that answers at once would keep timers and other tasks waiting for ever.
                tokio::task::yield_now().await;
            }
            busy |= self.turn(&mut open);
            if self.finished(open) {
                return End::Finished;
            }
            if linger.stays(self.clock.now(), std::mem::take(&mut busy), !self.calls.is_empty()) {
                tokio::task::yield_now().await;
                continue;
            }
            let next = self.next_wake();
            busy = true;
            tokio::select! {
                biased;
                () = forked(process), if may_fork => return End::Forked,
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
        self.wake_what_is_due();
        self.sweep();
        if let Some((added, removed)) = self.observers.take_changes() {
            self.watch(&added, &removed);
        }
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
            Some(closing) => self.acquisitions.is_empty() || self.clock.now() >= closing.until,
            None => !open && self.acquisitions.is_empty(),
        }
    }

    /// Lets go of the storage, and only then answers those who closed the client.
    pub(super) fn finish(mut self) {
        let (closing, left) = (self.closing.take(), self.acquisitions.len());
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

    fn wake_what_is_due(&mut self) {
        let now = self.clock.now();
        while let Some(key) = self.keeper.due(now) {
            work::changed(1);
            self.tell(key, Input::Wake);
            self.settle(now);
            // What it is due for cannot still be ahead of it, or it would be woken for ever.
            debug_assert!(self.get(key).is_none_or(|acquisition| acquisition.wake > now), "woken in vain");
        }
        self.subscribe_if_held(now);
        for name in self.observers.due(now) {
            self.look(name);
        }
    }

    fn lane(&mut self, verb: Verb) -> &mut Lanes {
        match verb {
            Verb::Acquire => &mut self.acquires,
            Verb::Renew => &mut self.renews,
            Verb::Release => &mut self.releases,
        }
    }

    /// What a lock on its way to its caller talks back through; `None` if no client is left.
    fn commands(&self) -> Option<Commands> {
        self.sender.upgrade().map(|sender| Commands::new(sender, self.process))
    }

    // ── what comes in ──────────────────────────────────────────────────────────────────────────────────

    fn done(&mut self, done: Done) {
        let now = self.clock.now();
        match done {
            Done::Acquired(batch, answers) => self.acquired(&batch, answers),
            Done::Renewed(batch, answers) => {
                work::changed(batch.claims.len());
                self.renews.landed(batch.flight, batch.claims.iter().map(|claim| &claim.name));
                for (key, call, answer) in batch.answers(answers) {
                    self.tell(key, Input::Renewed { call, answer });
                }
            }
            Done::Released(batch, answers) => {
                work::changed(batch.claims.len());
                self.releases.landed(batch.flight, batch.claims.iter().map(|claim| &claim.name));
                for (key, call, answer) in batch.answers(answers) {
                    self.tell(key, Input::Released { call, answer });
                }
            }
            Done::Broken { holders } => holders.iter().for_each(|holder| self.broken(holder)),
            Done::Seen { key, look, seen, reply, unasked } => {
                work::changed(1);
                self.looking -= usize::from(unasked);
                let answer = calls::verified(key, &seen);
                self.tell(key, Input::Seen { look, seen });
                self.settle(now);
                if let (Some(reply), Some(answer)) = (reply, answer) {
                    let _ = reply.send(answer);
                } // otherwise the guard knows why
                if unasked {
                    self.looked(key);
                }
            }
            Done::Looked { name, seen } => self.observers.seen(&name, seen.ok(), now),
            Done::Replied => {}
        }
        self.settle(now);
    }

    /// Claims were answered, and with each those that are alike and were made before it left.
    fn acquired(&mut self, batch: &Batch, answers: Vec<Result<AcquireReply>>) {
        work::changed(batch.claims.len());
        self.acquires.landed(batch.flight, batch.claims.iter().map(|claim| &claim.name));
        for (claim, (key, call, answer)) in batch.claims.iter().zip(batch.answers(answers)) {
            let held = Self::held_by(claim, &answer);
            self.tell(key, Input::Acquired { call, answer });
            let Some(holder) = held else { continue };
            for alike in self.acquires.take_alike(batch.flight, &claim.name) {
                self.answer_alike(alike, holder.clone());
            }
        }
    }

    fn broken(&mut self, holder: &crate::storage::Holder) {
        let (name, owner, token) = (holder.name.clone(), holder.owner, holder.token);
        self.emit(Event::Broken { name: name.clone(), owner, token });
        if let Some(key) = self.key_of(owner) {
            self.tell(key, Input::Hint);
        }
        self.follow(Effect::HintFirst(name));
    }

    fn hint(&mut self, hint: Hint) {
        let now = self.clock.now();
        work::changed(1);
        match hint {
            Hint::Owner(owner) => {
                if let Some(key) = self.key_of(owner) {
                    self.tell(key, Input::Hint);
                }
            }
            Hint::Name(name) => {
                self.observers.hint(&name, now);
                self.follow(Effect::HintFirst(name));
            }
            Hint::Any => self.hint_all(now),
            Hint::Restarted => {
                self.restarted(now);
                self.hint_all(now);
            }
        }
        self.settle(now);
    }

    fn hint_all(&mut self, now: Moment) {
        self.observers.hint_all(now);
        let firsts = self.queues.firsts();
        work::changed(firsts.len());
        for first in firsts {
            self.tell(first, Input::Hint);
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
        // Without a reader there is none to tell.
        let _ = self.events.send(event);
    }
}

/// Tells the guards whose engine goes away.
impl Drop for Actor {
    fn drop(&mut self) {
        // Taken out first: what is woken may look at what is held.
        let holds = std::mem::take(&mut *self.shared.holds());
        for hold in holds.into_values() {
            hold.lose(Lost::Closed);
        }
    }
}

/// Is ready in a fork of that process, and pending otherwise; looked at whenever the task is.
async fn forked(process: Process) {
    std::future::poll_fn(|_| if process.is_current() { Poll::Pending } else { Poll::Ready(()) }).await;
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
