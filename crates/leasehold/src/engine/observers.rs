//! Which lock is observed, what its observers were told, and when to look again.
//!
//! To add an observer, to drop one, to hint a name and to find the names that are due cost O(log n) each. The storage
//! is told of the differences only.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::work;
use crate::clock::Moment;
use crate::event::Change;
use crate::storage::{Holder, Name, Owner, Token, WAITER_HEARTBEAT};

/// How often to look where the storage tells nothing.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many looks there may be at a time.
const LOOKS_MAX: usize = 16;
/// How many looks at hinted names there may be before one that is due.
const IN_A_ROW_MAX: u32 = 3;
/// The least time between two looks that nothing asked for, for each name: ten thousand names that are merely there
/// must not take the storage from those who lock.
const LOOKS_APART: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(crate) struct Observers {
    names: HashMap<Name, Observed>,
    /// When to look at each name that is not being looked at and was not hinted.
    due: BTreeSet<(Moment, Name)>,
    /// The names to look at as soon as there is room, and since when: they are new, or may have changed. They do not
    /// stand behind ten thousand looks that nothing asked for.
    hinted: BTreeSet<(Moment, Name)>,
    /// How many looks there were at hinted names since one at another.
    in_a_row: u32,
    looking: usize,
    /// How long to wait between looks that nothing asked for.
    pause: Duration,
    /// The names that the storage was told of, and those that may have come or gone since.
    watched: HashSet<Name>,
    changed: HashSet<Name>,
}

#[derive(Debug)]
struct Observed {
    /// Those who were told what is so now.
    current: HashMap<u64, Sender<Change>>,
    /// Those who are new, or had no room.
    behind: HashMap<u64, Observer>,
    /// What was seen last: nothing yet, unlocked, or the holder.
    seen: Option<State>,
    look_at: Moment,
    /// It is in `hinted`, and not in `due`.
    hinted: bool,
    looking: bool,
    /// A hint came while looking.
    again: bool,
}

/// The holder, or none.
type State = Option<(Owner, Token)>;

#[derive(Debug)]
struct Observer {
    changes: Sender<Change>,
    /// What it was told last.
    told: Option<State>,
}

