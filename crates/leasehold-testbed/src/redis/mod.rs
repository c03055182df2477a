//! Redis: one server, several independent ones, a primary with a replica and Sentinels, or a Cluster.

mod cluster;
mod options;
pub mod proxy;
mod resp;
mod sentinel;
mod setups;
mod slots;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

pub use self::cluster::{RedisCluster, RedisClusterOptions};
pub use self::options::RedisOptions;
pub use self::proxy::RedisProxy;
pub use self::sentinel::{RedisSentinels, Sentinel};
pub(crate) use self::setups::SETUPS;
pub use self::slots::Migration;
use crate::client::ask;
use crate::ports::Port;
use crate::process::Server;
use crate::tls::Tls;
use crate::wait::until;
use crate::{Error, Result, install};

/// One `redis-server`. It has all methods of [`Server`].
#[derive(Debug)]
pub struct Redis {
    server: Server,
    address: Address,
}

impl Redis {
    /// Starts a server with the default options.
    ///
    /// # Errors
    ///
    /// If it is not installed, or does not start.
    pub fn start() -> Result<Self> {
        Self::options().start()
    }

    /// Starts three independent servers.
    ///
    /// # Errors
    ///
    /// As [`Redis::start`].
    pub fn three() -> Result<Vec<Self>> {
        (0..3).map(|_| Self::start()).collect()
    }

    /// Returns the default options.
    #[must_use]
    pub fn options() -> RedisOptions {
        RedisOptions::default()
    }

    /// Returns its URL: `redis://`, or `rediss://` with TLS.
    #[must_use]
    pub fn url(&self) -> String {
        self.address.url()
    }

    /// Returns its URL for another user, such as one of [`RedisOptions::acl`].
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.address.clone().with_user(user, password).url()
    }

    /// Returns the URL of its Unix socket: `redis+unix://`, if it has one.
    #[must_use]
    pub fn socket_url(&self) -> Option<String> {
        let socket = self.address.socket.as_ref()?;
        Some(format!("redis+unix://{}{}", self.address.credentials(), socket.display()))
    }

    /// Returns its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port.number()
    }

    /// Returns the certificates, if it uses TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&Tls> {
        self.address.tls.as_ref()
    }

    /// Sends a command through `redis-cli`.
    ///
    /// # Errors
    ///
    /// If it is refused, or not answered for ten seconds.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        self.address.command(args)
    }

    /// Sends a command as another user.
    ///
    /// # Errors
    ///
    /// As [`Redis::command`].
    pub fn command_as(&self, user: &str, password: &str, args: &[&str]) -> Result<String> {
        self.address.clone().with_user(user, password).command(args)
    }

    /// Sends a command, and returns the answer in the form for people: numbered lines, and strings in quotes with `\x00`
    /// for bytes that cannot be printed. An argument in quotes is unquoted first. So keys with any bytes can be listed, and
    /// named again.
    ///
    /// # Errors
    ///
    /// As [`Redis::command`].
    pub fn quoted(&self, args: &[&str]) -> Result<String> {
        // An argument that is empty or contains a space needs quotes.
        let args: Vec<_> = args.iter().map(|arg| quote(arg)).collect();
        let args: Vec<_> = args.iter().map(|arg| &**arg).collect();
        self.address.ask(&["--no-raw", "--quoted-input"], &args)
    }

    /// Counts the connections of clients, without the one that asks.
    ///
    /// # Errors
    ///
    /// As [`Redis::command`].
    pub fn connections(&self) -> Result<u64> {
        Ok(number(&self.info("clients")?, "connected_clients")?.saturating_sub(1))
    }

    /// Counts the commands since the start, without those that count.
    ///
    /// # Errors
    ///
    /// As [`Redis::command`].
    pub fn commands(&self) -> Result<u64> {
        Ok(self.command_counts()?.values().sum())
    }

    /// Counts the commands since the start by name, including those of scripts, without those that count.
    ///
    /// # Errors
    ///
    /// As [`Redis::command`].
    pub fn command_counts(&self) -> Result<BTreeMap<String, u64>> {
        let mut counts = BTreeMap::new();
        for line in self.info("commandstats")?.lines() {
            let Some((name, stats)) = line.strip_prefix("cmdstat_").and_then(|line| line.split_once(':'))
            else {
                continue;
            };
            let calls = stats.split(',').find_map(|stat| stat.strip_prefix("calls=")?.parse().ok());
            if !["info", "auth"].contains(&name) {
                counts.insert(name.to_owned(), calls.unwrap_or(0));
            }
        }
        Ok(counts)
    }

    /// Returns a section of `INFO`.
    ///
    /// # Errors
    ///
    /// As [`Redis::command`].
    pub fn info(&self, section: &str) -> Result<String> {
        self.command(&["info", section])
    }

    /// Makes a replica a primary. Other servers are not informed.
    ///
    /// # Errors
    ///
    /// As [`Redis::command`].
    pub fn promote(&self) -> Result<()> {
        self.command(&["replicaof", "no", "one"])?;
        until("the replica to be a primary", || match self.is_primary()? {
            true => Ok(()),
            false => Err(Error::new("it is a replica")),
        })
    }

    /// Returns `true` if it is a primary, in its own view.
    ///
    /// # Errors
    ///
    /// As [`Redis::command`].
    pub fn is_primary(&self) -> Result<bool> {
        Ok(value(&self.info("replication")?, "role") == Some("master"))
    }

    /// Waits until at least `n` replicas follow it.
    ///
    /// # Errors
    ///
    /// If they do not.
    pub fn await_replicas(&self, n: usize) -> Result<()> {
        until("the replicas to follow", || {
            let info = self.info("replication")?;
            match info.lines().filter(|line| line.contains("state=online")).count() {
                online if online >= n => Ok(()),
                online => Err(Error::new(format!("{online} follow"))),
            }
        })
    }
}

