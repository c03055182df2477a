//! What a torture can do to an etcd.

use super::Etcd;
use crate::faults::{Damage, Ending, Links, Pick, no_such_fault, no_such_servers};
use crate::{Error, Faults, Result, Server, Setup, until};

/// How to recognize a client's requests: each claim has this in its value.
const LINKS: Links = Links::new("leasehold 1 ttl=", None);
/// The faults of servers, of one member and of several.
const OF_ONE: [&str; 3] = ["server kill", "server stop", "server restart"];
const OF_MANY: [&str; 6] =
    ["failover", "leader kill", "leader stop", "followers stop", "follower kill", "every server kill"];
/// The faults inside of the servers.
const INSIDE: [&str; 1] = ["history compacted"];

impl Faults for Etcd {
    fn names(&self) -> Vec<&'static str> {
        let of_servers = if self.members().len() == 1 { &OF_ONE[..] } else { &OF_MANY };
        [of_servers, &INSIDE].concat()
    }

    fn links(&self) -> Option<Links> {
        (self.members().len() == 1).then_some(LINKS)
    }

    fn key(&self, prefix: Option<&str>, lock: &str) -> String {
        format!("{}{lock}/", prefix.unwrap_or_default())
    }

    fn hit(&self, which: &str, _: &str, pick: Pick<'_>) -> Result<Vec<&Server>> {
        let followers = || -> Result<Vec<&Server>> {
            let leader = self.leader()?.port();
            let others = self.members().iter().filter(|member| member.port() != leader);
            Ok(others.map(|member| &**member).collect())
        };
        match which {
            "server" | "leader" => Ok(vec![self.leader()?]),
            "follower" => followers().map(|all| vec![all[pick(all.len())]]),
            "followers" => followers(),
            "every server" => Ok(Setup::servers(self)),
            _ => Err(no_such_servers(which)),
        }
    }

    /// Waits with the restart of a killed leader until another member leads.
    fn after_kill(&self, which: &str) -> Result<()> {
        if which == "leader" { self.leader().map(drop) } else { Ok(()) }
    }

    fn inject(&self, fault: &str, _: &str, _: Pick<'_>) -> Result<Option<Ending<'_>>> {
        match fault {
            "failover" => Setup::failover(self).map(|()| None),
            "history compacted" => self.compact().map(|()| None),
            _ => Err(no_such_fault(fault)),
        }
    }

    /// Waits until a majority confirms a write, too.
    fn await_whole(&self) -> Result<()> {
        Setup::await_ready(self)?;
        until("a majority to confirm a write", || self.command(&["put", "leasehold-testbed", ""]).map(drop))
    }

    fn damage(&self, fault: &str) -> Damage {
        match fault {
            // Another member may be elected meanwhile.
            "leader stop" | "leader kill" | "followers stop" | "failover" => Damage::Failover,
            _ if fault.ends_with(" kill") || fault.ends_with(" restart") => Damage::Restart,
            _ => Damage::None,
        }
    }

    /// Lists what is left when no client is connected. The gates of leases end with these.
    fn left(&self) -> Result<Vec<String>> {
        let keys = self.command(&["get", "", "--from-key", "--keys-only"])?;
        let locks =
            keys.lines().filter(|key| !key.is_empty() && !key.contains('\0') && *key != "leasehold-testbed");
        Ok(locks.map(|key| format!("the key {key:?}")).collect())
    }
}

impl Etcd {
    /// Compacts the history up to the current revision.
    ///
    /// # Errors
    ///
    /// If no member answers.
    pub fn compact(&self) -> Result<()> {
        let status = self.command(&["get", "leasehold-testbed", "--write-out=fields"])?;
        let revision = status.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
        let revision = revision.ok_or_else(|| Error::new("etcd does not tell its revision"))?.trim();
        match self.command(&["compaction", revision]) {
            Err(error) if !error.to_string().contains("has been compacted") => Err(error),
            _ => Ok(()),
        }
    }
}
