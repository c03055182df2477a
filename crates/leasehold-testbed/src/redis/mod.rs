//! Redis: one server, several that know nothing of each other, a primary with a replica and Sentinels, a Cluster.

mod cluster;
mod sentinel;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;

pub use self::cluster::RedisCluster;
pub use self::sentinel::{RedisSentinels, Sentinel};
use crate::client::ask;
use crate::install::{self, User};
use crate::ports::{Port, retry_ports};
use crate::process::{Program, Server};
use crate::scratch::Scratch;
use crate::tls::Tls;
use crate::wait::until;
use crate::{Error, Result};

/// Is one `redis-server`. What [`Server`] can do, it can.
#[derive(Debug)]
pub struct Redis {
    server: Server,
    address: Address,
}

/// Configures a [`Redis`]. By default it keeps every write through a `kill -9`, evicts nothing, asks for no
/// password, and allows `DEBUG`.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    volatile: bool,
    password: Option<String>,
    user: Option<String>,
    tls: bool,
    unix_socket: bool,
    settings: Vec<(String, String)>,
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

impl RedisOptions {
    /// Keeps nothing on disk: a killed server forgets all.
    #[must_use]
    pub fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    /// Asks for a password.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Knows only this user (ACL), with this password.
    #[must_use]
    pub fn user(mut self, user: &str, password: &str) -> Self {
        self.user = Some(user.to_owned());
        self.password(password)
    }

    /// Speaks TLS only.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Also listens on a Unix socket.
    #[must_use]
    pub fn unix_socket(mut self) -> Self {
        self.unix_socket = true;
        self
    }

    /// Forgets keys when its memory is full, as a cache does: what a storage has to notice.
    #[must_use]
    pub fn evicting(self, bytes: u64, policy: &str) -> Self {
        self.setting("maxmemory", &bytes.to_string()).setting("maxmemory-policy", policy)
    }

    /// Adds a line to its configuration, which wins over those before it.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts it.
    ///
    /// # Errors
    ///
    /// If it is not installed, or does not start.
    pub fn start(self) -> Result<Redis> {
        self.start_in(&Scratch::new()?, "redis")
    }

    /// Starts it in a directory `name` of its own.
    fn start_in(self, scratch: &Scratch, name: &str) -> Result<Redis> {
        install::program("redis-cli")?;
        let directory = scratch.directory(name, &User::Own)?;
        let tls = if self.tls { Some(Tls::in_scratch(scratch)?) } else { None };
        retry_ports(|| {
            let address = Address {
                port: Port::free()?.into(),
                socket: self.unix_socket.then(|| directory.join("redis.sock")),
                user: self.user.clone(),
                password: self.password.clone(),
                tls: tls.clone(),
            };
            let config = self.config(&directory, &address);
            let program = Program {
                name: "redis-server",
                args: vec![scratch.file(&format!("{name}.conf"), &config, &User::Own)?.into()],
                user: User::Own,
                terminate: Signal::TERM,
                directory: directory.clone(),
            };
            let asked = address.clone();
            // While it loads its data, it answers with an error.
            let server = Server::start(scratch, program, move || asked.command(&["ping"]).map(drop))?;
            Ok(Redis { server, address })
        })
    }

    /// A file and not arguments: a server that was promoted writes it down there.
    fn config(&self, directory: &Path, address: &Address) -> String {
        let port = address.port.number();
        let mut lines = vec![
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", directory.display()),
            "save \"\"".to_owned(),
            "enable-debug-command yes".to_owned(),
            "repl-diskless-sync-delay 0".to_owned(),
        ];
        if !self.volatile {
            lines.extend(["appendonly yes".to_owned(), "appendfsync always".to_owned()]);
        }
        if let Some(tls) = &address.tls {
            lines.extend([
                "port 0".to_owned(),
                format!("tls-port {port}"),
                format!("tls-cert-file {}", tls.server_cert().display()),
                format!("tls-key-file {}", tls.server_key().display()),
                format!("tls-ca-cert-file {}", tls.ca().display()),
                "tls-auth-clients optional".to_owned(),
                "tls-replication yes".to_owned(),
            ]);
        } else {
            lines.push(format!("port {port}"));
        }
        if let Some(socket) = &address.socket {
            lines.push(format!("unixsocket {}", socket.display()));
        }
        match (&self.user, &self.password) {
            (Some(user), Some(password)) => {
                lines.push("user default off".to_owned());
                lines.push(format!("user {user} on >{password} ~* &* +@all"));
            }
            (None, Some(password)) => {
                lines.extend([format!("requirepass {password}"), format!("masterauth {password}")]);
            }
            _ => {}
        }
        lines.extend(self.settings.iter().map(|(name, value)| format!("{name} {value}")));
        lines.join("\n") + "\n"
    }
}

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

    fn command(&self, args: &[&str]) -> Result<String> {
        let mut command = Command::new(install::program("redis-cli")?);
        command.args(["-e", "-p", &self.port.number().to_string()]);
        if let Some(user) = &self.user {
            command.args(["--user", user]);
        }
        if let Some(password) = &self.password {
            command.env("REDISCLI_AUTH", password);
        }
        if let Some(tls) = &self.tls {
            command.arg("--tls").arg("--cacert").arg(tls.ca());
        }
        ask(command.args(args))
    }
}

/// Reads `name:value` out of `INFO`.
fn value<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim()))
}

fn number(info: &str, name: &str) -> Result<u64> {
    let number = value(info, name).and_then(|value| value.parse().ok());
    number.ok_or_else(|| Error::new(format!("INFO does not tell name=`{name}`")))
}
