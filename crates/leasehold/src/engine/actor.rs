//! The one task that owns every acquisition. It passes commands, replies, hints and timers to the state machines, and
//! executes their actions.
//!
//! The task runs in turns. A turn receives everything that has come in, wakes up every acquisition that is due, and
//! sends the claims that the lanes allow. Then the task waits for whatever comes next.

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
use self::calls::{Batch, Completed};
use self::effects::{Effect, Input};
use self::sweep::Sweep;
use super::alarm::Alarm;
use super::busy_poll::BusyPoll;
use super::handle::{Command, Commands, Reply, Shared};
use super::lane::Lanes;
use super::observers::Observers;
use super::owner_map::OwnerMap;
use super::queue::Queues;
use super::timers::Timers;
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

/// The engine's task. It owns every acquisition of its client.
pub(crate) struct Actor {
    storage: AnyStorage,
    clock: Clock,
    process: Process,
    home: Home,
    shared: Arc<Shared>,
    inbox: mpsc::UnboundedReceiver<Command>,
    /// The sender that guards get. It is weak, so that the engine does not keep itself alive.
    sender: mpsc::WeakUnboundedSender<Command>,
    events: broadcast::Sender<Event>,
    acquisitions: OwnerMap<Acquisition>,
    queues: Queues,
    timers: Timers,
    observers: Observers,
    acquires: Lanes,
    renews: Lanes,
    releases: Lanes,
    /// What follows from the inputs so far, and is not executed yet.
    effects: VecDeque<Effect>,
    calls: FuturesUnordered<Pin<Box<dyn Future<Output = Completed> + Send>>>,
    /// The number of the last claim or inspection.
    last_call: u64,
    hints: Option<Pin<Box<dyn Stream<Item = Hint> + Send>>>,
    /// When to subscribe to hints, if any lease is held by then.
    subscribe_at: Moment,
    /// The leases that are still to be verified after the storage may have forgotten some.
    sweep: Sweep,
    /// How many inspections of leases are in flight that no caller has asked for.
    inspections: usize,
    closing: Option<Closing>,
}

/// Why the engine ends.
enum End {
    Finished,
    /// This process is a fork of the one that the engine belongs to.
    Forked,
}

/// A client that is being closed.
struct Closing {
    until: Moment,
    replies: Vec<Reply<()>>,
}

