//! The two connections of a client.

use std::sync::Arc;

use super::link::Link;
use super::link_connector::{LinkConnector, Server};
use crate::error::Result;
use crate::storage::net::server::Link as _;

/// A client's connections.
#[derive(Clone)]
pub(super) struct Links {
    /// The connection over which every statement is sent, as long as the server answers.
    pub(super) main: Arc<Server>,
    /// The connection on which the server notifies. It is opened when the client first waits or observes, or when the main
    /// one is stuck.
    pub(super) side: Arc<Server>,
}

impl Links {
    pub(super) fn new(connector: LinkConnector, changed: impl Fn() + Clone + Send + Sync + 'static) -> Self {
        let side = Server::new(connector.clone().in_background(), changed.clone());
        Self { main: Server::new(connector, changed), side }
    }

    /// Returns the connection over which locks are acquired.
    pub(super) async fn for_acquire(&self) -> Result<(&Server, Arc<Link>)> {
        Ok((&*self.main, self.main.link().await?))
    }

    /// Returns the connection over which leases are renewed and released: the main one, or the side one while the main one
    /// is stuck. So releases and renewals never wait behind acquires (invariant 8 of docs/architecture.md).
    pub(super) async fn for_lease(&self) -> Result<(&Server, Arc<Link>)> {
        if let Some(main) = self.main.open_link().filter(|link| link.is_stuck() && !link.pooled)
            && let Ok(side) = self.side.link_now().await
        {
            if main.identity() == side.identity() {
                return Ok((&*self.side, side));
            }
            // One of the servers has taken the other's place. New connections lead to the one that is the primary now.
            main.give_up();
            side.give_up();
        }
        self.for_acquire().await
    }
}
