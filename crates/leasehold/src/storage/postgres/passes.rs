//! The statements that a renewal or a release is sent by, one after the other.

use tokio_postgres::Row;

use super::answers::{Failure, Refused};
use super::call::{Around, id};
use super::replies::{Columns, locked};
use super::statements::Verb;
use crate::error::Result;
use crate::storage::Claim;

/// What a statement said of one claim: its answer, if it was not passed over.
pub(super) type Said<T> = Result<Option<Result<T>>, Failure>;

/// Takes in what was answered. What is left has been passed over, since others have locked it: then comes a statement that
/// waits for it. If that is in vain for one, the others are looked at once more without waiting. Returns `true` if there is
/// reason for the next.
pub(super) fn take<T: Copy>(
    answers: &mut [Option<Result<T>>],
    said: Vec<(usize, Said<T>)>,
    verb: Verb,
    not_held: T,
) -> bool {
    let waits = matches!(verb, Verb::RenewLocked | Verb::ReleaseLocked);
    let mut in_vain = false;
    for (place, said) in said {
        answers[place] = match said {
            Ok(answer) => answer,
            Err(Failure { refused: Some(Refused::Wait), .. }) if waits => {
                in_vain = true;
                None
            }
            // What the database cannot hold it does not hold.
            Err(Failure { refused: Some(Refused::Text), .. }) => Some(Ok(not_held)),
            // Perhaps only to whom the lock is handed over, which the next does not do.
            Err(Failure { refused: Some(Refused::Claim | Refused::Perhaps), .. })
                if verb == Verb::HandOver =>
            {
                None
            }
            Err(failure) => Some(Err(failure.error)),
        };
    }
    in_vain || !waits && answers.iter().any(Option::is_none)
}

/// The places of the claims without an answer, in the order of their names: what waits for locks takes them in one order.
pub(super) fn unanswered<T>(claims: &[Claim], answers: &[Option<T>]) -> Vec<usize> {
    let mut places: Vec<_> = (0..claims.len()).filter(|i| answers[*i].is_none()).collect();
    places.sort_by(|a, b| claims[*a].name.cmp(&claims[*b].name));
    places
}

/// What has no answer in the end is locked by somebody else.
pub(super) fn answered<T>(claims: &[Claim], answers: Vec<Option<Result<T>>>) -> Vec<Result<T>> {
    let answer =
        |(claim, answer): (&Claim, Option<Result<T>>)| answer.unwrap_or_else(|| Err(locked(&claim.name)));
    claims.iter().zip(answers).map(answer).collect()
}

/// Tells the clients of leases that were ended or shortened over another client. Each finds out when it renews, too.
pub(super) async fn tell(around: Around<'_>, claims: &[&Claim], rows: &[Row]) -> Result<()> {
    let link = around.link;
    let (mut clients, mut told) = (Vec::new(), Vec::new());
    for (claim, row) in claims.iter().zip(rows) {
        let row = Columns(row, link);
        if let Some(client) = row.get::<Option<String>>("client")?.filter(|client| client != around.client) {
            clients.push(client);
            told.push(id(claim.owner));
        }
    }
    if !clients.is_empty() {
        let _ = link.ask(Verb::Tell, &[&clients, &told]).await;
    }
    Ok(())
}
