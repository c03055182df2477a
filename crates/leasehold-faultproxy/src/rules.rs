//! What a test can ask for.

use std::fmt;
use std::time::Duration;

/// Names a direction by the end that the bytes go to.
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

impl fmt::Display for To {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Server => "to-server",
            Self::Client => "to-client",
        })
    }
}

/// Says how bytes go in one direction.
///
/// Whatever the flow, no byte is lost, repeated or overtaken; changing the flow changes when the bytes
/// arrive that are already on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Flow {
    /// As they come.
    #[default]
    Pass,
    /// Each so much later, plus a part of `jitter` that the proxy's seed decides. The end of the stream
    /// is as late as the bytes. At most 256 KiB are on their way, then the sender waits.
    Delay {
        /// The least that a byte is late.
        by: Duration,
        /// What may be added.
        jitter: Duration,
    },
    /// So many in a second, evenly.
    Throttle {
        /// The rate; 0 is a black hole.
        bytes_per_second: u64,
    },
    /// Not at all: the connection stays open, nothing is read from the sender and nothing is forwarded. Not even
    /// that the sender closed it is noticed. All of it goes on when the flow is changed.
    BlackHole,
}

impl Flow {
    /// Delays by the same time always.
    #[must_use]
    pub fn delay(by: Duration) -> Self {
        Self::Delay { by, jitter: Duration::ZERO }
    }

    /// Forwards so many bytes in a second.
    #[must_use]
    pub fn throttle(bytes_per_second: u64) -> Self {
        Self::Throttle { bytes_per_second }
    }

    pub(crate) fn is_stopped(self) -> bool {
        matches!(self, Self::BlackHole | Self::Throttle { bytes_per_second: 0 })
    }
}

/// Says how a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum End {
    /// Both ends read all that was forwarded and then the end of the stream.
    Close,
    /// Both ends see `ECONNRESET`.
    Reset,
    /// That end sees `ECONNRESET`, the other an orderly end.
    ResetTo(To),
    /// That end reads the end of the stream; the other direction goes on. What the sender still sends is read
    /// and thrown away.
    HalfClose(To),
}

/// Chooses the connections that a rule applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Which {
    /// Those that are open and those to come.
    All,
    /// Those that are open now.
    Open,
    /// Those to come.
    New,
    /// This one, if it is open.
    One(ConnId),
}

/// Says what happens to new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Door {
    /// They are connected to the server.
    #[default]
    Open,
    /// The port is closed: `ECONNREFUSED`. It stays reserved, and opens again under the same number.
    Closed,
    /// They are accepted and reset.
    Reset,
    /// They are accepted and nothing more, as by a server that hangs; once the door opens, they go on.
    Silent,
}

/// Names a connection: they are numbered from 1 in the order in which they were accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub(crate) u64);

impl ConnId {
    /// Names the connection with this number.
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

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
