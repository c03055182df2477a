use std::path::PathBuf;

use super::{key, left};
use crate::faults::{Damage, Ending, Pick, no_such_fault, no_such_servers};
use crate::redis::RedisCluster;
use crate::{Faults, Result, Server, Setup, Tls};

impl Setup for RedisCluster {
    fn url(&self) -> String {
        self.url()
    }

    fn servers(&self) -> Vec<&Server> {
        self.nodes().iter().map(|node| &**node).collect()
    }

    fn ca(&self) -> Option<PathBuf> {
        self.nodes()[0].tls().map(Tls::ca)
    }

    fn await_ready(&self) -> Result<()> {
        Setup::servers(self).into_iter().try_for_each(Server::await_ready)?;
        self.await_ready()
    }

    fn connections(&self) -> Result<u64> {
        self.nodes().iter().map(Setup::connections).sum()
    }

    fn commands(&self) -> Result<u64> {
        self.nodes().iter().map(Setup::commands).sum()
    }

    /// Fails one of the three primaries over; [`RedisCluster::failover`] can choose one.
    fn failover(&self) -> Result<()> {
        self.failover("any").map(drop)
    }

    fn faults(&self) -> Option<&dyn Faults> {
        Some(self)
    }
}

impl Faults for RedisCluster {
    fn names(&self) -> Vec<&'static str> {
        if has_replicas(self) {
            return vec!["failover", "slot migration", "primary kill", "server stop"];
        }
        vec!["slot migration", "server kill", "server stop", "slot migration", "server restart"]
    }

    fn key(&self, prefix: Option<&str>, lock: &str) -> String {
        key(prefix, lock)
    }

    fn hit(&self, which: &str, key: &str, pick: Pick<'_>) -> Result<Vec<&Server>> {
        match which {
            "primary" => Ok(vec![self.primary_of(self.slot_of(key)?)?]),
            "server" => Ok(vec![&*self.nodes()[pick(self.nodes().len())]]),
            _ => Err(no_such_servers(which)),
        }
    }

    /// Waits with the restart of a killed primary until its replica has taken over.
    fn after_kill(&self, which: &str) -> Result<()> {
        if which == "primary" { RedisCluster::await_ready(self) } else { Ok(()) }
    }

    fn inject(&self, fault: &str, key: &str, pick: Pick<'_>) -> Result<Option<Ending<'_>>> {
        match fault {
            "failover" => RedisCluster::failover(self, key).map(|_| None),
            "slot migration" => migrate(self, key, pick),
            _ => Err(no_such_fault(fault)),
        }
    }

    fn damage(&self, fault: &str) -> Damage {
        match fault {
            "slot migration" => Damage::None,
            // An orderly failover: the replica waits until it has all writes.
            "failover" => Damage::Restart,
            // A replica takes over from a primary that is silent for a second.
            _ if has_replicas(self) => Damage::Failover,
            "server stop" => Damage::None,
            _ => Damage::Restart,
        }
    }

    fn left(&self) -> Result<Vec<String>> {
        Ok(self.nodes().iter().map(left).collect::<Result<Vec<_>>>()?.concat())
    }
}

fn has_replicas(cluster: &RedisCluster) -> bool {
    cluster.nodes().len() > 3
}

/// Moves the slot of a key to another node, sometimes in steps. Meanwhile its keys are on both nodes, or not
/// yet on either.
fn migrate<'a>(cluster: &'a RedisCluster, key: &str, pick: Pick<'_>) -> Result<Option<Ending<'a>>> {
    let slot = cluster.slot_of(key)?;
    let from = cluster.primary_of(slot)?.port();
    let mut others = Vec::new();
    for node in cluster.nodes() {
        if node.port() != from && node.is_primary()? {
            others.push(node);
        }
    }
    let to = others[pick(others.len())];
    let migration = cluster.begin_migration(slot, to)?;
    match pick(3) {
        0 => {
            migration.move_all()?;
            return migration.finish().map(|()| None);
        }
        1 => {}
        _ => {
            let keys = migration.keys()?;
            if !keys.is_empty() {
                migration.move_key(keys[pick(keys.len())].as_str())?;
            }
        }
    }
    Ok(Some(Box::new(move || {
        migration.move_all()?;
        migration.finish()
    })))
}
