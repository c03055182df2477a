//! The options of a Redis, and its configuration file.

use std::path::Path;

use rustix::process::Signal;

use super::{Address, Redis};
use crate::Result;
use crate::install::{self, User};
use crate::ports::{Port, retry_ports};
use crate::process::{Program, Server};
use crate::scratch::Scratch;
use crate::tls::Tls;

/// The options of a [`Redis`], alone or in a set-up of several. By default it keeps every write through a `kill -9`,
/// evicts nothing, asks for no password, and allows `DEBUG`.
#[derive(Clone, Debug, Default)]
pub struct RedisOptions {
    valkey: bool,
    volatile: bool,
    password: Option<String>,
    user: Option<String>,
    acl: Vec<String>,
    pub(super) sentinel: Credentials,
    pub(super) tls: bool,
    client_certificates: bool,
    unix_socket: bool,
    settings: Vec<(String, String)>,
}

/// The user and password that a Sentinel requires.
#[derive(Clone, Debug, Default)]
pub(super) struct Credentials {
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
}

impl RedisOptions {
    /// Starts Valkey instead, a fork of Redis 7.2, also for the Sentinels.
    #[must_use]
    pub fn valkey(mut self) -> Self {
        self.valkey = true;
        self
    }

    /// Keeps nothing on disk: a killed server forgets everything.
    #[must_use]
    pub fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    /// Requires a password.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Replaces the default user by this one (ACL), which may do everything. Those of [`RedisOptions::acl`] are added.
    #[must_use]
    pub fn user(mut self, user: &str, password: &str) -> Self {
        self.user = Some(user.to_owned());
        self.password(password)
    }

    /// Adds a user with this password and these rules, such as `~leasehold:* &* +@all -eval`. The testbed does not use it.
    /// Its URL is [`Redis::url_as`].
    #[must_use]
    pub fn acl(mut self, user: &str, password: &str, rules: &str) -> Self {
        self.acl.push(format!("user {user} on >{password} {rules}"));
        self
    }

    /// Requires a password at the Sentinels, another one than at the servers.
    #[must_use]
    pub fn sentinel_password(mut self, password: &str) -> Self {
        self.sentinel.password = Some(password.to_owned());
        self
    }

    /// Replaces the default user at the Sentinels by this one (ACL).
    #[must_use]
    pub fn sentinel_user(mut self, user: &str, password: &str) -> Self {
        self.sentinel.user = Some(user.to_owned());
        self.sentinel_password(password)
    }

    /// Accepts only TLS.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Accepts only TLS with a client certificate: [`Tls::client_cert`], [`Tls::client_key`].
    #[must_use]
    pub fn client_certificates(mut self) -> Self {
        self.client_certificates = true;
        self.tls()
    }

    /// Also listens on a Unix socket.
    #[must_use]
    pub fn unix_socket(mut self) -> Self {
        self.unix_socket = true;
        self
    }

    /// Evicts keys when its memory is full, as a cache does.
    #[must_use]
    pub fn evicting(self, bytes: u64, policy: &str) -> Self {
        self.setting("maxmemory", &bytes.to_string()).setting("maxmemory-policy", policy)
    }

    /// Adds a line to its configuration, which overrides those before it.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the server.
    ///
    /// # Errors
    ///
    /// If it is not installed, or does not start.
    pub fn start(self) -> Result<Redis> {
        self.start_in(&Scratch::new()?, "redis")
    }

    /// Starts the server in the directory `name` of `scratch`.
    pub(super) fn start_in(self, scratch: &Scratch, name: &str) -> Result<Redis> {
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
                name: self.program(),
                args: vec![scratch.file(&format!("{name}.conf"), &config, &User::Own)?.into()],
                user: User::Own,
                env: Vec::new(),
                stale: Vec::new(),
                terminate: Signal::TERM,
                directory: directory.clone(),
            };
            let asked = address.clone();
            // A server that loads its data answers with an error.
            let server = Server::start(scratch, program, move || asked.command(&["ping"]).map(drop))?;
            Ok(Redis { server, address })
        })
    }

    /// Returns the program, also for a Sentinel.
    pub(super) fn program(&self) -> &'static str {
        if self.valkey { "valkey-server" } else { "redis-server" }
    }

    /// Returns the configuration file. A server that is promoted writes to it, so arguments are not enough.
    fn config(&self, directory: &Path, address: &Address) -> String {
        let mut lines = vec![
            format!("dir {}", directory.display()),
            "save \"\"".to_owned(),
            "enable-debug-command yes".to_owned(),
            "repl-diskless-sync-delay 0".to_owned(),
        ];
        lines.extend(self.listen(address));
        if !self.volatile {
            lines.extend(["appendonly yes".to_owned(), "appendfsync always".to_owned()]);
        }
        if let Some(socket) = &address.socket {
            lines.push(format!("unixsocket {}", socket.display()));
        }
        match (&self.user, &self.password) {
            (Some(user), Some(password)) => {
                lines.push("user default off".to_owned());
                lines.push(format!("user {user} on >{password} ~* &* +@all"));
                lines.extend([format!("masteruser {user}"), format!("masterauth {password}")]);
            }
            (None, Some(password)) => {
                lines.extend([format!("requirepass {password}"), format!("masterauth {password}")]);
            }
            _ => {}
        }
        lines.extend(self.acl.iter().cloned());
        lines.extend(self.settings.iter().map(|(name, value)| format!("{name} {value}")));
        lines.join("\n") + "\n"
    }

    /// Returns the lines about addresses and TLS, also for a Sentinel.
    pub(super) fn listen(&self, address: &Address) -> Vec<String> {
        let port = address.port.number();
        let mut lines = vec!["bind 127.0.0.1".to_owned()];
        let Some(tls) = &address.tls else {
            lines.push(format!("port {port}"));
            return lines;
        };
        let clients = if self.client_certificates { "yes" } else { "optional" };
        lines.extend([
            "port 0".to_owned(),
            format!("tls-port {port}"),
            format!("tls-cert-file {}", tls.server_cert().display()),
            format!("tls-key-file {}", tls.server_key().display()),
            format!("tls-ca-cert-file {}", tls.ca().display()),
            format!("tls-auth-clients {clients}"),
            "tls-replication yes".to_owned(),
        ]);
        lines
    }
}
