//! The hints of this storage: the events of one change stream over the collection.
//!
//! The server filters the stream ([`Observed::filter`]): it returns what is addressed to this client, and the changes of
//! the names that this client observes. When that set changes, another stream continues where the last one stopped. It
//! does after an election, too: a member that was the primary keeps its streams, and may be one that hears nothing more.

use std::future::IntoFuture as _;
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
use super::observed::Observed;
use crate::storage::net::hints::{HEARTBEAT, Hinter, Pauses, stream};
use crate::storage::net::waiters::{Handover, LocalWaiters};
use crate::storage::{Hint, Name, Owner};

/// Listens until it is dropped.
pub(super) struct Listener {
    pub(super) link: Arc<Link>,
    pub(super) config: Arc<Config>,
    /// The id of this client.
    pub(super) client: String,
    pub(super) hinter: Arc<Hinter>,
    pub(super) waiters: Arc<LocalWaiters<()>>,
}

/// Why a stream ended.
enum End {
    /// It broke, or did not open. `stood` says whether it was open for a while.
    Broken { stood: bool },
    /// The observed names have changed, or another primary was elected. Another stream continues here.
    Continued(Option<ResumeToken>),
}

/// How long opening a stream may take.
const OPENING_MAX: Duration = Duration::from_secs(5);

impl Listener {
    pub(super) fn stream(
        self,
        received: mpsc::UnboundedReceiver<Hint>,
    ) -> impl Stream<Item = Hint> + Send + 'static {
        stream(received, move || self.listen())
    }

    async fn listen(self) {
        let mut pauses = Pauses::new();
        let mut observed = Observed::new(self.hinter.watched());
        let mut from = None;
        loop {
            // A failure is not reported here: waiters ask again by themselves, and their calls return the error.
            match self.listen_once(&mut observed, from.take()).await {
                End::Continued(token) => from = token,
                End::Broken { stood } => pauses.pause(&self.hinter, stood).await,
            }
        }
    }

    async fn listen_once(&self, observed: &mut Observed, from: Option<ResumeToken>) -> End {
        observed.update();
        let mut elections = self.link.primary.elections();
        let continues = from.is_some();
        let Some(mut changes) = self.open(observed, from).await else { return End::Broken { stood: false } };
        if !continues {
            self.hinter.subscribed(false);
        }
        self.hint_added(observed);
        let opened = self.link.primary.now();
        // The reply to the opening itself says little: a stream that cannot go on opens, too.
        let stood = || self.link.primary.now().since(opened) >= HEARTBEAT;
        loop {
            let next = timeout(HEARTBEAT * 2, changes.next_if_any());
            let next = tokio::select! {
                next = next => next,
                Ok(()) = elections.changed() => return End::Continued(changes.resume_token()),
                needs_filter = observed.changed() => match needs_filter {
                    true => return End::Continued(changes.resume_token()),
                    false => {
                        self.hint_added(observed);
                        continue;
                    }
                },
            };
            let is_open = match next {
                Ok(Ok(Some(change))) => self.pass_on(&change, observed) && changes.is_alive(),
                Ok(Ok(None)) => changes.is_alive(),
                // It failed, or the server did not even say that nothing happened.
                Ok(Err(_)) | Err(_) => false,
            };
            if !is_open {
                return End::Broken { stood: stood() };
            }
        }
    }

    /// Hints at the names that were added: their locks may have changed before the stream had them.
    fn hint_added(&self, observed: &mut Observed) {
        observed.take_added().into_iter().for_each(|name| self.hinter.send(Hint::Name(name)));
    }

    /// Opens a stream. It continues where another one stopped, or begins now.
    async fn open(
        &self,
        observed: &mut Observed,
        from: Option<ResumeToken>,
    ) -> Option<ChangeStream<Document>> {
        let field = |name: &str| {
            let changed = format!("$updateDescription.updatedFields.{name}");
            doc! { "$ifNull": [changed, format!("$fullDocument.{name}")] }
        };
        // The driver needs `_id`, `operationType` and `ns` to continue after an error.
        let shown = doc! {
            "operationType": 1, "ns": 1, "documentKey": 1, "clusterTime": 1, "handover": field("handover"), "ended": field("ended"),
        };
        let filter = observed.filter(&self.config, &self.client);
        let collection = self.link.database().ok()?.collection::<Document>(&self.link.collection);
        let watch = collection
            .watch()
            .pipeline([doc! { "$match": filter }, doc! { "$project": shown }])
            .max_await_time(HEARTBEAT)
            .resume_after(from);
        match timeout(OPENING_MAX, watch.into_future()).await.ok()? {
            Ok(changes) => Some(changes.with_type()),
            Err(error) => {
                self.link.driver.on_error(&error);
                None
            }
        }
    }

    /// Passes on an event. Returns `false` if it ends the stream.
    fn pass_on(&self, change: &Document, observed: &Observed) -> bool {
        if let Ok(time) = change.get_timestamp("clusterTime") {
            // The stream has only what a majority has.
            self.link.note_confirmed(time);
        }
        let kind = change.get_str("operationType").unwrap_or_default();
        if matches!(kind, "drop" | "rename" | "dropDatabase" | "invalidate") {
            // The locks are gone.
            self.hinter.send(Hint::Restarted);
            return false;
        }
        let id = change.get_document("documentKey").and_then(|key| key.get_str("_id")).unwrap_or_default();
        let Some(name) = self.config.name(id).and_then(|name| Name::new(name).ok()) else { return true };
        for field in ["handover", "ended"] {
            let message = change.get_str(field).unwrap_or_default();
            let message = message.strip_prefix(&*self.client).and_then(|rest| rest.strip_prefix(' '));
            if let Some(message) = message {
                self.on_message(message, &name);
            }
        }
        if observed.contains(&name) {
            self.hinter.send(Hint::Name(name));
        }
        true
    }

    /// Passes on what a release or a renewal has written for this client. See `pipelines/release.rs`.
    fn on_message(&self, message: &str, name: &Name) {
        let owner = match message.split_once(' ') {
            Some(("handover", handover)) => self.on_handover(&format!("{handover} {name}")),
            Some(("turn", rest)) => self.on_change(rest),
            _ => self.on_change(message),
        };
        if let Some(owner) = owner {
            self.hinter.send(Hint::Owner(owner));
        }
    }

    fn on_handover(&self, text: &str) -> Option<Owner> {
        let handover: Handover = text.parse().ok()?;
        let owner = handover.owner;
        self.waiters.hand_over(handover, &());
        Some(owner)
    }

    /// Forgets a handover to the owner at the beginning of the text, because its lock has changed since.
    fn on_change(&self, text: &str) -> Option<Owner> {
        let owner = text.split(' ').next()?.parse().ok()?;
        self.waiters.forget_handover(&owner);
        Some(owner)
    }
}
