//! The slots of a Cluster, and moving one between nodes.

use super::{Redis, RedisCluster};
use crate::wait::until;
use crate::{Error, Result};

/// A slot that is being moved between two primaries: MIGRATING at the old one, IMPORTING at the new one. The old one
/// replies ASK for keys that have moved. A command on several keys of which a node has only some gets TRYAGAIN. The slot
/// stays in that state until [`Migration::finish`] or [`Migration::abort`].
#[derive(Debug)]
#[must_use = "the slot stays between the nodes until `finish` or `abort`"]
pub struct Migration<'a> {
    cluster: &'a RedisCluster,
    slot: u16,
    from: &'a Redis,
    to: &'a Redis,
}

impl RedisCluster {
    /// Returns the slot of a key.
    ///
    /// # Errors
    ///
    /// If no node answers.
    pub fn slot_of(&self, key: &str) -> Result<u16> {
        let answer = self.any()?.command(&["cluster", "keyslot", key])?;
        answer.trim().parse().map_err(|_| Error::new(format!("not a slot text=`{answer}`")))
    }

    /// Returns the primary that serves a key.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn node_of(&self, key: &str) -> Result<&Redis> {
        self.primary_of(self.slot_of(key)?)
    }

    /// Returns the primary that serves a slot: of the running nodes that claim it, the one with the highest epoch.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn primary_of(&self, slot: u16) -> Result<&Redis> {
        let mut found: Option<(u64, &Redis)> = None;
        for node in self.running() {
            // A node that was just killed, or is stopped, does not count.
            let Ok(OwnReport { primary: true, epoch, slots, .. }) = own(node) else { continue };
            let serves = slots.iter().any(|(first, last)| (*first..=*last).contains(&slot));
            if serves && found.is_none_or(|(newest, _)| newest < epoch) {
                found = Some((epoch, node));
            }
        }
        let found = found.map(|(_, node)| node);
        found.ok_or_else(|| Error::new(format!("no node serves the slot slot=`{slot}`")))
    }

    /// Returns a running replica of a primary.
    ///
    /// # Errors
    ///
    /// If it has none.
    pub fn replica_of(&self, primary: &Redis) -> Result<&Redis> {
        let id = own(primary)?.id;
        let is_its = |node: &&Redis| own(node).is_ok_and(|own| own.replica_of.as_deref() == Some(&*id));
        let mut running = self.running();
        let found = running.find(is_its);
        found.ok_or_else(|| Error::new(format!("no replica follows it port=`{}`", primary.port())))
    }

    /// Moves a slot with all its keys to another primary.
    ///
    /// # Errors
    ///
    /// If a node refuses.
    pub fn migrate_slot(&self, slot: u16, to: &Redis) -> Result<()> {
        let migration = self.begin_migration(slot, to)?;
        migration.move_all()?;
        migration.finish()
    }

    /// Begins to move a slot to another primary. No key has moved yet.
    ///
    /// # Errors
    ///
    /// If a node refuses, or `to` is not a node of this Cluster or serves it already.
    pub fn begin_migration(&self, slot: u16, to: &Redis) -> Result<Migration<'_>> {
        let from = self.primary_of(slot)?;
        let to = self.nodes().iter().find(|node| node.port() == to.port());
        let to = to.ok_or_else(|| Error::new("the node is of another Cluster"))?;
        if from.port() == to.port() {
            return Err(Error::new(format!("the node serves the slot already slot=`{slot}`")));
        }
        let text = slot.to_string();
        // In the other order clients would be sent to a node that refuses them.
        to.command(&["cluster", "setslot", &text, "importing", &own(from)?.id])?;
        from.command(&["cluster", "setslot", &text, "migrating", &own(to)?.id])?;
        Ok(Migration { cluster: self, slot, from, to })
    }

    fn any(&self) -> Result<&Redis> {
        self.running().next().ok_or_else(|| Error::new("no node of the Cluster runs"))
    }

    fn running(&self) -> impl Iterator<Item = &Redis> {
        self.nodes().iter().filter(|node| node.is_running())
    }
}

