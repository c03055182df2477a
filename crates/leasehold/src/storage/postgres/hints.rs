//! The connection on which the server tells whose turn it is.

use std::sync::Arc;

use futures_core::Stream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::claims::id;
use super::config::Config;
use super::connect::Session;
use super::facts::Facts;
use super::link::{Params, Server};
use super::statements::{CHANNEL, Statements, Verb};
use crate::storage::net::hints::{HEARTBEAT, Hinter, Pauses, stream};
use crate::storage::{Hint, Name, Owner};

/// Listens until it is dropped.
pub(super) struct Listener {
    pub(super) server: Arc<Server>,
    pub(super) config: Arc<Config>,
    pub(super) client: String,
    pub(super) hinter: Arc<Hinter>,
}

/// How many heartbeats there are between two times that the entries of the dead are forgotten.
const SWEEP_EVERY: u32 = 30;

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
            // A failure needs no word here: waiters ask again by themselves, and whoever calls is told why it fails.
            let stood = self.listen_once().await;
            pauses.pause(&self.hinter, stood).await;
        }
    }

    /// Listens until the connection breaks. Whether the subscription ever stood.
    async fn listen_once(&self) -> bool {
        let Ok((session, (facts, ..))) = self.server.connector().knock().await else { return false };
        let listen = format!("listen {CHANNEL}{}", self.client);
        if !matches!(timeout(HEARTBEAT, session.client.batch_execute(&listen)).await, Ok(Ok(()))) {
            return false;
        }
        self.attend(session, &facts).await
    }

    /// Passes on what the server tells, until the connection breaks. Whether it ever listened.
    async fn attend(&self, mut session: Session, facts: &Facts) -> bool {
        let asker = Asker { client: &session.client, statements: &self.server.connector().statements };
        if !asker.listens(&self.channel()).await {
            return false;
        }
        self.hinter.subscribed(self.server.saw(&facts.identity));
        let observer = Observer { id: id(Owner::random()), space: &self.config.space, client: &self.client };
        let mut watched = self.hinter.watched();
        watched.mark_changed();
        let mut names: Vec<Name> = Vec::new();
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut beats = 0_u32;
        loop {
            let alive = tokio::select! {
                notice = session.notices.recv() => match notice {
                    Some(notice) => {
                        self.pass_on(notice.payload());
                        true
                    }
                    None => false,
                },
                changed = watched.changed() => {
                    let now = watched.borrow_and_update().clone();
                    let gone: Vec<_> = names.iter().filter(|name| !now.contains(name)).cloned().collect();
                    let fresh: Vec<_> = now.iter().filter(|name| !names.contains(name)).cloned().collect();
                    names = now;
                    changed.is_ok()
                        && asker.unwatch(&observer, &gone).await
                        && asker.watch(&observer, &fresh).await
                        // What has changed before the server knew of it.
                        && { fresh.into_iter().for_each(|name| self.hinter.send(Hint::Name(name))); true }
                }
                _ = beat.tick() => {
                    beats = beats.wrapping_add(1);
                    asker.listens(&self.channel()).await
                        && asker.watch(&observer, &names).await
                        && (beats % SWEEP_EVERY != 1 || asker.ask(Verb::Sweep, &[]).await)
                }
            };
            if !alive {
                return true;
            }
        }
    }

    fn pass_on(&self, payload: &str) {
        let hint = match payload.split_at_checked(1) {
            Some(("o", owner)) => owner.parse().ok().map(Hint::Owner),
            Some(("n", name)) => Name::new(name).ok().map(Hint::Name),
            _ => None,
        };
        if let Some(hint) = hint {
            self.hinter.send(hint);
        }
    }

    fn channel(&self) -> String {
        format!("{CHANNEL}{}", self.client)
    }
}

/// Who observes, as the waiters' table wants it.
struct Observer<'a> {
    id: uuid::Uuid,
    space: &'a str,
    client: &'a str,
}

/// Asks for something that is answered at once, or not at all.
struct Asker<'a> {
    client: &'a Client,
    statements: &'a Statements,
}

impl Asker<'_> {
    /// Whether the server still notifies this connection: a pooler may have given us another one.
    async fn listens(&self, channel: &str) -> bool {
        let text = "select 1 from pg_listening_channels() as c where c = $1";
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&channel, Type::TEXT)];
        let asking = self.client.query_typed(text, &params);
        matches!(timeout(HEARTBEAT, asking).await, Ok(Ok(rows)) if !rows.is_empty())
    }

    async fn watch(&self, observer: &Observer<'_>, names: &[Name]) -> bool {
        let names: Vec<_> = names.iter().map(Name::as_str).collect();
        names.is_empty()
            || self.ask(Verb::Watch, &[&observer.space, &observer.id, &observer.client, &names]).await
    }

    async fn unwatch(&self, observer: &Observer<'_>, names: &[Name]) -> bool {
        let names: Vec<_> = names.iter().map(Name::as_str).collect();
        names.is_empty() || self.ask(Verb::Unwatch, &[&observer.space, &observer.id, &names]).await
    }

    async fn ask(&self, verb: Verb, params: Params<'_>) -> bool {
        let params: Vec<(&(dyn ToSql + Sync), Type)> =
            params.iter().zip(verb.types()).map(|(param, of)| (*param, of.clone())).collect();
        let asking = self.client.query_typed(self.statements.text(verb), &params);
        // What the server refuses does not end the subscription; silence does.
        match timeout(HEARTBEAT, asking).await {
            Ok(answer) => answer.is_ok() || !self.client.is_closed(),
            Err(_) => false,
        }
    }
}
