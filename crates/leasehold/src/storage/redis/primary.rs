//! A primary, and the connections to it.

use std::sync::Arc;

use super::config::Config;
use super::connect::Connector;
use super::link::Server;
use crate::storage::Hint;
use crate::storage::net::hints::Hinter;

/// A primary, with up to three connections.
#[derive(Clone)]
pub(super) struct Primary {
    pub(super) server: Arc<Server>,
    /// A connection for acquires, if they wait for replicas: `WAIT` blocks everything else on a connection.
    pub(super) acquires: Option<Arc<Server>>,
    /// The same for renewals.
    pub(super) renewals: Option<Arc<Server>>,
}

impl Primary {
    pub(super) fn new(connector: &Connector, config: &Config, hinter: &Arc<Hinter>) -> Self {
        let server = || {
            let hinter = Arc::clone(hinter);
            Server::new(connector.clone(), move || hinter.send(Hint::Restarted))
        };
        let grace = config.failover_grace.is_some();
        Self {
            server: server(),
            acquires: (grace || config.wait_replicas > 0).then(server),
            renewals: grace.then(server),
        }
    }

    /// Returns the primary with the connection that is given, and no others.
    pub(super) fn of(server: &Arc<Server>) -> Self {
        Self { server: Arc::clone(server), acquires: None, renewals: None }
    }
}
