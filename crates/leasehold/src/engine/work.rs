//! Counters for the simulator: how much has changed, and how many steps of work that took. The work has to
//! follow the changes, not the number of entries.
//!
//! Outside of tests nothing is counted, and no code of it is left.

/// Counts steps of work: entries of a container that are visited, machines that are stepped, claims that are
/// moved.
#[inline]
pub(crate) fn did(_steps: usize) {
    #[cfg(test)]
    counted::WORK.with(|work| work.set(work.get() + _steps));
}

/// Counts changes, which justify work: commands, replies, hints, timers, and claims that leave.
#[inline]
pub(crate) fn changed(_changes: usize) {
    #[cfg(test)]
    counted::CHANGES.with(|changes| changes.set(changes.get() + _changes));
}

#[cfg(test)]
pub(crate) use self::counted::{Defect, is, plant, take};

#[cfg(test)]
mod counted {
    use std::cell::Cell;

    thread_local! {
        pub(super) static WORK: Cell<usize> = const { Cell::new(0) };
        pub(super) static CHANGES: Cell<usize> = const { Cell::new(0) };
        static PLANTED: Cell<Option<Defect>> = const { Cell::new(None) };
    }

    /// A planted defect: work that grows with the number of entries. The simulator must notice it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Defect {
        /// To leave the local queue, an acquisition is searched for.
        QueueSearch,
        /// To find one that is due, all observed names are visited.
        ObserverScan,
        /// To make a batch, all claims of a lane are visited.
        LanesWalked,
    }

    /// Takes the counts since the last call: changes, and steps of work.
    pub(crate) fn take() -> (usize, usize) {
        (CHANGES.with(Cell::take), WORK.with(Cell::take))
    }

    /// Plants a defect in this thread, or removes it.
    pub(crate) fn plant(defect: Option<Defect>) {
        PLANTED.with(|planted| planted.set(defect));
    }

    /// Returns `true` if this thread has that defect.
    pub(crate) fn is(defect: Defect) -> bool {
        PLANTED.with(Cell::get) == Some(defect)
    }
}
