//! The votes of the servers on one claim, and what follows from them. Pure.

use std::cmp::{max, min};
use std::collections::HashMap;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::storage::{Holder, Owner};

/// The reply of one server to a proposed claim.
#[derive(Debug)]
pub(super) enum Vote {
    /// The owner of the claim has the lock of this server now.
    Taken {
        /// The last token that this server knows.
        last: u64,
        /// The server's clock, in µs.
        time_us: u64,
        prior: Prior,
        /// Whether the vote counts. It does not while the server may have lost the lease of another owner.
        counted: bool,
    },
    /// Another owner has the lock, or it is reserved for one.
    Refused { holder: Option<Holder>, left: Option<Duration> },
    /// The owner does not have the lock. Nothing else is known.
    Failed(Error),
    /// The owner may have the lock.
    Unknown(Error),
}

/// What the lock of a server was before the claim took it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Prior {
    /// Free.
    Other,
    /// This owner's, without a token.
    Proposed,
    /// This owner's, with the last token.
    Committed,
}

/// The votes of all servers on one claim.
#[derive(Debug)]
pub(super) struct Ballot {
    pub(super) votes: Vec<Option<Vote>>,
}

/// Whether a claim has the lock at a majority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is not certain yet.
    Open,
    Won,
    Lost,
}

/// Returns the smallest number of servers that is more than half of them.
pub(super) fn majority(servers: usize) -> usize {
    servers / 2 + 1
}

impl Ballot {
    pub(super) fn new(servers: usize) -> Self {
        Self { votes: (0..servers).map(|_| None).collect() }
    }

    pub(super) fn servers(&self) -> usize {
        self.votes.len()
    }

    pub(super) fn cast(&mut self, server: usize, vote: Vote) {
        self.votes[server] = Some(vote);
    }

    /// Returns `true` if a vote counts. The vote of a server that may have lost other leases counts, too, if it has this
    /// lease with the same token as a server whose vote counts.
    fn is_counted(&self, vote: &Vote) -> bool {
        match vote {
            Vote::Taken { counted: true, .. } => true,
            Vote::Taken { last, prior: Prior::Committed, .. } => self.votes.iter().flatten().any(|other| {
                matches!(other, Vote::Taken { last: same, prior: Prior::Committed, counted: true, .. } if same == last)
            }),
            _ => false,
        }
    }

    /// Returns whether a majority is certain or impossible.
    pub(super) fn outcome(&self) -> Outcome {
        let ours = self.counted().count();
        // A vote that does not count may do so because of one that is still open.
        let open = self.votes.iter().filter(|vote| match vote {
            None => true,
            Some(vote @ Vote::Taken { prior: Prior::Committed, .. }) => {
                !self.is_counted(vote) && self.votes.iter().any(Option::is_none)
            }
            Some(_) => false,
        });
        let open = open.count();
        let majority = majority(self.votes.len());
        if ours >= majority {
            Outcome::Won
        } else if ours + open < majority {
            Outcome::Lost
        } else {
            Outcome::Open
        }
    }

    /// Returns the token to commit, and whether a majority has it already.
    ///
    /// An owner that asks again keeps its token, unless another owner was granted a larger one meanwhile.
    pub(super) fn token(&self) -> (u64, bool) {
        let (mut own, mut others, mut time) = (HashMap::new(), 0, 0);
        for vote in self.votes.iter().flatten() {
            if let Vote::Taken { last, time_us, prior, .. } = vote {
                time = max(time, *time_us);
                if *prior == Prior::Committed {
                    *own.entry(*last).or_insert(0) += usize::from(self.is_counted(vote));
                } else {
                    others = max(others, *last);
                }
            }
        }
        let best = own.iter().max_by_key(|(token, count)| (**count, **token));
        match best {
            Some((token, count)) if *count >= majority(self.votes.len()) => (*token, true),
            _ => {
                let largest = own.keys().copied().max().unwrap_or(0);
                if largest > others { (largest, false) } else { (max(others + 1, time), false) }
            }
        }
    }

    /// Returns the servers at which the claim has the lock.
    pub(super) fn taken(&self) -> impl Iterator<Item = usize> {
        let taken = |vote: &Option<Vote>| matches!(vote, Some(Vote::Taken { .. }));
        self.votes.iter().enumerate().filter(move |(_, vote)| taken(vote)).map(|(server, _)| server)
    }

    /// Returns those of them whose votes count.
    pub(super) fn counted(&self) -> impl Iterator<Item = usize> {
        let counted = |vote: &Option<Vote>| vote.as_ref().is_some_and(|vote| self.is_counted(vote));
        self.votes.iter().enumerate().filter(move |(_, vote)| counted(vote)).map(|(server, _)| server)
    }

