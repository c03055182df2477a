//! The rules that a test can set.

use std::time::Duration;

/// A direction, named by the end that receives the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_enums, reason = "a connection has two ends")]
pub enum To {
    /// Requests: from the client to the server.
    Server,
    /// Replies: from the server to the client.
    Client,
}

impl To {
    /// Both directions.
    pub const BOTH: [Self; 2] = [Self::Server, Self::Client];

    /// Returns the opposite direction.
    #[must_use]
    pub fn opposite(self) -> Self {
        match self {
            Self::Server => Self::Client,
            Self::Client => Self::Server,
        }
    }

    pub(crate) fn index(self) -> usize {
        match self {
            Self::Server => 0,
            Self::Client => 1,
        }
    }
}

/// How bytes are forwarded in one direction.
///
/// No flow loses, repeats or reorders bytes. Changing the flow also changes when the bytes in flight
/// arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Flow {
    /// Bytes are forwarded as they arrive.
    #[default]
    Pass,
    /// Each byte is late by `by` plus a fraction of `jitter` that is the same in every run. The end of the
    /// stream is as late as the bytes. At most 256 KiB are buffered, then the sender waits.
    Delay {
        /// The shortest delay.
        by: Duration,
        /// The longest addition to it.
        jitter: Duration,
    },
    /// This many bytes are forwarded per second, evenly.
    Throttle {
        /// The rate; 0 is a black hole.
        bytes_per_second: u64,
    },
    /// Nothing is forwarded: the connection stays open, and nothing is read from the sender, not even its
    /// end. Everything goes on when the flow is changed.
    BlackHole,
}

impl Flow {
    /// Returns a delay without jitter.
    #[must_use]
    pub fn delay(by: Duration) -> Self {
        Self::Delay { by, jitter: Duration::ZERO }
    }

    /// Returns a throttle of this many bytes per second.
    #[must_use]
    pub fn throttle(bytes_per_second: u64) -> Self {
        Self::Throttle { bytes_per_second }
    }

    pub(crate) fn is_stopped(self) -> bool {
        matches!(self, Self::BlackHole | Self::Throttle { bytes_per_second: 0 })
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// Both ends read all forwarded bytes, then the end of the stream.
    Close,
    /// Both ends see `ECONNRESET`.
    Reset,
    /// The named end sees `ECONNRESET`, the other an orderly end.
    ResetTo(To),
    /// The named end reads the end of the stream; the other direction goes on. Further bytes to the named
    /// end are read and discarded.
    HalfClose(To),
}

/// The connections to which a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Which {
    /// All open and all new connections.
    All,
    /// The connections that are open now.
    Open,
    /// The connections that are accepted from now on.
    New,
    /// This connection, if it is open.
    One(ConnId),
}

/// What happens to new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum PortState {
    /// They are connected to the server.
    #[default]
    Open,
    /// The port is closed: `ECONNREFUSED`. It stays reserved, and opens again under the same number.
    Closed,
    /// They are accepted, then reset.
    Reset,
    /// They are accepted and left unanswered, as by a server that hangs. They go on once the port is open.
    Silent,
}

/// The number of a connection, counted from 1 in the order of acceptance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub(crate) u64);

impl ConnId {
    /// Makes the id of the connection with this number.
    #[must_use]
    pub fn new(number: u64) -> Self {
        Self(number)
    }

    /// Returns the number.
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}
