//! The observed names: what each observer knows, and when to inspect which name next.
//!
//! To add or remove an observer, to hint a name, and to find the names that are due cost O(log n) each. The
//! storage gets the differences of the set of names only.
//!
//! | State of a name | Event | Next state |
//! |---|---|---|
//! | hinted: to be inspected soon | there is room | inspecting |
//! | due: to be inspected at a time | that time has come, and there is room | inspecting |
//! | | a hint | hinted |
//! | inspecting | a hint | inspecting, and once more afterward |
//! | | the reply | due after an interval; hinted if a hint came |
//! | any | its last observer is removed | removed; while inspecting, after the reply |

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::work;
use crate::clock::Moment;
use crate::event::Change;
use crate::storage::{Holder, Name, Owner, Token, WAITER_HEARTBEAT};

/// How often to inspect a name if the storage sends no hints.
const INSPECT_EVERY: Duration = Duration::from_millis(100);
/// How many inspections there may be at a time.
const INSPECTIONS_MAX: usize = 16;
/// How many hinted names may be inspected before one that is due.
const HINTED_IN_A_ROW_MAX: u32 = 3;
/// The least time between two periodic inspections, for each observed name. Ten thousand names that are
/// merely observed must not slow down those who lock.
const INSPECTIONS_APART: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(crate) struct Observers {
    names: HashMap<Name, Observed>,
    /// When to inspect each name that is neither being inspected nor hinted.
    due: BTreeSet<(Moment, Name)>,
    /// The names to inspect as soon as there is room, and since when. They are new, or may have changed. They
    /// do not wait behind ten thousand periodic inspections.
    hinted: BTreeSet<(Moment, Name)>,
    /// How many hinted names were inspected since one that was due.
    hinted_in_a_row: u32,
    inspecting: usize,
    /// How long to wait between periodic inspections of a name.
    interval: Duration,
    /// The names that were reported to the storage, and the names that may have been added or removed since.
    reported: HashSet<Name>,
    changed: HashSet<Name>,
}

#[derive(Debug)]
struct Observed {
    /// The observers that know the present state.
    current: HashMap<u64, Sender<Change>>,
    /// The observers that do not: they are new, or their channel was full.
    behind: HashMap<u64, Observer>,
    /// What the last inspection has shown: the holder, or none. `None` before the first.
    seen: Option<State>,
    inspect_at: Moment,
    /// Whether the name is in `hinted` instead of `due`.
    hinted: bool,
    inspecting: bool,
    /// Whether a hint came during the inspection.
    again: bool,
}

/// The holder, or none.
type State = Option<(Owner, Token)>;

#[derive(Debug)]
struct Observer {
    changes: Sender<Change>,
    /// The state that it received last.
    sent: Option<State>,
}

impl Observers {
    pub(crate) fn new(push: bool) -> Self {
        Self {
            names: HashMap::new(),
            due: BTreeSet::new(),
            hinted: BTreeSet::new(),
            hinted_in_a_row: 0,
            inspecting: 0,
            interval: if push { WAITER_HEARTBEAT } else { INSPECT_EVERY },
            reported: HashSet::new(),
            changed: HashSet::new(),
        }
    }

    /// Adds an observer.
    pub(crate) fn add(&mut self, name: Name, id: u64, changes: Sender<Change>, now: Moment) {
        work::did(1);
        let observed = self.names.entry(name.clone()).or_insert_with(|| Observed {
            current: HashMap::new(),
            behind: HashMap::new(),
            seen: None,
            inspect_at: Moment::FAR,
            hinted: false,
            inspecting: false,
            again: false,
        });
        observed.behind.insert(id, Observer { changes, sent: None });
        self.changed.insert(name.clone());
        self.hint(&name, now);
    }

    /// Removes an observer.
    pub(crate) fn remove(&mut self, name: &Name, id: u64) {
        work::did(1);
        if let Some(observed) = self.names.get_mut(name) {
            observed.current.remove(&id);
            observed.behind.remove(&id);
            self.forget_if_unobserved(name);
        }
    }

    /// Takes the differences that the storage does not know yet: the names that are observed from now on, and
    /// the names that no longer are.
    pub(crate) fn take_changes(&mut self) -> Option<(Vec<Name>, Vec<Name>)> {
        if self.changed.is_empty() {
            return None;
        }
        work::did(self.changed.len());
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for name in std::mem::take(&mut self.changed) {
            match self.names.contains_key(&name) {
                true if self.reported.insert(name.clone()) => added.push(name),
                false if self.reported.remove(&name) => removed.push(name),
                _ => {}
            }
        }
        Some((added, removed)).filter(|(added, removed)| !(added.is_empty() && removed.is_empty()))
    }

    /// Schedules an inspection of a name that may have changed.
    pub(crate) fn hint(&mut self, name: &Name, now: Moment) {
        work::did(1);
        let Some(observed) = self.names.get_mut(name) else { return };
        observed.again = observed.inspecting;
        if !observed.inspecting && !observed.hinted {
            self.due.remove(&(observed.inspect_at, name.clone()));
            (observed.inspect_at, observed.hinted) = (now, true);
            self.hinted.insert((now, name.clone()));
        }
    }

