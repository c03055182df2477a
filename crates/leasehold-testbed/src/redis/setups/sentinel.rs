use std::path::PathBuf;

use super::{key, left};
use crate::faults::{Damage, Pick, no_such_servers};
use crate::redis::{Redis, RedisSentinels};
use crate::{Error, Faults, Result, Server, Setup, Tls, until};

impl Setup for RedisSentinels {
    fn url(&self) -> String {
        self.url()
    }

    fn servers(&self) -> Vec<&Server> {
        let sentinels = self.sentinels().iter().map(|sentinel| &**sentinel);
        RedisSentinels::servers(self).iter().map(|redis| &**redis).chain(sentinels).collect()
    }

    fn ca(&self) -> Option<PathBuf> {
        RedisSentinels::servers(self)[0].tls().map(Tls::ca)
    }

    fn connections(&self) -> Result<u64> {
        RedisSentinels::servers(self).iter().map(Setup::connections).sum()
    }

    fn commands(&self) -> Result<u64> {
        RedisSentinels::servers(self).iter().map(Setup::commands).sum()
    }

    fn await_ready(&self) -> Result<()> {
        Setup::servers(self).into_iter().try_for_each(Server::await_ready)?;
        until("a primary", || match self.primary()?.is_primary()? {
            true => Ok(()),
            false => Err(Error::new("the Sentinels' primary is a replica")),
        })
    }

    fn failover(&self) -> Result<()> {
        self.failover().map(drop)
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }
}

impl Faults for RedisSentinels {
    fn names(&self) -> Vec<&'static str> {
        vec!["primary kill", "failover", "primary stop", "replica kill", "primary restart", "sentinel stop"]
    }

    fn key(&self, prefix: Option<&str>, lock: &str) -> String {
        key(prefix, lock)
    }

    fn hit(&self, which: &str, _: &str, pick: Pick<'_>) -> Result<Vec<&Server>> {
        let primary = self.primary()?;
        match which {
            "primary" => Ok(vec![primary]),
            "replica" => Ok(vec![other(self, primary)?]),
            "sentinel" => Ok(vec![&*self.sentinels()[pick(self.sentinels().len())]]),
            _ => Err(no_such_servers(which)),
        }
    }

    /// Waits with the restart of a killed primary until another server has taken over.
    fn after_kill(&self, which: &str) -> Result<()> {
        if which != "primary" {
            return Ok(());
        }
        let gone = RedisSentinels::servers(self).iter().find(|server| !server.is_running());
        gone.map_or(Ok(()), |gone| self.await_primary_other_than(gone.port()).map(drop))
    }

    /// Waits until there is one primary and the other server follows it. Until then both may act as the
    /// primary.
    fn await_whole(&self) -> Result<()> {
        Setup::await_ready(self)?;
        until("one primary and one replica", || {
            let primary = self.primary()?;
            if !primary.is_primary()? || other(self, primary)?.is_primary()? {
                return Err(Error::new("not yet"));
            }
            primary.await_replicas(1)
        })
    }

    fn damage(&self, fault: &str) -> Damage {
        // A replica lags behind its primary, so a promoted one may lack the last writes.
        if fault.starts_with("primary") || fault == "failover" { Damage::Failover } else { Damage::None }
    }

    fn left(&self) -> Result<Vec<String>> {
        left(self.primary()?)
    }
}

fn other<'a>(sentinels: &'a RedisSentinels, one: &Redis) -> Result<&'a Redis> {
    let other = sentinels.servers().iter().find(|server| server.port() != one.port());
    other.ok_or_else(|| Error::new("there is no other server"))
}
