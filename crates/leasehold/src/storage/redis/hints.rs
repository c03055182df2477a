//! The connection on which the server tells whose turn it is.

use std::collections::HashMap;
use std::sync::Arc;

use futures_core::Stream;
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, PushInfo, PushKind, RedisResult, Value, cmd};
use tokio::sync::mpsc;

use super::answers::{Remedy, remedy};
use super::cluster::{Cluster, Node};
use super::connect::Opened;
use super::keys::Keys;
use super::link::Server;
use super::slots::text;
use super::{Primary, Reach};
use crate::error::Result;
use crate::storage::net::hints::{Changes, HEARTBEAT, Hinter, LONGEST_PAUSE, Pauses, Task, Watched};
use crate::storage::{Hint, Name, net};

/// How many watched keys are asked for at a time.
const ASKED_AT_ONCE: usize = 128;

/// Listens until it is dropped.
pub(in crate::storage) struct Listener {
    pub(super) reach: Reach,
    pub(super) keys: Keys,
    pub(super) channel: String,
    pub(super) hinter: Arc<Hinter>,
    pub(super) received: mpsc::UnboundedReceiver<Hint>,
}

impl Listener {
    /// Listens at one server.
    pub(in crate::storage) fn at(
        server: &Arc<Server>,
        keys: Keys,
        channel: String,
        hinter: Arc<Hinter>,
        received: mpsc::UnboundedReceiver<Hint>,
    ) -> Self {
        let reach = Reach::One(Primary { server: Arc::clone(server), acquires: None, renewals: None });
        Self { reach, keys, channel, hinter, received }
    }

    pub(in crate::storage) fn stream(self) -> impl Stream<Item = Hint> + Send + 'static {
        let Self { reach, keys, channel, hinter, received } = self;
        net::hints::stream(received, move || listen(reach, keys, channel, hinter))
    }
}

async fn listen(reach: Reach, keys: Keys, channel: String, hinter: Arc<Hinter>) {
    let _watching = match &reach {
        Reach::One(_) => None,
        Reach::Cluster(cluster) => {
            Some(Task(tokio::spawn(watch_nodes(Arc::clone(cluster), keys.clone(), Arc::clone(&hinter)))))
        }
    };
    let mut pauses = Pauses::new();
    loop {
        // A failure needs no word here: waiters ask again by themselves, and whoever calls is told why it fails.
        let stood = listen_once(&reach, &keys, &channel, &hinter).await.is_ok_and(|stood| stood);
        pauses.pause(&hinter, stood).await;
    }
}

/// Listens until the connection breaks. Whether the subscription ever stood.
async fn listen_once(reach: &Reach, keys: &Keys, channel: &str, hinter: &Hinter) -> Result<bool> {
    let (server, opened) = match reach {
        Reach::One(Primary { server, .. }) => (Arc::clone(server), server.connector().open().await?),
        Reach::Cluster(cluster) => cluster.open().await?,
    };
    let Opened { mut connection, driver: _driver, facts, pushed, .. } = opened;
    if !matches!(tokio::time::timeout(HEARTBEAT, connection.subscribe(channel)).await, Ok(Ok(()))) {
        return Ok(false);
    }
    hinter.subscribed(server.saw(&facts.identity));
    match reach {
        Reach::One(_) => attend(connection, pushed, keys, hinter, hinter.watched(), None).await,
        Reach::Cluster(cluster) => {
            // Watched names are asked for at their own nodes.
            let nothing = Watched::default();
            attend(connection, pushed, keys, hinter, nothing.subscribe(), Some(cluster)).await;
        }
    }
    Ok(true)
}

/// Keeps one connection to each node that serves a watched name, and none to others: a node tells of its own keys only.
async fn watch_nodes(cluster: Arc<Cluster>, keys: Keys, hinter: Arc<Hinter>) {
    let (mut changes, mut moves) = (hinter.watched(), hinter.moves());
    let mut nodes = Nodes { cluster, keys, hinter, places: HashMap::new(), nodes: HashMap::new() };
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Some(change) => {
                    change.removed.iter().for_each(|name| nodes.unwatch(name));
                    change.added.into_iter().for_each(|name| nodes.watch(name));
                }
                None => return,
            },
            changed = moves.changed() => match changed {
                // Any of the names may be at another node by now.
                Ok(()) => {
                    let names: Vec<_> = nodes.places.keys().cloned().collect();
                    names.into_iter().for_each(|name| nodes.watch(name));
                }
                Err(_) => return,
            },
        }
    }
}

/// Which node each watched name is watched at.
struct Nodes {
    cluster: Arc<Cluster>,
    keys: Keys,
    hinter: Arc<Hinter>,
    /// By name; `None` if no node is known to serve it.
    places: HashMap<Name, Option<String>>,
    /// By place: how many names are watched there, which, and the task that does.
    nodes: HashMap<String, (usize, Arc<Watched>, Task)>,
}