/// How long a wait lasts before it is logged: once while it lasts, and once when the lock is granted.
const SLOW: Duration = Duration::from_secs(10);
/// How many inputs of each kind a turn receives before claims are sent.
const BURST: usize = 1024;
/// How many turns the engine takes before it yields to other tasks.
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
            acquisitions: OwnerMap::default(),
            queues: Queues::default(),
            timers: Timers::default(),
            effects: VecDeque::new(),
            calls: FuturesUnordered::new(),
            last_call: 0,
            hints: None,
            subscribe_at: Moment::FAR,
            sweep: Sweep::default(),
            inspections: 0,
            closing: None,
        }
    }

    /// Runs until the last handle is dropped, or the client is closed, and no cleanup is left. If it panics, callers get
    /// the reason.
    pub(super) async fn run(mut self, mut alarm: Alarm, mut busy_poll: BusyPoll) {
        match AssertUnwindSafe(self.take_turns(&mut alarm, &mut busy_poll)).catch_unwind().await {
            Ok(End::Finished) => self.finish(),
            // To drop the storage here might log out at servers, over connections that the parent still uses.
            Ok(End::Forked) => std::mem::forget(self),
            Err(panic) => {
                let text = "the engine of this client has panicked; report it, and make a new client";
                let error = Error::panicked(text, &*panic);
                tracing::error!(target: "leasehold", %error, "no engine");
                // Before the replies are dropped, so that every caller gets this error.
                let _ = self.shared.failure.set(error);
            }
        }
    }

    async fn take_turns(&mut self, alarm: &mut Alarm, busy_poll: &mut BusyPoll) -> End {
        let (mut open, mut turns, mut busy) = (true, 0_u32, false);
        // A thread does not exist in a fork of its process. A task of another runtime may go on running in the fork.
        let (may_fork, process) = (matches!(self.home, Home::CurrentRuntime), self.process);
        loop {
            if may_fork && !process.is_current() {
                return End::Forked;
            }
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(YIELD_EVERY) {
                // A storage that answers at once would otherwise keep timers and other tasks from running.
                tokio::task::yield_now().await;
            }
            busy |= self.turn(&mut open);
            if self.finished(open) {
                return End::Finished;
            }
            if busy_poll.continues(self.clock.now(), std::mem::take(&mut busy), !self.calls.is_empty()) {
                tokio::task::yield_now().await;
                continue;
            }
            let next = self.next_wake();
            busy = true;
            tokio::select! {
                biased;
                () = forked(process), if may_fork => return End::Forked,
                Some(completed) = self.calls.next() => self.completed(completed),
                command = self.inbox.recv(), if open => match command {
                    Some(command) => self.command(command),
                    None => open = false,
                },
                hint = next_hint(&mut self.hints) => self.hint(hint),
                () = alarm.sleep_until(next) => busy = false,
            }
        }
    }

    /// Does everything that can be done now, without waiting. Returns `true` if anything had come in.
    pub(super) fn turn(&mut self, open: &mut bool) -> bool {
        let came = self.receive(open);
        self.wake_due();
        self.sweep();
        if let Some((added, removed)) = self.observers.take_changes() {
            self.watch(&added, &removed);
        }
        self.send_batches();
        came
    }

    /// Receives everything that has come in, so that claims that come together leave together.
    fn receive(&mut self, open: &mut bool) -> bool {
        let mut came = false;
        for _ in 0..BURST {
            let Some(Some(completed)) = self.calls.next().now_or_never() else { break };
            came = true;
            self.completed(completed);
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

    /// Returns `true` if the engine has nothing left to do.
    pub(super) fn finished(&self, open: bool) -> bool {
        match &self.closing {
            Some(closing) => self.acquisitions.is_empty() || self.clock.now() >= closing.until,
            None => !open && self.acquisitions.is_empty(),
        }
    }

    /// Drops the storage, and only then answers the callers of `close`. If leases are left, the limit of the callers has
    /// passed, and they are answered first: dropping the storage may take a while.
    pub(super) fn finish(mut self) {
        let (closing, left) = (self.closing.take(), self.acquisitions.len());
        let storage = if left == 0 {
            drop(self);
            None
        } else {
            Some(self)
        };
        for reply in closing.into_iter().flat_map(|closing| closing.replies) {
            let text = "the storage did not confirm every release; the TTL frees the rest";
            let late = || Error::new(ErrorKind::Unavailable, format!("{text} left=`{left}`"));
            // A caller that has left needs no reply, here and wherever else a reply is sent.
            let _ = reply.send(if left == 0 { Ok(()) } else { Err(late()) });
        }
        drop(storage);
    }

    /// Returns when the engine has to do something even if nothing comes in.
    pub(super) fn next_wake(&self) -> Moment {
        let closing = self.closing.as_ref().map_or(Moment::FAR, |closing| closing.until);
        let wakes = [self.timers.next(), self.observers.wake(), self.subscribe_at, closing];
        wakes.into_iter().fold(Moment::FAR, std::cmp::min)
    }

    fn wake_due(&mut self) {
        let now = self.clock.now();
        while let Some(key) = self.timers.due(now) {
            work::changed(1);
            self.queue_step(key, Input::Wake);
            self.run_effects(now);
            // If the acquisition were still due, this loop would not end.
            debug_assert!(self.get(key).is_none_or(|acquisition| acquisition.wake > now), "it is still due");
        }
        self.subscribe_if_held(now);
        for name in self.observers.due(now) {
            self.inspect_observed(name);
        }
    }

    fn lane(&mut self, verb: Verb) -> &mut Lanes {
        match verb {
            Verb::Acquire => &mut self.acquires,
            Verb::Renew => &mut self.renews,
            Verb::Release => &mut self.releases,
        }
    }

    /// Returns a sender of commands for a lease on its way to its caller, or `None` if no handle is left.
    fn commands(&self) -> Option<Commands> {
        self.sender.upgrade().map(|sender| Commands::new(sender, self.process))
    }

    /// Processes a call to the storage that has ended.
    fn completed(&mut self, completed: Completed) {
        let now = self.clock.now();
        match completed {
            Completed::Acquired(batch, answers) => self.acquired(&batch, answers),
            Completed::Renewed(batch, answers) => {
                work::changed(batch.claims.len());
                self.renews.answered(batch.info, batch.claims.iter().map(|claim| &claim.name));
                for (key, call, answer) in batch.answers(answers) {
                    self.queue_step(key, Input::Renewed { call, answer });
                }
            }
            Completed::Released(batch, answers) => {
                work::changed(batch.claims.len());
                self.releases.answered(batch.info, batch.claims.iter().map(|claim| &claim.name));
                for (key, call, answer) in batch.answers(answers) {
                    self.queue_step(key, Input::Released { call, answer });
                }
            }
            Completed::Broken { holders } => holders.iter().for_each(|holder| self.broken(holder)),
            Completed::LeaseInspected { key, call, found, reply, unasked } => {
                work::changed(1);
                self.inspections -= usize::from(unasked);
                let answer = calls::verified(key, &found);
                self.queue_step(key, Input::Inspected { call, found });
                self.run_effects(now);
                // Without an answer the lease is lost, and its guard knows why.
                if let (Some(reply), Some(answer)) = (reply, answer) {
                    let _ = reply.send(answer);
                }
                if unasked {
                    self.lease_inspected(key);
                }
            }
            Completed::NameInspected { name, found } => self.observers.inspected(&name, found.ok(), now),
            Completed::Replied => {}
        }
        self.run_effects(now);
    }

    /// Processes the replies to a batch of claims. Each reply also answers the shareable claims of its name that were
    /// made before the batch left.
    fn acquired(&mut self, batch: &Batch, answers: Vec<Result<AcquireReply>>) {
        work::changed(batch.claims.len());
        self.acquires.answered(batch.info, batch.claims.iter().map(|claim| &claim.name));
        for (claim, (key, call, answer)) in batch.claims.iter().zip(batch.answers(answers)) {
            let held = Self::held_by(claim, &answer);
            self.queue_step(key, Input::Acquired { call, answer });
            let Some(holder) = held else { continue };
            for shareable in self.acquires.take_shareable(batch.info, &claim.name) {
                self.answer_shareable(shareable, holder.clone());
            }
        }
    }

    fn broken(&mut self, holder: &crate::storage::Holder) {
        let (name, owner, token) = (holder.name.clone(), holder.owner, holder.token);
        self.emit(Event::Broken { name: name.clone(), owner, token });
        if let Some(key) = self.key_of(owner) {
            self.queue_step(key, Input::Hint);
        }
        self.queue_effect(Effect::HintHead(name));
    }

    /// Processes a hint of the storage.
    fn hint(&mut self, hint: Hint) {
        let now = self.clock.now();
        work::changed(1);
        match hint {
            Hint::Owner(owner) => {
                if let Some(key) = self.key_of(owner) {
                    self.queue_step(key, Input::Hint);
                }
            }
            Hint::Name(name) => {
                self.observers.hint(&name, now);
                self.queue_effect(Effect::HintHead(name));
            }
            Hint::Any => self.hint_all(now),
            Hint::Restarted => {
                self.restarted(now);
                self.hint_all(now);
            }
        }
        self.run_effects(now);
    }

    fn hint_all(&mut self, now: Moment) {
        self.observers.hint_all(now);
        let heads = self.queues.heads();
        work::changed(heads.len());
        for head in heads {
            self.queue_step(head, Input::Hint);
        }
    }

    /// Logs an event, and sends it to the readers of events.
    fn emit(&self, event: Event) {
        match &event {
            Event::Lost { name, token, lost } => {
                tracing::warn!(target: "leasehold", %name, %token, %lost, "lost")
            }
            Event::Broken { name, token, .. } => tracing::warn!(target: "leasehold", %name, %token, "broken"),
            Event::ClaimFailed { name, waited } => {
                tracing::warn!(target: "leasehold", %name, ?waited, "claim not answered, and the wait goes on");
            }
            Event::RenewFailed { name, token, remaining } => {
                tracing::warn!(target: "leasehold", %name, %token, ?remaining, "renewal not answered");
            }
            Event::Acquired { name, token, waited } if *waited >= SLOW => {
                tracing::info!(target: "leasehold", %name, %token, ?waited, "acquired after a long wait");
            }
            other => tracing::debug!(target: "leasehold", event = ?other),
        }
        // It fails if there is no reader.
        let _ = self.events.send(event);
    }
}

/// Marks every lease as lost, because no engine renews it any more.
impl Drop for Actor {
    fn drop(&mut self) {
        // Emptied first: a task that wakes up may read the list.
        let held = std::mem::take(&mut *self.shared.held());
        for status in held.into_values() {
            status.lose(Lost::Closed);
        }
    }
}

/// Returns in a fork of that process, and never in the process itself. The check is made whenever the task is polled.
async fn forked(process: Process) {
    std::future::poll_fn(|_| if process.is_current() { Poll::Pending } else { Poll::Ready(()) }).await;
}

async fn next_hint(hints: &mut Option<Pin<Box<dyn Stream<Item = Hint> + Send>>>) -> Hint {
    match hints {
        Some(stream) => match AssertUnwindSafe(stream.next()).catch_unwind().await {
            Ok(Some(hint)) => hint,
            // The stream has ended or panicked. Waiters poll from now on.
            Ok(None) | Err(_) => {
                *hints = Some(Box::pin(futures_util::stream::pending()));
                std::future::pending().await
            }
        },
        None => std::future::pending().await,
    }
}
