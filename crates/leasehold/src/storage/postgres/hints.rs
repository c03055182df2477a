//! The hints of this storage: notifications of the server on the side connection.

use std::sync::Arc;

use futures_core::Stream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::Notification;

use super::config::Config;
use super::facts::Identity;
use super::link::Link;
use super::links::Links;
use super::observer::Observer;
use super::statements::{CHANNEL, Statement};
use crate::storage::net::hints::{Change, HEARTBEAT, Hinter, Pauses, stream};
use crate::storage::net::server::Link as _;
use crate::storage::net::waiters::{Handover, LocalWaiters};
use crate::storage::{Hint, Name};

/// Listens until it is dropped.
pub(super) struct Listener {
    pub(super) links: Links,
    pub(super) config: Arc<Config>,
    /// The id of this client.
    pub(super) client: String,
    pub(super) hinter: Arc<Hinter>,
    pub(super) waiters: Arc<LocalWaiters<Identity>>,
}

/// After how many heartbeats the expired entries of the queue are deleted.
const DELETE_EXPIRED_EVERY: u32 = 30;

impl Listener {
    pub(super) fn stream(
        self,
        received: mpsc::UnboundedReceiver<Hint>,
    ) -> impl Stream<Item = Hint> + Send + 'static {
        stream(received, move || self.listen())
    }

    async fn listen(self) {
        let mut pauses = Pauses::new();
        loop {
            // A failure is not reported here: waiters ask again by themselves, and their calls return the error.
            let stood = self.listen_once().await;
            pauses.pause(&self.hinter, stood).await;
        }
    }

    /// Listens until the connection breaks. Returns `true` if the subscription stood.
    async fn listen_once(&self) -> bool {
        let Ok(link) = self.links.side.link().await else { return false };
        let Some(notifications) = link.notifications() else { return false };
        let listened = ListenedLink(link);
        self.listen_on(&listened.0, notifications).await
    }

    /// Subscribes, and passes on what the server notifies, until the connection breaks. Returns `true` if the subscription
    /// stood.
    async fn listen_on(&self, link: &Link, mut notifications: mpsc::UnboundedReceiver<Notification>) -> bool {
        let channel = format!("{CHANNEL}{}", self.client);
        if !matches!(timeout(HEARTBEAT, link.listen(&channel)).await, Ok(Ok(()))) {
            return false;
        }
        if !is_listening(link, &channel).await {
            return false;
        }
        self.hinter.subscribed(self.links.main.saw(link.identity()));
        let mut observer = Observer::new(link, &self.config.space, &self.client);
        let mut changes = self.hinter.watched();
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut heartbeats = 0_u32;
        loop {
            let is_alive = tokio::select! {
                notification = notifications.recv() => match notification {
                    Some(notification) => {
                        self.pass_on(notification.payload(), link.identity());
                        true
                    }
                    None => false,
                },
                change = changes.recv() => match change {
                    Some(Change { added, removed }) => {
                        let is_done = observer.change(&added, &removed).await;
                        if is_done {
                            // The locks may have changed before the server knew of the observer.
                            added.into_iter().for_each(|name| self.hinter.send(Hint::Name(name)));
                        }
                        is_done
                    }
                    None => false,
                },
                () = link.given_up() => false,
                _ = heartbeat.tick() => {
                    heartbeats = heartbeats.wrapping_add(1);
                    is_listening(link, &channel).await
                        && observer.refresh_next_part().await
                        && (heartbeats % DELETE_EXPIRED_EVERY != 1
                            || observer.execute(Statement::DeleteExpired, &[]).await)
                }
            };
            if !is_alive {
                return true;
            }
        }
    }

    /// Passes on a notification. The header of `notify.sql` describes the payload.
    fn pass_on(&self, payload: &str, server: &Identity) {
        let hint = match payload.split_at_checked(1) {
            Some(("o", owner)) => owner.parse().ok().map(|owner| {
                self.waiters.forget_handover(&owner);
                Hint::Owner(owner)
            }),
            Some(("h", handover)) => handover.parse().ok().map(|handover: Handover| {
                let owner = handover.owner;
                self.waiters.hand_over(handover, server);
                Hint::Owner(owner)
            }),
            Some(("n", name)) => Name::new(name).ok().map(Hint::Name),
            _ => None,
        };
        if let Some(hint) = hint {
            self.hinter.send(hint);
        }
    }
}

/// A connection whose notifications are taken: without a listener it is of no use, so it is given up with it.
struct ListenedLink(Arc<Link>);

impl Drop for ListenedLink {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

async fn is_listening(link: &Link, channel: &str) -> bool {
    matches!(timeout(HEARTBEAT, link.listens(channel)).await, Ok(true))
}
