#![doc = include_str!("README.md")]

// Where to look:
//
// - The calls: `acquire`, `renew`, `release`, `inspect` (which also lists). `call` has what their statements need,
//   `passes` and `halving` say what is sent again, `replies` reads the rows, `uncommitted` remembers the locks that
//   another transaction is inserting.
// - The statements: `statements` and its folder, whose files explain themselves. `qualify` prepares them for the server,
//   `schema` makes the tables.
// - Waiters: `net/waiters` knows those of this client, `hints` listens for them, `observer` keeps the rows of the observed
//   names.
// - Connections: `links` has the two of a client. `link` sends statements over one. `link_connector` opens it, by
//   `connect` and `connection_limit`; `session` and `transport` are below it.
// - The server: `facts` and `standbys` find out what it promises, `findings` has the lines of `leasehold doctor`.
// - The URL: `config`, with `hosts`, `login`, `passfile`, `ssl`, `certificate` and `unsupported`.
// - Errors: `errors` says what they mean for the caller, `failure` what they say about the claims of a batch.
// - `fence` checks a token in a transaction of the caller's.

mod acquire;
mod call;
mod certificate;
mod config;
mod connect;
mod connection_limit;
mod errors;
mod facts;
mod failure;
mod fence;
mod findings;
mod halving;
mod hints;
mod hosts;
mod inspect;
mod link;
mod link_connector;
mod link_context;
mod links;
mod login;
mod observer;
mod passes;
mod passfile;
mod qualify;
mod release;
mod renew;
mod replies;
mod schema;
mod session;
mod ssl;
mod standbys;
mod statements;
mod transport;
mod uncommitted;
mod unsupported;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::mpsc;

use self::call::Call;
pub use self::config::Config;
use self::facts::Identity;
pub use self::fence::Fence;
use self::hints::Listener;
use self::link::Link;
use self::link_connector::{LinkConnector, Server};
use self::links::Links;
use self::uncommitted::UncommittedRows;
use super::net::for_each_claim;
use super::net::hints::Hinter;
use super::net::waiters::LocalWaiters;
use super::target::Target;
use super::url::Url;
use super::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, Limits, Name, Owner, ReleaseReply,
    RenewReply, Storage,
};
use crate::clock::{Clock, Moment};
use crate::error::{Error, Result};

/// Keeps locks in PostgreSQL.
pub struct Postgres {
    config: Arc<Config>,
    guarantees: Guarantees,
    clock: Clock,
    links: Links,
    /// The id of this client, random: the end of its channel's name.
    client: String,
    /// The same as a number: the key of its advisory lock.
    client_key: i64,
    hinter: Arc<Hinter>,
    waiters: Arc<LocalWaiters<Identity>>,
    uncommitted: UncommittedRows,
    /// The hints, until they are subscribed to.
    received: Mutex<Option<mpsc::UnboundedReceiver<Hint>>>,
}

/// Reads a URL of this storage.
pub(super) fn target(_: &str, url: Url) -> Result<Target> {
    let config = Config::from_url(url)?;
    let schema = schema::sql(&config);
    Ok(Target::new(|| Postgres::connect(config)).schema(schema))
}

impl Postgres {
    /// Connects, finds out what the server can promise, and makes the tables if they are missing.
    ///
    /// # Errors
    ///
    /// `Invalid` if a file of the URL cannot be used or the server refuses the password. `Unavailable` if no primary
    /// answers. `Unsupported` if the tables are missing and the user may not make them, or if they are not Leasehold's.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection. The tables may have been made.
    pub async fn connect(config: Config) -> Result<Self> {
        let config = Arc::new(config);
        let (hinter, received) = Hinter::new();
        let changed = Arc::clone(&hinter);
        let links = Links::new(LinkConnector::new(&config)?, move || changed.send(Hint::Restarted));
        let link = links.main.link().await?;
        let client_key = Owner::random().to_bytes()[..8].try_into().map(i64::from_be_bytes);
        let client_key = client_key.expect("BUG: eight bytes");
        Ok(Self {
            guarantees: link.facts.guarantees(config.notify.or(!link.pooled)),
            clock: Clock::boot(),
            links,
            client: format!("{client_key:016x}"),
            client_key,
            hinter,
            waiters: Arc::default(),
            uncommitted: UncommittedRows::default(),
            received: Mutex::new(Some(received)),
            config,
        })
    }

