use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use leasehold::storage::Tier;
use leasehold_testbed::{Error, Redis, RedisCluster, RedisSentinels, Result, Server, Setup, until};

use super::links::hosts;
use super::rig::{Ending, Rig};
use crate::random::Random;

/// A primary and its replica under Sentinels.
pub(super) struct Sentinels(pub(super) RedisSentinels);

impl Rig for Sentinels {
    fn setup(&self) -> &dyn Setup {
        &self.0
    }

    fn faults(&self) -> Vec<&'static str> {
        vec!["primary kill", "failover", "primary stop", "replica kill", "primary restart", "sentinel stop"]
    }

    fn servers(&self, which: &str, _: &str, random: &mut Random) -> Result<Vec<&Server>> {
        let primary = self.0.primary()?;
        match which {
            "primary" => Ok(vec![primary]),
            "replica" => Ok(vec![other(self.0.servers(), primary)?]),
            "sentinel" => Ok(vec![&**random.of(self.0.sentinels())]),
            _ => Err(Error::new(format!("this setup has no such servers: {which}"))),
        }
    }

    /// Waits with the restart of a killed primary until another server has taken over.
    fn killed(&self, which: &str) -> Result<()> {
        if which != "primary" {
            return Ok(());
        }
        let gone = self.0.servers().iter().find(|server| !server.is_running());
        gone.map_or(Ok(()), |gone| self.0.await_primary_other_than(gone.port()).map(drop))
    }

    /// Waits until there is one primary and the other server follows it. Until then both may act as the
    /// primary.
    fn await_whole(&self) -> Result<()> {
        self.setup().await_ready()?;
        until("one primary and one replica", || {
            let primary = self.0.primary()?;
            if !primary.is_primary()? || other(self.0.servers(), primary)?.is_primary()? {
                return Err(Error::new("not yet"));
            }
            primary.await_replicas(1)
        })
    }

    fn needs(&self, fault: &str) -> Tier {
        // A replica lags behind its primary, so a promoted one may lack the last writes.
        if fault.starts_with("primary") || fault == "failover" { Tier::FailoverSafe } else { Tier::Advisory }
    }

    fn left(&self) -> Result<Vec<String>> {
        left_at(&format!("127.0.0.1:{}", self.0.primary()?.port()))
    }
}

fn other<'a>(servers: &'a [Redis], one: &Redis) -> Result<&'a Redis> {
    let other = servers.iter().find(|server| server.port() != one.port());
    other.ok_or_else(|| Error::new("there is no other server"))
}

/// A Cluster, with or without replicas.
pub(super) struct Cluster(pub(super) RedisCluster);

impl Cluster {
    fn has_replicas(&self) -> bool {
        self.0.nodes().len() > 3
    }

    /// Moves the slot of a key to another node, sometimes in steps. Meanwhile its keys are on both nodes,
    /// or not yet on either.
    fn migrate(&self, key: &str, random: &mut Random) -> Result<Option<Ending<'_>>> {
        let slot = self.0.slot_of(key)?;
        let from = self.0.primary_of(slot)?.port();
        let mut others = Vec::new();
        for node in self.0.nodes() {
            if node.port() != from && node.is_primary()? {
                others.push(node);
            }
        }
        let to = *random.of(&others);
        let migration = self.0.begin_migration(slot, to)?;
        match random.below(3) {
            0 => {
                migration.move_all()?;
                return migration.finish().map(|()| None);
            }
            1 => {}
            _ => {
                let keys = migration.keys()?;
                if !keys.is_empty() {
                    migration.move_key(random.of(&keys).as_str())?;
                }
            }
        }
        Ok(Some(Box::new(move || {
            migration.move_all()?;
            migration.finish()
        })))
    }
}

impl Rig for Cluster {
    fn setup(&self) -> &dyn Setup {
        &self.0
    }

    fn faults(&self) -> Vec<&'static str> {
        if self.has_replicas() {
            return vec!["failover", "slot migration", "primary kill", "server stop"];
        }
        vec!["slot migration", "server kill", "server stop", "slot migration", "server restart"]
    }

    fn servers(&self, which: &str, key: &str, random: &mut Random) -> Result<Vec<&Server>> {
        match which {
            "primary" => Ok(vec![self.0.primary_of(self.0.slot_of(key)?)?]),
            "server" => Ok(vec![&**random.of(self.0.nodes())]),
            _ => Err(Error::new(format!("this setup has no such servers: {which}"))),
        }
    }

    /// Waits with the restart of a killed primary until its replica has taken over.
    fn killed(&self, which: &str) -> Result<()> {
        if which == "primary" { self.0.await_ready() } else { Ok(()) }
    }

    fn inject(&self, fault: &str, key: &str, random: &mut Random) -> Result<Option<Ending<'_>>> {
        match fault {
            "failover" => self.0.failover(key).map(|_| None),
            "slot migration" => self.migrate(key, random),
            _ => Err(Error::new(format!("this setup has no such fault: {fault}"))),
        }
    }

    fn needs(&self, fault: &str) -> Tier {
        match fault {
            "slot migration" => Tier::Advisory,
            // An orderly failover: the replica waits until it has all writes.
            "failover" => Tier::RestartSafe,
            // A replica takes over from a primary that is silent for a second.
            _ if self.has_replicas() => Tier::FailoverSafe,
            "server stop" => Tier::Advisory,
            _ => Tier::RestartSafe,
        }
    }

    fn left(&self) -> Result<Vec<String>> {
        left(&self.0)
    }
}

/// Lists what is left at the servers that a URL names.
pub(super) fn left(setup: &dyn Setup) -> Result<Vec<String>> {
    let left: Vec<_> = hosts(&setup.url()).iter().map(|host| left_at(host)).collect::<Result<_>>()?;
    Ok(left.concat())
}

/// Lists the keys of one server, except what stays: the token records, which expire in a day, the record of the
/// primary, and the two keys by which a server of a quorum knows what it has granted.
fn left_at(host: &str) -> Result<Vec<String>> {
    let keys = keys(host).map_err(|error| Error::new(format!("cannot list keys at {host}: {error}")))?;
    let stays: [&[u8]; 4] = [b"\0t", b"\0epoch", b"\0marker", b"\0others"];
    let left = keys.iter().filter(|key| !stays.iter().any(|end| key.ends_with(end)));
    Ok(left.map(|key| format!("the key {}", key.escape_ascii())).collect())
}

/// Sends the command itself, because the line client neither accepts nor quotes a NUL.
fn keys(host: &str) -> std::io::Result<Vec<Vec<u8>>> {
    let mut server = BufReader::new(TcpStream::connect(host)?);
    server.get_mut().write_all(b"*2\r\n$4\r\nKEYS\r\n$1\r\n*\r\n")?;
    let n = length(&mut server, '*')?;
    (0..n)
        .map(|_| {
            let mut key = vec![0; length(&mut server, '$')?];
            server.read_exact(&mut key)?;
            server.read_exact(&mut [0; 2])?;
            Ok(key)
        })
        .collect()
}

fn length(server: &mut impl BufRead, kind: char) -> std::io::Result<usize> {
    let mut line = String::new();
    server.read_line(&mut line)?;
    let length = line.strip_prefix(kind).and_then(|length| length.trim_end().parse().ok());
    length.ok_or_else(|| std::io::Error::other(format!("it said {line:?}")))
}
