//! What the servers say to one claim, and what follows. Pure.

use std::cmp::{max, min};
use std::collections::HashMap;
use std::time::Duration;

use crate::error::{Error, ErrorKind};
use crate::storage::{Holder, Owner};

/// What one server says to a claim.
#[derive(Debug)]
pub(super) enum Vote {
    /// The lock of this server is the claim's now.
    Ours {
        /// The last token that this server knows.
        last: u64,
        /// Its clock, in microseconds.
        time_us: u64,
        before: Before,
        /// Whether it counts: not if the server was started so recently that it may have forgotten another holder.
        counts: bool,
    },
    /// Somebody else has it, or it is kept for somebody.
    Others { holder: Option<Holder>, left: Option<Duration> },
    /// It is not the claim's, and nobody knows more.
    Not(Error),
    /// It may be the claim's.
    Unknown(Error),
}

/// Whose the lock of a server was when it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Before {
    Nobodys,
    /// This owner's, without a token.
    Proposed,
    /// This owner's, with the token that is the last.
    Committed,
}

/// The votes of all servers on one claim.
#[derive(Debug)]
pub(super) struct Ballot {
    pub(super) votes: Vec<Option<Vote>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Open,
    Won,
    Lost,
}

/// The least number of servers that is more than half of them.
pub(super) fn majority(servers: usize) -> usize {
    servers / 2 + 1
}

impl Ballot {
    pub(super) fn new(servers: usize) -> Self {
        Self { votes: (0..servers).map(|_| None).collect() }
    }

    pub(super) fn cast(&mut self, server: usize, vote: Vote) {
        self.votes[server] = Some(vote);
    }

    /// Whether a vote counts: also that of a server which may have forgotten others, if it still has this very lease as
    /// one has it that counts.
    fn counts(&self, vote: &Vote) -> bool {
        match vote {
            Vote::Ours { counts: true, .. } => true,
            Vote::Ours { last, before: Before::Committed, .. } => self.votes.iter().flatten().any(|other| {
                matches!(other, Vote::Ours { last: same, before: Before::Committed, counts: true, .. } if same == last)
            }),
            _ => false,
        }
    }