impl Nodes {
    /// Watches a name at the node that serves it now.
    fn watch(&mut self, name: Name) {
        let node = self.cluster.node_for(&name);
        let place = node.as_ref().map(|node| node.place.to_string());
        if self.places.get(&name).is_some_and(|before| *before == place) {
            return;
        }
        self.unwatch(&name);
        if let (Some(node), Some(place)) = (node, place.clone()) {
            let (count, watched, _) = self.nodes.entry(place).or_insert_with(|| {
                let watched = Arc::new(Watched::default());
                let watching =
                    watch_node(node, self.keys.clone(), Arc::clone(&self.hinter), Arc::clone(&watched));
                (0, watched, Task(tokio::spawn(watching)))
            });
            *count += 1;
            watched.change(std::slice::from_ref(&name), &[]);
        }
        self.places.insert(name, place);
    }

    fn unwatch(&mut self, name: &Name) {
        let Some(Some(place)) = self.places.remove(name) else { return };
        let Some((count, watched, _)) = self.nodes.get_mut(&place) else { return };
        *count -= 1;
        if *count == 0 {
            self.nodes.remove(&place);
        } else {
            watched.change(&[], std::slice::from_ref(name));
        }
    }
}

/// Watches names at one node.
async fn watch_node(node: Arc<Node>, keys: Keys, hinter: Arc<Hinter>, names: Arc<Watched>) {
    loop {
        if let Ok(Opened { connection, driver: _driver, pushed, .. }) =
            node.primary.server.connector().open().await
        {
            attend(connection, pushed, &keys, &hinter, names.subscribe(), None).await;
        }
        tokio::time::sleep(LONGEST_PAUSE).await;
    }
}

/// Passes on what the server tells of the watched names and of whose turn it is, until the connection breaks.
async fn attend(
    mut connection: MultiplexedConnection,
    mut pushed: mpsc::UnboundedReceiver<PushInfo>,
    keys: &Keys,
    hinter: &Hinter,
    mut changes: Changes,
    cluster: Option<&Arc<Cluster>>,
) {
    // Then the server also tells when a watched key changes, and when everything is flushed. Not every user may.
    if ask(&mut connection, cmd("CLIENT").arg("TRACKING").arg("ON")).await.is_none() {
        return;
    }
    // The lock's key of each watched name, to know whose it is when the server says that it changed.
    let mut watched: HashMap<Vec<u8>, Name> = HashMap::new();
    let mut stale: Vec<Vec<u8>> = Vec::new();
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            push = pushed.recv() => match push {
                Some(push) if push.kind == PushKind::Disconnection => return,
                Some(push) => stale.extend(heard(&push, &watched, hinter)),
                None => return,
            },
            change = changes.recv() => {
                let Some(change) = change else { return };
                for name in &change.removed {
                    watched.remove(&key_of(keys, name));
                }
                for name in change.added {
                    let key = key_of(keys, &name);
                    stale.push(key.clone());
                    watched.insert(key, name);
                }
            }
            _ = beat.tick() => {
                let question = if cluster.is_some() { cmd("CLUSTER").arg("INFO").take() } else { cmd("PING") };
                let Some(Ok(answer)) = ask(&mut connection, &question).await else { return };
                if let Some(cluster) = cluster {
                    cluster.beat(&text(answer).unwrap_or_default(), HEARTBEAT);
                }
            }
        }
        // The server tells of a change once for each time that it was asked for the key. Asked again before anybody
        // looks: what changes after that is told again.
        for keys in std::mem::take(&mut stale).chunks(ASKED_AT_ONCE) {
            let asked = keys.iter().map(|key| {
                let mut connection = connection.clone();
                async move { ask(&mut connection, cmd("GET").arg(key)).await }
            });
            for (key, answer) in keys.iter().zip(join_all(asked).await) {
                match answer {
                    Some(Ok(_)) => {}
                    // The key has moved to another node.
                    Some(Err(error)) if matches!(remedy(&error), Remedy::Moved(_) | Remedy::Ask(_)) => {
                        hinter.moved()
                    }
                    Some(Err(_)) => {}
                    None => return,
                }
                if let Some(name) = watched.get(key) {
                    hinter.send(Hint::Name(name.clone()));
                }
            }
        }
    }
}

fn key_of(keys: &Keys, name: &Name) -> Vec<u8> {
    let mut key = String::new();
    keys.lock(name, &mut key);
    key.into_bytes()
}

/// Asks for something that is answered at once, or not at all.
async fn ask(connection: &mut MultiplexedConnection, command: &Cmd) -> Option<RedisResult<Value>> {
    tokio::time::timeout(HEARTBEAT, command.query_async(connection)).await.ok()
}

/// Passes on what the server says. Returns the keys that have changed.
fn heard(push: &PushInfo, watched: &HashMap<Vec<u8>, Name>, hinter: &Hinter) -> Vec<Vec<u8>> {
    let bytes = |value: &Value| match value {
        Value::BulkString(bytes) => Some(bytes.clone()),
        _ => None,
    };
    match (&push.kind, push.data.as_slice()) {
        (PushKind::Message, [_channel, message]) => {
            let owner = bytes(message).and_then(|owner| String::from_utf8(owner).ok()?.parse().ok());
            if let Some(owner) = owner {
                hinter.send(Hint::Owner(owner));
            }
            Vec::new()
        }
        (PushKind::Invalidate, [Value::Array(keys)]) => keys.iter().filter_map(bytes).collect(),
        (PushKind::Invalidate, _) => {
            // Everything was flushed.
            hinter.send(Hint::Restarted);
            watched.keys().cloned().collect()
        }
        _ => Vec::new(),
    }
}
