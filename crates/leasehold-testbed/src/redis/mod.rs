//! Redis: one server, several that know nothing of each other, a primary with a replica and Sentinels, a Cluster.

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

/// Is one `redis-server`. What [`Server`] can do, it can.
#[derive(Debug)]
pub struct Redis {
    server: Server,
    address: Address,
}

impl Redis {
    /// Starts one with the default options.
    ///
    /// # Errors
    ///
    /// If it is not installed, or does not start.
    pub fn start() -> Result<Self> {
        Self::options().start()
    }

    /// Starts three that know nothing of each other.
    ///
    /// # Errors
    ///
    /// As [`Redis::start`].
    pub fn three() -> Result<Vec<Self>> {
        (0..3).map(|_| Self::start()).collect()
    }

    /// Begins with the defaults.
    #[must_use]
    pub fn options() -> RedisOptions {
        RedisOptions::default()
    }

    /// Returns its URL: `redis://`, or `rediss://` with TLS.
    #[must_use]
    pub fn url(&self) -> String {
        self.address.url()
    }

    /// Returns its URL for another user than its own, such as one of [`RedisOptions::acl`].
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

    /// Sends one command through `redis-cli`.
    ///
    /// # Errors
    ///
    /// If it is refused, or nobody answers for ten seconds.
    pub fn command(&self, args: &[&str]) -> Result<String> {
        self.address.command(args)
    }

    /// Sends one command as another user.
    ///
    /// # Errors
    ///
    /// As [`Redis::command`].
    pub fn command_as(&self, user: &str, password: &str, args: &[&str]) -> Result<String> {
        self.address.clone().with_user(user, password).command(args)
    }

    /// Sends one command, and returns the answer as `redis-cli` shows it to a person: numbered, a string in quotes
    /// with `\x00` for what cannot be printed. An argument in such quotes is sent as what they stand for, so keys with
    /// any bytes can be listed, and named again.
    ///
    /// # Errors
    ///
    /// As [`Redis::command`].
    pub fn quoted(&self, args: &[&str]) -> Result<String> {
        // It takes none without quotes that is empty, or has a space.
        let args: Vec<_> = args.iter().map(|arg| quote(arg)).collect();
        let args: Vec<_> = args.iter().map(|arg| &**arg).collect();
        self.address.ask(&["--no-raw", "--quoted-input"], &args)
    }

    /// Counts the connections of clients, other than the one that asks.
    ///
    /// # Errors
    ///
    /// As [`Redis::command`].
    pub fn connections(&self) -> Result<u64> {
        Ok(number(&self.info("clients")?, "connected_clients")?.saturating_sub(1))
    }

    /// Counts the commands since it started, without those that ask for it.
    ///
    /// # Errors
    ///
    /// As [`Redis::command`].
    pub fn commands(&self) -> Result<u64> {
        Ok(self.command_counts()?.values().sum())
    }

    /// Counts the commands since it started by name, those inside of scripts too, without those that ask for it.
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

    /// Makes a replica a primary. Nobody tells the others.
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

    /// Whether it is a primary, in its own view.
    ///
    /// # Errors
    ///
    /// As [`Redis::command`].
    pub fn is_primary(&self) -> Result<bool> {
        Ok(value(&self.info("replication")?, "role") == Some("master"))
    }

    /// Waits until as many replicas as `n` follow it.
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

/// After so many milliseconds the others count one as failed. A Sentinel asks a primary that it has just got to know
/// for the first time after a second: with no more than that, it would sometimes depose one that is well.
const MISSED_MS: &str = "2000";

/// How to reach one.
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
            // Where none is asked for, it does no harm.
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

/// Reads `name:value` out of `INFO`.
fn value<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

fn number(info: &str, name: &str) -> Result<u64> {
    let number = value(info, name).and_then(|value| value.parse().ok());
    number.ok_or_else(|| Error::new(format!("INFO does not tell name=`{name}`")))
}