    fn call<'a>(&'a self, server: &'a Server, link: &'a Link, sent: Moment) -> Call<'a> {
        Call {
            server,
            link,
            sent,
            space: &self.config.space,
            client: &self.client,
            client_key: Some(self.client_key),
            hinter: &self.hinter,
            waiters: &self.waiters,
            uncommitted: &self.uncommitted,
        }
    }

    async fn send_acquire(&self, claims: &[Claim], sent: Moment) -> Vec<Result<AcquireReply>> {
        if claims.is_empty() {
            return Vec::new();
        }
        let acquiring = async {
            // Without a connection nothing is sent.
            let (server, link) = self.links.for_acquire().await.map_err(Error::definite)?;
            acquire::acquire(self.call(server, &link, sent), claims).await
        };
        for_each_claim(claims, acquiring.await)
    }

    /// Releases over the connection for leases. A release that finds nothing over the side connection is retried on the main
    /// one, behind any acquire in flight.
    async fn send_release(&self, claims: &[Claim], sent: Moment) -> Result<Vec<Result<ReleaseReply>>> {
        let (server, link) = self.links.for_lease().await?;
        if std::ptr::eq(server, &*self.links.main) {
            return release::release(self.call(server, &link, sent), claims).await;
        }
        let on_side = Call { client_key: None, ..self.call(server, &link, sent) };
        let mut replies = release::release(on_side, claims).await?;
        let is_missing = |reply: &Result<ReleaseReply>| matches!(reply, Ok(ReleaseReply::NotHeld));
        let missing: Vec<_> = (0..replies.len()).filter(|i| is_missing(&replies[*i])).collect();
        if !missing.is_empty() {
            let again: Vec<_> = missing.iter().map(|i| claims[*i].clone()).collect();
            let (server, link) = self.links.for_acquire().await?;
            let retried = release::release(self.call(server, &link, sent), &again).await?;
            missing.into_iter().zip(retried).for_each(|(i, reply)| replies[i] = reply);
        }
        Ok(replies)
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Shows the servers, and no user or password.
impl fmt::Display for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.config)
    }
}

impl Storage for Postgres {
    fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<AcquireReply>> {
        let sent = self.clock.now();
        let link = self.links.main.open_link().filter(|link| link.facts.identity.is_known());
        let split = self.waiters.split(claims, sent, link.as_ref().map(|link| &link.facts.identity));
        let of_rest = self.send_acquire(&split.rest, sent).await;
        let replies = split.merge(of_rest);
        self.waiters.remove_granted(claims, &replies);
        replies
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<RenewReply>> {
        let sent = self.clock.now();
        let renewing = async {
            let (server, link) = self.links.for_lease().await?;
            renew::renew(self.call(server, &link, sent), claims).await
        };
        for_each_claim(claims, renewing.await)
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        self.waiters.remove(claims.iter().map(|claim| &claim.owner));
        for_each_claim(claims, self.send_release(claims, self.clock.now()).await)
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        inspect::inspect(&*self.links.main.link().await?, &self.config.space, name).await
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        inspect::list(&*self.links.main.link().await?, &self.config.space, prefix, after, limit).await
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        Ok(self.links.main.link().await?.findings(&self.config))
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        self.hinter.watch(added, removed);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (received, self.guarantees.push) {
            (Some(received), true) => {
                let listener = Listener {
                    links: self.links.clone(),
                    config: Arc::clone(&self.config),
                    client: self.client.clone(),
                    hinter: Arc::clone(&self.hinter),
                    waiters: Arc::clone(&self.waiters),
                };
                listener.stream(received).left_stream()
            }
            // Without notifications, the only hint is that the server is another one.
            (Some(received), false) => {
                let next = async |mut received: mpsc::UnboundedReceiver<Hint>| {
                    Some((received.recv().await?, received))
                };
                stream::unfold(received, next).left_stream().right_stream()
            }
            (None, _) => stream::pending().right_stream().right_stream(),
        }
    }
}
