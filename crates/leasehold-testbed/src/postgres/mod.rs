//! PostgreSQL: one server, or a primary and a streaming standby.

mod address;
mod backup;
mod clients;
mod counts;
mod options;
mod pair;
mod setups;
mod transaction;

use std::ops::Deref;
use std::path::{Path, PathBuf};

pub(crate) use self::address::Address;
pub use self::backup::Backup;
pub use self::counts::{Rows, Statements};
pub use self::options::PostgresOptions;
pub use self::pair::PostgresPair;
pub(crate) use self::setups::SETUPS;
pub use self::transaction::Transaction;
use crate::client::work;
use crate::clock::Clock;
use crate::disk::Disk;
use crate::install::{self, User};
use crate::ports::{Port, retry_ports};
use crate::process::Server;
use crate::scratch::Scratch;
use crate::tls::Tls;
use crate::wait::until;
use crate::{Error, Result};

/// A PostgreSQL server, with the user and the database `leasehold`. Dereferences to its [`Server`]; those methods act on all
/// processes of the server.
#[derive(Debug)]
pub struct Postgres {
    server: Server,
    address: Address,
    directory: PathBuf,
    disk: Option<Disk>,
    clock: Option<Clock>,
    scratch: Scratch,
    options: PostgresOptions,
}

impl Postgres {
    /// Starts a server with the default options.
    ///
    /// # Errors
    ///
    /// If PostgreSQL is not installed, or does not start.
    pub fn start() -> Result<Self> {
        Self::options().start()
    }

    /// Returns the default options.
    #[must_use]
    pub fn options() -> PostgresOptions {
        PostgresOptions::default()
    }

    /// Returns its URL: `postgres://`. With TLS it contains `sslmode=verify-full`, and the client has to trust [`Tls::ca`].
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("leasehold")
    }

    /// Returns the URL of another database of it.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        self.address.url(database)
    }

    /// Returns its URL for another user, such as one of [`Postgres::user`]. Without [`PostgresOptions::password`] any password is accepted.
    #[must_use]
    pub fn url_as(&self, user: &str, password: &str) -> String {
        self.address.clone().with_user(user, password).url("leasehold")
    }

    /// Returns the URL of its Unix socket, if it has one.
    #[must_use]
    pub fn socket_url(&self) -> Option<String> {
        self.address.socket_url("leasehold")
    }

    /// Makes an empty database, for one test, and returns its URL.
    ///
    /// # Errors
    ///
    /// If the server refuses it.
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

    /// Returns its wall clock, if it has one of its own.
    #[must_use]
    pub fn clock(&self) -> Option<&Clock> {
        self.clock.as_ref()
    }

    /// Returns its disk, if it has a small one.
    #[must_use]
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// Runs statements through `psql`, as a superuser, and returns the rows: columns are separated by `|`.
    ///
    /// # Errors
    ///
    /// If a statement fails, or the server does not answer for ten seconds.
    pub fn sql(&self, sql: &str) -> Result<String> {
        self.address.sql(sql)
    }

    /// Runs statements as another user, as [`Postgres::sql`] does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn sql_as(&self, user: &str, password: &str, sql: &str) -> Result<String> {
        self.address.clone().with_user(user, password).sql(sql)
    }

    /// Runs statements in another database, as [`Postgres::sql`] does.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn sql_in(&self, database: &str, sql: &str) -> Result<String> {
        self.address.sql_in(database, sql)
    }

    /// Sets a setting of `postgresql.conf`, now and after restarts. One of [`PostgresOptions::setting`] has precedence.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let value = value.replace('\'', "''");
        // It must not be in a transaction, and several statements together are one.
        self.sql(&format!("alter system set {name} = '{value}'"))?;
        self.sql("select pg_reload_conf()").map(drop)
    }

    /// Makes a standby that follows this server.
    ///
    /// # Errors
    ///
    /// If the server cannot be copied, or the standby does not start.
    pub fn start_standby(&self) -> Result<Self> {
        let directory = self.scratch.directory("standby", &User::not_root()?)?;
        let disk = self.options.disk_in(&self.scratch, &directory)?;
        self.copy_to(&directory)?;
        retry_ports(|| {
            let address = Address { port: Port::free()?.into(), ..self.address.clone() };
            self.options.launch(&self.scratch, &directory, address, disk.clone())
        })
    }

    /// Makes this server a standby of `primary`, from a new copy of it. What only this server had is lost.
    ///
    /// # Errors
    ///
    /// As [`Postgres::start_standby`].
    pub fn follow(&self, primary: &Self) -> Result<()> {
        self.kill9();
        let old = std::fs::read_dir(self.directory.join("data")).map_err(Error::from)?;
        for entry in old.flatten() {
            let path = entry.path();
            // The directory itself stays: a disk may be mounted there.
            let removed =
                if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
            removed.map_err(Error::from)?;
        }
        primary.copy_to(&self.directory)?;
        self.restart()
    }

    /// Makes a standby a primary. The other servers are not changed.
    ///
    /// # Errors
    ///
    /// If it is no standby, or does not become a primary.
    pub fn promote(&self) -> Result<()> {
        self.sql("select pg_promote(wait => false)")?;
        until("the standby to be a primary", || match self.is_primary()? {
            true => Ok(()),
            false => Err(Error::new("it is a standby")),
        })
    }

    /// Returns `true` if it is a primary.
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

    fn copy_to(&self, directory: &Path) -> Result<()> {
        let user = User::not_root()?;
        let mut command = user.command(&install::program("pg_basebackup")?)?;
        command
            .args(["--no-sync", "--checkpoint=fast", "--wal-method=stream", "--write-recovery-conf"])
            .arg(format!("--dbname={}", self.address.replication()))
            .arg("--pgdata=data")
            .current_dir(directory);
        self.address.authenticate(&mut command);
        work(&command).map(drop)
    }
}

impl Deref for Postgres {
    type Target = Server;

    fn deref(&self) -> &Server {
        &self.server
    }
}
