//! PgBouncer in front of a PostgreSQL, in transaction mode.

use std::io::Write as _;
use std::ops::Deref;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::error::Context as _;
use crate::install::User;
use crate::ports::{Port, retry_ports};
use crate::postgres::{Address, Postgres};
use crate::process::{Program, Server};
use crate::{Error, Result};

/// A PgBouncer that lends each client a connection of its PostgreSQL for one transaction at a time. It has
/// the password of the PostgreSQL, and TLS if that has it. Dereferences to its [`Server`].
#[derive(Debug)]
pub struct PgBouncer {
    server: Server,
    address: Address,
    users: PathBuf,
}

impl PgBouncer {
    /// Starts one in front of `postgres`, with ten connections for each database.
    ///
    /// # Errors
    ///
    /// If PgBouncer is not installed, or does not start.
    pub fn start(postgres: &Postgres) -> Result<Self> {
        Self::start_with(postgres, &[])
    }

    /// Starts one in front of `postgres` with these settings, such as `("default_pool_size", "1")`.
    ///
    /// # Errors
    ///
    /// If PgBouncer is not installed, or does not start.
    pub fn start_with(postgres: &Postgres, settings: &[(&str, &str)]) -> Result<Self> {
        let user = User::not_root()?;
        retry_ports(|| {
            let address = Address { port: Port::free()?.into(), ..postgres.address().clone() };
            let name = format!("pgbouncer-{}", address.port.number());
            let scratch = postgres.scratch();
            let directory = scratch.directory(&name, &user)?;
            let password = address.password.clone().unwrap_or_default();
            let users =
                scratch.file(&format!("{name}/users"), &format!("\"leasehold\" \"{password}\"\n"), &user)?;
            let config = config(postgres, &address, settings);
            let program = Program {
                name: "pgbouncer",
                args: vec![scratch.file(&format!("{name}/pgbouncer.ini"), &config, &user)?.into()],
                user: user.clone(),
                env: Vec::new(),
                stale: Vec::new(),
                terminate: Signal::TERM,
                directory,
            };
            let asked = address.clone();
            let server = Server::start(scratch, program, move || asked.sql("select 1").map(drop))?;
            Ok(Self { server, address, users })
        })
    }

    /// Returns its URL, which has the form of a PostgreSQL's.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("leasehold")
    }

    /// Returns the URL of another database.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        self.address.url(database)
    }

    /// Adds another user of the PostgreSQL, and returns the URL for it.
    ///
    /// # Errors
    ///
    /// If PgBouncer does not reload its users.
    pub fn user(&self, name: &str, password: &str) -> Result<String> {
        let users = std::fs::OpenOptions::new().append(true).open(&self.users);
        let written = users.and_then(|mut users| writeln!(users, "\"{name}\" \"{password}\""));
        written.context("cannot add a user")?;
        self.console("reload")?;
        Ok(self.address.clone().with_user(name, password).url("leasehold"))
    }

    /// Returns the port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port.number()
    }

    /// Runs statements through it, as [`Postgres::sql`] does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.address.sql(sql)
    }

    /// Sends a command to its console, for example `show pools`, and returns the rows, with columns
    /// separated by `|`.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub fn console(&self, command: &str) -> Result<String> {
        self.address.sql_in("pgbouncer", command)
    }

    /// Counts the connections of clients, except those to its console.
    ///
    /// # Errors
    ///
    /// As [`PgBouncer::console`].
    pub fn connections(&self) -> Result<u64> {
        let clients = self.console("show clients")?;
        let clients = clients.lines().filter(|line| line.split('|').nth(2) != Some("pgbouncer"));
        Ok(u64::try_from(clients.count()).unwrap_or(u64::MAX))
    }

    /// Counts the statements since its start, except those to its console.
    ///
    /// # Errors
    ///
    /// As [`PgBouncer::console`].
    pub fn commands(&self) -> Result<u64> {
        self.console("show stats_totals")?
            .lines()
            .map(|line| line.split('|').collect::<Vec<_>>())
            .filter(|columns| columns.first() != Some(&"pgbouncer"))
            .map(|columns| {
                let count = columns.get(2).and_then(|count| count.parse::<u64>().ok());
                count.ok_or_else(|| Error::new("PgBouncer does not report its statements"))
            })
            .sum()
    }
}

impl Deref for PgBouncer {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}

fn config(postgres: &Postgres, address: &Address, settings: &[(&str, &str)]) -> String {
    let mut config = format!(
        "[databases]\n\
         * = host=127.0.0.1 port={}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {}\n\
         unix_socket_dir =\n\
         auth_file = users\n\
         auth_type = {}\n\
         admin_users = leasehold\n\
         pool_mode = transaction\n\
         default_pool_size = 10\n\
         max_client_conn = 1000\n\
         server_login_retry = 1\n",
        postgres.port(),
        address.port.number(),
        if address.password.is_some() { "scram-sha-256" } else { "trust" },
    );
    if let Some(tls) = &address.tls {
        config += &format!(
            "client_tls_sslmode = require\nclient_tls_cert_file = {}\nclient_tls_key_file = {}\n\
             server_tls_sslmode = verify-full\nserver_tls_ca_file = {}\n",
            tls.server_cert().display(),
            tls.server_key().display(),
            tls.ca().display(),
        );
    }
    for (name, value) in settings {
        config += &format!("{name} = {value}\n");
    }
    config
}