impl Observers {
    pub(crate) fn new(push: bool) -> Self {
        Self {
            names: HashMap::new(),
            due: BTreeSet::new(),
            hinted: BTreeSet::new(),
            in_a_row: 0,
            looking: 0,
            pause: if push { WAITER_HEARTBEAT } else { LOOK_EVERY },
            watched: HashSet::new(),
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
            look_at: Moment::FAR,
            hinted: false,
            looking: false,
            again: false,
        });
        observed.behind.insert(id, Observer { changes, told: None });
        self.changed.insert(name.clone());
        self.hint(&name, now);
    }

    /// Drops an observer.
    pub(crate) fn remove(&mut self, name: &Name, id: u64) {
        work::did(1);
        if let Some(observed) = self.names.get_mut(name) {
            observed.current.remove(&id);
            observed.behind.remove(&id);
            self.forget_if_unobserved(name);
        }
    }

    /// Takes the differences that the storage has not been told of: the names that are observed from now on, and
    /// those that are not any more.
    pub(crate) fn take_changes(&mut self) -> Option<(Vec<Name>, Vec<Name>)> {
        if self.changed.is_empty() {
            return None;
        }
        work::did(self.changed.len());
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        for name in std::mem::take(&mut self.changed) {
            match self.names.contains_key(&name) {
                true if self.watched.insert(name.clone()) => added.push(name),
                false if self.watched.remove(&name) => removed.push(name),
                _ => {}
            }
        }
        Some((added, removed)).filter(|(added, removed)| !(added.is_empty() && removed.is_empty()))
    }

    /// Looks again at a name that may have changed.
    pub(crate) fn hint(&mut self, name: &Name, now: Moment) {
        work::did(1);
        let Some(observed) = self.names.get_mut(name) else { return };
        observed.again = observed.looking;
        if !observed.looking && !observed.hinted {
            self.due.remove(&(observed.look_at, name.clone()));
            (observed.look_at, observed.hinted) = (now, true);
            self.hinted.insert((now, name.clone()));
        }
    }

    /// Looks again at every name: all may have changed.
    pub(crate) fn hint_all(&mut self, now: Moment) {
        work::changed(self.names.len());
        let names: Vec<_> = self.names.keys().cloned().collect();
        names.iter().for_each(|name| self.hint(name, now));
    }

    pub(crate) fn wake(&self) -> Moment {
        if self.looking >= LOOKS_MAX {
            return Moment::FAR; // until one of them is back
        }
        let first = |names: &BTreeSet<(Moment, Name)>| names.first().map_or(Moment::FAR, |(at, _)| *at);
        std::cmp::min(first(&self.hinted), first(&self.due))
    }

    /// Returns the names to look at now. [`Observers::seen`] must follow for each.
    pub(crate) fn due(&mut self, now: Moment) -> Vec<Name> {
        #[cfg(test)]
        if work::is(work::Defect::ObserverScan) {
            work::did(self.names.len());
        }
        let mut names = Vec::new();
        while self.looking < LOOKS_MAX
            && let Some(name) = self.next_due(now)
        {
            if let Some(observed) = self.names.get_mut(&name) {
                (observed.looking, observed.again, observed.hinted) = (true, false, false);
                self.looking += 1;
                names.push(name);
            }
        }
        work::did(names.len());
        work::changed(names.len());
        names
    }

    /// Takes out the name to look at next: a hinted one, but for one in four.
    fn next_due(&mut self, now: Moment) -> Option<Name> {
        let is_due = self.due.first().is_some_and(|(at, _)| *at <= now);
        if self.hinted.is_empty() || (is_due && self.in_a_row >= IN_A_ROW_MAX) {
            self.in_a_row = 0;
            return if is_due { self.due.pop_first().map(|(_, name)| name) } else { None };
        }
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.hinted.pop_first().map(|(_, name)| name)
    }

    /// Tells the observers what was seen, `None` if the storage did not answer.
    pub(crate) fn seen(&mut self, name: &Name, seen: Option<Option<Holder>>, now: Moment) {
        self.looking = self.looking.saturating_sub(1);
        let each = LOOKS_APART.saturating_mul(u32::try_from(self.names.len()).unwrap_or(u32::MAX));
        let Some(observed) = self.names.get_mut(name) else { return };
        observed.looking = false;
        let mut pause = if seen.is_some() { std::cmp::max(self.pause, each) } else { LOOK_EVERY };
        if let Some(holder) = seen {
            if let Some(holder) = &holder {
                // It may end by itself, which is hinted by none.
                pause = std::cmp::min(pause, holder.remaining.saturating_add(Duration::from_millis(1)));
                pause = std::cmp::max(pause, each);
            }
            observed.tell(holder.as_ref());
            if !observed.behind.is_empty() {
                pause = std::cmp::min(pause, LOOK_EVERY);
            }
        }
        observed.hinted = observed.again;
        observed.look_at = if observed.again { now } else { now.after(pause) };
        let line = if observed.again { &mut self.hinted } else { &mut self.due };
        line.insert((observed.look_at, name.clone()));
        self.forget_if_unobserved(name);
    }

    fn forget_if_unobserved(&mut self, name: &Name) {
        let unobserved = |observed: &Observed| observed.current.is_empty() && observed.behind.is_empty();
        // One that is being looked at stays until the look is back, which may then be for another observer.
        if self.names.get(name).is_some_and(|observed| !observed.looking && unobserved(observed))
            && let Some(observed) = self.names.remove(name)
        {
            let line = if observed.hinted { &mut self.hinted } else { &mut self.due };
            line.remove(&(observed.look_at, name.clone()));
            self.changed.insert(name.clone());
        }
    }
}

impl Observed {
    /// Tells what is so now: all of them if that has changed, and otherwise those that are behind.
    fn tell(&mut self, holder: Option<&Holder>) {
        let state: State = holder.map(|holder| (holder.owner, holder.token));
        if self.seen != Some(state) {
            let told = self.seen;
            work::changed(self.current.len());
            let outdated = self.current.drain().map(|(id, changes)| (id, Observer { changes, told }));
            self.behind.extend(outdated);
            self.seen = Some(state);
        }
        work::did(self.behind.len());
        for (id, mut observer) in std::mem::take(&mut self.behind) {
            match observer.tell(holder, state) {
                Told::All => drop(self.current.insert(id, observer.changes)),
                Told::Some => drop(self.behind.insert(id, observer)),
                Told::Gone => {}
            }
        }
    }
}

/// What came of telling an observer.
enum Told {
    All,
    /// It has no room for the rest, and is told that later.
    Some,
    Gone,
}

