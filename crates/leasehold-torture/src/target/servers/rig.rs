//! Every set-up of the test bed that can be tortured, and what can be done to each.

use std::io;

use leasehold::storage::Tier;
use leasehold_testbed::setup::Pooled;
use leasehold_testbed::{
    Error, Postgres, PostgresPair, RedisCluster, RedisSentinels, Result, Server, Setup, setup,
};

use super::postgres::{Bouncer, Pair, Single};
use super::redis::{Cluster, Sentinels, left as left_redis};
use crate::dice::Dice;
use crate::planted::Defect;

/// A set-up that runs, and what only it knows.
pub(super) trait Rig {
    /// The set-up.
    fn setup(&self) -> &dyn Setup;

    /// What can be done to its servers: `WHOM kill`, `WHOM stop`, `WHOM restart`, and what [`Rig::strike`] does.
    fn faults(&self) -> Vec<&'static str>;

    /// How to know the links, if clients find the servers by the URL alone, so that links can go through proxies.
    fn wire(&self) -> Option<Wire> {
        None
    }

    /// How a server calls a lock.
    fn key(&self, prefix: Option<&str>, lock: &str) -> String {
        format!("{}{lock}", prefix.unwrap_or("leasehold:"))
    }

    /// Finds those who are meant. `key` is in the part of the whole that is struck, if it has parts.
    fn servers(&self, whom: &str, _key: &str, dice: &mut Dice) -> Result<Vec<&Server>> {
        let all = self.setup().servers();
        match whom {
            "server" => Ok(vec![*dice.of(&all)]),
            "every server" => Ok(all),
            _ => Err(Error::new(format!("this set-up has no such servers: {whom}"))),
        }
    }

    /// Waits for what follows when they have been killed and are not yet started again.
    fn killed(&self, _whom: &str) -> Result<()> {
        Ok(())
    }

    /// Does something of its own, if it is done to one lock to that of `key`; returns what ends it, if it does not end by itself.
    fn strike(&self, fault: &str, _key: &str, _dice: &mut Dice) -> Result<Option<Ending<'_>>> {
        match fault {
            "failover" => self.setup().failover().map(|()| None),
            _ => Err(Error::new(format!("this set-up has no such fault: {fault}"))),
        }
    }

    /// Plants a defect of the servers, if it is not there yet.
    fn plant(&self, _: Defect) -> Result<()> {
        Err(Error::new("this set-up has no such defect"))
    }

    /// Waits until nothing is left of a fault.
    fn await_whole(&self) -> Result<()> {
        self.setup().await_ready()
    }

    /// The least tier that promises to survive a fault.
    fn needs(&self, fault: &str) -> Tier {
        match fault.rsplit_once(' ') {
            _ if fault.starts_with("failover") => Tier::FailoverSafe,
            Some(("server" | "every server" | "primary", "kill" | "restart")) => Tier::RestartSafe,
            Some(("backend", "crash")) => Tier::RestartSafe,
            _ => Tier::Advisory,
        }
    }

    /// Whether nobody is granted while a fault lasts, though nobody holds.
    fn refuses(&self, _fault: &str) -> bool {
        false
    }

    /// Lists what is left when nobody uses it any more; what keeps tokens growing may stay.
    fn left(&self) -> Result<Vec<String>>;
}

/// Ends what a set-up does by itself.
pub(super) type Ending<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// What a client sends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire {
    /// When it calls.
    pub(super) call: &'static str,
    /// When it begins to listen to hints, on a connection of its own, if it does.
    pub(super) listen: Option<&'static str>,
}

type Start = fn() -> Result<Box<dyn Rig>>;

/// All of them. Another one is a line here.
const ALL: &[(&str, Start)] = &[
    ("redis", || plain("redis", &["server kill", "server stop", "server restart"], Some(REDIS), left_redis)),
    ("redis-quorum", || {
        let faults = ["server kill", "server stop", "every server restart", "every server stop"];
        plain("redis-quorum", &faults, Some(REDIS), left_redis)
    }),
    ("redis-sentinel", || Ok(Box::new(Sentinels(RedisSentinels::start()?)))),
    ("redis-cluster", || Ok(Box::new(Cluster(RedisCluster::start()?)))),
    ("redis-cluster-replicas", || Ok(Box::new(Cluster(RedisCluster::options().replicas(1).start()?)))),
    ("postgres", || Ok(Box::new(Single(Postgres::start()?)))),
    ("pgbouncer", || Ok(Box::new(Bouncer(Pooled::start_with(Postgres::options())?)))),
    ("postgres-standby", || Ok(Box::new(Pair(PostgresPair::start()?)))),
    ("postgres-sync", || Ok(Box::new(Pair(PostgresPair::start_synchronous(Postgres::options())?)))),
];

const REDIS: Wire = Wire { call: "EVALSHA", listen: Some("SUBSCRIBE") };

/// Starts the set-up with that name.
pub(super) fn rig(name: &str) -> io::Result<Box<dyn Rig>> {
    let Some((_, start)) = ALL.iter().find(|(known, _)| *known == name) else {
        let names: Vec<_> = ALL.iter().map(|(name, _)| *name).collect();
        return Err(io::Error::other(format!("no such set-up: {name}; there are: {}", names.join(", "))));
    };
    start().map_err(io::Error::other)
}

/// One that needs nothing of its own.
struct Plain {
    setup: Box<dyn Setup>,
    faults: Vec<&'static str>,
    wire: Option<Wire>,
    left: fn(&dyn Setup) -> Result<Vec<String>>,
}

fn plain(
    name: &str,
    faults: &[&'static str],
    wire: Option<Wire>,
    left: fn(&dyn Setup) -> Result<Vec<String>>,
) -> Result<Box<dyn Rig>> {
    let setup = setup::start(name, &setup::Wanted::default())?;
    Ok(Box::new(Plain { setup, faults: faults.to_vec(), wire, left }))
}

impl Rig for Plain {
    fn setup(&self) -> &dyn Setup {
        &*self.setup
    }

    fn faults(&self) -> Vec<&'static str> {
        self.faults.clone()
    }

    fn wire(&self) -> Option<Wire> {
        self.wire
    }

    fn left(&self) -> Result<Vec<String>> {
        (self.left)(&*self.setup)
    }
}
