use std::path::PathBuf;

use super::{DIRECT, LOCKS, inside, left};
use crate::faults::{Ending, Links, Pick, no_such_servers};
use crate::postgres::PostgresPair;
use crate::{Error, Faults, Result, Server, Setup, Tls, until};

const FOLLOWERS: &str = "select count(*) from pg_stat_replication where state = 'streaming'";

impl Setup for PostgresPair {
    fn url(&self) -> String {
        self.url()
    }

    fn servers(&self) -> Vec<&Server> {
        vec![&self.primary, &self.standby]
    }

    fn ca(&self) -> Option<PathBuf> {
        self.primary.tls().map(Tls::ca)
    }

    fn connections(&self) -> Result<u64> {
        Ok(Setup::connections(&self.primary)? + Setup::connections(&self.standby)?)
    }

    fn commands(&self) -> Result<u64> {
        Ok(Setup::commands(&self.primary)? + Setup::commands(&self.standby)?)
    }

    /// Waits for one primary and one replica, in either role.
    fn await_ready(&self) -> Result<()> {
        Setup::servers(self).into_iter().try_for_each(Server::await_ready)?;
        until("the standby to follow", || match self.current()?.sql(FOLLOWERS)?.as_str() {
            "1" => Ok(()),
            followers => Err(Error::new(format!("{followers} follow"))),
        })
    }

    fn failover(&self) -> Result<()> {
        self.failover().map(drop)
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }
}

/// The two servers swap roles.
impl Faults for PostgresPair {
    fn names(&self) -> Vec<&'static str> {
        let names = ["failover", "primary kill", "standby stop", "primary stop", "standby kill"];
        [&names[..], &["failover behind", "backends terminated", LOCKS[0]]].concat()
    }

    fn links(&self) -> Option<Links> {
        Some(DIRECT)
    }

    fn hit(&self, which: &str, _: &str, _: Pick<'_>) -> Result<Vec<&Server>> {
        let primary = self.current()?;
        match which {
            "primary" => Ok(vec![primary]),
            "standby" => Ok(vec![self.other_than(primary)]),
            _ => Err(no_such_servers(which)),
        }
    }

    fn inject(&self, fault: &str, key: &str, pick: Pick<'_>) -> Result<Option<Ending<'_>>> {
        match fault {
            "failover" => {
                self.failover_by_kill()?;
                Ok(Some(Box::new(|| self.rebuild())))
            }
            // If a primary confirms writes that its standby lacks, a failover loses them.
            "failover behind" => {
                self.stop_following()?;
                Ok(Some(Box::new(|| {
                    self.failover_by_kill()?;
                    self.rebuild()
                })))
            }
            _ => inside(self.current()?, fault, key, pick),
        }
    }

    fn refuses(&self, fault: &str) -> bool {
        LOCKS.contains(&fault)
    }

    fn left(&self) -> Result<Vec<String>> {
        left(self.current()?)
    }
}
