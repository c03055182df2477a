//! The servers that requests go to: one, or the nodes of a Cluster.

use std::sync::Arc;

use super::cluster::Cluster;
use super::config::{Config, Servers};
use super::connect::Connector;
use super::operation::Operation;
use super::primary::Primary;
use super::replicas;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::net::hints::Hinter;
use crate::storage::{Guarantees, Tier};

/// The servers that requests go to.
#[derive(Clone)]
pub(super) enum Topology {
    /// One server; with Sentinels, the one that they report as the primary.
    One(Primary),
    /// For each lock the node that serves its slot.
    Cluster(Arc<Cluster>),
}

impl Topology {
    pub(super) async fn connect(config: &Arc<Config>, hinter: &Arc<Hinter>) -> Result<(Self, Guarantees)> {
        let tls = || config.access.tls.as_ref().map(|tls| tls.connector()).transpose();
        let connector = match &config.servers {
            Servers::One(place) => Connector::to(place.clone(), config, tls()?),
            Servers::Sentinels { sentinels, primary, login } => {
                Connector::by_sentinels(sentinels, primary, login, config, tls()?)
            }
            Servers::Cluster(seeds) => {
                let (cluster, guarantees) = Cluster::connect(seeds, tls()?, config, hinter).await?;
                return Ok((Self::Cluster(cluster), guarantees));
            }
            Servers::Quorum(_) => {
                let text = "a quorum is a storage of its own; write `redis+quorum:`";
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
        };
        let primary = Primary::new(&connector, config, hinter);
        let link = primary.server.link().await?;
        if link.facts.cluster {
            let text = "the server is a node of a Cluster; write `redis+cluster:`";
            return Err(Error::new(ErrorKind::Unsupported, format!("{text} server=`{}`", link.place)));
        }
        let guarantees = link.facts.guarantees(config);
        if guarantees.tier == Tier::FailoverSafe {
            connector.promise_failovers();
        }
        Ok((Self::One(primary), guarantees))
    }

    /// Executes an operation for each item. If there is one server and the whole call failed, all have the same error.
    pub(super) async fn each<O: Operation>(&self, operation: &O, items: &[O::Item]) -> Vec<Result<O::Reply>> {
        match self {
            Self::One(primary) => {
                let replies = primary.call(operation, &items.iter().collect::<Vec<_>>()).await;
                replies.unwrap_or_else(|error| items.iter().map(|_| Err(error.clone())).collect())
            }
            Self::Cluster(cluster) => cluster.each(operation, items).await,
        }
    }
}

impl Primary {
    /// Executes an operation for some items.
    async fn call<O: Operation>(&self, operation: &O, items: &[&O::Item]) -> Result<Vec<Result<O::Reply>>> {
        if let Some(server) = operation.confirming(self) {
            return replicas::call(operation, server, items).await;
        }
        let link = self.server.link().await?;
        let request = operation.request(&link, items);
        operation.read(request.send_to_only(&self.server, &link).await?, items)
    }
}
