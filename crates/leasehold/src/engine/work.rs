//! Counts what the engine does, for the simulator: how much has changed, and how much work that was.
//!
//! Without tests, nothing is counted and nothing is left of it.

/// Counts steps of work: entries of a container that are touched, machines that are stepped, claims that move.
#[inline]
pub(crate) fn did(_steps: usize) {
    #[cfg(test)]
    counted::WORK.with(|work| work.set(work.get() + _steps));
}

/// Counts what has changed and justifies work: commands, answers, hints, timers, and claims that leave.
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

    /// Work that grows with what is merely there, planted to see whether it is noticed.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Defect {
        /// An acquisition that leaves its local queue is searched for.
        LineSearch,
        /// All observed names are looked through for one that is due.
        ObserverScan,
        /// A lane is looked through for the names of a batch.
        LanesWalked,
    }

    /// Takes the counts: changes, and work.
    pub(crate) fn take() -> (usize, usize) {
        (CHANGES.with(Cell::take), WORK.with(Cell::take))
    }

    pub(crate) fn plant(defect: Option<Defect>) {
        PLANTED.with(|planted| planted.set(defect));
    }

    pub(crate) fn is(defect: Defect) -> bool {
        PLANTED.with(Cell::get) == Some(defect)
    }
}
