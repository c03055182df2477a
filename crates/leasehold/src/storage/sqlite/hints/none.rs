//! A stand-in where hints do not reach other processes. Waiters there ask again on their heartbeat.

use std::path::Path;

use futures_core::Stream;
use futures_util::stream;
use tokio::sync::mpsc;

use super::fs::Paths;
use crate::clock::Moment;
use crate::error::Result;
use crate::storage::{Hint, Name, Owner};

/// Whether a release wakes the next waiter.
pub(super) const PUSH: bool = false;

/// The storage's side: sends hints to this storage only.
#[derive(Clone, Debug)]
pub(super) struct Hinter(mpsc::UnboundedSender<Hint>);

/// The engine's side, before it listens.
#[derive(Debug)]
pub(super) struct Commands(mpsc::UnboundedReceiver<Hint>);

/// Returns both sides of a new channel.
pub(super) fn channel() -> (Hinter, Commands) {
    let (tx, rx) = mpsc::unbounded_channel();
    (Hinter(tx), Commands(rx))
}

impl Hinter {
    pub(super) fn opened(&self, _paths: &Paths, _id: &str) -> Result<()> {
        Ok(())
    }

    pub(super) fn hint(&self, hint: Hint) {
        let _listener_gone = self.0.send(hint);
    }

    pub(super) fn hint_other(&self, _live_dir: &Path, _id: &str, _owner: Owner) {}

    pub(super) fn watch_deaths(&self, _owner: Owner, _ids: Vec<String>, _now: Moment) {}

    pub(super) fn watches_death(&self, _id: &str) -> bool {
        false
    }

    pub(super) fn forget_waiter(&self, _owner: Owner) {}

    pub(super) fn watch(&self, _added: &[Name], _removed: &[Name]) {}
}

impl Commands {
    pub(super) fn listen(
        self,
        _check: impl Fn() + Send + 'static,
    ) -> impl Stream<Item = Hint> + Send + 'static {
        stream::unfold(self.0, async |mut hints| hints.recv().await.map(|hint| (hint, hints)))
    }
}
