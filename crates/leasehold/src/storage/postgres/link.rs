//! A connection to the server, and the statements that are sent over it.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{self, Arc, PoisonError};
use std::time::Duration;

use futures_util::future::poll_immediate;
use tokio::sync::{Mutex, OnceCell, mpsc};
use tokio_postgres::error::Error as PgError;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Notification, Row};

use super::errors::{self, Remedy, remedy};
use super::facts::{Facts, Identity};
use super::failure::Failure;
use super::link_context::LinkContext;
use super::session::Session;
use super::statements::{Statement, Statements};
use crate::clock::Moment;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::net;
use crate::storage::net::pulse::Pulse;

/// A connection to a server.
pub(super) struct Link {
    session: Session,
    /// The notifications that arrive on it, until they are taken.
    notifications: sync::Mutex<Option<mpsc::UnboundedReceiver<Notification>>>,
    statements: Arc<Statements>,
    prepared: [OnceCell<tokio_postgres::Statement>; Statement::ALL.len()],
    /// Whether statements are prepared. Not where a pooler gives each to another process of the server.
    prepares: AtomicBool,
    pub(super) facts: Facts,
    /// Whether a pooler is between.
    pub(super) pooled: bool,
    /// Held while a statement is in flight through a pooler: PgBouncer gives the server's connection away after the first
    /// reply, even if more statements are in flight.
    in_flight: Mutex<()>,
    has_waiters: Arc<AtomicBool>,
    pulse: Pulse,
}

/// The parameters of a statement.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// How often a statement is sent at most that the server rolls back.
pub(super) const TRIES: u32 = 4;
/// After how long without a reply the connection counts as stuck. Far more than a statement takes, or a few of them.
const STUCK_AFTER: Duration = Duration::from_millis(50);

impl net::server::Link for Link {
    type Identity = Identity;

    fn identity(&self) -> &Identity {
        &self.facts.identity
    }

    fn is_fit(&self) -> bool {
        self.pulse.is_fit() && !self.session.client.is_closed()
    }
}

impl Link {
    /// Makes a link of a session, whose last reply was received at that moment.
    pub(super) fn new(
        context: &LinkContext,
        mut session: Session,
        facts: Facts,
        pooled: bool,
        received: Moment,
    ) -> Self {
        Self {
            notifications: sync::Mutex::new(session.notifications.take()),
            session,
            statements: Arc::clone(&context.statements),
            prepared: Default::default(),
            prepares: AtomicBool::new(context.config.prepared.or(!pooled)),
            facts,
            pooled,
            in_flight: Mutex::new(()),
            has_waiters: Arc::clone(&context.has_waiters),
            pulse: Pulse::new(&context.clock, received, pooled),
        }
    }

    /// Returns the server, as errors name it.
    pub(super) fn server(&self) -> &str {
        &self.session.server
    }

    /// Returns `true` if any client waited or observed when a statement of this client last looked, on either connection.
    pub(super) fn has_waiters(&self) -> bool {
        self.has_waiters.load(Ordering::Relaxed)
    }

    pub(super) fn set_has_waiters(&self, has_waiters: bool) {
        self.has_waiters.store(has_waiters, Ordering::Relaxed);
    }

    /// Returns `true` if a statement may only be sent once those before it are answered. PgBouncer gives the server's
    /// connection away after a reply; and only the reply tells what a synchronous standby lacks.
    pub(super) fn waits_for_replies(&self) -> bool {
        self.pooled || self.facts.is_synchronous()
    }

    /// Returns `true` if a statement that is sent now would wait behind one that takes long.
    pub(super) fn is_stuck(&self) -> bool {
        self.pulse.is_silent_for(STUCK_AFTER)
    }

