//! The options of a PostgreSQL server.

use std::path::Path;

use rustix::process::Signal;

use super::Postgres;
use super::address::{Address, Keys};
use crate::Result;
use crate::client::work;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::error::Context as _;
use crate::install::{self, User};
use crate::ports::{Port, retry_ports};
use crate::process::{Program, Server};
use crate::scratch::Scratch;
use crate::tls::Tls;

/// The options of a [`Postgres`]. By default it accepts every client on the loopback interface, and writes to disk before it
/// answers.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    password: Option<String>,
    tls: bool,
    client_certificates: bool,
    unix_socket: bool,
    own_clock: bool,
    disk: Option<u32>,
    settings: Vec<(String, String)>,
}

impl PostgresOptions {
    /// Sets the password of the user `leasehold`, which is then required (SCRAM).
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Accepts only connections with TLS.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Accepts only connections with TLS and a certificate of the client for its user: [`Tls::client_cert`],
    /// [`Tls::client_key`].
    #[must_use]
    pub fn client_certificates(mut self) -> Self {
        self.client_certificates = true;
        self.tls()
    }

    /// Also listens on a Unix socket: [`Postgres::socket_url`].
    #[must_use]
    pub fn unix_socket(mut self) -> Self {
        self.unix_socket = true;
        self
    }

    /// Gives the server a wall clock of its own, which can be set while it runs: [`Postgres::clock`]. Needs a C compiler.
    #[must_use]
    pub fn own_clock(mut self) -> Self {
        self.own_clock = true;
        self
    }

    /// Gives the server a disk of its own of so many megabytes, which can be filled: [`Postgres::disk`]. Needs root. Nothing
    /// else is on it, and 100 MB are enough to start.
    #[must_use]
    pub fn small_disk(mut self, megabytes: u32) -> Self {
        self.disk = Some(megabytes);
        self
    }

    /// Sets a setting of `postgresql.conf`. A later one of the same name has precedence.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the server.
    ///
    /// # Errors
    ///
    /// If PostgreSQL is not installed, or does not start.
    pub fn start(self) -> Result<Postgres> {
        install::program("psql")?;
        let (scratch, user) = (Scratch::new()?, User::not_root()?);
        let directory = scratch.directory("postgres", &user)?;
        let disk = self.disk_in(&scratch, &directory)?;
        self.init(&scratch, &directory)?;
        let tls = if self.tls { Some(Tls::in_scratch(&scratch)?) } else { None };
        let keys = match &tls {
            Some(tls) if self.client_certificates => Some(Keys::of(tls, &scratch, &user)?),
            _ => None,
        };
        let postgres = retry_ports(|| {
            let address = Address {
                port: Port::free()?.into(),
                socket: self.unix_socket.then(|| directory.clone()),
                user: "leasehold".to_owned(),
                password: self.password.clone(),
                tls: tls.clone(),
                keys: keys.clone(),
            };
            self.launch(&scratch, &directory, address, disk.clone())
        })?;
        postgres.sql_in("postgres", "create database leasehold")?;
        postgres.sql("create extension pg_stat_statements")?;
        Ok(postgres)
    }

    pub(super) fn disk_in(&self, scratch: &Scratch, directory: &Path) -> Result<Option<Disk>> {
        let Some(megabytes) = self.disk else { return Ok(None) };
        let name = directory.strip_prefix(scratch.path()).unwrap_or(directory).join("data");
        let at = scratch.directory(&name.to_string_lossy(), &User::not_root()?)?;
        Disk::mount(&at, megabytes, &User::not_root()?).map(Some)
    }

    fn init(&self, scratch: &Scratch, directory: &Path) -> Result<()> {
        let user = User::not_root()?;
        let mut command = user.command(&install::program("initdb")?)?;
        command
            .args(["--username=leasehold", "--no-sync", "--no-instructions", "--encoding=UTF8", "--locale=C"])
            .arg("--pgdata=data")
            .current_dir(directory);
        if let Some(password) = &self.password {
            command.arg("--pwfile").arg(scratch.file("password", password, &user)?);
            command.arg("--auth=scram-sha-256");
        } else {
            command.arg("--auth=trust");
        }
        work(&command)?;
        if self.tls {
            let rules = directory.join("data/pg_hba.conf");
            let text = std::fs::read_to_string(&rules).context("cannot read the rules")?;
            std::fs::write(&rules, self.rules(&text)).context("cannot write the rules")?;
        }
        Ok(())
    }