    /// Returns the servers at which the claim may have the lock.
    pub(super) fn unknown(&self) -> impl Iterator<Item = usize> {
        let unknown = |vote: &Option<Vote>| matches!(vote, Some(Vote::Unknown(_)));
        self.votes.iter().enumerate().filter(move |(_, vote)| unknown(vote)).map(|(server, _)| server)
    }

    /// Returns `true` if any server knew this owner with a token. The claim may then repeat that of a live lease.
    pub(super) fn was_committed(&self) -> bool {
        let committed = |vote: &Vote| matches!(vote, Vote::Taken { prior: Prior::Committed, .. });
        self.votes.iter().flatten().any(committed)
    }

    /// Returns `true` if no claim has a majority, and this one may wait for the others to withdraw. It is the claim that
    /// has the first of the servers that answered, at which all clients see the same claim.
    pub(super) fn is_preferred(&self) -> bool {
        let first =
            self.votes.iter().flatten().find(|vote| !matches!(vote, Vote::Failed(_) | Vote::Unknown(_)));
        matches!(first, Some(Vote::Taken { counted: true, .. }))
            && self.is_refused()
            && self.holder().is_none()
    }

    /// Returns `true` if a majority of the servers refuses.
    pub(super) fn is_refused(&self) -> bool {
        self.refusals().count() >= majority(self.votes.len())
    }

    /// Returns the holder that a majority of the servers reports.
    pub(super) fn holder(&self) -> Option<Holder> {
        majority_holder(self.refusals().filter_map(|(holder, _)| holder.as_ref()), self.votes.len())
    }

    /// Returns after how long the lock may be free at a majority.
    pub(super) fn free_after(&self) -> Option<Duration> {
        let mut lefts: Vec<_> =
            self.refusals().map(|(_, left)| left.as_ref().copied().unwrap_or(Duration::MAX)).collect();
        lefts.sort_unstable();
        let needed = (lefts.len() + majority(self.votes.len())).checked_sub(self.votes.len() + 1)?;
        lefts.get(needed).copied().filter(|left| *left < Duration::MAX)
    }

    fn refusals(&self) -> impl Iterator<Item = (&Option<Holder>, &Option<Duration>)> {
        self.votes.iter().flatten().filter_map(|vote| match vote {
            Vote::Refused { holder, left } => Some((holder, left)),
            _ => None,
        })
    }

    /// Returns the error of an undecided claim.
    pub(super) fn error(&self) -> Error {
        let errors = self.votes.iter().flatten().filter_map(|vote| match vote {
            Vote::Failed(error) | Vote::Unknown(error) => Some(error),
            _ => None,
        });
        let uncounted =
            self.votes.iter().flatten().any(|vote| matches!(vote, Vote::Taken { counted: false, .. }));
        let text = if uncounted {
            "a server may have forgotten a lock, so its vote does not count until every lease has ended; retry, or let the \
                servers keep what they know (appendonly yes, appendfsync always)"
        } else {
            "no majority of the servers answered in time; check them, and retry"
        };
        no_majority(text, errors, self.votes.iter().flatten().count(), self.votes.len())
    }
}

/// Returns the holder that a majority of the servers reports, with the largest token and the times that a majority
/// confirms.
pub(super) fn majority_holder<'a>(
    holders: impl Iterator<Item = &'a Holder>,
    servers: usize,
) -> Option<Holder> {
    let mut seen: HashMap<Owner, Vec<&Holder>> = HashMap::new();
    for holder in holders {
        seen.entry(holder.owner).or_default().push(holder);
    }
    let majority = majority(servers);
    let mut same = seen.into_values().find(|same| same.len() >= majority)?;
    same.sort_by_key(|holder| std::cmp::Reverse(holder.remaining));
    let remaining = same[majority - 1].remaining;
    let known = same.iter().max_by_key(|holder| holder.token)?;
    let held_for = same.iter().filter_map(|holder| holder.held_for).max();
    let waiters = same.iter().filter_map(|holder| holder.waiters).max();
    Some(Holder { remaining, held_for, waiters, ..(*known).clone() })
}

