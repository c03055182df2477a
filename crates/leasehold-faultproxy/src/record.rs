//! The record of a proxy: the armed traps and the counts.

use std::collections::BTreeMap;

use tokio::sync::watch;

use crate::rules::{ConnId, Which};
use crate::stats::Stats;
use crate::trap::{Trap, TrapCount, TrapId};

#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) stats: Stats,
    published: watch::Sender<Stats>,
    /// Whether the proxy has stopped.
    stopped: bool,
    traps: BTreeMap<TrapId, Armed>,
    last_trap: u64,
}

#[derive(Debug)]
struct Armed {
    trap: Trap,
    left: u64,
    count: watch::Sender<TrapCount>,
}

impl Record {
    pub(crate) fn new() -> Self {
        Self {
            stats: Stats::default(),
            published: watch::Sender::new(Stats::default()),
            stopped: false,
            traps: BTreeMap::new(),
            last_trap: 0,
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Stats> {
        self.published.subscribe()
    }

    /// Publishes the counts to the tasks that wait for them.
    pub(crate) fn publish(&self) {
        self.published.send_if_modified(|published| {
            let changed = *published != self.stats;
            *published = self.stats;
            changed
        });
    }

    /// Ends all waits, because nothing more happens.
    pub(crate) fn close(&mut self) {
        self.stats.open = 0;
        self.publish();
        self.published = watch::Sender::new(self.stats);
        self.stopped = true;
        self.traps.clear();
    }

    pub(crate) fn arm(&mut self, trap: Trap) -> (TrapId, watch::Receiver<TrapCount>) {
        // A spent trap without an `ArmedTrap` is no longer needed.
        self.traps.retain(|_, armed| armed.left > 0 || armed.count.receiver_count() > 0);
        self.last_trap += 1;
        let id = TrapId(self.last_trap);
        let count = watch::Sender::new(TrapCount::default());
        let receiver = count.subscribe();
        // After the stop of the proxy, dropping the sender ends the waits at once.
        if !self.stopped {
            self.traps.insert(id, Armed { left: trap.times, trap, count });
        }
        (id, receiver)
    }

    pub(crate) fn disarm(&mut self, id: TrapId) -> bool {
        self.traps.remove(&id).is_some()
    }

    pub(crate) fn disarm_all(&mut self) {
        self.traps.clear();
    }

    /// Returns the traps that apply to every new connection.
    pub(crate) fn for_new(&self) -> impl Iterator<Item = (TrapId, &Trap)> {
        let lasts = |armed: &Armed| armed.left > 0 && matches!(armed.trap.which, Which::All | Which::New);
        let lasting = self.traps.iter().filter(move |(_, armed)| lasts(armed));
        lasting.map(|(id, armed)| (*id, &armed.trap))
    }

    pub(crate) fn is_live(&self, id: TrapId) -> bool {
        self.traps.get(&id).is_some_and(|armed| armed.left > 0)
    }

    /// Uses up one of the trap's times.
    pub(crate) fn spend(&mut self, id: TrapId) {
        if let Some(armed) = self.traps.get_mut(&id) {
            armed.left = armed.left.saturating_sub(1);
        }
    }

    pub(crate) fn passed(&mut self, id: TrapId, connection: ConnId) {
        self.stats.passed += 1;
        self.count(id, |count| {
            count.passed += 1;
            count.passed_on = Some(connection);
        });
    }

    pub(crate) fn sprung(&mut self, id: TrapId, connection: ConnId) {
        self.stats.sprung += 1;
        self.count(id, |count| {
            count.sprung += 1;
            count.sprung_on = Some(connection);
        });
    }

    fn count(&self, id: TrapId, change: impl FnOnce(&mut TrapCount)) {
        if let Some(armed) = self.traps.get(&id) {
            armed.count.send_modify(change);
        }
    }
}
