//! Hints: the connection on which the server notifies this client.

use std::collections::HashMap;
use std::sync::Arc;

use futures_core::Stream;
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, PushInfo, PushKind, RedisResult, Value, cmd};
use tokio::sync::mpsc;

use super::cluster::{Cluster, Node};
use super::connect::Opened;
use super::errors::{Remedy, remedy};
use super::keys::Keys;
use super::link::Server;
use super::primary::Primary;
use super::slots::text;
use super::topology::Topology;
use crate::error::Result;
use crate::storage::net::hints::{Changes, HEARTBEAT, Hinter, LONGEST_PAUSE, Pauses, Task, Watched};
use crate::storage::{Hint, Name, net};

/// How many watched keys are read at a time.
const READ_AT_ONCE: usize = 128;

/// The subscription of a client. It ends when its stream is dropped.
pub(super) struct Listener {
    pub(super) topology: Topology,
    pub(super) keys: Keys,
    pub(super) channel: String,
    pub(super) hinter: Arc<Hinter>,
    pub(super) received: mpsc::UnboundedReceiver<Hint>,
}

impl Listener {
    /// Returns the listener of one server.
    pub(super) fn at(
        server: &Arc<Server>,
        keys: Keys,
        channel: String,
        hinter: Arc<Hinter>,
        received: mpsc::UnboundedReceiver<Hint>,
    ) -> Self {
        Self { topology: Topology::One(Primary::of(server)), keys, channel, hinter, received }
    }

    pub(super) fn stream(self) -> impl Stream<Item = Hint> + Send + 'static {
        let Self { topology, keys, channel, hinter, received } = self;
        net::hints::stream(received, move || listen(topology, keys, channel, hinter))
    }
}

async fn listen(topology: Topology, keys: Keys, channel: String, hinter: Arc<Hinter>) {
    let _watching = match &topology {
        Topology::One(_) => None,
        Topology::Cluster(cluster) => {
            Some(Task(tokio::spawn(watch_nodes(Arc::clone(cluster), keys.clone(), Arc::clone(&hinter)))))
        }
    };
    let mut pauses = Pauses::new();
    loop {
        // A failure is not reported: waiters retry by themselves, and each call returns its own error.
        let subscribed = listen_once(&topology, &keys, &channel, &hinter).await;
        pauses.pause(&hinter, subscribed.is_ok_and(|subscribed| subscribed)).await;
    }
}

/// Listens until the connection breaks. Returns `true` if the subscription was ever confirmed.
async fn listen_once(topology: &Topology, keys: &Keys, channel: &str, hinter: &Hinter) -> Result<bool> {
    let (server, opened) = match topology {
        Topology::One(Primary { server, .. }) => (Arc::clone(server), server.connector().open().await?),
        Topology::Cluster(cluster) => cluster.open().await?,
    };
    let Opened { mut connection, driver: _driver, facts, pushed, .. } = opened;
    if !matches!(tokio::time::timeout(HEARTBEAT, connection.subscribe(channel)).await, Ok(Ok(()))) {
        return Ok(false);
    }
    hinter.subscribed(server.saw(&facts.identity));
    match topology {
        Topology::One(_) => forward(connection, pushed, keys, hinter, hinter.watched(), None).await,
        Topology::Cluster(cluster) => {
            // Watched names are read at the nodes that serve them.
            let nothing = Watched::default();
            forward(connection, pushed, keys, hinter, nothing.subscribe(), Some(cluster)).await;
        }
    }
    Ok(true)
}

/// Keeps one connection to each node that serves a watched name: a node reports changes of its own keys only.
async fn watch_nodes(cluster: Arc<Cluster>, keys: Keys, hinter: Arc<Hinter>) {
    let (mut changes, mut moves) = (hinter.watched(), hinter.moves());
    let mut watches = NodeWatches { cluster, keys, hinter, places: HashMap::new(), nodes: HashMap::new() };
    loop {
        tokio::select! {
            change = changes.recv() => match change {
                Some(change) => {
                    change.removed.iter().for_each(|name| watches.unwatch(name));
                    change.added.into_iter().for_each(|name| watches.watch(name));
                }
                None => return,
            },
            changed = moves.changed() => match changed {
                // Another node may serve any of the names now.
                Ok(()) => {
                    let names: Vec<_> = watches.places.keys().cloned().collect();
                    names.into_iter().for_each(|name| watches.watch(name));
                }
                Err(_) => return,
            },
        }
    }
}

/// The node at which each watched name is watched.
struct NodeWatches {
    cluster: Arc<Cluster>,
    keys: Keys,
    hinter: Arc<Hinter>,
    /// The place of each name; `None` if no node is known to serve it.
    places: HashMap<Name, Option<String>>,
    /// The watch at each place.
    nodes: HashMap<String, NodeWatch>,
}

struct NodeWatch {
    /// The number of names.
    count: usize,
    names: Arc<Watched>,
    _task: Task,
}

