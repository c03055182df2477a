//! PostgreSQL: one server, or a primary and a streaming standby.

use std::ops::Deref;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustix::process::Signal;

use crate::client::{ask, work};
use crate::error::Context as _;
use crate::install::{self, User};
use crate::ports::{Port, retry_ports};
use crate::process::{Program, Server};
use crate::scratch::Scratch;
use crate::tls::Tls;
use crate::wait::until;
use crate::{Error, Result};

/// Is one PostgreSQL, with the user and the database `leasehold`. What [`Server`] can do, it can; what is done to
/// it is done to all its processes.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    address: Address,
    scratch: Scratch,
    options: PostgresOptions,
}

/// Configures a [`Postgres`]. By default it trusts everybody on the loopback interface, and writes to disk before
/// it answers.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    password: Option<String>,
    tls: bool,
    settings: Vec<(String, String)>,
}

/// Is a primary and the standbys that follow it.
#[derive(Debug)]
#[non_exhaustive]
pub struct PostgresPair {
    /// The one that is written to, until another is promoted.
    pub primary: Postgres,
    /// The one that follows.
    pub standby: Postgres,
}

impl Postgres {
    /// Starts one with the default options.
    ///
    /// # Errors
    ///
    /// If it is not installed, or does not start.
    pub fn start() -> Result<Self> {
        Self::options().start()
    }

    /// Begins with the defaults.
    #[must_use]
    pub fn options() -> PostgresOptions {
        PostgresOptions::default()
    }

    /// Returns its URL: `postgres://`. With TLS it says `sslmode=verify-full`, and the client has to trust
    /// [`Tls::ca`].
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("leasehold")
    }

    /// Returns the URL of another database of it.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        self.address.url(database)
    }

    /// Makes an empty database for a test of its own, and returns its URL.
    ///
    /// # Errors
    ///
    /// If it is refused.
    pub fn database(&self, name: &str) -> Result<String> {
        self.sql(&format!("create database \"{name}\""))?;
        Ok(self.url_of(name))
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

    /// Runs statements through `psql`, as a superuser, and returns the rows: columns are separated by `|`.
    ///
    /// # Errors
    ///
    /// If one fails, or nobody answers for ten seconds.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.address.sql(sql)
    }

    /// Counts the connections of clients, other than the one that asks.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn connections(&self) -> Result<u64> {
        self.number(
            "select count(*) from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()",
        )
    }

    /// Counts the statements since it started, without those that ask for it; it remembers 5000 texts of them.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn commands(&self) -> Result<u64> {
        self.number(
            "select coalesce(sum(calls), 0)::bigint from pg_stat_statements where query not like '%pg_stat_statements%'",
        )
    }

    /// Counts the transactions in all databases since it was made, those that ask too.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn transactions(&self) -> Result<u64> {
        self.number("select sum(xact_commit + xact_rollback)::bigint from pg_stat_database")
    }

    /// Makes a standby of it, which streams from it.
    ///
    /// # Errors
    ///
    /// If it cannot be copied, or does not start.
    pub fn start_standby(&self) -> Result<Self> {
        let name = "standby";
        let directory = self.scratch.directory(name, &User::not_root()?)?;
        let mut command = User::not_root()?.command(&install::program("pg_basebackup")?)?;
        command
            .args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"])
            .arg(format!("--dbname={}", self.address.conninfo("postgres")))
            .arg("--pgdata=data")
            .current_dir(&directory);
        self.address.authenticate(&mut command);
        work(&command)?;
        retry_ports(|| {
            let address = Address { port: Port::free()?.into(), ..self.address.clone() };
            self.options.launch(&self.scratch, &directory, address)
        })
    }

    /// Makes a standby a primary. Nobody tells the others.
    ///
    /// # Errors
    ///
    /// If it is none, or does not become one.
    pub fn promote(&self) -> Result<()> {
        self.sql("select pg_promote(wait => false)")?;
        until("the standby to be a primary", || match self.is_primary()? {
            true => Ok(()),
            false => Err(Error::new("it is a standby")),
        })
    }

    /// Whether it is a primary.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn is_primary(&self) -> Result<bool> {
        Ok(self.sql("select pg_is_in_recovery()")? == "f")
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    pub(crate) fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    fn number(&self, sql: &str) -> Result<u64> {
        let answer = self.sql(sql)?;
        answer.parse().map_err(|_| Error::new(format!("not a number answer=`{answer}`")))
    }
}

impl Deref for Postgres {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

impl PostgresPair {
    /// Starts a primary and a standby with the default options.
    ///
    /// # Errors
    ///
    /// If one does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(Postgres::options())
    }

    /// Starts a primary and a standby with these options.
    ///
    /// # Errors
    ///
    /// If one does not start.
    pub fn start_with(options: PostgresOptions) -> Result<Self> {
        let primary = options.start()?;
        let standby = primary.start_standby()?;
        let pair = Self { primary, standby };
        pair.await_caught_up()?;
        Ok(pair)
    }