    /// Returns the rules of `pg_hba.conf` for connections over the network.
    fn rules(&self, text: &str) -> String {
        let lines = text.lines().map(|line| match line.strip_prefix("host ") {
            Some(rest) if self.client_certificates => format!("hostssl {rest} clientcert=verify-full\n"),
            Some(rest) => format!("hostssl {rest}\n"),
            None => format!("{line}\n"),
        });
        lines.collect()
    }

    pub(super) fn launch(
        &self,
        scratch: &Scratch,
        directory: &Path,
        address: Address,
        disk: Option<Disk>,
    ) -> Result<Postgres> {
        let user = User::not_root()?;
        let name = address.port.number().to_string();
        let clock = if self.own_clock { Some(Clock::in_scratch(scratch, &name)?) } else { None };
        let socket = format!(".s.PGSQL.{}.lock", address.port.number());
        let program = Program {
            name: "postgres",
            args: self.args(scratch, &address, &user)?.into_iter().map(Into::into).collect(),
            env: clock.as_ref().map(Clock::env).unwrap_or_default(),
            // Their process ids may belong to another server by then, and this one would not start.
            stale: vec![directory.join("data/postmaster.pid"), directory.join(socket)],
            user,
            // After SIGTERM it would wait for its clients.
            terminate: Signal::INT,
            directory: directory.to_owned(),
        };
        let asked = address.clone();
        let server = Server::start(scratch, program, move || asked.sql_in("postgres", "select 1").map(drop))?;
        let (directory, scratch) = (directory.to_owned(), scratch.clone());
        Ok(Postgres { server, address, directory, disk, clock, scratch, options: self.clone() })
    }

    fn args(&self, scratch: &Scratch, address: &Address, user: &User) -> Result<Vec<String>> {
        let socket = address.socket.as_ref().map(|directory| directory.display().to_string());
        let mut settings = vec![
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", address.port.number().to_string()),
            ("unix_socket_directories", socket.unwrap_or_default()),
            ("max_connections", "200".to_owned()),
            ("shared_buffers", "16MB".to_owned()),
            ("shared_preload_libraries", "pg_stat_statements".to_owned()),
            ("pg_stat_statements.track_utility", "on".to_owned()),
            ("wal_level", "replica".to_owned()),
            ("hot_standby", "on".to_owned()),
            ("wal_retrieve_retry_interval", "100ms".to_owned()),
            ("autovacuum_naptime", "10s".to_owned()),
        ];
        if let Some(tls) = &address.tls {
            // The server refuses a key that others can read.
            let key = std::fs::read_to_string(tls.server_key()).context("cannot read a key")?;
            let key = scratch.file(&format!("key-{}", address.port.number()), &key, user)?;
            settings.extend([
                ("ssl", "on".to_owned()),
                ("ssl_cert_file", tls.server_cert().display().to_string()),
                ("ssl_key_file", key.display().to_string()),
                ("ssl_ca_file", tls.ca().display().to_string()),
            ]);
        }
        settings.extend(self.settings.iter().map(|(name, value)| (name.as_str(), value.clone())));
        let settings =
            settings.into_iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]);
        Ok(["-D".to_owned(), "data".to_owned()].into_iter().chain(settings).collect())
    }
}

impl Keys {
    fn of(tls: &Tls, scratch: &Scratch, user: &User) -> Result<Self> {
        let key = std::fs::read_to_string(tls.client_key()).context("cannot read a key")?;
        Ok(Self {
            own: scratch.file("client-key", &key, &User::Own)?,
            server: scratch.file("client-key-of-server", &key, user)?,
        })
    }
}
