//! Knows the nodes of a Cluster, and who of them serves which slot.
//!
//! The driver's own client for Clusters asks again by itself, lets one silent node hold up the others, and hides what
//! a node said. Claims must not be repeated by anybody but the engine, so the way is found here.

mod parts;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, Shared, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use redis::cmd;
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;

use super::Primary;
use super::answers::explain;
use super::config::{Config, Place};
use super::connect::{Connector, Opened};
use super::keys::SLOTS;
use super::link::{Link, Server};
use super::slots::{self, Told};
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Finding;
use crate::storage::net::hints::Hinter;
use crate::storage::{Guarantees, Hint, Name, Owner};

/// The primaries of a Cluster, and who of them serves which slot.
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
    /// Which of the nodes serves each slot.
    slots: Vec<Option<u16>>,
    /// The primaries when the nodes were last asked.
    primaries: BTreeSet<String>,
    epoch: u64,
    asking: Option<Asking>,
    /// When the nodes were last asked.
    asked: Option<Moment>,
    /// Whether there was a reason to ask them again since.
    stale: bool,
    /// Whether a node said since that a slot has moved.
    moved: bool,
    /// Who was listened to last.
    listened: usize,
}

type Asking = Shared<BoxFuture<'static, Result<()>>>;

/// One primary.
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) primary: Primary,
}

/// How many nodes are asked who serves what.
const ASKED: usize = 5;
/// The nodes are not asked again earlier.
const PAUSE: Duration = Duration::from_millis(200);

