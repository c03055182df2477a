//! What a test can observe.

use std::net::SocketAddr;

use crate::rules::{ConnId, To};

/// The counts of a proxy since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that were accepted, without those that [`PortState::Reset`](crate::PortState::Reset) reset.
    pub accepted: u64,
    /// The accepted connections that are open now, including silent ones.
    pub open: u64,
    /// Connections that [`PortState::Reset`](crate::PortState::Reset) reset. Connections to a closed port cannot be
    /// counted.
    pub refused: u64,
    /// Connections for which the server could not be reached, so the client got a reset.
    pub unreached: u64,
    /// Bytes read from clients.
    pub from_client: u64,
    /// Bytes written to the server.
    pub to_server: u64,
    /// Bytes read from the server.
    pub from_server: u64,
    /// Bytes written to clients.
    pub to_client: u64,
    /// Bytes that were read and will not be forwarded, because their connection was cut.
    pub discarded: u64,
    /// How often a rule ended a connection or one direction of it.
    pub ended: u64,
    /// How often the bytes of a trap were forwarded.
    pub passed: u64,
    /// How often a trap executed its action.
    pub sprung: u64,
}

impl Stats {
    pub(crate) fn read(&mut self, to: To) -> &mut u64 {
        match to {
            To::Server => &mut self.from_client,
            To::Client => &mut self.from_server,
        }
    }

    pub(crate) fn sent(&mut self, to: To) -> &mut u64 {
        match to {
            To::Server => &mut self.to_server,
            To::Client => &mut self.to_client,
        }
    }
}

/// One open connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection {
    /// Its number.
    pub id: ConnId,
    /// Where the client connected from.
    pub client: SocketAddr,
    /// Bytes read from the client.
    pub from_client: u64,
    /// Bytes written to the server.
    pub to_server: u64,
    /// Bytes read from the server.
    pub from_server: u64,
    /// Bytes written to the client.
    pub to_client: u64,
}
