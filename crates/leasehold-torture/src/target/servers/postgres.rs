use leasehold_testbed::setup::Pooled;
use leasehold_testbed::{Error, Postgres, PostgresPair, Result, Server, Setup};

use super::rig::{Ending, Rig, Wire};
use crate::planted::Defect;
use crate::random::Random;

/// The execution of a statement, prepared or not: `Execute` of the unnamed portal.
const CALL: &str = "E\0\0\0\x09\0\0\0\0\0";
const DIRECT: Wire = Wire { call: CALL, listen: Some("listen leasehold_") };
/// A pooler does not support LISTEN.
const POOLED: Wire = Wire { call: CALL, listen: None };

/// The faults inside of one server.
const INSIDE: [&str; 5] = ["backends terminated", "backend crash", LOCKS[0], LOCKS[1], LOCKS[2]];
/// The locks that another transaction can take. While it lasts, the storage grants nothing.
const LOCKS: [&str; 3] = ["row pinned", "row locked", "table locked"];

/// One server.
pub(super) struct Single(pub(super) Postgres);

impl Rig for Single {
    fn setup(&self) -> &dyn Setup {
        &self.0
    }

    fn faults(&self) -> Vec<&'static str> {
        [&["server kill", "server stop", "server restart"][..], &INSIDE].concat()
    }

    fn wire(&self) -> Option<Wire> {
        Some(DIRECT)
    }

    fn inject(&self, fault: &str, lock: &str, random: &mut Random) -> Result<Option<Ending<'_>>> {
        inside(&self.0, fault, lock, random)
    }

    fn plant(&self, defect: Defect) -> Result<()> {
        match defect {
            Defect::LeasesUnlogged => self.0.sql("alter table leasehold set unlogged").map(drop),
            _ => Err(Error::new("this setup has no such defect")),
        }
    }

    fn key(&self, _: Option<&str>, lock: &str) -> String {
        lock.to_owned()
    }

    fn refuses(&self, fault: &str) -> bool {
        LOCKS.contains(&fault)
    }

    fn left(&self) -> Result<Vec<String>> {
        left(&self.0)
    }
}

/// One server behind a pooler.
pub(super) struct Bouncer(pub(super) Pooled);

impl Rig for Bouncer {
    fn setup(&self) -> &dyn Setup {
        &self.0
    }

    fn faults(&self) -> Vec<&'static str> {
        let faults = ["server kill", "pooler stop", "server stop", "pooler kill", "server restart"];
        [&faults[..], &INSIDE].concat()
    }

    fn wire(&self) -> Option<Wire> {
        Some(POOLED)
    }

    fn servers(&self, which: &str, _: &str, _: &mut Random) -> Result<Vec<&Server>> {
        match which {
            "server" => Ok(vec![&self.0.postgres]),
            "pooler" => Ok(vec![&self.0.bouncer]),
            _ => Err(Error::new(format!("this setup has no such servers: {which}"))),
        }
    }

    fn inject(&self, fault: &str, lock: &str, random: &mut Random) -> Result<Option<Ending<'_>>> {
        inside(&self.0.postgres, fault, lock, random)
    }

    fn key(&self, _: Option<&str>, lock: &str) -> String {
        lock.to_owned()
    }

    fn refuses(&self, fault: &str) -> bool {
        LOCKS.contains(&fault)
    }

    fn left(&self) -> Result<Vec<String>> {
        left(&self.0.postgres)
    }
}

/// A primary and its standby, which swap roles.
pub(super) struct Pair(pub(super) PostgresPair);

impl Rig for Pair {
    fn setup(&self) -> &dyn Setup {
        &self.0
    }

    fn faults(&self) -> Vec<&'static str> {
        let faults = ["failover", "primary kill", "standby stop", "primary stop", "standby kill"];
        [&faults[..], &["failover behind", "backends terminated", LOCKS[0]]].concat()
    }

    fn wire(&self) -> Option<Wire> {
        Some(DIRECT)
    }

    fn servers(&self, which: &str, _: &str, _: &mut Random) -> Result<Vec<&Server>> {
        let primary = self.0.current()?;
        match which {
            "primary" => Ok(vec![primary]),
            "standby" => Ok(vec![self.0.other_than(primary)]),
            _ => Err(Error::new(format!("this setup has no such servers: {which}"))),
        }
    }

    fn inject(&self, fault: &str, lock: &str, random: &mut Random) -> Result<Option<Ending<'_>>> {
        match fault {
            "failover" => {
                self.0.failover_by_kill()?;
                Ok(Some(Box::new(|| self.0.rebuild())))
            }
            // If a primary confirms writes that its standby lacks, a failover loses them.
            "failover behind" => {
                self.0.stop_following()?;
                Ok(Some(Box::new(|| {
                    self.0.failover_by_kill()?;
                    self.0.rebuild()
                })))
            }
            _ => inside(self.0.current()?, fault, lock, random),
        }
    }

    fn key(&self, _: Option<&str>, lock: &str) -> String {
        lock.to_owned()
    }

    fn refuses(&self, fault: &str) -> bool {
        LOCKS.contains(&fault)
    }

    fn left(&self) -> Result<Vec<String>> {
        left(self.0.current()?)
    }
}

fn inside<'a>(
    postgres: &'a Postgres,
    fault: &str,
    lock: &str,
    random: &mut Random,
) -> Result<Option<Ending<'a>>> {
    let lock = lock.replace('\'', "''");
    let open = |sql: &str| -> Result<Option<Ending<'a>>> {
        let transaction = postgres.transaction(sql)?;
        Ok(Some(Box::new(move || {
            drop(transaction);
            Ok(())
        })))
    };
    match fault {
        "backends terminated" => {
            postgres.terminate_backends("")?;
            // The connections that were just opened again.
            Ok(Some(Box::new(|| postgres.terminate_backends("").map(drop))))
        }
        "backend crash" => {
            let backends = postgres.backends("")?;
            if !backends.is_empty() {
                postgres.kill9_backend(*random.of(&backends))?;
            }
            Ok(None)
        }
        "row pinned" => open(&format!("select from leasehold where name = '{lock}' for key share")),
        "row locked" => open(&format!("select from leasehold where name = '{lock}' for update")),
        "table locked" => open("lock table leasehold in access exclusive mode"),
        _ => Err(Error::new(format!("this setup has no such fault: {fault}"))),
    }
}

/// Lists what is left when no client is connected. Rows stay for their tokens, but without an owner.
fn left(postgres: &Postgres) -> Result<Vec<String>> {
    let left = postgres.sql(
        "select 'the lease of ' || name from leasehold where owner is not null \
         union all select 'a place in line for ' || name from leasehold_waiters where until > clock_timestamp() \
         union all select 'a lock of the schema' from pg_locks where locktype = 'advisory'",
    )?;
    Ok(left.lines().map(str::to_owned).collect())
}