    /// Whether a majority is certain, or impossible.
    pub(super) fn outcome(&self) -> Outcome {
        let ours = self.counted().count();
        // A vote that does not count yet may do so by one that is still open.
        let open = self.votes.iter().filter(|vote| match vote {
            None => true,
            Some(vote @ Vote::Ours { before: Before::Committed, .. }) => {
                !self.counts(vote) && self.votes.iter().any(Option::is_none)
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

    /// The token to commit, and whether a majority has it already.
    ///
    /// An owner that asks again gets the token that it has, unless somebody was granted a larger one meanwhile.
    pub(super) fn token(&self) -> (u64, bool) {
        let (mut own, mut others, mut time) = (HashMap::new(), 0, 0);
        for vote in self.votes.iter().flatten() {
            if let Vote::Ours { last, time_us, before, .. } = vote {
                time = max(time, *time_us);
                if *before == Before::Committed {
                    *own.entry(*last).or_insert(0) += usize::from(self.counts(vote));
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

    /// The servers at which the lock is the claim's.
    pub(super) fn ours(&self) -> impl Iterator<Item = usize> {
        let ours = |vote: &Option<Vote>| matches!(vote, Some(Vote::Ours { .. }));
        self.votes.iter().enumerate().filter(move |(_, vote)| ours(vote)).map(|(server, _)| server)
    }

    /// Those of them that count.
    pub(super) fn counted(&self) -> impl Iterator<Item = usize> {
        let counts = |vote: &Option<Vote>| vote.as_ref().is_some_and(|vote| self.counts(vote));
        self.votes.iter().enumerate().filter(move |(_, vote)| counts(vote)).map(|(server, _)| server)
    }

    /// The servers at which it may be.
    pub(super) fn unknown(&self) -> impl Iterator<Item = usize> {
        let unknown = |vote: &Option<Vote>| matches!(vote, Some(Vote::Unknown(_)));
        self.votes.iter().enumerate().filter(move |(_, vote)| unknown(vote)).map(|(server, _)| server)
    }

    /// Whether any server knew this owner with a token: then it may be a live lease that was asked for again.
    pub(super) fn held_before(&self) -> bool {
        let committed = |vote: &Vote| matches!(vote, Vote::Ours { before: Before::Committed, .. });
        self.votes.iter().flatten().any(committed)
    }

    /// Whether nobody has a majority, and this claim is the one that may wait for the others to withdraw: the one that
    /// has the first server of those that answered. All who ask see the same one there.
    pub(super) fn may_insist(&self) -> bool {
        let first = self.votes.iter().flatten().find(|vote| !matches!(vote, Vote::Not(_) | Vote::Unknown(_)));
        matches!(first, Some(Vote::Ours { counts: true, .. })) && self.refused() && self.leader().is_none()
    }

    /// Whether so many servers refuse that it is certain that the claim has no majority.
    pub(super) fn refused(&self) -> bool {
        self.others().count() >= majority(self.votes.len())
    }

    /// Who holds at a majority of the servers, if anybody does.
    pub(super) fn leader(&self) -> Option<Holder> {
        leader(self.others().filter_map(|(holder, _)| holder.as_ref()), self.votes.len())
    }

    /// When a majority may be free.
    pub(super) fn free_after(&self) -> Option<Duration> {
        let mut lefts: Vec<_> =
            self.others().map(|(_, left)| left.as_ref().copied().unwrap_or(Duration::MAX)).collect();
        lefts.sort_unstable();
        let needed = (lefts.len() + majority(self.votes.len())).checked_sub(self.votes.len() + 1)?;
        lefts.get(needed).copied().filter(|left| *left < Duration::MAX)
    }

    fn others(&self) -> impl Iterator<Item = (&Option<Holder>, &Option<Duration>)> {
        self.votes.iter().flatten().filter_map(|vote| match vote {
            Vote::Others { holder, left } => Some((holder, left)),
            _ => None,
        })
    }

    /// Why nobody knows.
    pub(super) fn error(&self) -> Error {
        let errors = self.votes.iter().flatten().filter_map(|vote| match vote {
            Vote::Not(error) | Vote::Unknown(error) => Some(error),
            _ => None,
        });
        let young = self.votes.iter().flatten().any(|vote| matches!(vote, Vote::Ours { counts: false, .. }));
        let text = if young {
            "a server may have forgotten a lock, so it does not count until every lease is over; retry, or let the servers \
                keep what they know (appendonly yes, appendfsync always)"
        } else {
            "no majority of the servers answered in time; check them, and retry"
        };
        undecided(text, errors, self.votes.iter().flatten().count(), self.votes.len())
    }
}

/// Who of these holds at a majority of the servers, with the token that it has there, and the times that hold there.
pub(super) fn leader<'a>(holders: impl Iterator<Item = &'a Holder>, servers: usize) -> Option<Holder> {
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

/// The answer when nothing is certain: an error that asking again does not mend goes first.
pub(super) fn undecided<'a>(
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

    fn ours(last: u64, before: Before) -> Vote {
        Vote::Ours { last, time_us: 100, before, counts: true }
    }

    fn others(owner: Owner) -> Vote {
        let name = Name::new("a").expect("valid");
        let holder = Holder::new(name, owner, Token::new(1), Duration::from_secs(1));
        Vote::Others { holder: Some(holder), left: Some(Duration::from_secs(1)) }
    }

    fn not() -> Vote {
        Vote::Not(Error::new(ErrorKind::Unavailable, "down"))
    }

    fn ballot(votes: impl IntoIterator<Item = Option<Vote>>) -> Ballot {
        Ballot { votes: votes.into_iter().collect() }
    }

    #[test]
    fn nobody_is_waited_for_once_it_is_certain() {
        let new = || Some(ours(0, Before::Nobodys));
        assert_eq!(ballot([new(), new(), None]).outcome(), Outcome::Won);
        assert_eq!(ballot([new(), None, None]).outcome(), Outcome::Open);
        assert_eq!(ballot([new(), Some(not()), None]).outcome(), Outcome::Open);
        assert_eq!(ballot([None, Some(not()), Some(not())]).outcome(), Outcome::Lost);
        let young = Some(Vote::Ours { last: 0, time_us: 0, before: Before::Nobodys, counts: false });
        assert_eq!(ballot([new(), young, Some(not())]).outcome(), Outcome::Lost);
    }

    #[test]
    fn who_forgot_others_counts_for_the_lease_that_it_has() {
        let (committed, nobodys) = (Before::Committed, Before::Nobodys);
        let young = |last, before| Some(Vote::Ours { last, time_us: 100, before, counts: false });
        let same = ballot([Some(ours(7, committed)), young(7, committed), Some(not())]);
        assert_eq!((same.outcome(), same.token()), (Outcome::Won, (7, true)));
        for other in [young(6, committed), young(7, nobodys)] {
            assert_eq!(ballot([Some(ours(7, committed)), other, Some(not())]).outcome(), Outcome::Lost);
        }
        assert_eq!(
            ballot([Some(ours(7, nobodys)), young(7, committed), Some(not())]).outcome(),
            Outcome::Lost
        );
        assert_eq!(ballot([young(7, committed), Some(not()), None]).outcome(), Outcome::Open);
    }

    #[test]
    fn tokens_are_larger_than_all_that_a_majority_knows() {
        let (nobodys, committed) = (Before::Nobodys, Before::Committed);
        let token = |votes: [(u64, Before); 2]| ballot(votes.map(|(last, b)| Some(ours(last, b)))).token();
        assert_eq!(token([(7, nobodys), (9, nobodys)]), (100, false), "by the clock");
        assert_eq!(token([(700, nobodys), (9, nobodys)]), (701, false), "by what was there");
        assert_eq!(token([(700, committed), (700, committed)]), (700, true), "asked again");
        assert_eq!(token([(700, committed), (9, nobodys)]), (700, false), "half of it is lost");
        assert_eq!(token([(700, committed), (700, nobodys)]), (701, false), "somebody else has had it");
        assert_eq!(token([(700, committed), (900, nobodys)]), (901, false), "somebody came after");
    }

    #[test]
    fn one_of_those_who_split_the_votes_may_insist() {
        let (a, b) = (Owner::random(), Owner::random());
        let mine = || Some(ours(0, Before::Nobodys));
        assert!(ballot([mine(), Some(others(a)), Some(others(b))]).may_insist());
        assert!(
            ballot([Some(not()), mine(), Some(others(b)), Some(others(a)), Some(others(b))]).may_insist()
        );
        assert!(!ballot([Some(others(a)), mine(), Some(others(b))]).may_insist(), "another is first");
        assert!(!ballot([mine(), Some(others(a)), Some(others(a))]).may_insist(), "another has won");
    }

    #[test]
    fn the_holder_is_whom_a_majority_shows() {
        let (a, b) = (Owner::random(), Owner::random());
        let all = ballot([Some(others(a)), Some(others(b)), Some(others(a))]);
        assert_eq!(all.leader().map(|holder| holder.owner), Some(a));
        assert_eq!(ballot([Some(others(a)), Some(others(b)), None]).leader(), None);
    }

    #[test]
    fn a_majority_is_free_when_enough_of_the_others_are() {
        let left = |secs| Some(Vote::Others { holder: None, left: Some(Duration::from_secs(secs)) });
        let free_after = |votes: [Option<Vote>; 3]| ballot(votes).free_after().map(|left| left.as_secs());
        assert_eq!(free_after([left(9), left(1), left(5)]), Some(5));
        assert_eq!(free_after([left(9), left(1), None]), Some(1));
        assert_eq!(free_after([left(9), None, None]), None);
    }
}
