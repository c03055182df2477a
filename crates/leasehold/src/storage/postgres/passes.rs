//! The passes of a renewal or a release, for rows that another transaction has locked.
//!
//! | Pass | Rows that are locked | Next |
//! |---|---|---|
//! | 1 | skipped | 2, if any was skipped |
//! | 2 | waited for, 100 ms | 3, if the wait was in vain for one of them |
//! | 3 | skipped | end: a claim without a reply is `Unavailable` |

use tokio_postgres::Row;

use super::call::{Call, id};
use super::failure::{Failure, Refusal};
use super::replies::{Columns, locked};
use super::statements::Statement;
use crate::error::Result;
use crate::storage::Claim;

/// The replies to the claims of a call, through all passes.
pub(super) struct Passes<'a, T> {
    claims: &'a [Claim],
    replies: Vec<Option<Result<T>>>,
    /// The reply to a claim that cannot hold.
    not_held: T,
}

/// The result of one claim in one pass. `None` if its row was skipped.
pub(super) type PassResult<T> = Result<Option<Result<T>>, Failure>;

impl<'a, T: Copy> Passes<'a, T> {
    pub(super) fn new(claims: &'a [Claim], not_held: T) -> Self {
        Self { claims, replies: claims.iter().map(|_| None).collect(), not_held }
    }

    pub(super) fn set(&mut self, index: usize, reply: T) {
        self.replies[index] = Some(Ok(reply));
    }

    /// Returns the indexes of the claims without a reply, ordered by name: statements that wait for rows lock them in one
    /// order.
    pub(super) fn open(&self) -> Vec<usize> {
        let mut indexes: Vec<_> = (0..self.claims.len()).filter(|i| self.replies[*i].is_none()).collect();
        indexes.sort_by(|a, b| self.claims[*a].name.cmp(&self.claims[*b].name));
        indexes
    }

    /// Records the results of a pass. Returns `true` if there is reason for the next pass.
    pub(super) fn record(&mut self, statement: Statement, results: Vec<(usize, PassResult<T>)>) -> bool {
        let mut waited_in_vain = false;
        for (index, result) in results {
            self.replies[index] = match result {
                Ok(reply) => reply,
                Err(Failure { refusal: Some(Refusal::LockTimeout), .. }) if statement.is_blocking() => {
                    waited_in_vain = true;
                    None
                }
                // The database cannot hold such a text, so it does not hold the lock.
                Err(Failure { refusal: Some(Refusal::Text), .. }) => Some(Ok(self.not_held)),
                // It may concern only the waiter that the lock is handed over to. The next pass hands nothing over.
                Err(Failure { refusal: Some(Refusal::Rule | Refusal::PerhapsRule), .. })
                    if statement == Statement::Release =>
                {
                    None
                }
                Err(failure) => Some(Err(failure.error)),
            };
        }
        waited_in_vain || !statement.is_blocking() && self.replies.iter().any(Option::is_none)
    }

    /// Returns the reply to each claim. A claim without one is locked by another transaction.
    pub(super) fn into_replies(self) -> Vec<Result<T>> {
        let reply =
            |(claim, reply): (&Claim, Option<Result<T>>)| reply.unwrap_or_else(|| Err(locked(&claim.name)));
        self.claims.iter().zip(self.replies).map(reply).collect()
    }
}

/// Notifies other clients that a lease of theirs was ended or shortened through this client. The outcome does not matter: each of
/// them also learns it by its next renewal.
pub(super) async fn notify_owners(call: Call<'_>, claims: &[&Claim], rows: &[Row]) -> Result<()> {
    let link = call.link;
    let (mut clients, mut owners) = (Vec::new(), Vec::new());
    for (claim, row) in claims.iter().zip(rows) {
        let row = Columns(row, link);
        if let Some(client) = row.get::<Option<String>>("client")?.filter(|client| client != call.client) {
            clients.push(client);
            owners.push(id(claim.owner));
        }
    }
    if !clients.is_empty() {
        let _ = link.execute(Statement::NotifyOwners, &[&clients, &owners]).await;
    }
    Ok(())
}
