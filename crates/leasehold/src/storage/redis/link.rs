//! A connection to a server.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value};

use super::connect::{Connector, Driver, Opened};
use super::errors::{Remedy, remedy};
use super::facts::{Facts, Identity};
use crate::clock::{Clock, Moment};
use crate::error::Result;
use crate::storage::net;
use crate::storage::net::clock::ServerClock;
use crate::storage::net::pulse::Pulse;
use crate::storage::net::server::Connect;

/// A server, with the connection that is open to it.
pub(super) type Server = net::server::Server<Connector>;

/// A connection to a server.
pub(super) struct Link {
    connection: MultiplexedConnection,
    _driver: Driver,
    pub(super) facts: Facts,
    /// The server, as errors name it.
    pub(super) place: String,
    /// How many replicas must have a grant or a renewal before it counts.
    pub(super) confirmations: u32,
    /// When the server reported the facts.
    pub(super) opened: Moment,
    /// What the server's clock shows.
    pub(super) time: ServerClock,
    pulse: Pulse,
}

impl Connect for Connector {
    type Link = Link;

    async fn open(&self, _time: &ServerClock) -> Result<Link> {
        // The server pushes nothing on a connection for commands.
        let Opened { connection, driver, facts, place, asked, answered, pushed: _ } =
            Connector::open(self).await?;
        // A clock of its own: what another server's clock showed, or this one's before a restart, is worth nothing.
        let time = ServerClock::default();
        time.learn(asked, answered, facts.time_us);
        let confirmations = if self.promises_failovers() { facts.confirmations(self.config()) } else { 0 };
        Ok(Link {
            confirmations,
            connection,
            _driver: driver,
            facts,
            place: place.to_string(),
            opened: answered,
            time,
            pulse: Pulse::new(&Clock::boot(), answered, false),
        })
    }

    fn name(&self) -> String {
        self.shown()
    }
}

impl net::server::Link for Link {
    type Identity = Identity;

    fn identity(&self) -> &Identity {
        &self.facts.identity
    }

    fn is_fit(&self) -> bool {
        self.pulse.is_fit()
    }
}

impl Link {
    /// Sends a command and waits for its answer.
    pub(super) async fn call(&self, command: &Cmd) -> Result<Value, RedisError> {
        let pending = self.pulse.ask();
        let answer =
            self.connection.clone().send_packed_command(command).await.and_then(|answer| match answer {
                Value::ServerError(error) => Err(error.into()),
                answer => Ok(answer),
            });
        pending.answered();
        if let Err(error) = &answer {
            self.retire_on(error);
        }
        answer
    }

    /// Sends commands in one pipeline. Each answer may be an error.
    pub(super) async fn call_all(&self, commands: &Pipeline) -> Result<Vec<Value>, RedisError> {
        let pending = self.pulse.ask();
        let answers = self.connection.clone().send_packed_commands(commands, 0, commands.len()).await;
        pending.answered();
        if let Err(error) = &answers {
            self.retire_on(error);
        }
        answers
    }

    /// Takes the connection out of use. The next call opens another one.
    pub(super) fn retire(&self) {
        self.pulse.give_up();
    }

    /// Takes the connection out of use if an error says that another one is needed.
    pub(super) fn retire_on(&self, error: &RedisError) {
        if matches!(remedy(error), Remedy::Reconnect | Remedy::FindPrimary) {
            self.retire();
        }
    }
}
