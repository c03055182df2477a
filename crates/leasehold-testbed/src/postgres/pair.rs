//! A primary and a standby that can change roles.

use super::{Postgres, PostgresOptions};
use crate::wait::until;
use crate::{Error, Result};

/// A primary and the standby that follows it.
#[derive(Debug)]
#[non_exhaustive]
pub struct PostgresPair {
    /// The first primary, until the other server is promoted.
    pub primary: Postgres,
    /// The first standby, until it is promoted.
    pub standby: Postgres,
    synchronous: bool,
}

impl PostgresPair {
    /// Starts a primary and a standby with the default options.
    ///
    /// # Errors
    ///
    /// If a server does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(Postgres::options())
    }

    /// Starts a primary and a standby with these options.
    ///
    /// # Errors
    ///
    /// If a server does not start.
    pub fn start_with(options: PostgresOptions) -> Result<Self> {
        Self::pair(options, false)
    }

    /// Starts a primary and a standby for which every commit waits: `synchronous_standby_names`.
    ///
    /// # Errors
    ///
    /// If a server does not start.
    pub fn start_synchronous(options: PostgresOptions) -> Result<Self> {
        Self::pair(options, true)
    }

    fn pair(options: PostgresOptions, synchronous: bool) -> Result<Self> {
        let primary = options.start()?;
        let standby = primary.start_standby()?;
        let pair = Self { primary, standby, synchronous };
        pair.await_joined(&pair.primary)?;
        Ok(pair)
    }

    /// Returns the URL of both, for the one that can be written to.
    #[must_use]
    pub fn url(&self) -> String {
        let primary = self.primary.address();
        let options = primary.query(&["target_session_attrs=read-write"]);
        format!(
            "postgres://{}127.0.0.1:{},127.0.0.1:{}/leasehold{options}",
            primary.credentials(),
            self.primary.port(),
            self.standby.port(),
        )
    }

    /// Returns the current primary.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn current(&self) -> Result<&Postgres> {
        let both = [&self.primary, &self.standby].into_iter();
        let mut up = both.filter(|server| server.is_running());
        up.find(|server| server.is_primary().unwrap_or(false))
            .ok_or_else(|| Error::new("there is no primary"))
    }

    /// Returns the other server.
    #[must_use]
    pub fn other_than(&self, one: &Postgres) -> &Postgres {
        if one.port() == self.primary.port() { &self.standby } else { &self.primary }
    }

    /// Waits until the standby has everything that the primary has written until now.
    ///
    /// # Errors
    ///
    /// If it does not follow.
    pub fn await_caught_up(&self) -> Result<()> {
        let primary = self.current()?;
        let written = primary.sql("select pg_current_wal_lsn()")?;
        until("the standby to catch up", || {
            let sql = format!("select pg_last_wal_replay_lsn() >= '{written}'");
            match self.other_than(primary).sql(&sql)?.as_str() {
                "t" => Ok(()),
                _ => Err(Error::new("it is behind")),
            }
        })
    }

    /// Keeps the standby from following, until [`PostgresPair::follow_again`]. Meanwhile a synchronous primary confirms
    /// nothing, and an asynchronous one confirms what a promoted standby will lack.
    ///
    /// # Errors
    ///
    /// If there is no standby.
    pub fn stop_following(&self) -> Result<()> {
        let standby = self.other_than(self.current()?);
        standby.set("primary_conninfo", "")?;
        until("the standby to stop following", || match standby.sql(FOLLOWS)?.as_str() {
            "0" => Ok(()),
            _ => Err(Error::new("it follows")),
        })
    }

    /// Has the standby follow again, and waits until it does.
    ///
    /// # Errors
    ///
    /// If there is no standby, or it does not follow.
    pub fn follow_again(&self) -> Result<()> {
        let primary = self.current()?;
        let standby = self.other_than(primary);
        let mut conninfo = primary.address().replication();
        if let Some(password) = &primary.address().password {
            conninfo += &format!(" password={password}");
        }
        standby.set("primary_conninfo", &conninfo)?;
        until("the standby to follow", || match standby.sql(FOLLOWS)?.as_str() {
            "1" => Ok(()),
            _ => Err(Error::new("it does not follow")),
        })
    }

    /// Kills the primary, even if the standby lacks something, and promotes the standby. The old primary stays down until
    /// [`PostgresPair::rebuild`].
    ///
    /// # Errors
    ///
    /// If there is no standby, or it is not promoted.
    pub fn failover_by_kill(&self) -> Result<&Postgres> {
        let old = self.current()?;
        old.kill9();
        let new = self.other_than(old);
        new.promote()?;
        Ok(new)
    }

    /// Makes the standby the primary once it lacks nothing, and the old primary its standby.
    ///
    /// # Errors
    ///
    /// If it is not promoted, or there is no standby afterwards.
    pub fn failover(&self) -> Result<&Postgres> {
        self.await_caught_up()?;
        let new = self.failover_by_kill()?;
        self.rebuild()?;
        Ok(new)
    }

    /// Makes the other server a standby of the primary, from a new copy.
    ///
    /// # Errors
    ///
    /// If there is no primary, or it does not follow.
    pub fn rebuild(&self) -> Result<()> {
        let primary = self.current()?;
        self.other_than(primary).follow(primary)?;
        self.await_joined(primary)
    }

    /// Waits until the standby follows. Only then commits begin to wait for it: before, none could be confirmed.
    fn await_joined(&self, primary: &Postgres) -> Result<()> {
        self.await_caught_up()?;
        if self.synchronous {
            primary.set("synchronous_standby_names", "*")?;
            until("the standby to be synchronous", || match primary.sql(SYNCHRONOUS)?.as_str() {
                "1" => Ok(()),
                _ => Err(Error::new("it is not")),
            })?;
        }
        Ok(())
    }
}

const FOLLOWS: &str = "select count(*) from pg_stat_wal_receiver where status = 'streaming'";
const SYNCHRONOUS: &str = "select count(*) from pg_stat_replication where sync_state = 'sync'";
