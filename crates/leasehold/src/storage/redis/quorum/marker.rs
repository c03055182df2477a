//! The marker of a server: what the server knows about itself, and so whether its vote counts.

use std::collections::HashMap;
use std::time::Duration;

use crate::error::Result;
use crate::storage::Finding;
use crate::storage::redis::replies::Reply;

/// Whether the vote of a server counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VoteStatus {
    /// It counts.
    Counts,
    /// It does not count until every lease has ended that the server may have lost.
    Waiting,
    /// It does not count, because the marker is missing, or of another life of the server.
    Unmarked,
}

/// The reason in a marker why the vote of its server counts, or does not yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MarkerState {
    /// The vote counts.
    Valid,
    /// The server was restarted, and no other server could confirm that it lost nothing.
    Restarted,
    /// The server has lost what it knew.
    Blank,
}

/// The marker that a server keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) state: MarkerState,
    /// The name of the server. It takes another one each time that it has lost what it knew.
    pub(super) name: String,
    pub(super) run_id: String,
    pub(super) database: u32,
    /// How often it has taken locks under that name, while its vote counted.
    pub(super) vote_count: u64,
    /// The longest TTL that any client promises.
    pub(super) ttl_max: Duration,
}

/// A marker to write. The script adds the run id, the database and the time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewMarker {
    pub(super) state: MarkerState,
    pub(super) name: String,
    pub(super) vote_count: u64,
    /// How much of the waiting period is over already.
    pub(super) elapsed: Duration,
    /// The waiting period.
    pub(super) period: Duration,
    /// The longest TTL that any client promises.
    pub(super) ttl_max: Duration,
}

/// What is known of a server: its own knowledge about itself and the others, and its facts.
#[derive(Clone, Debug)]
pub(super) struct KnownServer {
    pub(super) status: VoteStatus,
    pub(super) marker: Option<Marker>,
    /// The text of the marker; empty if it is missing.
    pub(super) text: String,
    /// The vote counts of other servers, by name.
    pub(super) others: HashMap<String, u64>,
    /// How much of the waiting period is left.
    pub(super) waiting: Duration,
    pub(super) run_id: String,
    pub(super) database: u32,
    /// Whether it keeps every write through a restart.
    pub(super) survives_restart: bool,
    /// The time since its start, at least.
    pub(super) uptime: Duration,
    /// Whether it was a replica in this run. It may then lack the last writes of its former primary, however long it has
    /// been running.
    pub(super) was_replica: bool,
}

impl VoteStatus {
    pub(super) fn read(reply: &mut Reply<'_>) -> Result<Self> {
        match reply.integer()? {
            0 => Ok(Self::Counts),
            1 => Ok(Self::Waiting),
            2 => Ok(Self::Unmarked),
            _ => Err(reply.malformed()),
        }
    }
}

impl MarkerState {
    /// Returns the word in a marker.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Valid => "-",
            Self::Restarted => "r",
            Self::Blank => "b",
        }
    }
}

impl Marker {
    /// Reads a marker that a script has written.
    pub(super) fn read(text: &str) -> Option<Self> {
        let words: Vec<_> = text.split(' ').collect();
        let [state, name, run_id, database, vote_count, _since, _period, ttl_max] = words[..] else {
            return None;
        };
        let states = [MarkerState::Valid, MarkerState::Restarted, MarkerState::Blank];
        Some(Self {
            state: states.into_iter().find(|one| one.word() == state)?,
            name: name.to_owned(),
            run_id: run_id.to_owned(),
            database: database.parse().ok()?,
            vote_count: vote_count.parse().ok()?,
            ttl_max: Duration::from_millis(ttl_max.parse().ok()?),
        })
    }
}

/// Reads vote counts, which are words `NAME=COUNT`.
pub(super) fn read_votes(text: &str) -> HashMap<String, u64> {
    let words = text.split(' ').filter_map(|word| word.split_once('='));
    words.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect()
}

impl KnownServer {
    /// Returns `true` if the vote counts that it knows of others can be relied on.
    pub(super) fn is_reliable(&self) -> bool {
        self.status == VoteStatus::Counts
            || self.own_marker().is_some_and(|marker| marker.state != MarkerState::Blank)
    }

    /// Returns the time since it loaded its data, at least.
    pub(super) fn loaded_for(&self) -> Duration {
        if self.was_replica { Duration::ZERO } else { self.uptime }
    }

    /// Returns the marker, unless it belongs to another database.
    pub(super) fn own_marker(&self) -> Option<&Marker> {
        self.marker.as_ref().filter(|marker| marker.database == self.database)
    }

    /// Returns the finding about its vote.
    pub(super) fn finding(&self, place: &str) -> Finding {
        if self.status == VoteStatus::Counts {
            return Finding::good("vote", format!("it counts: the server has lost no vote server=`{place}`"));
        }
        let left = self.waiting;
        let text = "the server may have lost locks, so its vote does not count until every lease has ended";
        Finding::warning("vote", format!("{text} server=`{place}` left=`{left:.0?}`"))
    }
}
