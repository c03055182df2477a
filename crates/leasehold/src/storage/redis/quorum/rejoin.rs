//! Decides how servers may join or rejoin the vote, from what they know about themselves and each other.
//!
//! The configuration of a server does not say what it knows: it may come back without its volume, from an old copy, as a
//! replica that was promoted behind its address, or be flushed while it runs. So each server has a *marker*, written for
//! one life of it (one run, one database), with the number of calls that took locks there: its *vote count*. The second
//! step of each acquire sends that count to the others before the lock is granted. For each server the decision is:
//!
//! | Its marker | Its vote |
//! |---|---|
//! | is of this life | counts |
//! | is of another run, and enough others know no higher vote count | counts: it has lost nothing. Only if it keeps every write; otherwise all servers may have lost the same votes in one power failure. Not if it was a replica in this run, which may lack the last writes |
//! | is of another run, and too few others answer, or one knows a higher vote count | counts when every lease has ended |
//! | is a copy of another server's | counts when every lease has ended |
//! | is missing, and enough others know no vote of it, and no member but those that answer | counts: it is new |
//! | is missing, as is that of every server that answers, a majority | counts: all are new |
//! | is missing otherwise, or of another database | counts when every lease has ended |
//!
//! *Enough* is `N - majority + 1`. Every grant has sent its counts to a majority of all, so at most `majority - 1` of the
//! other servers may lack them. All this holds as long as only a minority loses what it knows while a lease lasts.
//!
//! A server waits from the moment at which it may have lost something: its start, if it has loaded its data then and has
//! not voted since, else the decision.

use std::cmp::max;
use std::collections::BTreeSet;
use std::time::Duration;

use super::ballot::majority;
use super::marker::{KnownServer, Marker, MarkerState, NewMarker, VoteStatus};

/// Returns the marker that each server should get, if any. `ttl_max` is the longest TTL that this client promises.
pub(super) fn new_markers(known: &[Option<KnownServer>], ttl_max: Duration) -> Vec<Option<NewMarker>> {
    let markers = known.iter().enumerate().map(|(i, own)| {
        let own = own.as_ref().filter(|own| own.status != VoteStatus::Counts)?;
        let others = known.iter().enumerate().filter(|(j, _)| *j != i);
        let others: Vec<_> = others.filter_map(|(_, other)| other.as_ref()).collect();
        Decision::new(known, own, &others, ttl_max).new_marker()
    });
    markers.collect()
}

/// The decision about one server whose vote does not count.
struct Decision<'a> {
    own: &'a KnownServer,
    /// The other servers that answer.
    others: &'a [&'a KnownServer],
    /// Those whose knowledge can be relied on.
    reliable: Vec<&'a KnownServer>,
    /// How many servers there are.
    servers: usize,
    /// Whether a majority answers, and none has a marker.
    all_are_new: bool,
    /// The longest TTL that any client promises.
    ttl_max: Duration,
}

