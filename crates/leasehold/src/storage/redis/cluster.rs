//! A Cluster: its nodes, and which of them serves which slot.
//!
//! The driver's own client for Clusters retries by itself, lets one silent node delay the replies of the others, and
//! hides what a node replied. Only the engine may retry a claim, so the nodes are found here.

mod call;
mod list;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, Shared, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use redis::cmd;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;

use super::config::{Config, Place};
use super::connect::{Connector, LIMIT, Opened};
use super::errors::explain;
use super::keys::SLOTS;
use super::link::{Link, Server};
use super::primary::Primary;
use super::slots::{self, SlotMap};
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::net::hints::Hinter;
use crate::storage::{Finding, Guarantees, Hint, Name, Owner};

/// The primaries of a Cluster, and which of them serves which slot.
pub(super) struct Cluster {
    config: Arc<Config>,
    tls: Option<TlsConnector>,
    seeds: Vec<Place>,
    clock: Clock,
    hinter: Arc<Hinter>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    nodes: Vec<Arc<Node>>,
    /// The index in `nodes` of the node that serves each slot.
    slots: Vec<Option<u16>>,
    /// The primaries at the last refresh.
    primaries: BTreeSet<String>,
    epoch: u64,
    /// The refresh that is in flight.
    refresh: Option<Refresh>,
    /// When the last refresh began.
    refreshed: Option<Moment>,
    /// Whether there was a reason for another refresh since.
    stale: bool,
    /// Whether a node has replied since that a slot has moved.
    moved: bool,
    /// The number of connections that were opened to listen, with a random start.
    listened: usize,
}

type Refresh = Shared<BoxFuture<'static, Result<()>>>;

/// One primary.
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) primary: Primary,
}

/// How many nodes are queried for the slot map at a time.
const QUERIED_AT_ONCE: usize = 5;
/// The shortest time between two refreshes.
const PAUSE: Duration = Duration::from_millis(200);

impl Cluster {
    /// Finds the nodes, and returns what all of them can promise.
    pub(super) async fn connect(
        seeds: &[Place],
        tls: Option<TlsConnector>,
        config: &Arc<Config>,
        hinter: &Arc<Hinter>,
    ) -> Result<(Arc<Self>, Guarantees)> {
        let cluster = Arc::new(Self {
            config: Arc::clone(config),
            tls,
            seeds: seeds.to_vec(),
            clock: Clock::boot(),
            hinter: Arc::clone(hinter),
            state: Mutex::default(),
        });
        // Clients begin to listen at different nodes.
        cluster.state().listened = usize::from(Owner::random().to_bytes()[0]);
        cluster.refresh().await?;
        let guarantees = cluster.guarantees().await?;
        Ok((cluster, guarantees))
    }

