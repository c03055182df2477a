//! Watches for the deaths of the storages that the waiters of this process wait for.
//!
//! | State of a storage | Kept in | Left when |
//! |---|---|---|
//! | its process has a pidfd | `processes`, `pidfds` | the pidfd is readable: the process has ended |
//! | its process has no pidfd here, as in another pid namespace | `polled` | it is found dead, or no owner waits for it |
//! | dead | nowhere | at once: its waiters are hinted |
//!
//! Which owners wait for which storage is in `Shared::deaths`.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::process::{Pid, PidfdFlags};
use tokio::time::{Interval, MissedTickBehavior};

use super::Shared;
use crate::clock::Clock;
use crate::fd;
use crate::storage::Hint;
use crate::storage::sqlite::live::{self, State};

/// The time between two looks at the storages without a pidfd.
const POLL: Duration = Duration::from_millis(25);

/// A future that completes when the process has ended.
type Ended = Pin<Box<dyn Future<Output = Pid> + Send>>;

/// The watch for the deaths of storages.
pub(super) struct DeathWatch {
    shared: Arc<Shared>,
    clock: Clock,
    /// The storages of each process that has a pidfd.
    processes: HashMap<Pid, HashSet<String>>,
    pidfds: FuturesUnordered<Ended>,
    /// The storages that have no pidfd here.
    polled: HashSet<String>,
    poll: Interval,
}

/// The reason to look at some storages.
pub(super) enum Cause {
    ProcessEnded(Pid),
    Poll,
}

impl DeathWatch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let mut poll = tokio::time::interval(POLL);
        poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            shared,
            clock: Clock::boot(),
            processes: HashMap::new(),
            pidfds: FuturesUnordered::new(),
            polled: HashSet::new(),
            poll,
        }
    }

    /// Waits until some storages may have died.
    pub(super) async fn next(&mut self) -> Cause {
        tokio::select! {
            Some(pid) = self.pidfds.next() => Cause::ProcessEnded(pid),
            _ = self.poll.tick(), if !self.polled.is_empty() => Cause::Poll,
            else => std::future::pending().await,
        }
    }

    /// Looks at the storages that may have died.
    pub(super) fn look(&mut self, cause: &Cause, live_dir: &Path, hints: &mut impl Extend<Hint>) {
        match cause {
            Cause::ProcessEnded(pid) => {
                for id in self.processes.remove(pid).unwrap_or_default() {
                    self.died(&id, hints);
                }
            }
            Cause::Poll => self.look_at_polled(live_dir, hints),
        }
    }

    /// Begins to watch a storage.
    pub(super) fn watch(&mut self, id: String, live_dir: &Path, hints: &mut impl Extend<Hint>) {
        match live::look(live_dir, &id) {
            State::Dead => self.died(&id, hints),
            State::Alive(Some(pid)) => {
                if !self.processes.contains_key(&pid) {
                    let Some(ended) = ended(pid) else {
                        self.polled.insert(id);
                        return;
                    };
                    self.pidfds.push(ended);
                }
                self.processes.entry(pid).or_default().insert(id.clone());
                // The pid may have been reused for another process before its pidfd was opened.
                if live::look(live_dir, &id) != State::Alive(Some(pid)) {
                    self.died(&id, hints);
                }
            }
            State::Alive(None) | State::Unknown => {
                self.polled.insert(id);
            }
        }
    }

    fn look_at_polled(&mut self, live_dir: &Path, hints: &mut impl Extend<Hint>) {
        let ids: Vec<_> = self.polled.iter().cloned().collect();
        for id in ids {
            let now = self.clock.now();
            let wanted =
                self.shared.deaths().get(&id).is_some_and(|owners| owners.values().any(|until| *until > now));
            if !wanted || live::look(live_dir, &id) == State::Dead {
                self.polled.remove(&id);
                self.died(&id, hints);
            }
        }
    }

    /// Hints the owners that wait for the death of a storage.
    fn died(&mut self, id: &str, hints: &mut impl Extend<Hint>) {
        let owners = self.shared.deaths().remove(id).unwrap_or_default();
        hints.extend(owners.into_keys().map(Hint::Owner));
    }
}

/// Returns a future that completes when the process has ended; `None` if it has no pidfd here.
fn ended(pid: Pid) -> Option<Ended> {
    let process = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?;
    let process = fd::watch(process).ok()?;
    Some(Box::pin(async move {
        // A pidfd is readable once the process has ended, which is after its locks were dropped.
        let _ended = process.readable().await;
        pid
    }))
}
