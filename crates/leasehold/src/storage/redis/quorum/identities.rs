//! What this client knows about the identity of each server.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The identity of each server, by its index.
pub(super) struct Identities(Mutex<Vec<Identity>>);

#[derive(Clone, Default)]
struct Identity {
    /// The run id that was last seen.
    run_id: Option<String>,
    /// The name of the server, and its vote count under that name.
    votes: Option<(String, u64)>,
}

impl Identities {
    pub(super) fn new(servers: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(vec![Identity::default(); servers])))
    }

    /// Records the run id of a server. Returns the index of another server that has the same one.
    pub(super) fn record_run_id(&self, index: usize, run_id: &str) -> Option<usize> {
        let mut all = self.all();
        let same =
            all.iter().position(|other| other.run_id.as_deref() == Some(run_id)).filter(|i| *i != index);
        if same.is_none() {
            all[index].run_id = Some(run_id.to_owned());
        }
        same
    }

    /// Records the vote count of a server.
    pub(super) fn record_votes(&self, index: usize, name: &str, count: u64) {
        let mut all = self.all();
        let votes = &mut all[index].votes;
        match votes {
            Some((same, most)) if same == name => *most = std::cmp::max(*most, count),
            _ => *votes = Some((name.to_owned(), count)),
        }
    }

    /// Returns the vote counts of the other servers than this one, in the format of the scripts.
    pub(super) fn votes_of_others(&self, index: usize) -> String {
        let all = self.all();
        let others = all.iter().enumerate().filter(|(i, _)| *i != index);
        let words = others.filter_map(|(_, other)| other.votes.as_ref());
        words.map(|(name, count)| format!("{name}={count}")).collect::<Vec<_>>().join(" ")
    }

    fn all(&self) -> MutexGuard<'_, Vec<Identity>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
