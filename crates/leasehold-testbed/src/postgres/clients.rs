//! The users of a PostgreSQL server, and the ends of their connections.

use rustix::process::{Pid, Signal, kill_process};

use super::Postgres;
use crate::wait::until;
use crate::{Error, Result};

impl Postgres {
    /// Makes a user that may only connect, and returns the URL for it.
    ///
    /// # Errors
    ///
    /// If the server refuses it.
    pub fn user(&self, name: &str, password: &str) -> Result<String> {
        self.sql(&format!("create role \"{name}\" login password '{password}'"))?;
        Ok(self.url_as(name, password))
    }

    /// Changes the password of a user. Its connections stay open.
    ///
    /// # Errors
    ///
    /// If there is no such user.
    pub fn set_password(&self, name: &str, password: &str) -> Result<()> {
        self.sql(&format!("alter role \"{name}\" password '{password}'")).map(drop)
    }

    /// Gives a user a setting of its own, such as `statement_timeout`, for its connections from now on.
    ///
    /// # Errors
    ///
    /// If there is no such user or setting.
    pub fn set_for(&self, name: &str, setting: &str, value: &str) -> Result<()> {
        let value = value.replace('\'', "''");
        self.sql(&format!("alter role \"{name}\" set {setting} = '{value}'")).map(drop)
    }

    /// Limits the connections of a user. The limit does not apply to superusers such as `leasehold`.
    ///
    /// # Errors
    ///
    /// If there is no such user.
    pub fn limit_connections_of(&self, name: &str, connections: u32) -> Result<()> {
        self.sql(&format!("alter role \"{name}\" connection limit {connections}")).map(drop)
    }

    /// Returns the process ids that serve the clients with this `application_name`, or all clients if it is empty, except
    /// the one of this statement.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn backends(&self, application: &str) -> Result<Vec<i32>> {
        let found = self.sql(&format!("select pid {}", clients(application)))?;
        Ok(found.lines().filter_map(|pid| pid.parse().ok()).collect())
    }

    /// Ends the connections of clients with this `application_name`, or of all if it is empty, by `pg_terminate_backend`.
    /// Returns how many there were.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn terminate_backends(&self, application: &str) -> Result<u64> {
        self.number(&format!("select count(pg_terminate_backend(pid)) {}", clients(application)))
    }

    /// Kills a process that serves a client, as `kill -9` does. The server ends all connections and recovers as after a
    /// crash. When this returns, it answers again.
    ///
    /// # Errors
    ///
    /// If the server does not answer again.
    pub fn kill9_backend(&self, pid: i32) -> Result<()> {
        let main = self.server.pid();
        let before: Vec<_> =
            self.server.processes().into_iter().filter(|other| Some(*other) != main).collect();
        let Some(pid) = Pid::from_raw(pid).filter(|pid| before.contains(pid)) else {
            return Err(Error::new(format!("it has no such process pid=`{pid}`")));
        };
        // It may have ended meanwhile.
        let _ = kill_process(pid, Signal::KILL);
        until("the server to end all its processes", || {
            match self.server.processes().iter().filter(|pid| before.contains(pid)).count() {
                0 => Ok(()),
                n => Err(Error::new(format!("{n} are left"))),
            }
        })?;
        self.server.await_ready()
    }
}

fn clients(application: &str) -> String {
    let mine = "from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid()";
    match application {
        "" => mine.to_owned(),
        name => format!("{mine} and application_name = '{}'", name.replace('\'', "''")),
    }
}
