//! The address of a PostgreSQL server, for clients and for the testbed itself.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use crate::client::ask;
use crate::ports::Port;
use crate::tls::Tls;
use crate::{Result, install};

/// The address of a server, and a login.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    pub(crate) port: Arc<Port>,
    /// The directory of its Unix socket.
    pub(crate) socket: Option<PathBuf>,
    pub(crate) user: String,
    pub(crate) password: Option<String>,
    pub(crate) tls: Option<Tls>,
    /// The client's key. `psql` and a standby refuse one that others can read.
    pub(crate) keys: Option<Keys>,
}

/// Copies of the client's key.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    pub(crate) own: PathBuf,
    pub(crate) server: PathBuf,
}

impl Address {
    pub(crate) fn url(&self, database: &str) -> String {
        let port = self.port.number();
        format!("postgres://{}127.0.0.1:{port}/{database}{}", self.credentials(), self.query(&[]))
    }

    pub(crate) fn socket_url(&self, database: &str) -> Option<String> {
        let (socket, port) = (self.socket.as_ref()?.display(), self.port.number());
        Some(format!("postgres://{}/{database}?host={socket}&port={port}", self.credentials()))
    }

    pub(crate) fn with_user(mut self, user: &str, password: &str) -> Self {
        self.user = user.to_owned();
        self.password = Some(password.to_owned());
        self
    }

    pub(crate) fn credentials(&self) -> String {
        match &self.password {
            Some(password) => format!("{}:{password}@", self.user),
            None => format!("{}@", self.user),
        }
    }

    pub(crate) fn query(&self, options: &[&str]) -> String {
        let tls = self.tls.is_some().then_some("sslmode=verify-full");
        let options: Vec<_> = options.iter().copied().chain(tls).collect();
        if options.is_empty() { String::new() } else { format!("?{}", options.join("&")) }
    }

    pub(crate) fn sql(&self, sql: &str) -> Result<String> {
        self.sql_in("leasehold", sql)
    }

    pub(crate) fn sql_in(&self, database: &str, sql: &str) -> Result<String> {
        let mut command = self.psql(database)?;
        ask(command.args(["-c", sql]))
    }

    pub(crate) fn psql(&self, database: &str) -> Result<Command> {
        let mut command = Command::new(install::program("psql")?);
        let conninfo = self.conninfo(database, self.keys.as_ref().map(|keys| &keys.own));
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-d", &conninfo]);
        self.authenticate(&mut command);
        Ok(command)
    }

    /// Returns the connection string of a standby.
    pub(crate) fn replication(&self) -> String {
        self.conninfo("postgres", self.keys.as_ref().map(|keys| &keys.server))
    }

    /// Passes the password to a program, and not on its command line, which every user can read.
    pub(crate) fn authenticate(&self, command: &mut Command) {
        command.env("PGPASSFILE", "/dev/null");
        if let Some(password) = &self.password {
            command.env("PGPASSWORD", password);
        }
    }

    fn conninfo(&self, database: &str, key: Option<&PathBuf>) -> String {
        let (port, user) = (self.port.number(), &self.user);
        let mut tls = match &self.tls {
            Some(tls) => format!(" sslmode=verify-full sslrootcert={}", tls.ca().display()),
            None => " sslmode=disable".to_owned(),
        };
        if let (Some(key), Some(with)) = (key, &self.tls) {
            tls += &format!(" sslcert={} sslkey={}", with.client_cert().display(), key.display());
        }
        format!("host=127.0.0.1 port={port} user={user} dbname={database} connect_timeout=5{tls}")
    }
}
