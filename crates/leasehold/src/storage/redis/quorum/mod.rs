#![doc = include_str!("README.md")]

mod acquire;
mod ballot;
mod config;
mod hints;
mod identities;
mod inspect;
mod list;
mod marker;
mod node;
mod nodes;
mod pending;
mod refresh;
mod rejoin;
mod release;
mod renew;
mod scripts;

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use self::ballot::{majority, no_majority};
pub use self::config::Config;
use self::identities::Identities;
use self::node::Node;
use self::nodes::{Nodes, STEP_MAX};
use super::connect::{Connector, LIMIT};
use super::hints::Listener;
use super::link::{Link, Server};
use super::list::Pages;
use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::storage::net::hints::Hinter;
use crate::storage::registry::Target;
use crate::storage::url::Url;
use crate::storage::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, LeaseClock, Limits, Name, Owner,
    ReleaseReply, RenewReply, Storage, Tier,
};

/// A storage in several independent Redis or Valkey servers, of which a majority decides.
pub struct RedisQuorum {
    config: Arc<Config>,
    guarantees: Guarantees,
    nodes: Arc<Nodes>,
    /// The random id of this client, which names its channel at every server.
    client: Arc<str>,
    pages: Pages,
    received: Mutex<Option<Vec<mpsc::UnboundedReceiver<Hint>>>>,
}

/// The default of the longest TTL if a restarted server forgets its locks.
const FORGETFUL_TTL_MAX: Duration = Duration::from_secs(60);
/// The most claims in one call. A server does nothing else for about a millisecond.
const BATCH_MAX: usize = 128;
/// While the servers execute one batch, the next one is in flight.
const BATCHES_IN_FLIGHT: usize = 2;

/// Reads a URL of this storage.
pub(in crate::storage) fn target(scheme: &str, url: Url) -> Result<Target> {
    let config = Config::from_url(scheme, &url)?;
    Ok(Target::new(|| RedisQuorum::connect(config)))
}

impl RedisQuorum {
    /// Connects, and queries the servers for what can be promised. A minority of them may be down; they join later.
    ///
    /// # Errors
    ///
    /// `Invalid` if a file of the URL cannot be used, a server refuses the password, or two addresses lead to the same
    /// server. `Unavailable` if fewer than a majority answer. `Unsupported` if a server evicts keys, is a replica or a
    /// node of a Cluster, or does not answer `INFO`.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connections again.
    pub async fn connect(config: Config) -> Result<Self> {
        let config = Arc::new(config);
        let client: Arc<str> = Owner::random().to_string()[..16].into();
        let tls = config.redis.access.tls.as_ref().map(|tls| tls.connector()).transpose()?;
        let identities = Identities::new(config.places.len());
        let (mut all, mut received) = (Vec::new(), Vec::new());
        for (index, place) in config.places.iter().enumerate() {
            let (hinter, hints) = Hinter::new();
            received.push(hints);
            let restarted = Arc::clone(&hinter);
            let connector = Connector::to(place.clone(), &config.redis, tls.clone());
            let server = Server::new(connector, move || restarted.send(Hint::Restarted));
            all.push(Node::new(index, server, hinter, &config, &client, &identities));
        }
        let mut nodes = Nodes {
            all,
            clock: Clock::boot(),
            ttl_max: FORGETFUL_TTL_MAX,
            refreshing: AtomicBool::new(false),
        };
        let links = connect_majority(&nodes).await?;
        let facts = || links.iter().map(|link| &link.facts);
        let forgetful = links.len() < nodes.len() || facts().any(|facts| !facts.survives_restart());
        let tier = if facts().any(|facts| facts.evicts()) { Tier::Advisory } else { Tier::FailoverSafe };
        nodes.ttl_max =
            config.max_ttl.unwrap_or(if forgetful { FORGETFUL_TTL_MAX } else { Limits::default().ttl_max });
        let nodes = Arc::new(nodes);
        refresh::refresh(&nodes).await;
        Ok(Self {
            guarantees: Guarantees {
                fencing: true,
                push: true,
                ..Guarantees::new(tier, LeaseClock::ServerWall)
            },
            nodes,
            client,
            pages: Pages::default(),
            received: Mutex::new(Some(received)),
            config,
        })
    }
}

/// Waits for the connections of a majority, and a moment for the others. An error that a retry does not mend is returned
/// at once.
async fn connect_majority(nodes: &Nodes) -> Result<Vec<Arc<Link>>> {
    let mut replies = nodes.call(|node| Some(async move { node.link().await }));
    let mut until = nodes.clock.now().after(LIMIT * 2);
    let (mut links, mut errors) = (Vec::new(), Vec::new());
    while let Some((_, link)) = replies.next(until).await {
        match link {
            Ok(link) => links.push(link),
            Err(error) if error.kind() == ErrorKind::Unavailable => errors.push(error),
            Err(error) => return Err(error),
        }
        if links.len() == majority(nodes.len()) {
            until = nodes.clock.now().after(STEP_MAX);
        }
    }
    if links.len() < majority(nodes.len()) {
        let text = "no majority of the servers can be reached; check the URL and the servers, and retry";
        return Err(no_majority(text, errors.iter(), links.len() + errors.len(), nodes.len()));
    }
    Ok(links)
}

impl fmt::Debug for RedisQuorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisQuorum").field("servers", &self.config.places).finish_non_exhaustive()
    }
}

/// Shows the servers, without user and password.
impl fmt::Display for RedisQuorum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.config.fmt(f)
    }
}

impl Storage for RedisQuorum {
    fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    fn limits(&self) -> Limits {
        Limits {
            ttl_max: self.nodes.ttl_max,
            batch_max: BATCH_MAX,
            batches_in_flight: BATCHES_IN_FLIGHT,
            ..Limits::default()
        }
    }

    fn acquire(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<AcquireReply>>> + Send {
        let sent = self.nodes.clock.now();
        acquire::acquire(&self.nodes, claims, sent)
    }

    fn renew(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<RenewReply>>> + Send {
        let sent = self.nodes.clock.now();
        renew::renew(&self.nodes, claims, sent)
    }

    fn release(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<ReleaseReply>>> + Send {
        let sent = self.nodes.clock.now();
        release::release(&self.nodes, claims, sent)
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        Ok(inspect::inspect(&self.nodes, name).await?.into_iter().collect())
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        list::list(&self.nodes, &self.pages, prefix, after, limit).await
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        let found = self.nodes.all.iter().map(async |node| match node.server.link().await {
            Ok(link) => {
                let mut all = link.findings(&self.config.redis);
                all.extend(
                    node.read_marker(self.nodes.ttl_max).await.ok().map(|known| known.finding(&link.place)),
                );
                all
            }
            Err(error) => vec![Finding::warning("server", error.to_string())],
        });
        Ok(futures_util::future::join_all(found).await.concat())
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        for node in &self.nodes.all {
            node.hinter.watch(added, removed);
        }
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(received) = received else { return stream::pending().left_stream() };
        let keys = &self.config.redis.keys;
        let listeners = self.nodes.all.iter().zip(received).map(|(node, received)| {
            let channel = keys.channels() + &self.client;
            Listener::at(&node.server, keys.clone(), channel, Arc::clone(&node.hinter), received).stream()
        });
        hints::merge(listeners.collect()).right_stream()
    }
}
