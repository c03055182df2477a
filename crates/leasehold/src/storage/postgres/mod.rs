#![doc = include_str!("README.md")]

mod answers;
mod apart;
mod certificate;
mod claims;
mod config;
mod connect;
mod explain;
mod facts;
mod fence;
mod findings;
mod hints;
mod hosts;
mod line;
mod link;
mod links;
mod login;
mod passfile;
mod qualify;
mod refused;
mod schema;
mod ssl;
mod standbys;
mod statements;
mod waiting;
mod wire;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::mpsc;

use self::apart::Blocked;
use self::claims::Around;
pub use self::config::Config;
pub use self::fence::Fence;
use self::hints::Listener;
use self::link::{Door, Link, Server};
use self::links::Links;
use self::waiting::Waiting;
use super::net::hints::Hinter;
use super::target::Target;
use super::url::Url;
use super::{
    AcquireReply, Claim, Finding, Guarantees, Hint, Holder, Limits, Name, Owner, ReleaseReply, RenewReply,
    Storage,
};
use crate::clock::{Clock, Moment};
use crate::error::{Error, Result};

/// Keeps locks in PostgreSQL.
pub struct Postgres {
    config: Arc<Config>,
    guarantees: Guarantees,
    clock: Clock,
    links: Links,
    /// What this client's channel is called; random.
    client: String,
    /// The same as a number.
    key: i64,
    hinter: Arc<Hinter>,
    waiting: Arc<Waiting>,
    blocked: Blocked,
    received: Mutex<Option<mpsc::UnboundedReceiver<Hint>>>,
}

/// Reads a URL of this storage.
pub(super) fn target(_: &str, url: Url) -> Result<Target> {
    let config = Config::from_url(url)?;
    let schema = schema::sql(&config);
    Ok(Target::new(|| Postgres::connect(config)).schema(schema))
}

impl Postgres {
    /// Connects, asks the server what can be promised, and makes the tables if there are none.
    ///
    /// # Errors
    ///
    /// `Invalid` if a file of the URL cannot be used or the server refuses the password. `Unavailable` if no primary
    /// answers. `Unsupported` if the tables are missing and the user may not make them, or are not ours.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection again. The tables may have been made.
    pub async fn connect(config: Config) -> Result<Self> {
        let config = Arc::new(config);
        let (hinter, received) = Hinter::new();
        let door = Door::new(&config)?;
        let changed = Arc::clone(&hinter);
        let links = Links::new(door, move || changed.send(Hint::Restarted));
        let link = links.first.link().await?;
        let key = Owner::random().to_bytes()[..8].try_into().map(i64::from_be_bytes);
        let key = key.expect("BUG: eight bytes");
        Ok(Self {
            guarantees: link.facts.guarantees(config.notify.or(!link.pooled)),
            clock: Clock::boot(),
            links,
            client: format!("{key:016x}"),
            key,
            hinter,
            waiting: Arc::default(),
            blocked: Blocked::default(),
            received: Mutex::new(Some(received)),
            config,
        })
    }

    fn around<'a>(&'a self, server: &'a Server, link: &'a Link, sent: Moment) -> Around<'a> {
        Around {
            server,
            link,
            sent,
            space: &self.config.space,
            client: &self.client,
            key: Some(self.key),
            hinter: &self.hinter,
            waiting: &self.waiting,
            blocked: &self.blocked,
        }
    }

    async fn ask(&self, claims: &[Claim], sent: Moment) -> Vec<Result<AcquireReply>> {
        let asking = async {
            // Without a connection nothing is sent.
            let (server, link) = self.links.acquiring().await.map_err(Error::definite)?;
            claims::acquire(self.around(server, &link, sent), claims).await
        };
        each(claims, asking.await)
    }

    /// Asks for the claims that are not answered by what their owners have inherited; the answers to all.
    async fn ask_for_the_rest(
        &self,
        claims: &[Claim],
        sent: Moment,
        inherited: Vec<(usize, AcquireReply)>,
    ) -> Vec<Result<AcquireReply>> {
        let is_open = |i: usize| inherited.iter().all(|(place, _)| *place != i);
        let rest = claims.iter().enumerate().filter(|(i, _)| is_open(*i));
        let (places, rest): (Vec<_>, Vec<_>) = rest.map(|(i, claim)| (i, claim.clone())).unzip();
        let asked = if rest.is_empty() { Vec::new() } else { self.ask(&rest, sent).await };
        let inherited = inherited.into_iter().map(|(i, granted)| (i, Ok(granted)));
        let mut answers: Vec<_> = inherited.chain(places.into_iter().zip(asked)).collect();
        answers.sort_by_key(|(i, _)| *i);
        answers.into_iter().map(|(_, answer)| answer).collect()
    }

    /// Releases over whichever connection is for that. What it does not find may be on its way over the first: there
    /// it is asked again, behind that.
    async fn let_go(&self, claims: &[Claim], sent: Moment) -> Result<Vec<Result<ReleaseReply>>> {
        let (server, link) = self.links.keeping().await?;
        if std::ptr::eq(server, &*self.links.first) {
            return claims::release(self.around(server, &link, sent), claims).await;
        }
        let aside = Around { key: None, ..self.around(server, &link, sent) };
        let mut answers = claims::release(aside, claims).await?;
        let missing = |answer: &Result<ReleaseReply>| matches!(answer, Ok(ReleaseReply::NotHeld));
        let places: Vec<_> = (0..answers.len()).filter(|i| missing(&answers[*i])).collect();
        if !places.is_empty() {
            let again: Vec<_> = places.iter().map(|i| claims[*i].clone()).collect();
            let (server, link) = self.links.acquiring().await?;
            let found = claims::release(self.around(server, &link, sent), &again).await?;
            places.into_iter().zip(found).for_each(|(i, found)| answers[i] = found);
        }
        Ok(answers)
    }
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Shows where it is, and no user or password.
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
        let inherited = match self.links.first.open_link() {
            Some(link) if link.facts.identity.is_known() => {
                self.waiting.inheritance(claims, sent, &link.facts.identity)
            }
            _ => Vec::new(),
        };
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
        let sent = self.clock.now();
        let asking = async {
            let (server, link) = self.links.keeping().await?;
            claims::renew(self.around(server, &link, sent), claims).await
        };
        each(claims, asking.await)
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<ReleaseReply>> {
        self.waiting.forget(claims.iter().map(|claim| &claim.owner));
        each(claims, self.let_go(claims, self.clock.now()).await)
    }

    async fn inspect(&self, name: &Name) -> Result<Option<Holder>> {
        claims::inspect(&*self.links.first.link().await?, &self.config.space, name).await
    }

    async fn list(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Result<Vec<Holder>> {
        claims::list(&*self.links.first.link().await?, &self.config.space, prefix, after, limit).await
    }

    async fn findings(&self) -> Result<Vec<Finding>> {
        Ok(self.links.first.link().await?.findings(&self.config))
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
                    waiting: Arc::clone(&self.waiting),
                };
                listener.stream(received).left_stream()
            }
            // Without notifications only that the server is another one.
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
