//! A Cluster of three primaries, without replicas.

use super::{Redis, RedisOptions};
use crate::ports::Port;
use crate::scratch::Scratch;
use crate::wait::until;
use crate::{Error, Result};

const SLOTS: usize = 16_384;

/// Is a Cluster of three. A node that is missed for a second counts as failed.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Redis>,
    /// Where they talk to each other.
    buses: Vec<Port>,
}

impl RedisCluster {
    /// Starts three nodes and joins them.
    ///
    /// # Errors
    ///
    /// If one does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(Redis::options())
    }

    /// Starts three nodes with these options and joins them.
    ///
    /// # Errors
    ///
    /// If one does not start.
    pub fn start_with(options: RedisOptions) -> Result<Self> {
        let scratch = Scratch::new()?;
        let buses = (0..3).map(|_| Port::free()).collect::<Result<Vec<_>>>()?;
        let nodes = buses.iter().enumerate().map(|(i, bus)| {
            let mut options = options
                .clone()
                .setting("cluster-enabled", "yes")
                .setting("cluster-port", &bus.number().to_string())
                .setting("cluster-node-timeout", "1000")
                .setting("cluster-config-file", "nodes.conf");
            if options.tls {
                options = options.setting("tls-cluster", "yes");
            }
            options.start_in(&scratch, &format!("node-{i}"))
        });
        let cluster = Self { nodes: nodes.collect::<Result<_>>()?, buses };
        cluster.join()?;
        Ok(cluster)
    }

    /// Returns the URL: `redis+cluster://`, every node.
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

    /// Returns the node that serves a key.
    ///
    /// # Errors
    ///
    /// If nobody answers.
    pub fn node_of(&self, key: &str) -> Result<&Redis> {
        let slot: usize = parse(&self.nodes[0].command(&["cluster", "keyslot", key])?)?;
        let per_node = SLOTS.div_ceil(self.nodes.len());
        Ok(&self.nodes[slot / per_node])
    }

    /// Waits until every node sees every slot served.
    ///
    /// # Errors
    ///
    /// If they do not.
    pub fn await_ready(&self) -> Result<()> {
        for node in &self.nodes {
            until("the Cluster to serve every slot", || {
                let info = node.command(&["cluster", "info"])?;
                let known = format!("cluster_known_nodes:{}", self.nodes.len());
                if info.contains("cluster_state:ok") && info.contains(&known) {
                    return Ok(());
                }
                Err(Error::new(info))
            })?;
        }
        Ok(())
    }

    fn join(&self) -> Result<()> {
        let per_node = SLOTS.div_ceil(self.nodes.len());
        for (i, node) in self.nodes.iter().enumerate() {
            let (first, end) = (i * per_node, std::cmp::min((i + 1) * per_node, SLOTS));
            node.command(&["cluster", "set-config-epoch", &(i + 1).to_string()])?;
            node.command(&["cluster", "addslotsrange", &first.to_string(), &(end - 1).to_string()])?;
        }
        for (node, bus) in self.nodes.iter().zip(&self.buses).skip(1) {
            let (port, bus) = (node.port().to_string(), bus.number().to_string());
            self.nodes[0].command(&["cluster", "meet", "127.0.0.1", &port, &bus])?;
        }
        self.await_ready()
    }
}

fn parse<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.trim().parse().map_err(|_| Error::new(format!("not a number text=`{text}`")))
}
