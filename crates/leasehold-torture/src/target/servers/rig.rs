//! Every setup of the testbed that can be tortured, and its faults.

use std::io;

use leasehold::storage::Tier;
use leasehold_testbed::setup::Pooled;
use leasehold_testbed::{
    Error, Postgres, PostgresPair, RedisCluster, RedisSentinels, Result, Server, Setup, setup,
};

use super::postgres::{Bouncer, Pair, Single};
use super::redis::{Cluster, Sentinels, left as left_redis};
use crate::planted::Defect;
use crate::random::Random;

/// A running setup, and the knowledge specific to it.
pub(super) trait Rig {
    /// Returns the setup.
    fn setup(&self) -> &dyn Setup;

    /// Returns the faults of its servers: `SERVERS kill`, `SERVERS stop`, `SERVERS restart`, and those of
    /// [`Rig::inject`].
    fn faults(&self) -> Vec<&'static str>;

    /// Returns how to recognize the links, if clients find the servers by the URL alone. Only then can
    /// links go through proxies.
    fn wire(&self) -> Option<Wire> {
        None
    }

    /// Returns the server's name for a lock.
    fn key(&self, prefix: Option<&str>, lock: &str) -> String {
        format!("{}{lock}", prefix.unwrap_or("leasehold:"))
    }

    /// Finds the servers that `which` means. If the setup has shards, `key` selects the one that is hit.
    fn servers(&self, which: &str, _key: &str, random: &mut Random) -> Result<Vec<&Server>> {
        let all = self.setup().servers();
        match which {
            "server" => Ok(vec![*random.of(&all)]),
            "every server" => Ok(all),
            _ => Err(Error::new(format!("this setup has no such servers: {which}"))),
        }
    }

    /// Waits for the consequences of a kill before the servers are started again.
    fn killed(&self, _whom: &str) -> Result<()> {
        Ok(())
    }

    /// Injects a fault specific to this setup. A fault that hits one lock hits that of `key`. Returns the
    /// function that ends it, unless it ends by itself.
    fn inject(&self, fault: &str, _key: &str, _dice: &mut Random) -> Result<Option<Ending<'_>>> {
        match fault {
            "failover" => self.setup().failover().map(|()| None),
            _ => Err(Error::new(format!("this setup has no such fault: {fault}"))),
        }
    }

    /// Plants a defect of the servers, unless it is there already.
    fn plant(&self, _: Defect) -> Result<()> {
        Err(Error::new("this setup has no such defect"))
    }

    /// Waits until no effect of a fault is left.
    fn await_whole(&self) -> Result<()> {
        self.setup().await_ready()
    }

    /// Returns the lowest tier that promises to survive a fault.
    fn needs(&self, fault: &str) -> Tier {
        match fault.rsplit_once(' ') {
            _ if fault.starts_with("failover") => Tier::FailoverSafe,
            Some(("server" | "every server" | "primary", "kill" | "restart")) => Tier::RestartSafe,
            Some(("backend", "crash")) => Tier::RestartSafe,
            _ => Tier::Advisory,
        }
    }

    /// Returns `true` if a fault prevents grants while it lasts, even of a free lock.
    fn refuses(&self, _fault: &str) -> bool {
        false
    }

    /// Lists what is left when no client is connected, except what keeps tokens growing.
    fn left(&self) -> Result<Vec<String>>;
}

/// A function that ends a fault of the setup.
pub(super) type Ending<'a> = Box<dyn FnOnce() -> Result<()> + 'a>;

/// The requests of a client by which its connections are recognized.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wire {
    /// The text of a request.
    pub(super) call: &'static str,
    /// The text with which it starts to listen to hints on a connection of its own, if it does.
    pub(super) listen: Option<&'static str>,
}

type Start = fn() -> Result<Box<dyn Rig>>;

/// All setups. A further one needs one line here.
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

/// Starts the setup with that name.
pub(super) fn rig(name: &str) -> io::Result<Box<dyn Rig>> {
    let Some((_, start)) = ALL.iter().find(|(known, _)| *known == name) else {
        let names: Vec<_> = ALL.iter().map(|(name, _)| *name).collect();
        return Err(io::Error::other(format!("no such setup: {name}; there are: {}", names.join(", "))));
    };
    start().map_err(io::Error::other)
}

/// A setup without anything specific to it.
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