    /// Returns the notifications that arrive on this connection; once.
    pub(super) fn notifications(&self) -> Option<mpsc::UnboundedReceiver<Notification>> {
        self.notifications.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Takes the connection out of use, and closes it.
    pub(super) fn give_up(&self) {
        self.pulse.give_up();
        self.session.close();
    }

    /// Waits until the connection is taken out of use.
    pub(super) async fn given_up(&self) {
        self.pulse.given_up().await;
    }

    /// Subscribes this connection to a channel.
    pub(super) async fn listen(&self, channel: &str) -> Result<()> {
        let listening = self.session.client.batch_execute(&format!("listen {channel}")).await;
        listening.map_err(|error| errors::statement(&error, self.server()))
    }

    /// Returns `true` if the server still has this connection subscribed: a pooler may have changed the connection.
    pub(super) async fn listens(&self, channel: &str) -> bool {
        let text = "select 1 from pg_catalog.pg_listening_channels() as c where c operator(pg_catalog.=) $1";
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&channel, Type::TEXT)];
        self.session.client.query_typed(text, &params).await.is_ok_and(|rows| !rows.is_empty())
    }

    /// Executes a statement. Sends it again if the server says that it has done nothing.
    pub(super) async fn execute(
        &self,
        statement: Statement,
        params: Params<'_>,
    ) -> Result<Vec<Row>, Failure> {
        self.execute_and_count(statement, params).await.map(|(rows, _)| rows)
    }

    /// Executes a statement, and counts how often it was sent.
    pub(super) async fn execute_and_count(
        &self,
        statement: Statement,
        params: Params<'_>,
    ) -> Result<(Vec<Row>, u32), Failure> {
        let _in_flight = match self.pooled {
            true => Some(self.in_flight.lock().await),
            false => None,
        };
        if !self.pulse.is_fit() {
            return Err(self.unavailable("the connection was given up; retry").into());
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let unreplicated = self.session.unreplicated(self.facts.is_synchronous());
            let asking = self.pulse.ask();
            let prepares = self.prepares.load(Ordering::Relaxed);
            let rows = self.send(statement, params, prepares).await;
            asking.answered();
            let error = match rows {
                // The server has warned: the statement is committed, and no standby may have it.
                Ok(_) if self.session.unreplicated(self.facts.is_synchronous()) != unreplicated => {
                    return Err(self.unavailable("the server did not wait for its standby; retry").into());
                }
                Ok(rows) => return Ok((rows, tries)),
                Err(error) => error,
            };
            match remedy(&error) {
                Remedy::Resend if tries < TRIES => {}
                // Each statement that was sent prepared, even if another one has turned preparing off meanwhile.
                Remedy::ResendUnprepared if prepares => self.prepares.store(false, Ordering::Relaxed),
                Remedy::Reconnect => {
                    self.pulse.give_up();
                    return Err(Failure::new(&error, self.server()));
                }
                _ => return Err(Failure::new(&error, self.server())),
            }
        }
    }

    /// Executes a statement whose reply is of no interest. Where possible it only sends the statement, behind everything that
    /// was sent before, and does not wait for the reply.
    pub(super) async fn send_unanswered(&self, statement: Statement, params: Params<'_>) {
        if self.pooled || self.prepare(statement).await.is_err() {
            let _ = self.execute(statement, params).await;
        } else {
            let prepares = self.prepares.load(Ordering::Relaxed);
            let _ = poll_immediate(pin!(self.send(statement, params, prepares))).await;
        }
    }

    /// Prepares a statement, so that the next [`Link::execute`] sends it at once.
    pub(super) async fn prepare(&self, statement: Statement) -> Result<(), Failure> {
        match self.prepared(statement, self.prepares.load(Ordering::Relaxed)).await {
            Ok(_) => Ok(()),
            Err(error) if remedy(&error) == Remedy::ResendUnprepared => {
                self.prepares.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(Failure::new(&error, self.server())),
        }
    }

    async fn send(
        &self,
        statement: Statement,
        params: Params<'_>,
        prepares: bool,
    ) -> Result<Vec<Row>, PgError> {
        match self.prepared(statement, prepares).await? {
            Some(prepared) => self.session.client.query(prepared, params).await,
            None => {
                let params: Vec<_> =
                    params.iter().zip(statement.types()).map(|(param, of)| (*param, of.clone())).collect();
                self.session.client.query_typed(self.statements.text(statement), &params).await
            }
        }
    }

    async fn prepared(
        &self,
        statement: Statement,
        prepares: bool,
    ) -> Result<Option<&tokio_postgres::Statement>, PgError> {
        if !prepares {
            return Ok(None);
        }
        let text = self.statements.text(statement);
        let preparing = || self.session.client.prepare_typed(text, statement.types());
        self.prepared[statement.number()].get_or_try_init(preparing).await.map(Some)
    }

    fn unavailable(&self, text: &str) -> Error {
        Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", self.server()))
    }

    pub(super) fn unexpected_reply(&self) -> Error {
        errors::unexpected_reply(self.server())
    }
}