    /// Returns the guarantees of the node that promises the least. A node that is down is ignored until it is back.
    async fn guarantees(&self) -> Result<Guarantees> {
        let nodes = self.nodes();
        let links = join_all(nodes.iter().map(|node| node.primary.server.link())).await;
        let (mut least, mut last) = (None, None);
        for link in links {
            match link {
                Ok(link) => {
                    let guarantees = link.facts.guarantees(&self.config);
                    if least.is_none_or(|least: Guarantees| guarantees.tier < least.tier) {
                        least = Some(guarantees);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Unavailable => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        least.ok_or_else(|| last.unwrap_or_else(|| unserved(None)))
    }

    /// Returns the findings of every node. A node that is down is a finding, too.
    pub(super) async fn findings(&self) -> Vec<Finding> {
        let nodes = self.nodes();
        let found = nodes.iter().map(async |node| match node.primary.server.link().await {
            Ok(link) => link.findings(&self.config),
            Err(error) => vec![Finding::warning("server", error.to_string())],
        });
        join_all(found).await.concat()
    }

    /// Returns the primaries.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.state().nodes.clone()
    }

    /// Returns the primary that serves a lock.
    pub(super) fn node_for(&self, name: &Name) -> Option<Arc<Node>> {
        let slot = self.config.keys.slot(name);
        let state = self.state();
        let number = (*state.slots.get(usize::from(slot))?)?;
        state.nodes.get(usize::from(number)).map(Arc::clone)
    }

    /// Opens a connection to listen, to another node than the last time.
    pub(super) async fn open(self: &Arc<Self>) -> Result<(Arc<Server>, Opened)> {
        let (nodes, next) = {
            let mut state = self.state();
            state.listened += 1;
            (state.nodes.clone(), state.listened)
        };
        let node = nodes.get(next % std::cmp::max(nodes.len(), 1)).ok_or_else(|| unserved(None))?;
        let opened = node.primary.server.connector().open().await.inspect_err(|_| self.refresh_soon())?;
        Ok((Arc::clone(&node.primary.server), opened))
    }

    /// Looks for signs of a change: in a reply to `CLUSTER INFO`, and at every node, each of which must reply within
    /// `limit`.
    pub(super) fn check(self: &Arc<Self>, info: &str, limit: Duration) {
        let (stale, epoch) = {
            let state = self.state();
            (state.stale, state.epoch)
        };
        if stale || slots::epoch_of(info).is_some_and(|seen| seen != epoch) {
            self.refresh_soon();
        }
        for node in self.nodes() {
            let cluster = Arc::clone(self);
            tokio::spawn(async move {
                // A new connection recognizes a node that was restarted by its identity.
                let Ok(link) = node.primary.server.link().await else { return cluster.refresh_soon() };
                let alive = tokio::time::timeout(limit, link.call(&cmd("PING"))).await;
                if !matches!(alive, Ok(Ok(_))) {
                    let _ = node.primary.server.link().await;
                }
            });
        }
    }

    /// Refreshes the slot map in the background, unless that was done a moment ago.
    pub(super) fn refresh_soon(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if state.refresh.is_none()
                && state.refreshed.is_some_and(|refreshed| self.clock.now() < refreshed.after(PAUSE))
            {
                state.stale = true;
                return;
            }
        }
        // The task goes on without this future.
        drop(self.refresh());
    }

    /// Refreshes the slot map. All callers share one refresh.
    fn refresh(self: &Arc<Self>) -> Refresh {
        let mut state = self.state();
        if let Some(refresh) = &state.refresh {
            return refresh.clone();
        }
        let (done, outcome) = oneshot::channel();
        let cluster = Arc::clone(self);
        tokio::spawn(async move {
            let map = cluster.fetch().await;
            let _no_caller_is_left = done.send(cluster.adopt(map));
        });
        let gone =
            || Error::new(ErrorKind::Unavailable, "the runtime that connects has ended; connect again");
        let refresh = outcome.map(move |outcome| outcome.unwrap_or_else(|_| Err(gone()))).boxed().shared();
        (state.refresh, state.refreshed, state.stale) =
            (Some(refresh.clone()), Some(self.clock.now()), false);
        refresh
    }

    /// Queries several nodes for the slot map. Returns the newest of those that a majority of them reports.
    async fn fetch(&self) -> Result<SlotMap> {
        let mut places: Vec<_> = self.nodes().iter().map(|node| node.place.clone()).collect();
        places.extend(self.seeds.iter().filter(|seed| !places.contains(seed)).cloned().collect::<Vec<_>>());
        // The nodes with a connection reply first.
        places.sort_by_key(|place| self.open_link(place).is_none());
        // However many nodes are down, each gets its turn.
        let (mut last, mut newest) = (None, None::<SlotMap>);
        for places in places.chunks(QUERIED_AT_ONCE) {
            let mut maps: FuturesUnordered<_> = places.iter().map(|place| self.fetch_from(place)).collect();
            let mut answered = 0;
            while let Some(map) = maps.next().await {
                match map {
                    Ok(map) => {
                        answered += 1;
                        let rank = |map: &SlotMap| (map.epoch, map.served());
                        if newest.as_ref().is_none_or(|newest| rank(&map) > rank(newest)) {
                            newest = Some(map);
                        }
                    }
                    Err(error) => last = Some(error),
                }
                if answered * 2 > places.len() {
                    break;
                }
            }
            if newest.is_some() {
                break;
            }
        }
        newest.ok_or_else(|| last.unwrap_or_else(|| unserved(None)))
    }

    async fn fetch_from(&self, place: &Place) -> Result<SlotMap> {
        let queries = SlotMap::queries();
        let replies = match self.open_link(place) {
            Some(link) => {
                let replies = tokio::time::timeout(LIMIT, link.call_all(&queries)).await;
                replies.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
            }
            None => self.connector(place).query(place, &queries).await?,
        };
        SlotMap::read(replies.map_err(|e| explain(&e, &place.to_string()))?, place)
    }

    /// Replaces the slot map, and sends the hints that follow from the change.
    fn adopt(self: &Arc<Self>, map: Result<SlotMap>) -> Result<()> {
        let mut state = self.state();
        state.refresh = None;
        let map = match map {
            Ok(map) => map,
            Err(error) => {
                state.stale = true;
                return Err(error);
            }
        };
        let hint = state.replace(&map, |place| self.node(place));
        drop(state);
        if let Some(hint) = hint {
            self.hinter.send(hint);
            self.hinter.moved();
        }
        Ok(())
    }

    fn open_link(&self, place: &Place) -> Option<Arc<Link>> {
        self.state().nodes.iter().find(|node| node.place == *place)?.primary.server.open_link()
    }

    fn node(&self, place: &Place) -> Arc<Node> {
        let primary = Primary::new(&self.connector(place), &self.config, &self.hinter);
        Arc::new(Node { place: place.clone(), primary })
    }

    fn connector(&self, place: &Place) -> Connector {
        Connector::to(place.clone(), &self.config, self.tls.clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Replaces the slot map. Known nodes keep their connections. Returns the hint that follows from the change.
    fn replace(&mut self, map: &SlotMap, new: impl Fn(&Place) -> Arc<Node>) -> Option<Hint> {
        let before = std::mem::take(&mut self.nodes);
        let mut slots = vec![None; usize::from(SLOTS)];
        for (first, last, place) in &map.ranges {
            let known = before.iter().find(|node| node.place == *place);
            let number = self.number(place, || known.map_or_else(|| new(place), Arc::clone));
            slots[usize::from(*first)..=usize::from(*last)].fill(Some(number));
        }
        let primaries: BTreeSet<_> = self.nodes.iter().map(|node| node.place.to_string()).collect();
        let hint = if self.slots.is_empty() {
            None
        } else if primaries != self.primaries {
            // A primary has failed, or has passed its slots on. What its replica did not have is lost.
            Some(Hint::Restarted)
        } else if self.moved || self.any_slot_moved(&before, &slots) {
            // A slot that moves takes its keys along, but no release was published in between.
            Some(Hint::Any)
        } else {
            // A slot may have moved and come back unnoticed.
            (map.epoch > self.epoch).then_some(Hint::Restarted)
        };
        (self.slots, self.primaries, self.epoch, self.moved) = (slots, primaries, map.epoch, false);
        hint
    }

    /// Returns `true` if another node than `before` serves a slot.
    fn any_slot_moved(&self, before: &[Arc<Node>], slots: &[Option<u16>]) -> bool {
        let place = |nodes: &[Arc<Node>], slot: &Option<u16>| {
            slot.and_then(|number| Some(nodes.get(usize::from(number))?.place.clone()))
        };
        self.slots.iter().zip(slots).any(|(a, b)| place(before, a) != place(&self.nodes, b))
    }

    /// Returns the number of a node. A node that is not known is added.
    fn number(&mut self, place: &Place, new: impl FnOnce() -> Arc<Node>) -> u16 {
        let number = self.nodes.iter().position(|known| known.place == *place).unwrap_or_else(|| {
            self.nodes.push(new());
            self.nodes.len() - 1
        });
        u16::try_from(number).expect("BUG: there are no more primaries than slots")
    }
}

fn unserved(slot: Option<u16>) -> Error {
    let text = "no node of the Cluster serves the lock's slot; retry when the Cluster is whole";
    let slot = slot.map(|slot| format!(" slot=`{slot}`")).unwrap_or_default();
    Error::new(ErrorKind::Unavailable, format!("{text}{slot}"))
}