impl Observer {
    fn tell(&mut self, holder: Option<&Holder>, state: State) -> Told {
        if self.told == Some(state) {
            return Told::All;
        }
        // From one holder to the next the lock was free in between.
        let between = matches!(self.told, Some(Some(_))) && state.is_some();
        let changes = (between || state.is_none()).then_some((None, Change::Unlocked));
        let locked = holder.map(|holder| (state, Change::Locked { holder: holder.clone() }));
        for (told, change) in changes.into_iter().chain(locked) {
            match self.changes.try_send(change) {
                Ok(()) => self.told = Some(told),
                Err(TrySendError::Full(_)) => return Told::Some,
                Err(TrySendError::Closed(_)) => return Told::Gone,
            }
        }
        Told::All
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
    fn a_name_that_comes_and_goes_within_a_turn_is_not_told_to_the_storage() {
        let (mut observers, now) = (Observers::new(true), Moment::from_nanos(1));
        let (changes, _seen) = mpsc::channel(1);
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
    fn an_observer_that_leaves_while_its_name_is_looked_at_frees_the_look() {
        let (mut observers, now) = (Observers::new(true), Moment::from_nanos(1));
        let (changes, _seen) = mpsc::channel(1);
        observers.add(named("a"), 1, changes, now);
        assert_eq!(observers.due(now), [named("a")]);
        observers.remove(&named("a"), 1);
        observers.seen(&named("a"), Some(None), now);
        assert_eq!(observers.looking, 0);
        assert!(observers.names.is_empty() && observers.due.is_empty());
    }

    #[test]
    fn looks_that_nothing_asked_for_are_the_rarer_the_more_names_there_are() {
        let (mut observers, now) = (Observers::new(true), Moment::from_nanos(1));
        let mut kept = Vec::new();
        for i in 0..10_000 {
            let (changes, seen) = mpsc::channel(1);
            kept.push(seen);
            observers.add(named(&format!("lock {i}")), i, changes, now);
        }
        let mut looks = 0;
        while let due = observers.due(now)
            && !due.is_empty()
        {
            looks += due.len();
            due.iter().for_each(|name| observers.seen(name, Some(None), now));
        }
        assert_eq!(looks, 10_000);
        assert_eq!(observers.wake(), now.after(LOOKS_APART * 10_000));
    }

    #[test]
    fn leases_that_end_soon_are_looked_at_no_more_often() {
        let (mut observers, now) = (Observers::new(true), Moment::from_nanos(1));
        let mut kept = Vec::new();
        for i in 0..1_000 {
            let (changes, seen) = mpsc::channel(1);
            kept.push(seen);
            observers.add(named(&format!("lock {i}")), i, changes, now);
        }
        while let due = observers.due(now)
            && !due.is_empty()
        {
            for name in due {
                let (owner, left) = (Owner::from_bytes([1; 16]), Duration::from_millis(70));
                let holder = Holder::new(name.clone(), owner, Token::new(1), left);
                observers.seen(&name, Some(Some(holder)), now);
            }
        }
        assert_eq!(observers.wake(), now.after(LOOKS_APART * 1_000));
    }

    #[test]
    fn a_hinted_name_does_not_wait_behind_those_that_nothing_asked_for() {
        let (mut observers, now) = (Observers::new(true), Moment::from_nanos(1));
        let mut kept = Vec::new();
        for i in 0..1_000 {
            let (changes, seen) = mpsc::channel(1);
            kept.push(seen);
            observers.add(named(&format!("lock {i:04}")), i, changes, now);
        }
        while let due = observers.due(now)
            && !due.is_empty()
        {
            due.iter().for_each(|name| observers.seen(name, Some(None), now));
        }
        // All are due, and a slow storage has none of them looked at yet.
        let later = now.after(Duration::from_secs(60));
        let looked_at = observers.due(later);
        assert_eq!(looked_at.len(), LOOKS_MAX);
        let hinted: Vec<_> = (900..910).map(|i| named(&format!("lock {i:04}"))).collect();
        hinted.iter().for_each(|name| observers.hint(name, later));
        looked_at.iter().for_each(|name| observers.seen(name, Some(None), later));
        let next = observers.due(later);
        assert!(hinted.iter().all(|name| next.contains(name)), "{next:?}");
        assert!(
            next.iter().any(|name| !hinted.contains(name)),
            "those that are due are not forgotten over them"
        );
    }
}
