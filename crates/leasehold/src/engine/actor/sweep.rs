//! Verifies every hold after the storage may have forgotten some: a renewal sent early tells. The lanes are fed
//! batch by batch, so that renewals that fall due meanwhile do not stand behind a hundred thousand others.

use std::collections::{BTreeMap, VecDeque};

use super::Actor;
use super::acquisition::Stage;
use super::effects::Input;
use crate::clock::Moment;
use crate::engine::call::Key;
use crate::engine::lane::Class;
use crate::engine::work;

/// The holds that are still to be verified.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// By the lane they use.
    renew: BTreeMap<Class, VecDeque<Key>>,
    /// Those that want no renewals.
    look: VecDeque<Key>,
    /// The storage has said it again: all of them once more.
    again: bool,
    /// When it said so last. What was sent before may be forgotten though it was granted.
    heard: Option<Moment>,
}

/// How many looks that were not asked for there may be at a time.
const LOOKS_MAX: usize = 16;

impl Actor {
    /// The storage may have forgotten leases. However often it says so, one sweep is under way, and one follows.
    pub(super) fn restarted(&mut self, now: Moment) {
        self.sweep.heard = Some(now);
        self.sweep.again = true;
    }

    /// Verifies a hold if it was asked for before the storage restarted and granted after.
    pub(super) fn verify_if_older(&mut self, key: Key, sent: Moment) {
        if self.sweep.heard.is_some_and(|heard| sent <= heard) {
            self.sweep_later(key);
        }
    }

    /// Sends as much of the sweep as there is room for.
    pub(super) fn sweep(&mut self) {
        if self.sweep.again && self.sweep.is_drained() {
            self.sweep.again = false;
            self.begin_sweep();
        }
        if self.sweep.is_drained() {
            return;
        }
        let now = self.clock.now();
        let classes: Vec<_> = self.sweep.renew.keys().copied().collect();
        for class in classes {
            while self.renews.has_room(class)
                && let Some(key) = self.sweep.next_of(class)
            {
                self.tell(key, Input::Verify);
                self.settle(now);
            }
        }
        while self.looking < LOOKS_MAX
            && let Some(key) = self.sweep.look.pop_front()
        {
            self.look_unasked(key);
        }
    }

    fn begin_sweep(&mut self) {
        let held = self.acquisitions.values().filter_map(|acquisition| match &acquisition.stage {
            Stage::Lease(holding) => Some((holding.lease.deadline(), acquisition.key)),
            _ => None,
        });
        let mut held: Vec<_> = held.collect();
        held.sort_unstable(); // those with the least left go first
        work::changed(self.acquisitions.len());
        tracing::info!(target: "leasehold", holds = held.len(), "the storage may have restarted");
        for (_, key) in held {
            self.sweep_later(key);
        }
    }

    fn sweep_later(&mut self, key: Key) {
        let Some(holding) = self.holding(key) else { return };
        let class = holding.lease.is_renewed().then(|| Class::of(holding.lease.lasts()));
        match class {
            Some(class) => self.sweep.renew.entry(class).or_default().push_back(key),
            None => self.sweep.look.push_back(key),
        }
    }
}

impl Sweep {
    fn is_drained(&self) -> bool {
        self.renew.is_empty() && self.look.is_empty()
    }

    fn next_of(&mut self, class: Class) -> Option<Key> {
        let line = self.renew.get_mut(&class)?;
        let next = line.pop_front();
        if line.is_empty() {
            self.renew.remove(&class);
        }
        next
    }
}