/// Returns the error when no majority agrees. An error that a retry does not mend takes precedence.
pub(super) fn no_majority<'a>(
    text: &str,
    errors: impl Iterator<Item = &'a Error>,
    answered: usize,
    servers: usize,
) -> Error {
    let errors: Vec<_> = errors.collect();
    if let Some(lasting) = errors.iter().find(|error| error.kind() != ErrorKind::Unavailable) {
        return (*lasting).clone();
    }
    let answered = min(answered, servers).saturating_sub(errors.len());
    let last = errors.first().map(|error| format!(" error=`{error}`")).unwrap_or_default();
    Error::new(ErrorKind::Unavailable, format!("{text} answered=`{answered}` servers=`{servers}`{last}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{Name, Token};

    fn taken(last: u64, prior: Prior) -> Vote {
        Vote::Taken { last, time_us: 100, prior, counted: true }
    }

    fn refused(owner: Owner) -> Vote {
        let name = Name::new("a").expect("valid");
        let holder = Holder::new(name, owner, Token::new(1), Duration::from_secs(1));
        Vote::Refused { holder: Some(holder), left: Some(Duration::from_secs(1)) }
    }

    fn failed() -> Vote {
        Vote::Failed(Error::new(ErrorKind::Unavailable, "down"))
    }

    fn ballot(votes: impl IntoIterator<Item = Option<Vote>>) -> Ballot {
        Ballot { votes: votes.into_iter().collect() }
    }

    #[test]
    fn the_outcome_is_known_once_it_is_certain() {
        let new = || Some(taken(0, Prior::Other));
        assert_eq!(ballot([new(), new(), None]).outcome(), Outcome::Won);
        assert_eq!(ballot([new(), None, None]).outcome(), Outcome::Open);
        assert_eq!(ballot([new(), Some(failed()), None]).outcome(), Outcome::Open);
        assert_eq!(ballot([None, Some(failed()), Some(failed())]).outcome(), Outcome::Lost);
        let uncounted = Some(Vote::Taken { last: 0, time_us: 0, prior: Prior::Other, counted: false });
        assert_eq!(ballot([new(), uncounted, Some(failed())]).outcome(), Outcome::Lost);
    }

    #[test]
    fn a_server_that_may_have_lost_leases_counts_for_one_that_it_has() {
        let (committed, other) = (Prior::Committed, Prior::Other);
        let uncounted = |last, prior| Some(Vote::Taken { last, time_us: 100, prior, counted: false });
        let same = ballot([Some(taken(7, committed)), uncounted(7, committed), Some(failed())]);
        assert_eq!((same.outcome(), same.token()), (Outcome::Won, (7, true)));
        for vote in [uncounted(6, committed), uncounted(7, other)] {
            assert_eq!(ballot([Some(taken(7, committed)), vote, Some(failed())]).outcome(), Outcome::Lost);
        }
        assert_eq!(
            ballot([Some(taken(7, other)), uncounted(7, committed), Some(failed())]).outcome(),
            Outcome::Lost
        );
        assert_eq!(ballot([uncounted(7, committed), Some(failed()), None]).outcome(), Outcome::Open);
    }

    #[test]
    fn tokens_are_larger_than_all_that_a_majority_knows() {
        let (other, committed) = (Prior::Other, Prior::Committed);
        let token = |votes: [(u64, Prior); 2]| ballot(votes.map(|(last, p)| Some(taken(last, p)))).token();
        assert_eq!(token([(7, other), (9, other)]), (100, false), "the clock");
        assert_eq!(token([(700, other), (9, other)]), (701, false), "the last token, and one more");
        assert_eq!(token([(700, committed), (700, committed)]), (700, true), "its own token");
        assert_eq!(
            token([(700, committed), (9, other)]),
            (700, false),
            "its own token, of which a server has lost the record"
        );
        assert_eq!(token([(700, committed), (700, other)]), (701, false), "another owner may have had it");
        assert_eq!(
            token([(700, committed), (900, other)]),
            (901, false),
            "another owner was granted a larger one"
        );
    }

    #[test]
    fn one_claim_of_a_split_vote_is_preferred() {
        let (a, b) = (Owner::random(), Owner::random());
        let mine = || Some(taken(0, Prior::Other));
        assert!(ballot([mine(), Some(refused(a)), Some(refused(b))]).is_preferred());
        assert!(
            ballot([Some(failed()), mine(), Some(refused(b)), Some(refused(a)), Some(refused(b))])
                .is_preferred()
        );
        assert!(
            !ballot([Some(refused(a)), mine(), Some(refused(b))]).is_preferred(),
            "another claim has the first server"
        );
        assert!(
            !ballot([mine(), Some(refused(a)), Some(refused(a))]).is_preferred(),
            "another claim has won"
        );
    }

    #[test]
    fn the_holder_is_the_one_that_a_majority_reports() {
        let (a, b) = (Owner::random(), Owner::random());
        let all = ballot([Some(refused(a)), Some(refused(b)), Some(refused(a))]);
        assert_eq!(all.holder().map(|holder| holder.owner), Some(a));
        assert_eq!(ballot([Some(refused(a)), Some(refused(b)), None]).holder(), None);
    }

    #[test]
    fn a_majority_is_free_when_enough_refusing_servers_are() {
        let left = |secs| Some(Vote::Refused { holder: None, left: Some(Duration::from_secs(secs)) });
        let free_after = |votes: [Option<Vote>; 3]| ballot(votes).free_after().map(|left| left.as_secs());
        assert_eq!(free_after([left(9), left(1), left(5)]), Some(5));
        assert_eq!(free_after([left(9), left(1), None]), Some(1));
        assert_eq!(free_after([left(9), None, None]), None);
    }
}
