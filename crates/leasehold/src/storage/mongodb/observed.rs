//! The names that this process observes, as a filter of its change stream.

use std::collections::HashSet;

use mongodb::bson::{Document, doc};

use super::config::Config;
use crate::storage::Name;
use crate::storage::net::hints::{Change, Changes};

/// The observed names, and their changes.
pub(super) struct Observed {
    names: HashSet<Name>,
    changes: Changes,
    /// The names that were added and that [`Self::take_added`] has not returned yet.
    added: Vec<Name>,
    /// Whether the last filter is for all names.
    is_wide: bool,
}

/// Up to this number of names, the server filters by name. With more, it returns the changes of all locks.
const FILTERED_MAX: usize = 100;

impl Observed {
    pub(super) fn new(changes: Changes) -> Self {
        Self { names: HashSet::new(), changes, added: Vec::new(), is_wide: false }
    }

    /// Applies all changes that were made so far.
    pub(super) fn update(&mut self) {
        while let Ok(change) = self.changes.try_recv() {
            self.apply(change);
        }
    }

    /// Waits for a change, and applies all changes until then. Returns `true` if the stream needs another filter.
    ///
    /// If this future is dropped, no change is lost.
    pub(super) async fn changed(&mut self) -> bool {
        let Some(change) = self.changes.recv().await else { return std::future::pending().await };
        self.apply(change);
        self.update();
        match self.is_wide {
            true => self.names.len() <= FILTERED_MAX,
            // Names that were removed may stay in the filter.
            false => !self.added.is_empty(),
        }
    }

    /// Returns the names that were added since the last call.
    pub(super) fn take_added(&mut self) -> Vec<Name> {
        std::mem::take(&mut self.added)
    }

    pub(super) fn contains(&self, name: &Name) -> bool {
        self.names.contains(name)
    }

    /// Makes the filter of the change stream: what is addressed to this client, and the changes of these names.
    pub(super) fn filter(&mut self, config: &Config, client: &str) -> Document {
        self.is_wide = self.names.len() > FILTERED_MAX;
        let mine = doc! { "$regex": format!("^{client} ") };
        let mut wanted =
            vec![doc! { "operationType": { "$in": ["drop", "rename", "dropDatabase", "invalidate"] } }];
        // The server reports an update by its fields, and a replacement, as which it writes small documents, as a whole.
        for fields in ["updateDescription.updatedFields", "fullDocument"] {
            wanted.push(doc! { format!("{fields}.handover"): &mine });
            wanted.push(doc! { format!("{fields}.ended"): &mine });
        }
        let is_locked_or_unlocked = doc! { "$or": [
            { "updateDescription.updatedFields.owner": { "$exists": true } },
            // Several claims insert the documents of free locks first.
            { "operationType": "insert", "fullDocument.owner": { "$exists": true } },
            { "operationType": { "$in": ["replace", "delete"] } },
        ] };
        if self.is_wide {
            wanted.push(is_locked_or_unlocked);
        } else if !self.names.is_empty() {
            let ids: Vec<_> = self.names.iter().map(|name| config.id(name.as_str())).collect();
            wanted.push(doc! { "$and": [{ "documentKey._id": { "$in": ids } }, is_locked_or_unlocked] });
        }
        doc! { "$or": wanted }
    }

    fn apply(&mut self, change: Change) {
        for name in &change.removed {
            self.names.remove(name);
        }
        self.added.retain(|name| !change.removed.contains(name));
        self.names.extend(change.added.iter().cloned());
        self.added.extend(change.added);
    }
}
