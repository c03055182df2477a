//! The connection on which the server tells whose turn it is.

use std::collections::HashMap;
use std::sync::Arc;

use futures_core::Stream;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, PushInfo, PushKind, RedisResult, Value, cmd};
use tokio::sync::{mpsc, watch};

use super::answers::{Remedy, remedy};
use super::cluster::{Cluster, Node};
use super::connect::Opened;
use super::keys::Keys;
use super::link::Server;
use super::slots::text;
use super::{Primary, Reach};
use crate::error::Result;
use crate::storage::net::hints::{HEARTBEAT, Hinter, LONGEST_PAUSE, Pauses, Task};
use crate::storage::{Hint, Name, net};

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
        let reach = Reach::One(Primary { server: Arc::clone(server), acquires: None });
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
    let (pushes, pushed) = mpsc::unbounded_channel();
    let (server, opened) = match reach {
        Reach::One(Primary { server, .. }) => {
            (Arc::clone(server), server.connector().open_with(Some(pushes)).await?)
        }
        Reach::Cluster(cluster) => cluster.open(pushes).await?,
    };
    let Opened { mut connection, driver: _driver, facts, .. } = opened;
    if !matches!(tokio::time::timeout(HEARTBEAT, connection.subscribe(channel)).await, Ok(Ok(()))) {
        return Ok(false);
    }
    hinter.subscribed(server.saw(&facts.identity));
    match reach {
        Reach::One(_) => attend(connection, pushed, keys, hinter, hinter.watched(), None).await,
        Reach::Cluster(cluster) => {
            // Watched names are asked for at their own nodes.
            let (_nothing, nothing) = watch::channel(Vec::new());
            attend(connection, pushed, keys, hinter, nothing, Some(cluster)).await;
        }
    }
    Ok(true)
}

/// Keeps one connection to each node that serves a watched name, and none to others: a node tells of its own keys only.
async fn watch_nodes(cluster: Arc<Cluster>, keys: Keys, hinter: Arc<Hinter>) {
    let (mut names, mut moves) = (hinter.watched(), hinter.moves());
    names.mark_changed();
    let mut watches: HashMap<String, (watch::Sender<Vec<Name>>, Task)> = HashMap::new();
    loop {
        tokio::select! {
            changed = names.changed() => if changed.is_err() { return },
            changed = moves.changed() => if changed.is_err() { return },
        }
        let mut by_node = HashMap::new();
        for name in names.borrow_and_update().iter() {
            if let Some(node) = cluster.node_for(name) {
                by_node
                    .entry(node.place.to_string())
                    .or_insert_with(|| (node, Vec::new()))
                    .1
                    .push(name.clone());
            }
        }
        watches.retain(|place, _| by_node.contains_key(place));
        for (place, (node, names)) in by_node {
            match watches.get(&place) {
                Some((sender, _)) => drop(sender.send_replace(names)),
                None => {
                    let (sender, names) = watch::channel(names);
                    let watching = watch_node(node, keys.clone(), Arc::clone(&hinter), names);
                    watches.insert(place, (sender, Task(tokio::spawn(watching))));
                }
            }
        }
    }
}

/// Watches names at one node.
async fn watch_node(node: Arc<Node>, keys: Keys, hinter: Arc<Hinter>, names: watch::Receiver<Vec<Name>>) {
    loop {
        let (pushes, pushed) = mpsc::unbounded_channel();
        if let Ok(Opened { connection, driver: _driver, .. }) =
            node.primary.server.connector().open_with(Some(pushes)).await
        {
            attend(connection, pushed, &keys, &hinter, names.clone(), None).await;
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
    mut names: watch::Receiver<Vec<Name>>,
    cluster: Option<&Arc<Cluster>>,
) {
    // Then the server also tells when a watched key changes, and when everything is flushed. Not every user may.
    if ask(&mut connection, cmd("CLIENT").arg("TRACKING").arg("ON")).await.is_none() {
        return;
    }
    names.mark_changed();
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
            changed = names.changed() => {
                if changed.is_err() {
                    return;
                }
                let now: HashMap<_, _> = names.borrow_and_update().iter()
                    .map(|name| (key_of(keys, name), name.clone())).collect();
                stale.extend(now.keys().filter(|key| !watched.contains_key(*key)).cloned());
                watched = now;
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
        for key in std::mem::take(&mut stale) {
            let Some(name) = watched.get(&key) else { continue };
            match ask(&mut connection, cmd("GET").arg(&key)).await {
                Some(Ok(_)) => {}
                // The key has moved to another node.
                Some(Err(error)) if matches!(remedy(&error), Remedy::Moved(_) | Remedy::Ask(_)) => {
                    hinter.moved()
                }
                Some(Err(_)) => {}
                None => return,
            }
            hinter.send(Hint::Name(name.clone()));
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
