//! The losses of the locks of one run, one after the other.

use futures_util::future::select_all;
use leasehold::{Guard, Guards, Lost};

pub(super) struct Losses<'a> {
    /// The guards whose loss was not returned yet.
    held: Vec<&'a Guard>,
}

impl<'a> Losses<'a> {
    pub(super) fn new(guards: &'a Guards) -> Self {
        Self { held: guards.iter().collect() }
    }

    /// Waits for the next loss. Loses none if it is dropped.
    pub(super) async fn next(&mut self) -> (&'a Guard, Lost) {
        if self.held.is_empty() {
            return std::future::pending().await;
        }
        let (why, index, _) = select_all(self.held.iter().map(|guard| Box::pin(guard.lost()))).await;
        (self.held.remove(index), why)
    }
}