impl Deref for Redis {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

/// The time in ms after which a server counts as failed. A Sentinel first checks a primary one second after it has learned
/// of it, so a shorter time would sometimes depose a healthy primary.
const MISSED_MS: &str = "2000";

/// The address of a server, and the access to it.
#[derive(Clone, Debug)]
struct Address {
    port: Arc<Port>,
    socket: Option<PathBuf>,
    user: Option<String>,
    password: Option<String>,
    tls: Option<Tls>,
}

impl Address {
    fn url(&self) -> String {
        let scheme = if self.tls.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://{}{}/0", self.credentials(), self.host())
    }

    fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port.number())
    }

    fn credentials(&self) -> String {
        match &self.password {
            Some(password) => format!("{}:{password}@", self.user.as_deref().unwrap_or_default()),
            None => String::new(),
        }
    }

    fn with_user(mut self, user: &str, password: &str) -> Self {
        self.user = Some(user.to_owned());
        self.password = Some(password.to_owned());
        self
    }

    fn command(&self, args: &[&str]) -> Result<String> {
        self.ask(&[], args)
    }

    fn ask(&self, options: &[&str], args: &[&str]) -> Result<String> {
        let mut command = Command::new(install::program("redis-cli")?);
        command.args(["-e", "-p", &self.port.number().to_string()]).args(options);
        if let Some(user) = &self.user {
            command.args(["--user", user]);
        }
        if let Some(password) = &self.password {
            command.env("REDISCLI_AUTH", password);
        }
        if let Some(tls) = &self.tls {
            command.arg("--tls").arg("--cacert").arg(tls.ca());
            // A certificate that is not required does no harm.
            command.arg("--cert").arg(tls.client_cert()).arg("--key").arg(tls.client_key());
        }
        ask(command.args(args))
    }
}

fn quote(arg: &str) -> Cow<'_, str> {
    if arg.starts_with('"') {
        return Cow::Borrowed(arg);
    }
    Cow::Owned(format!("\"{}\"", arg.replace('\\', "\\\\").replace('"', "\\\"")))
}

/// Reads `name:value` in a reply to `INFO`.
fn value<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

fn number(info: &str, name: &str) -> Result<u64> {
    let number = value(info, name).and_then(|value| value.parse().ok());
    number.ok_or_else(|| Error::new(format!("INFO does not tell name=`{name}`")))
}
