//! What a test can see.

use std::net::SocketAddr;

use crate::rules::{ConnId, To};
use crate::trap::TrapId;

/// Counts what went through a proxy since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Stats {
    /// Connections that were accepted, without those that [`Door::Reset`](crate::Door::Reset) reset.
    pub accepted: u64,
    /// Those of them that are open now, silent ones included.
    pub open: u64,
    /// Connections that [`Door::Reset`](crate::Door::Reset) reset. Nobody sees those that a closed port refuses.
    pub refused: u64,
    /// Connections for which the server could not be reached; the client saw a reset.
    pub unreached: u64,
    /// Bytes read from clients.
    pub from_client: u64,
    /// Bytes written to the server.
    pub to_server: u64,
    /// Bytes read from the server.
    pub from_server: u64,
    /// Bytes written to clients.
    pub to_client: u64,
    /// Bytes that were read and will never be forwarded, because their connection was cut.
    pub discarded: u64,
    /// How often a rule ended a connection or a direction of one.
    pub ended: u64,
    /// How often the bytes of a trap were forwarded.
    pub passed: u64,
    /// How often a trap did what it is for.
    pub sprung: u64,
}

impl Stats {
    /// Returns the counts with their names.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 12] {
        [
            ("accepted", self.accepted),
            ("open", self.open),
            ("refused", self.refused),
            ("unreached", self.unreached),
            ("from_client", self.from_client),
            ("to_server", self.to_server),
            ("from_server", self.from_server),
            ("to_client", self.to_client),
            ("discarded", self.discarded),
            ("ended", self.ended),
            ("passed", self.passed),
            ("sprung", self.sprung),
        ]
    }

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

/// Describes one open connection.
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

/// Says what happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// A client connected.
    Accepted(ConnId),
    /// A client was reset at the door.
    Refused,
    /// The server was reached for this connection.
    Reached(ConnId),
    /// The server could not be reached, and the client was reset.
    Unreached(ConnId),
    /// The bytes of a trap were forwarded.
    Passed(TrapId, ConnId),
    /// A trap did what it is for.
    Sprung(TrapId, ConnId),
    /// A rule ended the connection, or a direction of it.
    Ended(ConnId),
    /// A sender closed its direction, and the receiver now knows.
    Finished(ConnId, To),
    /// The connection is closed on both sides.
    Closed(ConnId),
    /// So many events were not fetched in time.
    Missed(u64),
}
