//! A Cluster of three primaries with any number of replicas.

use super::slots::id_of;
use super::{MISSED_MS, Redis, RedisOptions};
use crate::ports::Port;
use crate::scratch::Scratch;
use crate::wait::until;
use crate::{Error, Result};

const SLOTS: usize = 16_384;
const PRIMARIES: usize = 3;

/// A Cluster of three primaries. A node that is missed for two seconds counts as failed.
#[derive(Debug)]
pub struct RedisCluster {
    /// The nodes. At the start, the first three are the primaries.
    nodes: Vec<Redis>,
    /// The ports on which they talk to each other.
    buses: Vec<Port>,
}

/// The configuration of a [`RedisCluster`].
#[derive(Clone, Debug, Default)]
pub struct RedisClusterOptions {
    replicas: usize,
    servers: RedisOptions,
}

impl RedisCluster {
    /// Starts three nodes without replicas, and joins them.
    ///
    /// # Errors
    ///
    /// If one does not start.
    pub fn start() -> Result<Self> {
        Self::options().start()
    }

    /// Starts three nodes with these options and joins them.
    ///
    /// # Errors
    ///
    /// If one does not start.
    pub fn start_with(options: RedisOptions) -> Result<Self> {
        Self::options().servers(options).start()
    }

    /// Begins with the defaults.
    #[must_use]
    pub fn options() -> RedisClusterOptions {
        RedisClusterOptions::default()
    }

    /// Returns the URL: `redis+cluster://` and every node.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.nodes.iter().map(|node| node.address.host()).collect();
        let tls = if self.nodes[0].tls().is_some() { "s" } else { "" };
        format!("redis{tls}+cluster://{}{}", self.nodes[0].address.credentials(), hosts.join(","))
    }

    /// Returns the nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// Lets a replica of the primary that serves `key` take over in a planned failover, which loses nothing. Returns the
    /// new primary.
    ///
    /// # Errors
    ///
    /// If it has no replica, or it does not happen.
    pub fn failover(&self, key: &str) -> Result<&Redis> {
        let slot = self.slot_of(key)?;
        let old = self.primary_of(slot)?;
        let replica = self.replica_of(old)?;
        // A replica that has not followed for long enough gives up.
        until("the replica to take over", || {
            if !replica.is_primary()? {
                replica.command(&["cluster", "failover"])?;
                return Err(Error::new("the replica has begun"));
            }
            Ok(())
        })?;
        self.await_primary_other_than(slot, old)
    }

    /// Kills the primary that serves `key`, and waits until a replica has taken over. The last writes may be lost.
    /// Returns the new primary.
    ///
    /// # Errors
    ///
    /// If it has no replica, or it does not happen.
    pub fn failover_by_kill(&self, key: &str) -> Result<&Redis> {
        let slot = self.slot_of(key)?;
        let old = self.primary_of(slot)?;
        self.replica_of(old)?;
        old.kill9();
        self.await_primary_other_than(slot, old)
    }

    /// Waits until every running node sees every slot served and is connected to all others, and every replica follows its
    /// primary.
    ///
    /// # Errors
    ///
    /// If they do not.
    pub fn await_ready(&self) -> Result<()> {
        for node in self.nodes.iter().filter(|node| node.is_running()) {
            until("the Cluster to serve every slot", || {
                let info = node.command(&["cluster", "info"])?;
                let known = format!("cluster_known_nodes:{}\r", self.nodes.len());
                if !info.contains("cluster_state:ok") || !info.contains(&known) {
                    return Err(Error::new(info));
                }
                self.talks_with_all(node)?;
                let link = node.info("replication")?;
                match link.contains("master_link_status:down") {
                    true => Err(Error::new(link)),
                    false => Ok(()),
                }
            })?;
        }
        Ok(())
    }

    /// Checks that a node is connected to all others. A published message reaches only those to which there is a connection,
    /// which is made some time after a node has heard of the other.
    fn talks_with_all(&self, node: &Redis) -> Result<()> {
        let known = node.command(&["cluster", "nodes"])?;
        let others = self.nodes.iter().filter(|other| other.is_running() && other.port() != node.port());
        for other in others {
            let address = format!(":{}@", other.port());
            let line = known.lines().find(|line| line.contains(&address));
            if !line.is_some_and(|line| line.contains(" connected") && !line.contains("handshake")) {
                return Err(Error::new(known));
            }
        }
        Ok(())
    }

    fn await_primary_other_than(&self, slot: u16, old: &Redis) -> Result<&Redis> {
        let new = until("another primary", || match self.primary_of(slot)? {
            new if new.port() != old.port() => Ok(new),
            _ => Err(Error::new("the primary is the old one")),
        })?;
        self.await_ready()?;
        Ok(new)
    }

    fn join(&self) -> Result<()> {
        let per_node = SLOTS.div_ceil(PRIMARIES);
        let (primaries, replicas) = self.nodes.split_at(PRIMARIES);
        for (i, node) in primaries.iter().enumerate() {
            let (first, end) = (i * per_node, std::cmp::min((i + 1) * per_node, SLOTS));
            node.command(&["cluster", "set-config-epoch", &(i + 1).to_string()])?;
            node.command(&["cluster", "addslotsrange", &first.to_string(), &(end - 1).to_string()])?;
        }
        for (node, bus) in self.nodes.iter().zip(&self.buses).skip(1) {
            let (port, bus) = (node.port().to_string(), bus.number().to_string());
            self.nodes[0].command(&["cluster", "meet", "127.0.0.1", &port, &bus])?;
        }
        for (i, replica) in replicas.iter().enumerate() {
            let primary = id_of(&primaries[i % PRIMARIES])?;
            // The replica must have heard of the primary first.
            until("the replica to know its primary", || {
                replica.command(&["cluster", "replicate", &primary])
            })?;
        }
        self.await_ready()
    }
}

impl RedisClusterOptions {
    /// Sets the number of replicas of each primary, with which it can fail over.
    #[must_use]
    pub fn replicas(mut self, replicas: usize) -> Self {
        self.replicas = replicas;
        self
    }

    /// Sets the options of all nodes.
    #[must_use]
    pub fn servers(mut self, servers: RedisOptions) -> Self {
        self.servers = servers;
        self
    }

    /// Starts the nodes and joins them.
    ///
    /// # Errors
    ///
    /// If one does not start.
    pub fn start(self) -> Result<RedisCluster> {
        let scratch = Scratch::new()?;
        let count = PRIMARIES * (1 + self.replicas);
        let buses = (0..count).map(|_| Port::free()).collect::<Result<Vec<_>>>()?;
        let nodes = buses.iter().enumerate().map(|(i, bus)| {
            let mut options = self
                .servers
                .clone()
                .setting("cluster-enabled", "yes")
                .setting("cluster-port", &bus.number().to_string())
                .setting("cluster-node-timeout", MISSED_MS)
                // A replica that was behind for a while may still be elected, because the test requested a failover.
                .setting("cluster-replica-validity-factor", "0")
                .setting("cluster-allow-replica-migration", "no")
                .setting("cluster-config-file", "nodes.conf");
            if options.tls {
                options = options.setting("tls-cluster", "yes");
            }
            options.start_in(&scratch, &format!("node-{i}"))
        });
        let cluster = RedisCluster { nodes: nodes.collect::<Result<_>>()?, buses };
        cluster.join()?;
        Ok(cluster)
    }
}
