//! The connection on which the server tells whose turn it is.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_core::Stream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::Notification;

use super::apart::Apart;
use super::call::id;
use super::config::Config;
use super::facts::Identity;
use super::link::{Link, Params};
use super::links::Links;
use super::statements::{CHANNEL, Verb};
use super::waiting::{Heir, Waiting};
use crate::storage::net::hints::{Change, HEARTBEAT, Hinter, Pauses, stream};
use crate::storage::net::server::Link as _;
use crate::storage::{Hint, Name, Owner};

/// Listens until it is dropped.
pub(super) struct Listener {
    pub(super) links: Links,
    pub(super) config: Arc<Config>,
    pub(super) client: String,
    pub(super) hinter: Arc<Hinter>,
    pub(super) waiting: Arc<Waiting>,
}

/// In how many heartbeats the rows of all observed names are refreshed.
const PARTS: usize = 5;
/// How many names there are in one statement.
const NAMES_AT_ONCE: usize = 1000;
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
        let Ok(link) = self.links.second.link().await else { return false };
        let Some(notices) = link.notices() else { return false };
        let listened = Listened(link);
        self.attend(&listened.0, notices).await
    }

    /// Passes on what the server tells, until the connection breaks. Whether it ever listened.
    async fn attend(&self, link: &Link, mut notices: mpsc::UnboundedReceiver<Notification>) -> bool {
        let channel = format!("{CHANNEL}{}", self.client);
        if !matches!(timeout(HEARTBEAT, link.listen(&channel)).await, Ok(Ok(()))) {
            return false;
        }
        let asker = Asker { link, channel };
        if !asker.listens().await {
            return false;
        }
        self.hinter.subscribed(self.links.first.saw(link.identity()));
        let observer = Observer { id: id(Owner::random()), space: &self.config.space, client: &self.client };
        let mut changes = self.hinter.watched();
        let mut names = Refreshed::default();
        let mut beat = tokio::time::interval(HEARTBEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut beats = 0_u32;
        loop {
            let alive = tokio::select! {
                notice = notices.recv() => match notice {
                    Some(notice) => {
                        self.pass_on(notice.payload(), link.identity());
                        true
                    }
                    None => false,
                },
                change = changes.recv() => match change {
                    Some(Change { added, removed }) => {
                        names.change(&added, &removed);
                        asker.unwatch(&observer, &removed).await
                            && asker.watch(&observer, &added).await
                            // What has changed before the server knew of it.
                            && { added.into_iter().for_each(|name| self.hinter.send(Hint::Name(name))); true }
                    }
                    None => false,
                },
                () = link.given_up() => false,
                _ = beat.tick() => {
                    beats = beats.wrapping_add(1);
                    asker.listens().await
                        && asker.watch(&observer, &names.next_part()).await
                        && (beats % SWEEP_EVERY != 1 || asker.ask(Verb::Sweep, &[]).await)
                }
            };
            if !alive {
                return true;
            }
        }
    }

    fn pass_on(&self, payload: &str, server: &Identity) {
        let hint = match payload.split_at_checked(1) {
            Some(("o", owner)) => owner.parse().ok().map(|owner| {
                self.waiting.disinherit(&owner);
                Hint::Owner(owner)
            }),
            Some(("h", heir)) => heir.parse().ok().map(|heir: Heir| {
                let owner = heir.owner;
                self.waiting.inherits(heir, server);
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

/// A connection that nobody may use without listening to it.
struct Listened(Arc<Link>);

impl Drop for Listened {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// Who observes, as the waiters' table wants it.
struct Observer<'a> {
    id: uuid::Uuid,
    space: &'a str,
    client: &'a str,
}

/// The observed names, whose rows are refreshed a part with each heartbeat: all of them once in [`PARTS`] heartbeats,
/// which is a third of [`OBSERVER_TTL`](super::statements::OBSERVER_TTL).
#[derive(Default)]
struct Refreshed {
    parts: [HashSet<Name>; PARTS],
    part_of: HashMap<Name, usize>,
    /// The part that is refreshed next.
    next: usize,
}

impl Refreshed {
    fn change(&mut self, added: &[Name], removed: &[Name]) {
        for name in removed {
            if let Some(part) = self.part_of.remove(name).and_then(|part| self.parts.get_mut(part)) {
                part.remove(name);
            }
        }
        for name in added {
            let smallest = self.parts.iter_mut().enumerate().min_by_key(|(_, part)| part.len());
            if let Some((i, part)) = smallest
                && !self.part_of.contains_key(name)
            {
                part.insert(name.clone());
                self.part_of.insert(name.clone(), i);
            }
        }
    }

    fn next_part(&mut self) -> Vec<Name> {
        let part = self.parts.get(self.next).into_iter().flatten().cloned().collect();
        self.next = (self.next + 1) % PARTS;
        part
    }
}

/// Asks for something that is answered at once, or not at all.
struct Asker<'a> {
    link: &'a Link,
    channel: String,
}

impl Asker<'_> {
    async fn listens(&self) -> bool {
        matches!(timeout(HEARTBEAT, self.link.listens(&self.channel)).await, Ok(true))
    }

    async fn watch(&self, observer: &Observer<'_>, names: &[Name]) -> bool {
        for names in names.chunks(NAMES_AT_ONCE) {
            // One that the server refuses keeps none of the others from being observed.
            let mut apart = Apart::new((0..names.len()).collect());
            while let Some(places) = apart.next() {
                let some: Vec<_> = places.iter().map(|i| names[*i].as_str()).collect();
                let params: Params<'_> = &[&observer.space, &observer.id, &observer.client, &some];
                match timeout(HEARTBEAT, self.link.ask(Verb::Watch, params)).await {
                    Ok(Err(_)) if !self.link.is_fit() => return false,
                    Ok(answer) => apart.said(places, answer.map(|_| vec![(); some.len()])),
                    Err(_) => return false,
                }
            }
        }
        true
    }

    async fn unwatch(&self, observer: &Observer<'_>, names: &[Name]) -> bool {
        for names in names.chunks(NAMES_AT_ONCE) {
            let names: Vec<_> = names.iter().map(Name::as_str).collect();
            if !self.ask(Verb::Unwatch, &[&observer.space, &observer.id, &names]).await {
                return false;
            }
        }
        true
    }

    async fn ask(&self, verb: Verb, params: Params<'_>) -> bool {
        // What the server refuses does not end the subscription; silence does.
        match timeout(HEARTBEAT, self.link.ask(verb, params)).await {
            Ok(answer) => answer.is_ok() || self.link.is_fit(),
            Err(_) => false,
        }
    }
}
