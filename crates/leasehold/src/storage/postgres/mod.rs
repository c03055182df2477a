#![doc = include_str!("README.md")]

mod answers;
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
mod link;
mod login;
mod passfile;
mod refused;
mod schema;
mod ssl;
mod statements;
mod wire;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures_core::Stream;
use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::mpsc;

use self::claims::Around;
pub use self::config::Config;
pub use self::fence::Fence;
use self::hints::Listener;
use self::link::{Door, Link, Server};
pub use super::Finding;
use super::net::hints::Hinter;
use super::{Acquire, Claim, Guarantees, Hint, Holder, Limits, Name, Owner, Release, Renew, Storage};
use crate::clock::Clock;
use crate::error::Result;

/// Keeps locks in PostgreSQL.
pub struct Postgres {
    config: Arc<Config>,
    guarantees: Guarantees,
    clock: Clock,
    server: Arc<Server>,
    /// What this client's channel is called; random.
    client: String,
    /// The same as a number.
    key: i64,
    hinter: Arc<Hinter>,
    received: Mutex<Option<mpsc::UnboundedReceiver<Hint>>>,
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
        let server = Server::new(door, move || changed.send(Hint::Restarted));
        let link = server.link().await?;
        let key = Owner::random().to_bytes()[..8].try_into().map(i64::from_be_bytes);
        let key = key.expect("BUG: eight bytes");
        Ok(Self {
            guarantees: link.facts.guarantees(config.notify.or(!link.pooled)),
            clock: Clock::boot(),
            server,
            client: format!("{key:016x}"),
            key,
            hinter,
            received: Mutex::new(Some(received)),
            config,
        })
    }

    /// Says what the server is, and what to change for it to promise more.
    ///
    /// # Errors
    ///
    /// As [`Postgres::connect`], if no server answers.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn findings(&self) -> Result<Vec<Finding>> {
        Ok(self.server.link().await?.findings(&self.config))
    }

    /// Returns what makes the tables of that URL and gives its user the rights that locking needs, for those who keep the
    /// schema themselves. No I/O.
    pub fn schema(config: &Config) -> String {
        schema::sql(config)
    }

    fn around(&self) -> Around<'_> {
        Around {
            space: &self.config.space,
            client: &self.client,
            key: self.key,
            listening: self.hinter.is_listening(),
        }
    }

    /// Answers each claim; with the same error, if the whole call failed.
    async fn each<T>(
        &self,
        claims: &[Claim],
        ask: impl AsyncFnOnce(&Server, &Link, Around<'_>) -> Result<Vec<Result<T>>>,
    ) -> Vec<Result<T>> {
        let asking = async {
            let link = self.server.link().await?;
            ask(&self.server, &link, self.around()).await
        };
        asking.await.unwrap_or_else(|error| claims.iter().map(|_| Err(error.clone())).collect())
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

    async fn acquire(&self, claims: &[Claim]) -> Vec<Result<Acquire>> {
        let sent = self.clock.now();
        let ask = async |server: &Server, link: &Link, around: Around<'_>| {
            claims::acquire(server, link, around, claims, sent).await
        };
        self.each(claims, ask).await
    }

    async fn renew(&self, claims: &[Claim]) -> Vec<Result<Renew>> {
        let sent = self.clock.now();
        let ask = async |server: &Server, link: &Link, around: Around<'_>| {
            claims::renew(server, link, around, claims, sent).await
        };
        self.each(claims, ask).await
    }

    async fn release(&self, claims: &[Claim]) -> Vec<Result<Release>> {
        let sent = self.clock.now();
        let ask = async |server: &Server, link: &Link, around: Around<'_>| {
            claims::release(server, link, around, claims, sent).await
        };
        self.each(claims, ask).await
    }

    async fn inspect(&self, name: &Name) -> Result<Option<Holder>> {
        claims::inspect(&*self.server.link().await?, &self.config.space, name).await
    }

    async fn list(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Result<Vec<Holder>> {
        claims::list(&*self.server.link().await?, &self.config.space, prefix, after, limit).await
    }

    fn watch(&self, names: &[Name]) {
        self.hinter.watch(names);
    }

    fn hints(&self) -> impl Stream<Item = Hint> + Send + 'static {
        let received = self.received.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (received, self.guarantees.push) {
            (Some(received), true) => {
                let listener = Listener {
                    server: Arc::clone(&self.server),
                    config: Arc::clone(&self.config),
                    client: self.client.clone(),
                    hinter: Arc::clone(&self.hinter),
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
