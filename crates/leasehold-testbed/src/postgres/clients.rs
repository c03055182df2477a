//! Who may use a PostgreSQL, and ending those who do.

use rustix::process::{Pid, Signal, kill_process};

use super::Postgres;
use crate::wait::until;
use crate::{Error, Result};

impl Postgres {
    /// Makes a user who may connect and nothing more, and returns the URL for it.
    ///
    /// # Errors
    ///
    /// If it is refused.
    pub fn user(&self, name: &str, password: &str) -> Result<String> {
        self.sql(&format!("create role \"{name}\" login password '{password}'"))?;
        Ok(self.url_as(name, password))
    }

    /// Changes the password of a user. Who is connected stays.
    ///
    /// # Errors
    ///
    /// If there is no such user.
    pub fn set_password(&self, name: &str, password: &str) -> Result<()> {
        self.sql(&format!("alter role \"{name}\" password '{password}'")).map(drop)
    }

    /// Gives a user a setting of its own, such as `statement_timeout`; for connections from now on.
    ///
    /// # Errors
    ///
    /// If there is no such user or setting.
    pub fn set_for(&self, name: &str, setting: &str, value: &str) -> Result<()> {
        let value = value.replace('\'', "''");
        self.sql(&format!("alter role \"{name}\" set {setting} = '{value}'")).map(drop)
    }

    /// Allows a user only so many connections. Superusers, as `leasehold` is one, are not bound by it.
    ///
    /// # Errors
    ///
    /// If there is no such user.
    pub fn limit_connections_of(&self, name: &str, connections: u32) -> Result<()> {
        self.sql(&format!("alter role \"{name}\" connection limit {connections}")).map(drop)
    }

    /// Returns the process ids of those who serve clients that call themselves `application`, or of all if it is
    /// empty; without the one that asks.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn backends(&self, application: &str) -> Result<Vec<i32>> {
        let found = self.sql(&format!("select pid {}", clients(application)))?;
        Ok(found.lines().filter_map(|pid| pid.parse().ok()).collect())
    }

    /// Ends the connections of clients that call themselves `application`, or all if it is empty, as an operator does
    /// with `pg_terminate_backend`; returns how many there were.
    ///
    /// # Errors
    ///
    /// As [`Postgres::sql`].
    pub fn terminate_backends(&self, application: &str) -> Result<u64> {
        self.number(&format!("select count(pg_terminate_backend(pid)) {}", clients(application)))
    }

    /// Kills one who serves a client, as `kill -9` does: the server ends all connections and recovers as after a
    /// crash. When this returns, it answers again.
    ///
    /// # Errors
    ///
    /// If it does not come back.
    pub fn kill9_backend(&self, pid: i32) -> Result<()> {
        let main = self.server.pid();
        let before: Vec<_> =
            self.server.processes().into_iter().filter(|other| Some(*other) != main).collect();
        let Some(pid) = Pid::from_raw(pid).filter(|pid| before.contains(pid)) else {
            return Err(Error::new(format!("it has no such process pid=`{pid}`")));
        };
        // One that has ended meanwhile is not there to crash.
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