impl<'a> Decision<'a> {
    fn new(
        known: &[Option<KnownServer>],
        own: &'a KnownServer,
        others: &'a [&'a KnownServer],
        ttl_max: Duration,
    ) -> Self {
        let answered = known.iter().flatten().count();
        let unmarked = known.iter().flatten().all(|server| server.text.is_empty());
        let markers = others.iter().filter_map(|other| other.marker.as_ref()).chain(&own.marker);
        Self {
            own,
            others,
            reliable: others.iter().copied().filter(|other| other.is_reliable()).collect(),
            servers: known.len(),
            all_are_new: unmarked && answered >= majority(known.len()),
            ttl_max: markers.fold(ttl_max, |longest, marker| max(longest, marker.ttl_max)),
        }
    }

    fn new_marker(&self) -> Option<NewMarker> {
        match self.own.own_marker() {
            Some(marker) if marker.state != MarkerState::Blank => self.restarted(marker),
            // Another database was swapped in a moment ago.
            None if self.own.marker.is_some() => Some(self.blank(Duration::ZERO)),
            _ => self.unmarked(),
        }
    }

    /// Decides about a server that has a marker of another run.
    fn restarted(&self, marker: &Marker) -> Option<NewMarker> {
        let Marker { name, vote_count, .. } = marker;
        let is_copy =
            self.others.iter().any(|other| other.own_marker().is_some_and(|other| other.name == *name));
        if is_copy || self.known_votes(name).is_some_and(|count| count > *vote_count) {
            Some(self.blank(self.own.loaded_for()))
        } else if self.own.survives_restart && !self.own.was_replica && self.others_are_enough() {
            // The vote count of a replica may be right, and yet the last renewals may be missing.
            Some(self.marker(MarkerState::Valid, name, *vote_count, Duration::ZERO))
        } else if self.own.status == VoteStatus::Unmarked {
            Some(self.marker(MarkerState::Restarted, name, *vote_count, self.own.loaded_for()))
        } else {
            None
        }
    }

    /// Decides about a server that has no marker, or has lost what it knew.
    fn unmarked(&self) -> Option<NewMarker> {
        let KnownServer { status, survives_restart, run_id, .. } = self.own;
        let waiting = *status == VoteStatus::Waiting;
        let votes = self.known_votes(run_id);
        let is_new = match votes {
            Some(count) => count == 0,
            None => self.every_member_answers(),
        };
        if self.all_are_new || (self.others_are_enough() && is_new) {
            // A server that keeps nothing on disk is like new after each start, and so may be all of them.
            return match survives_restart {
                true => Some(self.marker(MarkerState::Valid, run_id, 0, Duration::ZERO)),
                false => (!waiting).then(|| self.blank(self.own.loaded_for())),
            };
        }
        // If it has voted in this run, its votes were lost just now, else when the run began. A server that survives a
        // restart may have voted in this run under an older name, by which the others know it.
        let elapsed =
            if votes.is_some() || *survives_restart { Duration::ZERO } else { self.own.loaded_for() };
        (!waiting).then(|| self.blank(elapsed))
    }

    /// Returns `true` if one of the reliable others was sent the counts of every grant.
    fn others_are_enough(&self) -> bool {
        self.reliable.len() > self.servers - majority(self.servers)
    }

    /// Returns the highest vote count that the others know of a server.
    fn known_votes(&self, name: &str) -> Option<u64> {
        self.reliable.iter().filter_map(|other| other.others.get(name)).max().copied()
    }

    /// Returns `true` if every member that the others know is another server that answers. A member that does not answer
    /// may be this server, under the name that it had before it lost its marker.
    fn every_member_answers(&self) -> bool {
        let names: BTreeSet<_> =
            self.others.iter().filter_map(|other| other.own_marker()).map(|marker| &marker.name).collect();
        self.reliable.iter().flat_map(|other| other.others.keys()).all(|name| names.contains(name))
    }

    fn blank(&self, elapsed: Duration) -> NewMarker {
        self.marker(MarkerState::Blank, &self.own.run_id, 0, elapsed)
    }

    fn marker(&self, state: MarkerState, name: &str, vote_count: u64, elapsed: Duration) -> NewMarker {
        let (name, period) = (name.to_owned(), self.ttl_max);
        NewMarker { state, name, vote_count, elapsed, period, ttl_max: self.ttl_max }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const UPTIME: Duration = Duration::from_secs(5);

    /// Returns a server without a marker.
    fn unmarked(run_id: &str) -> KnownServer {
        KnownServer {
            status: VoteStatus::Unmarked,
            marker: None,
            text: String::new(),
            others: HashMap::new(),
            waiting: Duration::ZERO,
            run_id: run_id.into(),
            database: 0,
            survives_restart: true,
            uptime: UPTIME,
            was_replica: false,
        }
    }

    /// Returns a server in the run `run_id`, with a marker of the run `of` and the vote counts that it knows of others.
    fn marked(run_id: &str, of: &str, count: u64, others: &[(&str, u64)]) -> KnownServer {
        let ttl_max = 60_000;
        let text = format!("- {of} {of} 0 {count} 0 {ttl_max} {ttl_max}");
        KnownServer {
            status: if run_id == of { VoteStatus::Counts } else { VoteStatus::Unmarked },
            marker: Marker::read(&text),
            text,
            others: others.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect(),
            ..unmarked(run_id)
        }
    }

    /// Returns the state of the marker that the first of three gets, and the elapsed part of its waiting period.
    fn first(known: [Option<KnownServer>; 3]) -> Option<(MarkerState, Duration)> {
        new_markers(&known, UPTIME).remove(0).map(|marker| (marker.state, marker.elapsed))
    }

    const VALID: Option<(MarkerState, Duration)> = Some((MarkerState::Valid, Duration::ZERO));
    const BLANK: Option<(MarkerState, Duration)> = Some((MarkerState::Blank, UPTIME));
    const BLANK_NOW: Option<(MarkerState, Duration)> = Some((MarkerState::Blank, Duration::ZERO));

    #[test]
    fn a_majority_without_markers_is_new() {
        assert_eq!(first([Some(unmarked("a")), Some(unmarked("b")), Some(unmarked("c"))]), VALID);
        assert_eq!(first([Some(unmarked("a")), Some(unmarked("b")), None]), VALID);
        assert_eq!(first([Some(unmarked("a")), None, None]), BLANK_NOW, "one of three is no majority");
        let volatile = KnownServer { survives_restart: false, ..unmarked("a") };
        assert_eq!(
            first([Some(volatile), Some(unmarked("b")), Some(unmarked("c"))]),
            BLANK,
            "it has no marker after any start"
        );
    }

    #[test]
    fn a_server_without_a_marker_is_new_if_every_known_member_answers() {
        let others =
            |votes: &[(&str, u64)]| [Some(marked("b", "b", 3, votes)), Some(marked("c", "c", 3, votes))];
        let with = |votes: &[(&str, u64)]| {
            let [b, c] = others(votes);
            first([Some(unmarked("a")), b, c])
        };
        assert_eq!(with(&[("b", 3), ("c", 3)]), VALID, "the others are the only members");
        assert_eq!(with(&[("a", 0), ("b", 3), ("c", 3)]), VALID, "another client is marking it");
        assert_eq!(
            with(&[("a", 1), ("b", 3), ("c", 3)]),
            BLANK_NOW,
            "it has voted in this run, and was flushed"
        );
        let member = [("0", 3), ("b", 3), ("c", 3)];
        assert_eq!(with(&member), BLANK_NOW, "it may have voted in this run under an older name");
        let [b, c] = others(&member);
        let volatile = KnownServer { survives_restart: false, ..unmarked("a") };
        assert_eq!(first([Some(volatile), b, c]), BLANK, "it votes in each run under another name");
        let [b, _] = others(&[("b", 3)]);
        assert_eq!(first([Some(unmarked("a")), b, None]), BLANK_NOW, "the third server may know more");
    }

    #[test]
    fn a_server_without_a_marker_may_be_a_member_that_does_not_answer() {
        let votes = [("0", 3), ("b", 3), ("c", 3), ("d", 3)];
        let others = || ["b", "c", "d"].map(|name| Some(marked(name, name, 3, &votes)));
        let with = |own, [b, c, d]: [Option<KnownServer>; 3], last| {
            let marker = new_markers(&[Some(own), b, c, d, last], UPTIME).remove(0);
            marker.map(|marker| (marker.state, marker.elapsed))
        };
        assert_eq!(with(unmarked("a"), others(), None), BLANK_NOW, "it may be `0`, and the fifth one new");
        assert_eq!(with(unmarked("a"), others(), Some(unmarked("e"))), BLANK_NOW);
        assert_eq!(with(unmarked("a"), others(), Some(marked("0", "0", 3, &votes))), VALID, "it is not `0`");
    }

    #[test]
    fn a_restarted_server_waits_unless_the_others_confirm_its_vote_count() {
        let with = |own: KnownServer, count| {
            let votes = [("0", count)];
            first([Some(own), Some(marked("b", "b", 3, &votes)), Some(marked("c", "x", 3, &[]))])
        };
        let restarted = || marked("a", "0", 7, &[]);
        assert_eq!(with(restarted(), 7), VALID);
        assert_eq!(with(restarted(), 8), BLANK, "it was restored from an old copy");
        let promoted = || KnownServer { was_replica: true, ..restarted() };
        assert_eq!(with(promoted(), 8), BLANK_NOW, "it lacks a vote of its primary");
        let waits_now = Some((MarkerState::Restarted, Duration::ZERO));
        assert_eq!(with(promoted(), 7), waits_now, "it may lack renewals of its primary");
        let waits = Some((MarkerState::Restarted, UPTIME));
        assert_eq!(
            with(KnownServer { survives_restart: false, ..restarted() }, 7),
            waits,
            "all may have lost the same votes"
        );
        assert_eq!(
            first([Some(restarted()), Some(marked("b", "b", 3, &[("0", 7)])), None]),
            waits,
            "too few servers answer"
        );
        assert_eq!(first([Some(restarted()), Some(marked("b", "b", 3, &[])), Some(unmarked("c"))]), waits);
    }

    #[test]
    fn a_copy_of_another_server_is_blank() {
        let votes = [("0", 7), ("b", 3), ("c", 3)];
        let others = || [Some(marked("b", "b", 3, &votes)), Some(marked("c", "c", 3, &votes))];
        let [b, c] = others();
        assert_eq!(first([Some(marked("a", "b", 3, &votes)), b, c]), BLANK);
        let [b, c] = others();
        assert_eq!(first([Some(marked("a", "0", 7, &votes)), b, c]), VALID, "its own data");
    }

    #[test]
    fn the_waiting_period_is_the_longest_ttl_that_any_client_promises() {
        let promising = |known: KnownServer, ttl_max| KnownServer {
            marker: known.marker.map(|marker| Marker { ttl_max, ..marker }),
            ..known
        };
        let votes = [("0", 1), ("b", 1), ("c", 1)];
        let others = [promising(marked("b", "b", 3, &votes), DAY), marked("c", "c", 3, &votes)].map(Some);
        let [b, c] = others;
        let marker = new_markers(&[Some(unmarked("a")), b, c], UPTIME).remove(0).expect("marked");
        assert_eq!((marker.state, marker.period), (MarkerState::Blank, DAY));
    }

    #[test]
    fn a_database_that_was_swapped_in_is_blank_from_now_on() {
        let swapped = KnownServer { database: 1, ..marked("a", "a", 3, &[]) };
        let swapped = KnownServer { status: VoteStatus::Unmarked, ..swapped };
        let marker = first([Some(swapped), Some(marked("b", "b", 3, &[])), Some(marked("c", "c", 3, &[]))]);
        assert_eq!(marker, Some((MarkerState::Blank, Duration::ZERO)));
    }
}