impl Cluster {
    /// Finds the nodes, and what can be promised of all of them.
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
        // Not everybody listens to the same.
        cluster.state().listened = usize::from(Owner::random().to_bytes()[0]);
        cluster.ask().await?;
        let nodes = cluster.nodes();
        let links = join_all(nodes.iter().map(|node| node.primary.server.link())).await;
        let (mut least, mut last) = (None, None);
        for link in links {
            match link {
                Ok(link) => {
                    let guarantees = link.facts.guarantees(config);
                    if least.is_none_or(|least: Guarantees| guarantees.tier < least.tier) {
                        least = Some(guarantees);
                    }
                }
                // One that is away is asked when it is back.
                Err(error) if error.kind() == ErrorKind::Unavailable => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        match least {
            Some(least) => Ok((cluster, least)),
            None => Err(last.unwrap_or_else(|| unserved(None))),
        }
    }

    /// Says what every node is; of one that is away, that it is.
    pub(super) async fn findings(&self) -> Vec<Finding> {
        let nodes = self.nodes();
        let found = nodes.iter().map(async |node| match node.primary.server.link().await {
            Ok(link) => link.findings(&self.config),
            Err(error) => vec![Finding::warning("server", error.to_string())],
        });
        join_all(found).await.concat()
    }

    /// The primaries.
    pub(super) fn nodes(&self) -> Vec<Arc<Node>> {
        self.state().nodes.clone()
    }

    /// The primary that serves a lock.
    pub(super) fn node_for(&self, name: &Name) -> Option<Arc<Node>> {
        self.node_of(self.config.keys.slot(name))
    }

    /// Opens a connection to some node, to listen to; to another one than the last time.
    pub(super) async fn open(self: &Arc<Self>) -> Result<(Arc<Server>, Opened)> {
        let (nodes, next) = {
            let mut state = self.state();
            state.listened += 1;
            (state.nodes.clone(), state.listened)
        };
        let node = nodes.get(next % std::cmp::max(nodes.len(), 1)).ok_or_else(|| unserved(None))?;
        let opened = node.primary.server.connector().open().await.inspect_err(|_| self.ask_soon())?;
        Ok((Arc::clone(&node.primary.server), opened))
    }

    /// Looks for signs that something has changed: in what a node has answered to `CLUSTER INFO`, and at all nodes.
    pub(super) fn beat(self: &Arc<Self>, info: &str, limit: Duration) {
        let (stale, epoch) = {
            let state = self.state();
            (state.stale, state.epoch)
        };
        if stale || slots::epoch_of(info).is_some_and(|seen| seen != epoch) {
            self.ask_soon();
        }
        for node in self.nodes() {
            let cluster = Arc::clone(self);
            tokio::spawn(async move {
                // Connecting again, and asked what it is, a node that was restarted is known as another one.
                let Ok(link) = node.primary.server.link().await else { return cluster.ask_soon() };
                let alive = tokio::time::timeout(limit, link.call(&cmd("PING"))).await;
                if !matches!(alive, Ok(Ok(_))) {
                    let _ = node.primary.server.link().await;
                }
            });
        }
    }

    /// Asks the nodes soon who serves what, unless that was done a moment ago.
    pub(super) fn ask_soon(self: &Arc<Self>) {
        {
            let mut state = self.state();
            if state.asking.is_none()
                && state.asked.is_some_and(|asked| self.clock.now() < asked.after(PAUSE))
            {
                state.stale = true;
                return;
            }
        }
        // It goes on by itself.
        drop(self.ask());
    }

    /// Asks the nodes who serves what, together with everybody else who wants to know.
    fn ask(self: &Arc<Self>) -> Asking {
        let mut state = self.state();
        if let Some(asking) = &state.asking {
            return asking.clone();
        }
        let (done, asked) = oneshot::channel();
        let cluster = Arc::clone(self);
        tokio::spawn(async move {
            let told = cluster.told().await;
            let _nobody_waits = done.send(cluster.learn(told));
        });
        let gone =
            || Error::new(ErrorKind::Unavailable, "the runtime that connects has ended; connect again");
        let asking = asked.map(move |asked| asked.unwrap_or_else(|_| Err(gone()))).boxed().shared();
        (state.asking, state.asked, state.stale) = (Some(asking.clone()), Some(self.clock.now()), false);
        asking
    }

    /// Asks several nodes, and believes the newest of what a majority of them says.
    async fn told(&self) -> Result<Told> {
        let mut places: Vec<_> = self.nodes().iter().map(|node| node.place.clone()).collect();
        places.extend(self.seeds.iter().filter(|seed| !places.contains(seed)).cloned().collect::<Vec<_>>());
        // Those that are connected first: they answer soonest.
        places.sort_by_key(|place| self.open_link(place).is_none());
        // However many are dead, each gets its turn.
        let (mut last, mut best) = (None, None::<Told>);
        for places in places.chunks(ASKED) {
            let mut asked: FuturesUnordered<_> = places.iter().map(|place| self.told_by(place)).collect();
            let mut answered = 0;
            while let Some(told) = asked.next().await {
                match told {
                    Ok(told) => {
                        answered += 1;
                        let rank = |told: &Told| (told.epoch, told.served());
                        if best.as_ref().is_none_or(|best| rank(&told) > rank(best)) {
                            best = Some(told);
                        }
                    }
                    Err(error) => last = Some(error),
                }
                if answered * 2 > places.len() {
                    break;
                }
            }
            if best.is_some() {
                break;
            }
        }
        best.ok_or_else(|| last.unwrap_or_else(|| unserved(None)))
    }

    async fn told_by(&self, place: &Place) -> Result<Told> {
        let questions = Told::questions();
        let answers = match self.open_link(place) {
            Some(link) => {
                let limit = super::connect::LIMIT;
                let answers = tokio::time::timeout(limit, link.call_all(&questions)).await;
                answers.unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
            }
            None => self.connector(place).ask(place, &questions).await?,
        };
        Told::read(answers.map_err(|e| explain(&e, &place.to_string()))?, place)
    }

    /// Takes in what was told, and says so to whom it concerns.
    fn learn(self: &Arc<Self>, told: Result<Told>) -> Result<()> {
        let mut state = self.state();
        state.asking = None;
        let told = match told {
            Ok(told) => told,
            Err(error) => {
                state.stale = true;
                return Err(error);
            }
        };
        let before = std::mem::take(&mut state.nodes);
        let mut now = vec![None; usize::from(SLOTS)];
        for (first, last, place) in &told.ranges {
            let known = before.iter().find(|node| node.place == *place);
            let number = state.number(place, || known.map_or_else(|| self.node(place), Arc::clone));
            now[usize::from(*first)..=usize::from(*last)].fill(Some(number));
        }
        // Another set of primaries: one has failed, or has passed its slots on. What its replica did not have is gone.
        // A slot that only moved among them took its keys along, and yet nobody published there in between.
        let primaries: BTreeSet<_> = state.nodes.iter().map(|node| node.place.to_string()).collect();
        let owner = |nodes: &[Arc<Node>], slot: &Option<u16>| {
            slot.and_then(|number| Some(nodes.get(usize::from(number))?.place.clone()))
        };
        let first = state.slots.is_empty();
        let hint = if first {
            None
        } else if primaries != state.primaries {
            Some(Hint::Restarted)
        } else {
            let differs = |(a, b)| owner(&before, a) != owner(&state.nodes, b);
            if state.moved || state.slots.iter().zip(&now).any(differs) {
                Some(Hint::Any)
            } else {
                // There and back again, perhaps, while nobody looked.
                (told.epoch > state.epoch).then_some(Hint::Restarted)
            }
        };
        (state.slots, state.primaries, state.epoch, state.moved) = (now, primaries, told.epoch, false);
        drop(state);
        if let Some(hint) = hint {
            self.hinter.send(hint);
            self.hinter.moved();
        }
        Ok(())
    }

    fn node_of(&self, slot: u16) -> Option<Arc<Node>> {
        let state = self.state();
        let number = (*state.slots.get(usize::from(slot))?)?;
        state.nodes.get(usize::from(number)).map(Arc::clone)
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
    /// The number of a node; a new one if it is not known.
    fn number(&mut self, place: &Place, node: impl FnOnce() -> Arc<Node>) -> u16 {
        let number = self.nodes.iter().position(|known| known.place == *place).unwrap_or_else(|| {
            self.nodes.push(node());
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
