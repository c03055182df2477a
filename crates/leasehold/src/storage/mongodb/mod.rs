#![doc = include_str!("README.md")]

// Where to look:
//
// - The calls: `acquire`, `renew`, `release`, `inspect` (which also lists). `call` sends their statements, `replies` reads
//   the documents.
// - The statements: `pipelines` and its folder, whose files explain themselves.
// - Waiters: `net/waiters` knows those of this client, `hints` listens for them, `observed` has the observed names.
//   `uncontended` knows which locks have none.
// - The server: `driver` has the driver's client, and `link` sends commands by it. `primary` knows which server writes, and
//   its clock. `facts` finds out what it promises, `findings` has the lines of `leasehold doctor`.
// - The URL: `config`. Errors: `errors`.
// - `fence` checks a token in a transaction of the caller's.

mod acquire;
mod call;
mod config;
mod driver;
mod errors;
mod facts;
mod fence;
mod findings;
mod hints;
mod inspect;
mod link;
mod observed;
mod pipelines;
mod primary;
mod release;
mod renew;
mod replies;
mod uncontended;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use self::call::Call;
pub use self::config::Config;
use self::facts::Facts;
pub use self::fence::Fence;
use self::hints::Listener;
use self::link::Link;
use self::pipelines::COMMAND_MAX;
use self::uncontended::Uncontended;
use super::net::clock::ServerClock;
use super::net::for_each_claim;
use super::net::hints::Hinter;
use super::net::waiters::LocalWaiters;
use super::target::Target;
use super::url::Url;
use super::{
    AcquireReply, Claim, Cursor, Finding, Guarantees, Hint, Holder, Limits, Name, Owner, ReleaseReply,
    RenewReply, Storage,
};
use crate::clock::Moment;
use crate::error::Result;

/// Keeps locks in MongoDB.
pub struct MongoDb {
    config: Arc<Config>,
    guarantees: Guarantees,
    link: Arc<Link>,
    /// The id of this client, random: what is addressed to it in the change stream begins with that.
    client: String,
    hinter: Arc<Hinter>,
    waiters: Arc<LocalWaiters<()>>,
    uncontended: Uncontended,
    /// The hints, until they are subscribed to.
    received: Mutex<Option<mpsc::UnboundedReceiver<Hint>>>,
}

/// Reads a URL of this storage.
pub(super) fn target(scheme: &str, url: Url) -> Result<Target> {
    let config = Config::from_url(scheme, &url)?;
    Ok(Target::new(|| MongoDb::connect(config)))
}

impl MongoDb {
    /// Connects, and finds out what the servers can promise. The first lock makes the collection.
    ///
    /// # Errors
    ///
    /// `Invalid` if a file of the URL cannot be used or the server refuses the login. `Unavailable` if no primary
    /// answers. `Unsupported` if the server is too old, or if the collection cannot keep locks.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connections.
    pub async fn connect(config: Config) -> Result<Self> {
        let config = Arc::new(config);
        let (hinter, received) = Hinter::new();
        let link = Link::open(&config, Arc::clone(&hinter)).await?;
        let facts = Facts::ask(&link).await?;
        link.check_subject().await?;
        facts::check_collection(&link).await?;
        Ok(Self {
            guarantees: facts.guarantees(facts.pushes() && config.notify),
            link: Arc::new(link),
            client: random_id(),
            hinter,
            waiters: Arc::default(),
            uncontended: Uncontended::default(),
            received: Mutex::new(Some(received)),
            config,
        })
    }

    fn call<'a>(&'a self, id: &'a str, time: &'a ServerClock, sent: Moment) -> Call<'a> {
        Call {
            id,
            time,
            limit: COMMAND_MAX,
            link: &self.link,
            config: &self.config,
            sent,
            client: &self.client,
            hinter: &self.hinter,
            waiters: &self.waiters,
            uncontended: &self.uncontended,
        }
    }

    async fn send_acquire(&self, claims: &[Claim], sent: Moment) -> Vec<Result<AcquireReply>> {
        let (id, time) = (random_id(), self.link.primary.time());
        for_each_claim(claims, acquire::acquire(self.call(&id, &time, sent), claims).await)
    }
}

/// Makes the id of a client or of a call.
fn random_id() -> String {
    let mut id = Owner::random().to_string();
    id.truncate(16);
    id
}

impl fmt::Debug for MongoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoDb").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Shows the servers, and no user or password.
impl fmt::Display for MongoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.config)
    }
}

impl Storage for MongoDb {
    fn guarantees(&self) -> Guarantees {
        self.guarantees
    }

    fn limits(&self) -> Limits {
        Limits::default()
    }

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<AcquireReply>> {
        let sent = self.link.primary.now();
        // A majority has each handover that the change stream reports, so it is valid whichever server made it.
        let split = self.waiters.split(claims, sent, Some(&()));
        let of_rest = self.send_acquire(&split.rest, sent).await;
        let replies = split.merge(of_rest);
        self.waiters.remove_granted(claims, &replies);
        replies
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<RenewReply>> {
        let (id, time) = (random_id(), self.link.primary.time());
        for_each_claim(claims, renew::renew(self.call(&id, &time, self.link.primary.now()), claims).await)
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        self.waiters.remove(claims.iter().map(|claim| &claim.owner));
        let (id, time) = (random_id(), self.link.primary.time());
        for_each_claim(claims, release::release(self.call(&id, &time, self.link.primary.now()), claims).await)
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        inspect::inspect(&self.link, &self.config, name).await
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        inspect::list(&self.link, &self.config, prefix, after, limit).await
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        let facts = Facts::ask(&self.link).await?;
        Ok(facts.findings(&self.config, &self.link.place))
    }

    fn watch(&self, added: &[Name], removed: &[Name]) {
        self.hinter.watch(added, removed);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (received, self.guarantees.push) {
            (Some(received), true) => {
                let listener = Listener {
                    link: Arc::clone(&self.link),
                    config: Arc::clone(&self.config),
                    client: self.client.clone(),
                    hinter: Arc::clone(&self.hinter),
                    waiters: Arc::clone(&self.waiters),
                };
                listener.stream(received).left_stream()
            }
            // Without a change stream, the only hint is that another server was elected.
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
