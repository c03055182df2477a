#![doc = include_str!("README.md")]

mod claims;
mod config;
mod explain;
mod facts;
mod fence;
mod findings;
mod hints;
mod link;
mod statements;
mod waiting;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_core::Stream;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use self::claims::Session;
pub use self::config::Config;
use self::facts::Facts;
pub use self::fence::Fence;
use self::hints::Listener;
use self::link::Link;
use self::waiting::Waiting;
use super::net::hints::Hinter;
use super::registry::Target;
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
    /// What handovers to this client begin with; random.
    client: String,
    hinter: Arc<Hinter>,
    waiting: Arc<Waiting>,
    received: Mutex<Option<mpsc::UnboundedReceiver<Hint>>>,
}

/// Reads a URL of this storage.
pub(super) fn target(scheme: &str, url: Url) -> Result<Target> {
    let config = Config::from_url(scheme, &url)?;
    Ok(Target::new(|| MongoDb::connect(config)))
}

impl MongoDb {
    /// Connects, and asks the servers what can be promised. The collection is made with the first lock.
    ///
    /// # Errors
    ///
    /// `Invalid` if a file of the URL cannot be used or the server refuses the password. `Unavailable` if no primary
    /// answers. `Unsupported` if the server is too old, or the collection is not fit for locks.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connections again.
    pub async fn connect(config: Config) -> Result<Self> {
        let config = Arc::new(config);
        let (hinter, received) = Hinter::new();
        let link = Link::open(&config, Arc::clone(&hinter)).await?;
        let facts = Facts::ask(&link).await?;
        facts::check_collection(&link).await?;
        let mut client = Owner::random().to_string();
        client.truncate(16);
        Ok(Self {
            guarantees: facts.guarantees(facts.pushes() && config.notify),
            link: Arc::new(link),
            client,
            hinter,
            waiting: Arc::default(),
            received: Mutex::new(Some(received)),
            config,
        })
    }

    fn session(&self, sent: Moment) -> Session<'_> {
        Session {
            link: &self.link,
            config: &self.config,
            sent,
            client: &self.client,
            hinter: &self.hinter,
            waiting: &self.waiting,
        }
    }

    async fn ask(&self, claims: &[Claim], sent: Moment) -> Vec<Result<AcquireReply>> {
        if claims.is_empty() {
            return Vec::new();
        }
        each(claims, claims::acquire(self.session(sent), claims).await)
    }

    /// Asks for the claims that are not answered by what their owners have inherited; returns the answers to all.
    async fn ask_for_the_rest(
        &self,
        claims: &[Claim],
        sent: Moment,
        inherited: Vec<(usize, AcquireReply)>,
    ) -> Vec<Result<AcquireReply>> {
        let is_open = |i: usize| inherited.iter().all(|(place, _)| *place != i);
        let rest = claims.iter().enumerate().filter(|(i, _)| is_open(*i));
        let (places, rest): (Vec<_>, Vec<_>) = rest.map(|(i, claim)| (i, claim.clone())).unzip();
        let asked = self.ask(&rest, sent).await;
        let inherited = inherited.into_iter().map(|(i, granted)| (i, Ok(granted)));
        let mut answers: Vec<_> = inherited.chain(places.into_iter().zip(asked)).collect();
        answers.sort_by_key(|(i, _)| *i);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }
}

impl fmt::Debug for MongoDb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MongoDb").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Shows where it is, and no user or password.
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
        let inherited = self.waiting.inheritance(claims, sent);
        let answers = match inherited.is_empty() {
            true => self.ask(claims, sent).await,
            false => self.ask_for_the_rest(claims, sent, inherited).await,
        };
        let granted = claims
            .iter()
            .zip(&answers)
            .filter(|(_, answer)| matches!(answer, Ok(AcquireReply::Granted { .. })));
        self.waiting.forget(granted.map(|(claim, _)| &claim.owner));
        answers
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<RenewReply>> {
        if claims.is_empty() {
            return Vec::new();
        }
        each(claims, claims::renew(self.session(self.link.primary.now()), claims).await)
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        if claims.is_empty() {
            return Vec::new();
        }
        self.waiting.forget(claims.iter().map(|claim| &claim.owner));
        each(claims, claims::release(self.session(self.link.primary.now()), claims).await)
    }

    async fn inspect(&self, name: &Name) -> Result<Vec<Holder>> {
        claims::inspect(&self.link, &self.config, name).await
    }

    async fn list(&self, prefix: &str, after: Option<&Cursor>, limit: usize) -> Result<Vec<Holder>> {
        claims::list(&self.link, &self.config, prefix, after, limit).await
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
                    waiting: Arc::clone(&self.waiting),
                };
                listener.stream(received).left_stream()
            }
            // Without a change stream only that another server was elected.
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

/// Answers each claim; with the same error, if the whole call failed.
fn each<T>(claims: &[Claim], answers: Result<Vec<Result<T>>>) -> Vec<Result<T>> {
    answers.unwrap_or_else(|error| claims.iter().map(|_| Err(error.clone())).collect())
}