    /// Schedules an inspection of every name.
    pub(crate) fn hint_all(&mut self, now: Moment) {
        work::changed(self.names.len());
        let names: Vec<_> = self.names.keys().cloned().collect();
        names.iter().for_each(|name| self.hint(name, now));
    }

    /// Returns when the next name is due.
    pub(crate) fn wake(&self) -> Moment {
        if self.inspecting >= INSPECTIONS_MAX {
            // Until one of the replies is here.
            return Moment::FAR;
        }
        let first = |names: &BTreeSet<(Moment, Name)>| names.first().map_or(Moment::FAR, |(at, _)| *at);
        std::cmp::min(first(&self.hinted), first(&self.due))
    }

    /// Returns the names to inspect now. [`Observers::inspected`] must follow for each.
    pub(crate) fn due(&mut self, now: Moment) -> Vec<Name> {
        #[cfg(test)]
        if work::is(work::Defect::ObserverScan) {
            work::did(self.names.len());
        }
        let mut names = Vec::new();
        while self.inspecting < INSPECTIONS_MAX
            && let Some(name) = self.next_due(now)
        {
            if let Some(observed) = self.names.get_mut(&name) {
                (observed.inspecting, observed.again, observed.hinted) = (true, false, false);
                self.inspecting += 1;
                names.push(name);
            }
        }
        work::did(names.len());
        work::changed(names.len());
        names
    }

    /// Removes and returns the name to inspect next: mostly a hinted one, and one that is due after every
    /// three of those.
    fn next_due(&mut self, now: Moment) -> Option<Name> {
        let is_due = self.due.first().is_some_and(|(at, _)| *at <= now);
        if self.hinted.is_empty() || (is_due && self.hinted_in_a_row >= HINTED_IN_A_ROW_MAX) {
            self.hinted_in_a_row = 0;
            return if is_due { self.due.pop_first().map(|(_, name)| name) } else { None };
        }
        self.hinted_in_a_row = self.hinted_in_a_row.saturating_add(1);
        self.hinted.pop_first().map(|(_, name)| name)
    }