impl NodeWatches {
    /// Watches a name at the node that serves it now.
    fn watch(&mut self, name: Name) {
        let node = self.cluster.node_for(&name);
        let place = node.as_ref().map(|node| node.place.to_string());
        if self.places.get(&name).is_some_and(|before| *before == place) {
            return;
        }
        self.unwatch(&name);
        if let (Some(node), Some(place)) = (node, place.clone()) {
            let watch = self.nodes.entry(place).or_insert_with(|| {
                let names = Arc::new(Watched::default());
                let watching =
                    watch_node(node, self.keys.clone(), Arc::clone(&self.hinter), Arc::clone(&names));
                NodeWatch { count: 0, names, _task: Task(tokio::spawn(watching)) }
            });
            watch.count += 1;
            watch.names.change(std::slice::from_ref(&name), &[]);
        }
        self.places.insert(name, place);
    }

    fn unwatch(&mut self, name: &Name) {
        let Some(Some(place)) = self.places.remove(name) else { return };
        let Some(watch) = self.nodes.get_mut(&place) else { return };
        watch.count -= 1;
        if watch.count == 0 {
            self.nodes.remove(&place);
        } else {
            watch.names.change(&[], std::slice::from_ref(name));
        }
    }
}

/// Watches names at one node.
async fn watch_node(node: Arc<Node>, keys: Keys, hinter: Arc<Hinter>, names: Arc<Watched>) {
    loop {
        if let Ok(Opened { connection, driver: _driver, pushed, .. }) =
            node.primary.server.connector().open().await
        {
            forward(connection, pushed, &keys, &hinter, names.subscribe(), None).await;
        }
        tokio::time::sleep(LONGEST_PAUSE).await;
    }
}

/// Forwards what the server reports of the queue heads and the watched names, until the connection breaks.
async fn forward(
    mut connection: MultiplexedConnection,
    mut pushed: mpsc::UnboundedReceiver<PushInfo>,
    keys: &Keys,
    hinter: &Hinter,
    mut changes: Changes,
    cluster: Option<&Arc<Cluster>>,
) {
    // With tracking the server also reports changes of watched keys, and flushes. An ACL may forbid it.
    if call(&mut connection, cmd("CLIENT").arg("TRACKING").arg("ON")).await.is_none() {
        return;
    }
    // The watched names, by the keys of their locks.
    let mut watched: HashMap<Vec<u8>, Name> = HashMap::new();
    let mut changed: Vec<Vec<u8>> = Vec::new();
    let mut beat = tokio::time::interval(HEARTBEAT);
    beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            push = pushed.recv() => match push {
                Some(push) if push.kind == PushKind::Disconnection => return,
                Some(push) => changed.extend(forward_push(&push, &watched, hinter)),
                None => return,
            },
            change = changes.recv() => {
                let Some(change) = change else { return };
                for name in &change.removed {
                    watched.remove(&key_of(keys, name));
                }
                for name in change.added {
                    let key = key_of(keys, &name);
                    changed.push(key.clone());
                    watched.insert(key, name);
                }
            }
            _ = beat.tick() => {
                let query = if cluster.is_some() { cmd("CLUSTER").arg("INFO").take() } else { cmd("PING") };
                let Some(Ok(reply)) = call(&mut connection, &query).await else { return };
                if let Some(cluster) = cluster {
                    cluster.check(&text(reply).unwrap_or_default(), HEARTBEAT);
                }
            }
        }
        let changed = std::mem::take(&mut changed);
        if hint_changes(&connection, changed, &watched, hinter).await.is_none() {
            return;
        }
    }
}

/// Sends the hints of changed keys. Returns `None` if the server did not reply.
///
/// Each key is read first: the server reports one change for each time that a client has read the key, so the next
/// change after the hint is reported, too.
async fn hint_changes(
    connection: &MultiplexedConnection,
    changed: Vec<Vec<u8>>,
    watched: &HashMap<Vec<u8>, Name>,
    hinter: &Hinter,
) -> Option<()> {
    for keys in changed.chunks(READ_AT_ONCE) {
        let reads = keys.iter().map(|key| {
            let mut connection = connection.clone();
            async move { call(&mut connection, cmd("GET").arg(key)).await }
        });
        for (key, reply) in keys.iter().zip(join_all(reads).await) {
            // Another node may serve the key now. Every other error is like a value.
            if let Err(error) = reply?
                && matches!(remedy(&error), Remedy::Moved(_) | Remedy::Ask(_))
            {
                hinter.moved();
            }
            if let Some(name) = watched.get(key) {
                hinter.send(Hint::Name(name.clone()));
            }
        }
    }
    Some(())
}

fn key_of(keys: &Keys, name: &Name) -> Vec<u8> {
    let mut key = String::new();
    keys.lock(name, &mut key);
    key.into_bytes()
}

/// Sends a command that a healthy server replies to within a heartbeat. Returns `None` if it does not.
async fn call(connection: &mut MultiplexedConnection, command: &Cmd) -> Option<RedisResult<Value>> {
    tokio::time::timeout(HEARTBEAT, command.query_async(connection)).await.ok()
}

/// Sends the hint of a message. Returns the keys that have changed.
fn forward_push(push: &PushInfo, watched: &HashMap<Vec<u8>, Name>, hinter: &Hinter) -> Vec<Vec<u8>> {
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
            // The database was flushed.
            hinter.send(Hint::Restarted);
            watched.keys().cloned().collect()
        }
        _ => Vec::new(),
    }
}
