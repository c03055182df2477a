#![doc = include_str!("README.md")]

// Where to look:
//
// - The calls: `acquire` (whose transaction is `claim`, and which lets `look` find out where owners stand), `renew`, `release`,
//   `inspect` (which also lists). `parts` repeats them for fewer claims where the server takes only short requests.
// - What this client has at the servers: `leases`, which explains the gates; `holds`, the keys of its owners; `keep` keeps
//   leases alive, and `sweep` deletes keys that are overdue. `session` has all of that.
// - Waiters: `interests` says what they wait for, `hints` watches it.
// - The servers: `grpc` speaks to them in the messages of `proto`, `link` is a connection, `connect` opens it, `api` has the
//   calls, `ops` the parts of transactions. `facts` finds out what they promise, `findings` has the lines of
//   `leasehold doctor`.
// - The URL: `config`. The keys: `keys`. Errors: `errors`.
// - `fence` checks a token in a transaction of the caller's.

mod acquire;
mod api;
mod claim;
mod config;
mod connect;
mod errors;
mod facts;
mod fence;
mod findings;
mod grpc;
mod hints;
mod holds;
mod inspect;
mod interests;
mod keep;
mod keys;
mod leases;
mod link;
mod look;
mod ops;
mod parts;
mod proto;
mod release;
mod renew;
mod session;
mod sweep;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use self::api::Api;
pub use self::config::Config;
use self::connect::Connector;
use self::errors::Fault;
use self::facts::Facts;
pub use self::fence::{Compare, Fence};
use self::hints::Listener;
use self::holds::Holds;
use self::interests::Interests;
use self::leases::Leases;
use self::session::Session;
use super::net::hints::Hinter;
use super::net::server::Server;
use super::target::Target;
use super::url::Url;
use super::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, Limits, Name, ReleaseReply, RenewReply,
    Storage,
};
use crate::error::Result;

/// Keeps locks in etcd.
pub struct Etcd {
    config: Arc<Config>,
    guarantees: Guarantees,
    session: Arc<Session>,
    hinter: Arc<Hinter>,
    /// The hints, until they are subscribed to.
    received: Mutex<Option<mpsc::UnboundedReceiver<Hint>>>,
}

/// How many calls of a kind are in flight. The servers write those that come together to the disk at once.
const BATCHES_IN_FLIGHT: usize = 4;
/// etcd grants no shorter lease, with its defaults.
const TTL_MIN: Duration = Duration::from_secs(2);

/// Reads a URL of this storage.
pub(super) fn target(scheme: &str, url: Url) -> Result<Target> {
    let config = Config::from_url(scheme, &url)?;
    Ok(Target::new(|| Etcd::connect(config)))
}

impl Etcd {
    /// Connects, and finds out what the servers can promise.
    ///
    /// # Errors
    ///
    /// `Invalid` if a file of the URL cannot be used or the server refuses the password. `Unavailable` if no server
    /// answers that can reach a majority. `Unsupported` if the server is too old.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection.
    pub async fn connect(config: Config) -> Result<Self> {
        let config = Arc::new(config);
        let (hinter, received) = Hinter::new();
        let leases = Arc::new(Leases::default());
        let (told, forgotten) = (Arc::clone(&hinter), Arc::clone(&leases));
        let server = Server::new(Connector::new(&config)?, move || {
            forgotten.forget_all();
            told.send(Hint::Restarted);
        });
        let api = Api { server, place: config.to_string().into() };
        let facts = Facts::ask(&api).await?;
        let batch_max = Facts::batch_max(&api, &config.keys.probe()).await?;
        let session = Arc::new(Session {
            api,
            batch_max,
            keys: config.keys.clone(),
            holds: Holds::default(),
            leases,
            interests: Interests::default(),
            is_closing: AtomicBool::new(false),
            sweeping: tokio::sync::Mutex::default(),
        });
        // It ends soon after the storage, when nothing is left to delete.
        tokio::spawn(sweep::run(Arc::clone(&session)));
        let received = Mutex::new(Some(received));
        Ok(Self { guarantees: facts.guarantees(), hinter, received, session, config })
    }

    fn explain_all<T>(&self, replies: Vec<Result<T, Fault>>) -> Vec<Result<T>> {
        let explain = |reply: Result<T, Fault>| reply.map_err(|fault| self.session.api.explain(&fault));
        replies.into_iter().map(explain).collect()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.session.is_closing.store(true, Ordering::Release);
        self.session.holds.changed.notify_one();
    }
}

impl fmt::Debug for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Etcd").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Shows the servers, and no user or password.
impl fmt::Display for Etcd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.config)
    }
}

impl Storage for Etcd {
    fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    fn limits(&self) -> Limits {
        Limits {
            ttl_min: TTL_MIN,
            batch_max: self.session.batch_max,
            batches_in_flight: BATCHES_IN_FLIGHT,
            ..Limits::default()
        }
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<AcquireReply>> {
        if claims.is_empty() {
            return Vec::new();
        }
        let (session, sent) = (&self.session, self.session.api.now());
        let first = session.acquire(claims, sent).await;
        let again = |part: Vec<Claim>| async move { session.acquire(&part, sent).await };
        self.explain_all(parts::in_parts(claims, first, again).await)
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<RenewReply>> {
        if claims.is_empty() {
            return Vec::new();
        }
        let (session, sent) = (&self.session, self.session.api.now());
        let first = session.renew(claims, sent).await;
        let again = |part: Vec<Claim>| async move { session.renew(&part, sent).await };
        self.explain_all(parts::in_parts(claims, first, again).await)
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        if claims.is_empty() {
            return Vec::new();
        }
        let session = &self.session;
        let first = session.release(claims).await;
        let again = |part: Vec<Claim>| async move { session.release(&part).await };
        self.explain_all(parts::in_parts(claims, first, again).await)
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        self.session.inspect(name).await.map_err(|fault| self.session.api.explain(&fault))
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        let listed = self.session.list(prefix, after, limit).await;
        listed.map_err(|fault| self.session.api.explain(&fault))
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        let facts = Facts::ask(&self.session.api).await?;
        Ok(facts.findings(&self.session.api.place))
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        self.hinter.watch(added, removed);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner).take();
        match received {
            Some(received) => {
                let listener =
                    Listener { session: Arc::clone(&self.session), hinter: Arc::clone(&self.hinter) };
                listener.stream(received).left_stream()
            }
            None => stream::pending().right_stream(),
        }
    }
}
