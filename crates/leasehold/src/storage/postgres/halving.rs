//! Sends a batch of claims so that what the server refuses of one claim does not fail the others.

use super::failure::{Failure, Refusal};

/// Executes a statement for the claims at these indexes: first for all at once. If the server refuses that because of one
/// of them, for one half after the other, until each claim has a result of its own.
pub(super) async fn by_halves<T, F>(
    indexes: Vec<usize>,
    mut execute: impl FnMut(Vec<usize>) -> F,
) -> Vec<(usize, Result<T, Failure>)>
where
    F: Future<Output = Result<Vec<T>, Failure>>,
{
    let mut halving = Halving::new(indexes);
    while let Some(indexes) = halving.next() {
        let result = execute(indexes.clone()).await;
        halving.record(indexes, result);
    }
    halving.into_results()
}

/// The batches of [`by_halves`], for callers that may stop in between.
pub(super) struct Halving<T> {
    open: Vec<Vec<usize>>,
    results: Vec<(usize, Result<T, Failure>)>,
    /// How many batches may still fail by an error that may concern all claims. `None` once a batch has succeeded.
    attempts_left: Option<usize>,
}

impl<T> Halving<T> {
    pub(super) fn new(indexes: Vec<usize>) -> Self {
        // To find a bad claim takes a batch for each halving, and some more if several are close together.
        let halvings = usize::BITS.saturating_sub(indexes.len().leading_zeros()) as usize;
        Self {
            results: Vec::with_capacity(indexes.len()),
            open: vec![indexes],
            attempts_left: Some(2 * halvings + 8),
        }
    }

    /// Returns the indexes of the next batch.
    pub(super) fn next(&mut self) -> Option<Vec<usize>> {
        self.open.pop().filter(|indexes| !indexes.is_empty())
    }

    /// Records the result of that batch.
    pub(super) fn record(&mut self, mut indexes: Vec<usize>, result: Result<Vec<T>, Failure>) {
        if let (Err(Failure { refusal: Some(Refusal::PerhapsRule), .. }), Some(left)) =
            (&result, &mut self.attempts_left)
        {
            *left = left.saturating_sub(1);
            if *left == 0 {
                indexes.extend(self.open.drain(..).flatten());
            }
        }
        match result {
            Ok(replies) => {
                self.attempts_left = None;
                self.results.extend(indexes.into_iter().zip(replies.into_iter().map(Ok)));
            }
            Err(failure)
                if indexes.len() > 1 && failure.is_of_one_claim() && self.attempts_left != Some(0) =>
            {
                let rest = indexes.split_off(indexes.len() / 2);
                self.open.extend([rest, indexes]);
            }
            Err(failure) => {
                self.results.extend(indexes.into_iter().map(|index| (index, Err(failure.clone()))));
            }
        }
    }

    /// Returns the result of each claim, with its index.
    pub(super) fn into_results(self) -> Vec<(usize, Result<T, Failure>)> {
        self.results
    }
}
