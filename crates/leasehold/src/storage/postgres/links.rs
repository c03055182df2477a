//! The two connections of a client: one for all that is asked, one to be notified and to step in.

use std::sync::Arc;

use super::link::{Door, Link, Server};
use crate::error::Result;
use crate::storage::net::server::Link as _;

/// A client's connections.
#[derive(Clone)]
pub(super) struct Links {
    /// Over which everything is asked, as long as it is answered.
    pub(super) first: Arc<Server>,
    /// Over which the server notifies. Opened when somebody first waits, or when the first is stuck.
    pub(super) second: Arc<Server>,
}

impl Links {
    pub(super) fn new(door: Door, changed: impl Fn() + Clone + Send + Sync + 'static) -> Self {
        let second = Server::new(door.clone().patient(), changed.clone());
        Self { first: Server::new(door, changed), second }
    }

    /// Returns the connection over which locks are acquired.
    pub(super) async fn acquiring(&self) -> Result<(&Server, Arc<Link>)> {
        Ok((&*self.first, self.first.link().await?))
    }

    /// Returns the connection over which leases are renewed and released: the first, or the second while nothing is
    /// answered over the first, so that releases and renewals never wait behind acquires (invariant 8).
    pub(super) async fn keeping(&self) -> Result<(&Server, Arc<Link>)> {
        if let Some(first) = self.first.open_link().filter(|link| link.is_stuck() && !link.pooled)
            && let Ok(second) = self.second.link_now().await
        {
            if first.identity() == second.identity() {
                return Ok((&*self.second, second));
            }
            // One of the servers has taken the other's place: whoever is asked now knows which.
            first.give_up();
            second.give_up();
        }
        self.acquiring().await
    }
}
