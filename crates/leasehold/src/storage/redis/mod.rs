#![doc = include_str!("README.md")]

pub(in crate::storage) mod answers;
pub(in crate::storage) mod claims;
mod cluster;
pub(in crate::storage) mod config;
pub(in crate::storage) mod connect;
pub(in crate::storage) mod facts;
mod failover;
mod findings;
pub(in crate::storage) mod hints;
pub(in crate::storage) mod keys;
pub(in crate::storage) mod link;
pub(in crate::storage) mod list;
pub mod quorum;
mod replicas;
pub(in crate::storage) mod request;
mod slots;
mod verbs;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::mpsc;

use self::claims::Around;
use self::cluster::Cluster;
pub use self::config::Config;
use self::config::Servers;
use self::connect::Connector;
use self::hints::Listener;
use self::link::Server;
use self::list::Pages;
use self::verbs::{Acquiring, Inspecting, Releasing, Renewing, Verb};
use super::net::hints::Hinter;
use super::registry::Target;
use super::url::Url;
use super::{
    AcquireReply, Claim, Finding, Guarantees, Hint, Holder, Limits, Name, Owner, ReleaseReply, RenewReply,
    Storage, Tier,
};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};

/// Keeps locks in Redis or Valkey.
pub struct Redis {
    config: Arc<Config>,
    guarantees: Guarantees,
    clock: Clock,
    reach: Reach,
    /// What this client's channel is called; random.
    client: String,
    hinter: Arc<Hinter>,
    pages: Pages,
    received: Mutex<Option<mpsc::UnboundedReceiver<Hint>>>,
}

/// Who is asked.
#[derive(Clone)]
enum Reach {
    /// Always the same, or whoever the Sentinels call the primary.
    One(Primary),
    /// The node that serves the lock.
    Cluster(Arc<Cluster>),
}

/// A server, up to three times.
#[derive(Clone)]
struct Primary {
    server: Arc<Server>,
    /// The same, by connections that are blocked while replicas are waited for; only where that may be needed.
    acquires: Option<Arc<Server>>,
    renewals: Option<Arc<Server>>,
}

/// The most claims in one call: the server does nothing else for about a millisecond.
const BATCH_MAX: usize = 256;
/// While the server works on one batch, the next one travels.
const BATCHES_IN_FLIGHT: usize = 2;

/// Reads a URL of this storage.
pub(in crate::storage) fn target(scheme: &str, url: Url) -> Result<Target> {
    let config = Config::from_url(scheme, &url)?;
    Ok(Target::new(|| Redis::connect(config)))
}

impl Redis {
    /// Connects, and asks the server what can be promised.
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
        let (reach, guarantees) = Reach::connect(&config, &hinter).await?;
        Ok(Self {
            guarantees,
            clock: Clock::boot(),
            reach,
            client: Owner::random().to_string()[..16].to_owned(),
            hinter,
            pages: Pages::default(),
            received: Mutex::new(Some(received)),
            config,
        })
    }

    fn around(&self) -> Around<'_> {
        Around {
            config: &self.config,
            client: &self.client,
            listening: self.hinter.is_listening(),
            cluster: matches!(self.reach, Reach::Cluster(_)),
        }
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redis").field("servers", &self.config.servers).finish_non_exhaustive()
    }
}

/// Shows where it is, and no user or password.
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
        let verb = Acquiring { around: self.around(), sent: self.clock.now() };
        async move { self.reach.each(&verb, claims).await }
    }

    fn renew(&self, claims: &[Claim]) -> impl Future<Output = Vec<Result<RenewReply>>> + Send {
        let verb = Renewing { around: self.around(), sent: self.clock.now() };
        async move { self.reach.each(&verb, claims).await }
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        self.reach.each(&Releasing { around: self.around() }, claims).await
    }

    async fn inspect(&self, name: &Name) -> Result<Option<Holder>> {
        let verb = Inspecting { keys: &self.config.keys };
        self.reach.each(&verb, std::slice::from_ref(name)).await.pop().unwrap_or(Ok(None))
    }

    async fn list(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Result<Vec<Holder>> {
        match &self.reach {
            Reach::One(Primary { server, .. }) => {
                list::on(server, &self.config.keys, &self.pages, prefix, after, limit).await
            }
            Reach::Cluster(cluster) => cluster.list(&self.pages, prefix, after, limit).await,
        }
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        match &self.reach {
            Reach::One(Primary { server, .. }) => Ok(server.link().await?.findings(&self.config)),
            Reach::Cluster(cluster) => Ok(cluster.findings().await),
        }
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        self.hinter.watch(added, removed);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner).take();
        match received {
            Some(received) => Listener {
                reach: self.reach.clone(),
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

impl Reach {
    async fn connect(config: &Arc<Config>, hinter: &Arc<Hinter>) -> Result<(Self, Guarantees)> {
        let tls = || config.access.tls.as_ref().map(|tls| tls.connector()).transpose();
        let connector = match &config.servers {
            Servers::One(place) => Connector::to(place.clone(), config, tls()?),
            Servers::Sentinels { sentinels, primary, login } => {
                Connector::by_sentinels(sentinels, primary, login, config, tls()?)
            }
            Servers::Cluster(seeds) => {
                let (cluster, guarantees) = Cluster::connect(seeds, tls()?, config, hinter).await?;
                return Ok((Self::Cluster(cluster), guarantees));
            }
            Servers::Quorum(_) => {
                let text = "a quorum is a storage of its own; write `redis+quorum:`";
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        };
        let primary = Primary::new(&connector, config, hinter);
        let link = primary.server.link().await?;
        if link.facts.cluster {
            let text = "the server is a node of a Cluster; write `redis+cluster:`";
            return Err(Error::new(ErrorKind::Unsupported, format!("{text} server=`{}`", link.place)));
        }
        let guarantees = link.facts.guarantees(config);
        if guarantees.tier == Tier::FailoverSafe {
            connector.promise_failovers();
        }
        Ok((Self::One(primary), guarantees))
    }

    /// Answers each item; with the same error, if there is one server and the whole call failed.
    async fn each<V: Verb>(&self, verb: &V, items: &[V::Item]) -> Vec<Result<V::Answer>> {
        match self {
            Self::One(primary) => {
                let answers = primary.answer(verb, &items.iter().collect::<Vec<_>>()).await;
                answers.unwrap_or_else(|error| items.iter().map(|_| Err(error.clone())).collect())
            }
            Self::Cluster(cluster) => cluster.each(verb, items).await,
        }
    }
}

impl Primary {
    fn new(connector: &Connector, config: &Config, hinter: &Arc<Hinter>) -> Self {
        let server = || {
            let hinter = Arc::clone(hinter);
            Server::new(connector.clone(), move || hinter.send(Hint::Restarted))
        };
        let grace = config.failover_grace.is_some();
        Self {
            server: server(),
            acquires: (grace || config.wait_replicas > 0).then(server),
            renewals: grace.then(server),
        }
    }

    async fn answer<V: Verb>(&self, verb: &V, items: &[&V::Item]) -> Result<Vec<Result<V::Answer>>> {
        if let Some(server) = verb.confirming(self) {
            return replicas::answer(verb, server, items).await;
        }
        let link = self.server.link().await?;
        let request = verb.request(&link, items);
        verb.read(request.on_the_only(&self.server, &link).await?, items)
    }
}