impl Migration<'_> {
    /// Returns the node that serves the slot until the end of the migration.
    #[must_use]
    pub fn from(&self) -> &Redis {
        self.from
    }

    /// Returns the node that serves the slot afterward.
    #[must_use]
    pub fn to(&self) -> &Redis {
        self.to
    }

    /// Lists the keys that have not moved, in quotes, as [`Redis::quoted`] expects them.
    ///
    /// # Errors
    ///
    /// If the node does not answer.
    pub fn keys(&self) -> Result<Vec<String>> {
        let slot = self.slot.to_string();
        let answer = self.from.quoted(&["cluster", "getkeysinslot", &slot, "100000"])?;
        let keys = answer.lines().filter_map(|line| line.trim_start().split_once(") "));
        Ok(keys.map(|(_, key)| key.to_owned()).collect())
    }

    /// Moves one key, plain or in quotes. A missing key is no error.
    ///
    /// # Errors
    ///
    /// If a node refuses.
    pub fn move_key(&self, key: &str) -> Result<()> {
        self.move_keys(&[key])
    }

    /// Moves all keys that have not moved.
    ///
    /// # Errors
    ///
    /// If a node refuses.
    pub fn move_all(&self) -> Result<()> {
        until("the slot to be empty", || {
            let keys = self.keys()?;
            if keys.is_empty() {
                return Ok(());
            }
            // A command line has a limited length.
            for keys in keys.chunks(500) {
                self.move_keys(&keys.iter().map(String::as_str).collect::<Vec<_>>())?;
            }
            Err(Error::new(format!("{} keys were left", keys.len())))
        })
    }

    /// Gives the slot to the new node, and informs all nodes. Keys that have not moved are lost.
    ///
    /// # Errors
    ///
    /// If a node refuses, or the nodes do not agree.
    pub fn finish(self) -> Result<()> {
        let (slot, id) = (self.slot.to_string(), own(self.to)?.id);
        let set = |node: &Redis| node.command(&["cluster", "setslot", &slot, "node", &id]).map(drop);
        // The new node first: otherwise no node would have the slot if this fails in between.
        set(self.to)?;
        set(self.from)?;
        for node in self.cluster.running() {
            let others = [self.to.port(), self.from.port()].iter().all(|port| *port != node.port());
            if others && own(node)?.primary {
                set(node)?;
            }
        }
        until("the Cluster to agree on the slot", || match self.cluster.primary_of(self.slot)?.port() {
            port if port == self.to.port() => Ok(()),
            port => Err(Error::new(format!("it is at port=`{port}`"))),
        })
    }

    /// Leaves the slot at the old node. Keys that have moved are lost.
    ///
    /// # Errors
    ///
    /// If a node refuses.
    pub fn abort(self) -> Result<()> {
        for node in [self.from, self.to] {
            node.command(&["cluster", "setslot", &self.slot.to_string(), "stable"])?;
        }
        Ok(())
    }

    fn move_keys(&self, keys: &[&str]) -> Result<()> {
        let port = self.to.port().to_string();
        let mut args = vec!["migrate", "127.0.0.1", &port, "", "0", "5000"];
        match (&self.to.address.user, &self.to.address.password) {
            (Some(user), Some(password)) => args.extend(["auth2", user, password]),
            (None, Some(password)) => args.extend(["auth", password]),
            _ => {}
        }
        args.push("keys");
        args.extend(keys);
        self.from.quoted(&args).map(drop)
    }
}

/// What a node reports about itself.
struct OwnReport {
    id: String,
    primary: bool,
    replica_of: Option<String>,
    /// The epoch of its configuration, which grows with each node that takes over slots.
    epoch: u64,
    slots: Vec<(u16, u16)>,
}

fn own(node: &Redis) -> Result<OwnReport> {
    let nodes = node.command(&["cluster", "nodes"])?;
    let own = nodes.lines().find(|line| line.contains("myself")).and_then(parse);
    own.ok_or_else(|| Error::new(format!("the node does not know itself text=`{nodes}`")))
}

/// Reads id, address, flags, primary, ping, pong, epoch, link and slots. Slots in brackets are being moved.
fn parse(line: &str) -> Option<OwnReport> {
    let mut words = line.split(' ');
    let id = words.next()?.to_owned();
    let flags = words.nth(1)?;
    let replica_of = Some(words.next()?).filter(|id| *id != "-").map(str::to_owned);
    let epoch = words.nth(2)?.parse().ok()?;
    let slots = words.skip(1).filter(|word| !word.starts_with('[')).filter_map(|word| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some((first.parse().ok()?, last.parse().ok()?))
    });
    Some(OwnReport { id, primary: flags.contains("master"), replica_of, epoch, slots: slots.collect() })
}

/// Returns the id of a node.
pub(super) fn id_of(node: &Redis) -> Result<String> {
    Ok(own(node)?.id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_a_node_is_read() {
        let line =
            "07c3 127.0.0.1:30004@31004,host myself,master - 0 1426238317239 4 connected 0-1 5 [7->-f00]";
        let own = parse(line).expect("complete");
        assert!(own.primary && own.id == "07c3" && own.epoch == 4 && own.replica_of.is_none());
        assert_eq!(own.slots, [(0, 1), (5, 5)]);
        let line = "07c4 127.0.0.1:30005@31005 myself,slave 07c3 0 1426238316232 4 connected";
        let own = parse(line).expect("complete");
        assert!(!own.primary && own.slots.is_empty());
        assert_eq!(own.replica_of.as_deref(), Some("07c3"));
    }
}
