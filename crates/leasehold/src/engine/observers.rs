//! Who observes which lock, what they were told, and when to look again.

use std::collections::HashMap;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use crate::clock::Moment;
use crate::event::Change;
use crate::storage::{Holder, Name, Owner, Token, WAITER_HEARTBEAT};

/// How often to look where the storage tells nothing.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How many looks there may be at a time.
const LOOKS_MAX: usize = 16;

#[derive(Debug)]
pub(crate) struct Observers {
    names: HashMap<Name, Observed>,
    /// How long to wait between looks that nothing asked for.
    pause: Duration,
}

#[derive(Debug)]
struct Observed {
    observers: Vec<Observer>,
    look_at: Moment,
    looking: bool,
    /// A hint came while looking.
    again: bool,
}

#[derive(Debug)]
struct Observer {
    changes: Sender<Change>,
    /// What it was told last: nothing yet, unlocked, or who holds.
    told: Option<Option<(Owner, Token)>>,
}

impl Observers {
    pub(crate) fn new(push: bool) -> Self {
        Self { names: HashMap::new(), pause: if push { WAITER_HEARTBEAT } else { LOOK_EVERY } }
    }

    /// Adds one; whether the name is new.
    pub(crate) fn add(&mut self, name: Name, changes: Sender<Change>, now: Moment) -> bool {
        let new = !self.names.contains_key(&name);
        let observed = self.names.entry(name).or_insert_with(|| Observed {
            observers: Vec::new(),
            look_at: now,
            looking: false,
            again: false,
        });
        observed.observers.push(Observer { changes, told: None });
        observed.look(now);
        new
    }

    /// It may have changed.
    pub(crate) fn hint(&mut self, name: &Name, now: Moment) {
        if let Some(observed) = self.names.get_mut(name) {
            observed.look(now);
        }
    }

    /// All may have changed.
    pub(crate) fn hint_all(&mut self, now: Moment) {
        self.names.values_mut().for_each(|observed| observed.look(now));
    }

    pub(crate) fn wake(&self) -> Moment {
        if self.looking() >= LOOKS_MAX {
            return Moment::FAR; // until one of them is back
        }
        let waiting = self.names.values().filter(|observed| !observed.looking);
        waiting.map(|observed| observed.look_at).min_by(Ord::cmp).unwrap_or(Moment::FAR)
    }

    /// The names to look at now. [`Observers::seen`] must follow for each.
    pub(crate) fn due(&mut self, now: Moment) -> Vec<Name> {
        let room = LOOKS_MAX.saturating_sub(self.looking());
        let due = self.names.iter_mut().filter(|(_, observed)| !observed.looking && observed.look_at <= now);
        due.take(room)
            .map(|(name, observed)| {
                (observed.looking, observed.again) = (true, false);
                name.clone()
            })
            .collect()
    }

    fn looking(&self) -> usize {
        self.names.values().filter(|observed| observed.looking).count()
    }

    /// Tells the observers what was seen, `None` if the storage did not answer. Whether a name is not
    /// observed any more.
    pub(crate) fn seen(&mut self, name: &Name, seen: Option<Option<Holder>>, now: Moment) -> bool {
        let Some(observed) = self.names.get_mut(name) else {
            return false;
        };
        observed.looking = false;
        let mut pause = if seen.is_some() { self.pause } else { LOOK_EVERY };
        if let Some(holder) = seen {
            if let Some(holder) = &holder {
                // It may end by itself, which nobody hints.
                pause = std::cmp::min(pause, holder.remaining.saturating_add(Duration::from_millis(1)));
            }
            let mut full = false;
            observed.observers.retain_mut(|observer| observer.tell(holder.as_ref(), &mut full));
            if full {
                pause = std::cmp::min(pause, LOOK_EVERY);
            }
        }
        observed.observers.retain(|observer| !observer.changes.is_closed());
        observed.look_at = if observed.again { now } else { now.after(pause) };
        if observed.observers.is_empty() {
            self.names.remove(name);
            return true;
        }
        false
    }
}

impl Observed {
    fn look(&mut self, now: Moment) {
        self.look_at = now;
        self.again = self.looking;
    }
}

impl Observer {
    /// Whether it still listens. One that has no room is told the state it missed when it has.
    fn tell(&mut self, holder: Option<&Holder>, full: &mut bool) -> bool {
        let state = holder.map(|holder| (holder.owner, holder.token));
        if self.told == Some(state) {
            return true;
        }
        // From one holder to the next the lock was free in between.
        let between = matches!(self.told, Some(Some(_))) && state.is_some();
        let mut send = |told: Option<(Owner, Token)>, change: Change| match self.changes.try_send(change) {
            Ok(()) => {
                self.told = Some(told);
                Some(true)
            }
            Err(TrySendError::Full(_)) => {
                *full = true;
                Some(false)
            }
            Err(TrySendError::Closed(_)) => None,
        };
        let unlocked = if between || state.is_none() { send(None, Change::Unlocked) } else { Some(true) };
        match (unlocked, holder) {
            (Some(true), Some(holder)) => send(state, Change::Locked { holder: holder.clone() }).is_some(),
            (told, _) => told.is_some(),
        }
    }
}
