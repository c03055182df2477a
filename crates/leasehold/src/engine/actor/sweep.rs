//! The sweep: verifies every lease after the storage may have forgotten some.
//!
//! A renewal that is sent early tells whether a lease is still held; one without renewal is inspected. The lanes get the
//! renewals batch by batch, so that renewals that fall due meanwhile do not wait behind a hundred thousand others.

use std::collections::{BTreeMap, VecDeque};

use super::Actor;
use super::acquisition::Stage;
use super::effects::Input;
use crate::clock::Moment;
use crate::engine::call::Key;
use crate::engine::lane::Class;
use crate::engine::work;

/// The leases that are still to be verified.
#[derive(Debug, Default)]
pub(super) struct Sweep {
    /// The leases to renew, by the lane that they use.
    renew: BTreeMap<Class, VecDeque<Key>>,
    /// The leases to inspect.
    inspect: VecDeque<Key>,
    /// Whether another sweep follows, because the storage has said again that it may have forgotten leases.
    again: bool,
    /// When it last said so. A lease that was claimed before then may be forgotten though it is granted later.
    restarted: Option<Moment>,
}

/// How many inspections that no caller has asked for there may be at a time.
const INSPECTIONS_MAX: usize = 16;

impl Actor {
    /// Starts a sweep, as the storage may have forgotten leases. If one is under way, another one follows, however often
    /// the storage says so.
    pub(super) fn restarted(&mut self, now: Moment) {
        self.sweep.restarted = Some(now);
        self.sweep.again = true;
    }

    /// Verifies a lease if its claim was sent before the storage restarted, and it was granted after.
    pub(super) fn verify_if_older(&mut self, key: Key, sent: Moment) {
        if self.sweep.restarted.is_some_and(|restarted| sent <= restarted) {
            self.add_to_sweep(key);
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
                self.queue_step(key, Input::Verify);
                self.run_effects(now);
            }
        }
        while self.inspections < INSPECTIONS_MAX
            && let Some(key) = self.sweep.inspect.pop_front()
        {
            self.inspect_unasked(key);
        }
    }

    fn begin_sweep(&mut self) {
        let held = self.acquisitions.values().filter_map(|acquisition| match &acquisition.stage {
            Stage::Lease(stage) => Some((stage.lease.deadline(), acquisition.key)),
            _ => None,
        });
        let mut held: Vec<_> = held.collect();
        // The leases with the least remaining time go first.
        held.sort_unstable();
        work::changed(self.acquisitions.len());
        tracing::info!(target: "leasehold", holds = held.len(), "the storage may have restarted");
        for (_, key) in held {
            self.add_to_sweep(key);
        }
    }

    fn add_to_sweep(&mut self, key: Key) {
        let Some(stage) = self.lease_stage(key) else { return };
        let class = stage.lease.is_renewed().then(|| Class::of(stage.lease.lasts()));
        match class {
            Some(class) => self.sweep.renew.entry(class).or_default().push_back(key),
            None => self.sweep.inspect.push_back(key),
        }
    }
}

impl Sweep {
    fn is_drained(&self) -> bool {
        self.renew.is_empty() && self.inspect.is_empty()
    }

    fn next_of(&mut self, class: Class) -> Option<Key> {
        let keys = self.renew.get_mut(&class)?;
        let next = keys.pop_front();
        if keys.is_empty() {
            self.renew.remove(&class);
        }
        next
    }
}
