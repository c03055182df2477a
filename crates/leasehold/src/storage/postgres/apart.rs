//! Keeps what the server refuses of one claim from the others of its batch.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::answers::{Failure, Refused};
use crate::clock::Moment;
use crate::storage::Name;

/// The batches in which claims are asked for: first all at once. If the server refuses that because of one of them, one half
/// after the other, until each has an answer of its own.
pub(super) struct Apart<T> {
    open: Vec<Vec<usize>>,
    answers: Vec<(usize, Result<T, Failure>)>,
    /// How many batches may still be refused by what may concern all. `None` once one of them was not.
    doubts: Option<usize>,
}

impl<T> Apart<T> {
    /// Begins with the claims at these places.
    pub(super) fn new(places: Vec<usize>) -> Self {
        // To find the bad ones takes a batch for each halving, and some more if they stand close together.
        let doubts = Some(2 * usize::BITS.saturating_sub(places.len().leading_zeros()) as usize + 8);
        Self { answers: Vec::with_capacity(places.len()), open: vec![places], doubts }
    }

    /// Returns the places of the next batch.
    pub(super) fn next(&mut self) -> Option<Vec<usize>> {
        self.open.pop().filter(|places| !places.is_empty())
    }

    /// Takes in what was answered to it.
    pub(super) fn said(&mut self, mut places: Vec<usize>, said: Result<Vec<T>, Failure>) {
        if let (Err(Failure { refused: Some(Refused::Perhaps), .. }), Some(doubts)) =
            (&said, &mut self.doubts)
        {
            *doubts = doubts.saturating_sub(1);
            if *doubts == 0 {
                places.extend(self.open.drain(..).flatten());
            }
        }
        match said {
            Ok(said) => {
                self.doubts = None;
                self.answers.extend(places.into_iter().zip(said.into_iter().map(Ok)));
            }
            Err(failure) if places.len() > 1 && failure.is_of_one_claim() && self.doubts != Some(0) => {
                let rest = places.split_off(places.len() / 2);
                self.open.extend([rest, places]);
            }
            Err(failure) => {
                self.answers.extend(places.into_iter().map(|place| (place, Err(failure.clone()))));
            }
        }
    }

    /// Returns the answer to each.
    pub(super) fn answers(self) -> Vec<(usize, Result<T, Failure>)> {
        self.answers
    }
}

/// Locks whose rows another transaction has made and not committed: whoever makes such a row waits for it. These are
/// asked for apart from others.
#[derive(Default)]
pub(super) struct Blocked(Mutex<HashMap<Name, Moment>>);

/// How long it is remembered.
const MEMORY: Duration = Duration::from_secs(10);

impl Blocked {
    pub(super) fn contains(&self, name: &Name) -> bool {
        self.names().contains_key(name)
    }

    /// Takes in that a row could not be made.
    pub(super) fn add(&self, name: &Name, now: Moment) {
        let mut names = self.names();
        names.retain(|_, since| now.since(*since) < MEMORY);
        names.insert(name.clone(), now);
    }

    pub(super) fn remove(&self, name: &Name) {
        self.names().remove(name);
    }

    fn names(&self) -> MutexGuard<'_, HashMap<Name, Moment>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
