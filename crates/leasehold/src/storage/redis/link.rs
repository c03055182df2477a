//! A connection to one server.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, Value};

use super::answers::{Remedy, remedy};
use super::connect::{Connector, Driver, Opened};
use super::facts::{Facts, Identity};
use crate::clock::{Clock, Moment};
use crate::error::Result;
use crate::storage::net;
use crate::storage::net::clock::ServerClock;
use crate::storage::net::pulse::Pulse;
use crate::storage::net::server::Connect;

/// One server.
pub(in crate::storage) type Server = net::server::Server<Connector>;

/// A connection to a server.
pub(in crate::storage) struct Link {
    connection: MultiplexedConnection,
    _driver: Driver,
    pub(in crate::storage) facts: Facts,
    /// What errors call the server.
    pub(in crate::storage) place: String,
    /// How many replicas must have a grant or a renewal before it counts.
    pub(super) confirmations: u32,
    /// When its server told the facts.
    pub(in crate::storage) opened: Moment,
    /// What its server's clock shows.
    pub(in crate::storage) time: ServerClock,
    pulse: Pulse,
}

impl Connect for Connector {
    type Link = Link;

    async fn open(&self, _time: &ServerClock) -> Result<Link> {
        // Nothing is pushed on a connection for commands.
        let Opened { connection, driver, facts, place, asked, answered, pushed: _ } =
            Connector::open(self).await?;
        // Of this server, in this life: what another one's clock showed is worth nothing.
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
    pub(in crate::storage) async fn call(&self, command: &Cmd) -> Result<Value, RedisError> {
        let asking = self.pulse.ask();
        let answer =
            self.connection.clone().send_packed_command(command).await.and_then(|answer| match answer {
                Value::ServerError(error) => Err(error.into()),
                answer => Ok(answer),
            });
        asking.answered();
        self.heed_if(answer.as_ref().err());
        answer
    }

    /// Sends commands together; each answer may be an error.
    pub(in crate::storage) async fn call_all(&self, commands: &Pipeline) -> Result<Vec<Value>, RedisError> {
        let asking = self.pulse.ask();
        let answers = self.connection.clone().send_packed_commands(commands, 0, commands.len()).await;
        asking.answered();
        self.heed_if(answers.as_ref().err());
        answers
    }

    /// Takes the connection out of use: the next call opens another.
    pub(in crate::storage) fn give_up(&self) {
        self.pulse.give_up();
    }

    /// Takes the connection out of use if an error among the answers to several commands says so.
    pub(in crate::storage) fn heed(&self, error: &RedisError) {
        if matches!(remedy(error), Remedy::Reconnect | Remedy::FindPrimary) {
            self.give_up();
        }
    }

    fn heed_if(&self, error: Option<&RedisError>) {
        if let Some(error) = error {
            self.heed(error);
        }
    }
}
