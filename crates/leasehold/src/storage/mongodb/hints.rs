//! The change stream by which the servers tell whose turn it is.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures_core::Stream;
use mongodb::bson::{Document, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::config::Config;
use super::link::Link;
use super::waiting::{Heir, Waiting};
use crate::storage::net::hints::{Changes, HEARTBEAT, Hinter, Pauses, stream};
use crate::storage::{Hint, Name};

/// Listens until it is dropped.
pub(super) struct Listener {
    pub(super) link: Arc<Link>,
    pub(super) config: Arc<Config>,
    pub(super) client: String,
    pub(super) hinter: Arc<Hinter>,
    pub(super) waiting: Arc<Waiting>,
}

/// Why a stream is not listened to any more.
enum End {
    /// It broke, or never stood.
    Broken { stood: bool },
    /// The first name is observed, or none is any more: another stream goes on from here.
    Changed(Option<ResumeToken>),
}

impl Listener {
    pub(super) fn stream(
        self,
        received: mpsc::UnboundedReceiver<Hint>,
    ) -> impl Stream<Item = Hint> + Send + 'static {
        stream(received, move || self.listen())
    }

    async fn listen(self) {
        let mut pauses = Pauses::new();
        let mut watched = Observed::new(self.hinter.watched());
        let mut from = None;
        loop {
            // A failure needs no word here: waiters ask again by themselves, and a caller is told why it fails.
            match self.listen_once(&mut watched, from.take()).await {
                End::Changed(token) => from = token,
                End::Broken { stood } => pauses.pause(&self.hinter, stood).await,
            }
        }
    }

    async fn listen_once(&self, watched: &mut Observed, from: Option<ResumeToken>) -> End {
        watched.catch_up();
        let wide = !watched.names.is_empty();
        let goes_on = from.is_some();
        let Some(mut changes) = self.open(wide, from).await else { return End::Broken { stood: false } };
        if !goes_on {
            self.hinter.subscribed(false);
        }
        // What has changed before the stream told of it.
        watched.names.iter().for_each(|name| self.hinter.send(Hint::Name(name.clone())));
        loop {
            let end = {
                let next = timeout(HEARTBEAT * 2, changes.next_if_any());
                tokio::pin!(next);
                loop {
                    tokio::select! {
                        told = &mut next => match told {
                            Ok(Ok(Some(change))) => {
                                if !self.pass_on(&change, watched) {
                                    break Some(false);
                                }
                                break None;
                            }
                            Ok(Ok(None)) => break None,
                            // It failed, or not even said that there is nothing.
                            Ok(Err(_)) | Err(_) => break Some(false),
                        },
                        added = watched.changed() => {
                            added.into_iter().for_each(|name| self.hinter.send(Hint::Name(name)));
                            if watched.names.is_empty() == wide {
                                break Some(true);
                            }
                        }
                    }
                }
            };
            match end {
                Some(true) => return End::Changed(changes.resume_token()),
                Some(false) => return End::Broken { stood: true },
                None if !changes.is_alive() => return End::Broken { stood: true },
                None => {}
            }
        }
    }

    /// Opens a stream of what concerns this client; with `wide` also of every lock that is locked or unlocked.
    async fn open(&self, wide: bool, from: Option<ResumeToken>) -> Option<ChangeStream<Document>> {
        let told = |fields: &str| {
            let mine = doc! { "$regex": format!("^{} ", self.client) };
            doc! { "$or": [
                { format!("{fields}.heir"): &mine },
                { format!("{fields}.ended"): &mine },
            ] }
        };
        let mut wanted = vec![
            told("updateDescription.updatedFields"),
            // A small document is written anew as a whole.
            told("fullDocument"),
        ];
        if wide {
            wanted.push(doc! { "updateDescription.updatedFields.owner": { "$exists": true } });
            wanted.push(doc! { "operationType": { "$in": ["insert", "replace", "delete"] } });
        }
        wanted.push(doc! { "operationType": { "$in": ["drop", "rename", "dropDatabase", "invalidate"] } });
        let field = |name: &str| {
            doc! { "$ifNull": [format!("$updateDescription.updatedFields.{name}"), format!("$fullDocument.{name}")] }
        };
        // The driver needs `ns`, too, to go on after an error.
        let shown = doc! { "operationType": 1, "ns": 1, "documentKey": 1, "heir": field("heir"), "ended": field("ended") };
        let collection = self.link.database.collection::<Document>(&self.link.collection);
        let watch = collection
            .watch()
            .pipeline([doc! { "$match": { "$or": wanted } }, doc! { "$project": shown }])
            .max_await_time(HEARTBEAT)
            .resume_after(from);
        let opened = timeout(OPENING, watch.into_future()).await;
        opened.ok()?.ok().map(ChangeStream::with_type)
    }

    /// Passes on what was told. Returns `false` if the stream has nothing more to tell.
    fn pass_on(&self, change: &Document, watched: &Observed) -> bool {
        let kind = change.get_str("operationType").unwrap_or_default();
        if matches!(kind, "drop" | "rename" | "dropDatabase" | "invalidate") {
            // The locks are gone.
            self.hinter.send(Hint::Restarted);
            return false;
        }
        let id = change.get_document("documentKey").and_then(|key| key.get_str("_id")).unwrap_or_default();
        let Some(name) = self.config.name(id).and_then(|name| Name::new(name).ok()) else { return true };
        for field in ["heir", "ended"] {
            let text = change.get_str(field).unwrap_or_default();
            let mine = text.strip_prefix(&*self.client).and_then(|text| text.strip_prefix(' '));
            if let Some((kind, rest)) = mine.and_then(|text| text.split_once(' ')) {
                self.told(kind, rest, &name);
            }
        }
        if watched.names.contains(&name) {
            self.hinter.send(Hint::Name(name));
        }
        true
    }

    fn told(&self, kind: &str, text: &str, name: &Name) {
        if kind == "h"
            && let Some(heir) = Heir::read(text, name.clone())
        {
            let owner = heir.owner;
            self.waiting.inherits(heir);
            self.hinter.send(Hint::Owner(owner));
        } else if let Some(Ok(owner)) = text.split(' ').next().map(str::parse) {
            self.waiting.disinherit(&owner);
            self.hinter.send(Hint::Owner(owner));
        }
    }
}

/// How long to open a stream may take.
const OPENING: Duration = Duration::from_secs(5);

/// The names that this process observes.
struct Observed {
    names: HashSet<Name>,
    changes: Changes,
}

impl Observed {
    fn new(changes: Changes) -> Self {
        Self { names: HashSet::new(), changes }
    }

    /// Takes in all changes that have been made.
    fn catch_up(&mut self) {
        while let Ok(change) = self.changes.try_recv() {
            change.removed.iter().for_each(|name| drop(self.names.remove(name)));
            self.names.extend(change.added);
        }
    }

    /// Waits for a change, takes it in, and returns the names that it adds.
    async fn changed(&mut self) -> Vec<Name> {
        match self.changes.recv().await {
            Some(change) => {
                change.removed.iter().for_each(|name| drop(self.names.remove(name)));
                self.names.extend(change.added.iter().cloned());
                change.added
            }
            None => std::future::pending().await,
        }
    }
}
