#![doc = include_str!("README.md")]

mod acquire;
mod cluster;
mod config;
mod connect;
mod errors;
mod facts;
mod failover;
mod findings;
mod guarantees;
mod hints;
mod inspect;
mod keys;
mod link;
mod list;
mod operation;
mod primary;
pub mod quorum;
mod release;
mod renew;
mod replicas;
mod replies;
mod request;
mod script;
mod slots;
mod topology;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::mpsc;

use self::acquire::Acquire;
pub use self::config::Config;
use self::hints::Listener;
use self::inspect::Inspect;
use self::list::Pages;
use self::operation::Context;
use self::primary::Primary;
use self::release::Release;
use self::renew::Renew;
use self::topology::Topology;
use super::net::hints::Hinter;
use super::target::Target;
use super::url::Url;
use super::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, Limits, Name, Owner, ReleaseReply,
    RenewReply, Storage,
};
use crate::clock::Clock;
use crate::error::Result;

/// A storage in Redis or Valkey.
pub struct Redis {
    config: Arc<Config>,
    guarantees: Guarantees,
    clock: Clock,
    topology: Topology,
    /// The random id of this client, which names its channel.
    client: String,
    hinter: Arc<Hinter>,
    pages: Pages,
    received: Mutex<Option<mpsc::UnboundedReceiver<Hint>>>,
}

/// The most claims in one call. The server does nothing else for about a millisecond.
const BATCH_MAX: usize = 256;
/// While the server executes one batch, the next one is in flight.
const BATCHES_IN_FLIGHT: usize = 2;

/// Reads a URL of this storage.
pub(in crate::storage) fn target(scheme: &str, url: Url) -> Result<Target> {
    let config = Config::from_url(scheme, &url)?;
    Ok(Target::new(|| Redis::connect(config)))
}

impl Redis {
    /// Connects, and queries the server for what can be promised.
    ///
    /// # Errors
    ///
    /// `Invalid` if a file of the URL cannot be used or the server refuses the password. `Unavailable` if no primary
    /// answers. `Unsupported` if the server evicts keys, or is a node of a Cluster.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection again.
    pub async fn connect(config: Config) -> Result<Self> {
        let config = Arc::new(config);
        let (hinter, received) = Hinter::new();
        let (topology, guarantees) = Topology::connect(&config, &hinter).await?;
        Ok(Self {
            guarantees,
            clock: Clock::boot(),
            topology,
            client: Owner::random().to_string()[..16].to_owned(),
            hinter,
            pages: Pages::default(),
            received: Mutex::new(Some(received)),
            config,
        })
    }

    fn context(&self) -> Context<'_> {
        Context {
            config: &self.config,
            client: &self.client,
            listening: self.hinter.is_listening(),
            cluster: matches!(self.topology, Topology::Cluster(_)),
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("servers", &self.config.servers).finish_non_exhaustive()
    }
}

/// Shows the servers, without user and password.
impl fmt::Display for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.config)
    }
}

impl Storage for Redis {
    fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    fn limits(&self) -> Limits {
        let limits =
            Limits { batch_max: BATCH_MAX, batches_in_flight: BATCHES_IN_FLIGHT, ..Limits::default() };
        match self.config.failover_grace {
            Some(grace) => Limits { ttl_max: grace, ..limits },
            None => limits,
        }
    }

    fn acquire(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<AcquireReply>>> + Send {
        let operation = Acquire { context: self.context(), sent: self.clock.now() };
        async move { self.topology.each(&operation, claims).await }
    }

    fn renew(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<RenewReply>>> + Send {
        let operation = Renew { context: self.context(), sent: self.clock.now() };
        async move { self.topology.each(&operation, claims).await }
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        self.topology.each(&Release { context: self.context() }, claims).await
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        let operation = Inspect { keys: &self.config.keys };
        let seen = self.topology.each(&operation, std::slice::from_ref(name)).await.pop();
        Ok(seen.unwrap_or(Ok(None))?.into_iter().collect())
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        match &self.topology {
            Topology::One(Primary { server, .. }) => {
                list::on(server, &self.config.keys, &self.pages, prefix, after, limit).await
            }
            Topology::Cluster(cluster) => cluster.list(&self.pages, prefix, after, limit).await,
        }
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        match &self.topology {
            Topology::One(Primary { server, .. }) => Ok(server.link().await?.findings(&self.config)),
            Topology::Cluster(cluster) => Ok(cluster.findings().await),
        }
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        self.hinter.watch(added, removed);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner).take();
        match received {
            Some(received) => Listener {
                topology: self.topology.clone(),
                keys: self.config.keys.clone(),
                channel: self.config.keys.channels() + &self.client,
                hinter: Arc::clone(&self.hinter),
                received,
            }
            .stream()
            .left_stream(),
            None => stream::pending().right_stream(),
        }
    }
}