    /// Tells the observers what an inspection has shown; `None` if the storage did not answer.
    pub(crate) fn inspected(&mut self, name: &Name, seen: Option<Option<Holder>>, now: Moment) {
        self.inspecting = self.inspecting.saturating_sub(1);
        let each = INSPECTIONS_APART.saturating_mul(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
        let Some(observed) = self.names.get_mut(name) else { return };
        observed.inspecting = false;
        let mut interval = if seen.is_some() { std::cmp::max(self.interval, each) } else { INSPECT_EVERY };
        if let Some(holder) = seen {
            if let Some(holder) = &holder {
                // It may expire, and no hint follows from that.
                interval = std::cmp::min(interval, holder.remaining.saturating_add(Duration::from_millis(1)));
                interval = std::cmp::max(interval, each);
            }
            observed.send_state(holder.as_ref());
            if !observed.behind.is_empty() {
                interval = std::cmp::min(interval, INSPECT_EVERY);
            }
        }
        observed.hinted = observed.again;
        observed.inspect_at = if observed.again { now } else { now.after(interval) };
        let names = if observed.again { &mut self.hinted } else { &mut self.due };
        names.insert((observed.inspect_at, name.clone()));
        self.forget_if_unobserved(name);
    }

    fn forget_if_unobserved(&mut self, name: &Name) {
        let unobserved = |observed: &Observed| observed.current.is_empty() && observed.behind.is_empty();
        // A name stays during its inspection, the reply to which may then be for another observer.
        if self.names.get(name).is_some_and(|observed| !observed.inspecting && unobserved(observed))
            && let Some(observed) = self.names.remove(name)
        {
            let names = if observed.hinted { &mut self.hinted } else { &mut self.due };
            names.remove(&(observed.inspect_at, name.clone()));
            self.changed.insert(name.clone());
        }
    }
}

impl Observed {
    /// Sends the present state: to all observers if it has changed, and otherwise to those that do not know
    /// it.
    fn send_state(&mut self, holder: Option<&Holder>) {
        let state: State = holder.map(|holder| (holder.owner, holder.token));
        if self.seen != Some(state) {
            let sent = self.seen;
            work::changed(self.current.len());
            let outdated = self.current.drain().map(|(id, changes)| (id, Observer { changes, sent }));
            self.behind.extend(outdated);
            self.seen = Some(state);
        }
        work::did(self.behind.len());
        for (id, mut observer) in std::mem::take(&mut self.behind) {
            match observer.send_state(holder, state) {
                Sent::All => drop(self.current.insert(id, observer.changes)),
                Sent::Some => drop(self.behind.insert(id, observer)),
                Sent::Gone => {}
            }
        }
    }
}

/// The result of sending to an observer.
enum Sent {
    All,
    /// Its channel was full. It gets the rest later.
    Some,
    Gone,
}

impl Observer {
    fn send_state(&mut self, holder: Option<&Holder>, state: State) -> Sent {
        if self.sent == Some(state) {
            return Sent::All;
        }
        // Between two holders the lock was free.
        let between = matches!(self.sent, Some(Some(_))) && state.is_some();
        let changes = (between || state.is_none()).then_some((None, Change::Unlocked));
        let locked = holder.map(|holder| (state, Change::Locked { holder: holder.clone() }));
        for (sent, change) in changes.into_iter().chain(locked) {
            match self.changes.try_send(change) {
                Ok(()) => self.sent = Some(sent),
                Err(TrySendError::Full(_)) => return Sent::Some,
                Err(TrySendError::Closed(_)) => return Sent::Gone,
            }
        }
        Sent::All
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    fn named(name: &str) -> Name {
        Name::new(name).expect("valid")
    }

    #[test]
    fn a_name_that_is_added_and_removed_within_a_turn_is_not_reported_to_the_storage() {
        let (mut observers, now) = (Observers::new(true), Moment::from_nanos(1));
        let (changes, _receiver) = mpsc::channel(1);
        observers.add(named("a"), 1, changes.clone(), now);
        observers.remove(&named("a"), 1);
        assert_eq!(observers.take_changes(), None);
        observers.add(named("a"), 2, changes.clone(), now);
        observers.add(named("a"), 3, changes, now);
        assert_eq!(observers.take_changes(), Some((vec![named("a")], vec![])));
        observers.remove(&named("a"), 2);
        assert_eq!(observers.take_changes(), None, "another one observes it");
        observers.remove(&named("a"), 3);
        assert_eq!(observers.take_changes(), Some((vec![], vec![named("a")])));
        assert!(observers.due.is_empty() && observers.hinted.is_empty() && observers.wake() == Moment::FAR);
    }

    #[test]
    fn an_observer_that_leaves_during_an_inspection_of_its_name_frees_that_inspection() {
        let (mut observers, now) = (Observers::new(true), Moment::from_nanos(1));
        let (changes, _receiver) = mpsc::channel(1);
        observers.add(named("a"), 1, changes, now);
        assert_eq!(observers.due(now), [named("a")]);
        observers.remove(&named("a"), 1);
        observers.inspected(&named("a"), Some(None), now);
        assert_eq!(observers.inspecting, 0);
        assert!(observers.names.is_empty() && observers.due.is_empty());
    }

    #[test]
    fn the_more_names_are_observed_the_rarer_are_the_periodic_inspections_of_each() {
        let (mut observers, now) = (Observers::new(true), Moment::from_nanos(1));
        let mut kept = Vec::new();
        for i in 0..10_000 {
            let (changes, receiver) = mpsc::channel(1);
            kept.push(receiver);
            observers.add(named(&format!("lock {i}")), i, changes, now);
        }
        let mut inspections = 0;
        while let due = observers.due(now)
            && !due.is_empty()
        {
            inspections += due.len();
            due.iter().for_each(|name| observers.inspected(name, Some(None), now));
        }
        assert_eq!(inspections, 10_000);
        assert_eq!(observers.wake(), now.after(INSPECTIONS_APART * 10_000));
    }

    #[test]
    fn leases_that_end_soon_are_inspected_no_more_often() {
        let (mut observers, now) = (Observers::new(true), Moment::from_nanos(1));
        let mut kept = Vec::new();
        for i in 0..1_000 {
            let (changes, receiver) = mpsc::channel(1);
            kept.push(receiver);
            observers.add(named(&format!("lock {i}")), i, changes, now);
        }
        while let due = observers.due(now)
            && !due.is_empty()
        {
            for name in due {
                let (owner, left) = (Owner::from_bytes([1; 16]), Duration::from_millis(70));
                let holder = Holder::new(name.clone(), owner, Token::new(1), left);
                observers.inspected(&name, Some(Some(holder)), now);
            }
        }
        assert_eq!(observers.wake(), now.after(INSPECTIONS_APART * 1_000));
    }

    #[test]
    fn a_hinted_name_does_not_wait_behind_periodic_inspections() {
        let (mut observers, now) = (Observers::new(true), Moment::from_nanos(1));
        let mut kept = Vec::new();
        for i in 0..1_000 {
            let (changes, receiver) = mpsc::channel(1);
            kept.push(receiver);
            observers.add(named(&format!("lock {i:04}")), i, changes, now);
        }
        while let due = observers.due(now)
            && !due.is_empty()
        {
            due.iter().for_each(|name| observers.inspected(name, Some(None), now));
        }
        // All are due, and a slow storage has answered none of the inspections yet.
        let later = now.after(Duration::from_secs(60));
        let inspected = observers.due(later);
        assert_eq!(inspected.len(), INSPECTIONS_MAX);
        let hinted: Vec<_> = (900..910).map(|i| named(&format!("lock {i:04}"))).collect();
        hinted.iter().for_each(|name| observers.hint(name, later));
        inspected.iter().for_each(|name| observers.inspected(name, Some(None), later));
        let next = observers.due(later);
        assert!(hinted.iter().all(|name| next.contains(name)), "{next:?}");
        assert!(next.iter().any(|name| !hinted.contains(name)), "names that are due get a share, too");
    }
}
