//! The setups of Redis and Valkey, and the faults of each.

mod cluster;
mod quorum;
mod sentinel;

use self::quorum::Quorum;
use super::{Redis, RedisCluster, RedisOptions, RedisSentinels};
use crate::registry::{Entry, Torture};
use crate::setup::{WithUrl, alone};
use crate::{Faults, Links, Result, Setup, Wanted};

/// All setups of Redis.
pub(crate) const SETUPS: &[Entry] = &[
    Entry::new("redis", "one Redis", one).scheme("redis").plain().suite().tortures(&[Torture::new(5)]),
    Entry::new("redis-quorum", "three Redis that know nothing of each other", |wanted| {
        Ok(Box::new(Quorum::start(&options(wanted))?))
    })
    .scheme("redis+quorum")
    .suite_without_order()
    .tortures(&[Torture::new(6)]),
    Entry::new("redis-sentinel", "a Redis primary, its replica, three Sentinels", |wanted| {
        Ok(Box::new(RedisSentinels::start_with(options(wanted))?))
    })
    .scheme("redis+sentinel")
    .fails_over()
    .suite()
    .tortures(&[
        Torture::new(7).args(&["--faults", "primary kill,failover,kill"]),
        // No lease is longer than twice the TTL.
        Torture::new(8).options("failover_grace=2s").args(&[
            "--faults",
            "primary kill,failover",
            "--ttl-ms",
            "800",
        ]),
    ]),
    Entry::new("redis-cluster", "a Redis Cluster of three", |wanted| {
        Ok(Box::new(RedisCluster::start_with(options(wanted))?))
    })
    .scheme("redis+cluster")
    .suite()
    .tortures(&[Torture::new(9)]),
    Entry::new("redis-cluster-replicas", "a Redis Cluster of three, with a replica each", |wanted| {
        Ok(Box::new(RedisCluster::options().servers(options(wanted)).replicas(1).start()?))
    })
    .scheme("redis+cluster")
    .fails_over(),
    Entry::new("valkey", "one Valkey", |wanted| Ok(Box::new(options(wanted).valkey().start()?)))
        .scheme("redis"),
];

/// How to recognize a client's requests.
const LINKS: Links = Links::new("EVALSHA", Some("SUBSCRIBE"));

fn options(wanted: &Wanted) -> RedisOptions {
    wanted.apply(Redis::options(), RedisOptions::tls, RedisOptions::password)
}

fn one(wanted: &Wanted) -> Result<Box<dyn Setup>> {
    if wanted.least_rights.is_none() {
        return Ok(Box::new(options(wanted).start()?));
    }
    let (user, password) = ("locks", "password");
    let setup = options(wanted).acl(user, password, &least_rights()).start()?;
    let url = format!("{}?prefix=shop:", setup.url_as(user, password));
    Ok(Box::new(WithUrl { setup, url }))
}

/// Returns the rules for the user that the page of the storage suggests.
fn least_rights() -> String {
    let page = include_str!("../../../../leasehold/src/storage/redis/README.md");
    let rules =
        page.split_once("ACL SETUSER locks on >password ").and_then(|(_, rest)| rest.split_once("```"));
    let (rules, _) = rules.expect("BUG: the page suggests a user");
    rules.split_whitespace().collect::<Vec<_>>().join(" ")
}

alone!(Redis, faults);

impl Faults for Redis {
    fn names(&self) -> Vec<&'static str> {
        vec!["server kill", "server stop", "server restart"]
    }

    fn links(&self) -> Option<Links> {
        Some(LINKS)
    }

    fn key(&self, prefix: Option<&str>, lock: &str) -> String {
        key(prefix, lock)
    }

    fn left(&self) -> Result<Vec<String>> {
        left(self)
    }
}

/// Returns the key of a lock.
fn key(prefix: Option<&str>, lock: &str) -> String {
    format!("{}{lock}", prefix.unwrap_or("leasehold:"))
}

/// Lists the keys of a server, except what stays: the token records, which expire in a day, the record of the
/// primary, and the two keys by which a server of a quorum knows what it has granted.
fn left(server: &Redis) -> Result<Vec<String>> {
    const STAYS: [&str; 4] = ["\\x00t\"", "\\x00epoch\"", "\\x00marker\"", "\\x00others\""];
    let keys = server.quoted(&["keys", "*"])?;
    // Each line is a number and a key in quotes, or says that there is none.
    let keys = keys.lines().filter_map(|line| line.trim_start().split_once(") "));
    let left = keys.filter(|(_, key)| !STAYS.iter().any(|end| key.ends_with(end)));
    Ok(left.map(|(_, key)| format!("the key {key} at port {}", server.port())).collect())
}