    /// Returns the URL that names both, and wants the one that can be written to.
    #[must_use]
    pub fn url(&self) -> String {
        let primary = &self.primary.address;
        let options = primary.query(&["target_session_attrs=read-write"]);
        format!(
            "postgres://{}127.0.0.1:{},127.0.0.1:{}/leasehold{options}",
            primary.credentials(),
            self.primary.port(),
            self.standby.port(),
        )
    }

    /// Waits until the standby has all that the primary has written until now.
    ///
    /// # Errors
    ///
    /// If it does not follow.
    pub fn await_caught_up(&self) -> Result<()> {
        let written = self.primary.sql("select pg_current_wal_lsn()")?;
        until("the standby to catch up", || {
            let sql = format!("select pg_last_wal_replay_lsn() >= '{written}'");
            match self.standby.sql(&sql)?.as_str() {
                "t" => Ok(()),
                _ => Err(Error::new("it is behind")),
            }
        })
    }
}

impl PostgresOptions {
    /// Asks for a password (SCRAM), of the user `leasehold`.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Speaks TLS only.
    #[must_use]
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Sets what `postgresql.conf` sets, which wins over those before it.
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
    pub fn start(self) -> Result<Postgres> {
        install::program("psql")?;
        let scratch = Scratch::new()?;
        let directory = scratch.directory("postgres", &User::not_root()?)?;
        self.init(&scratch, &directory)?;
        let tls = if self.tls { Some(Tls::in_scratch(&scratch)?) } else { None };
        let postgres = retry_ports(|| {
            let address =
                Address { port: Port::free()?.into(), password: self.password.clone(), tls: tls.clone() };
            self.launch(&scratch, &directory, address)
        })?;
        postgres.address.sql_in("postgres", "create database leasehold")?;
        postgres.sql("create extension pg_stat_statements")?;
        Ok(postgres)
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
            let text = text.replace("\nhost ", "\nhostssl ");
            std::fs::write(&rules, text).context("cannot write the rules")?;
        }
        Ok(())
    }

    fn launch(&self, scratch: &Scratch, directory: &Path, address: Address) -> Result<Postgres> {
        let user = User::not_root()?;
        let program = Program {
            name: "postgres",
            args: self.args(scratch, &address, &user)?.into_iter().map(Into::into).collect(),
            user,
            // With SIGTERM it would wait for its clients.
            terminate: Signal::INT,
            directory: directory.to_owned(),
        };
        let asked = address.clone();
        let server = Server::start(scratch, program, move || asked.sql_in("postgres", "select 1").map(drop))?;
        Ok(Postgres { server, address, scratch: scratch.clone(), options: self.clone() })
    }

    fn args(&self, scratch: &Scratch, address: &Address, user: &User) -> Result<Vec<String>> {
        let mut settings = vec![
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", address.port.number().to_string()),
            ("unix_socket_directories", String::new()),
            ("max_connections", "200".to_owned()),
            ("shared_buffers", "16MB".to_owned()),
            ("shared_preload_libraries", "pg_stat_statements".to_owned()),
            ("pg_stat_statements.track_utility", "on".to_owned()),
            ("wal_level", "replica".to_owned()),
            ("hot_standby", "on".to_owned()),
            ("autovacuum_naptime", "10s".to_owned()),
        ];
        if let Some(tls) = &address.tls {
            // It insists that nobody else reads the key.
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

/// How to reach one.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) port: Arc<Port>,
    pub(crate) password: Option<String>,
    pub(crate) tls: Option<Tls>,
}

impl Address {
    pub(crate) fn url(&self, database: &str) -> String {
        let port = self.port.number();
        format!("postgres://{}127.0.0.1:{port}/{database}{}", self.credentials(), self.query(&[]))
    }

    fn credentials(&self) -> String {
        match &self.password {
            Some(password) => format!("leasehold:{password}@"),
            None => "leasehold@".to_owned(),
        }
    }

    fn query(&self, options: &[&str]) -> String {
        let tls = self.tls.is_some().then_some("sslmode=verify-full");
        let options: Vec<_> = options.iter().copied().chain(tls).collect();
        if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) }
    }

    pub(crate) fn sql(&self, sql: &str) -> Result<String> {
        self.sql_in("leasehold", sql)
    }

    pub(crate) fn sql_in(&self, database: &str, sql: &str) -> Result<String> {
        let mut command = Command::new(install::program("psql")?);
        command.args([
            "-X",
            "-A",
            "-t",
            "-q",
            "-v",
            "ON_ERROR_STOP=1",
            "-d",
            &self.conninfo(database),
            "-c",
            sql,
        ]);
        self.authenticate(&mut command);
        ask(&command)
    }

    fn conninfo(&self, database: &str) -> String {
        let port = self.port.number();
        let tls = match &self.tls {
            Some(tls) => format!(" sslmode=verify-full sslrootcert={}", tls.ca().display()),
            None => " sslmode=disable".to_owned(),
        };
        format!("host=127.0.0.1 port={port} user=leasehold dbname={database} connect_timeout=5{tls}")
    }

    /// Not on a command line, which everybody can read.
    fn authenticate(&self, command: &mut Command) {
        command.env("PGPASSFILE", "/dev/null");
        if let Some(password) = &self.password {
            command.env("PGPASSWORD", password);
        }
    }
}
