//! A connection to the server, and what is asked on it.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{self, Arc, PoisonError};
use std::time::Duration;

use futures_util::future::poll_immediate;
use tokio::sync::{Mutex, OnceCell, mpsc};
use tokio_postgres::error::{Error as PgError, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Notification, Row, Statement};

use super::answers::{Failure, Remedy, explain, remedy};
use super::config::Config;
use super::connect::{Connector, Fit, Session};
use super::facts::{Facts, Identity, senseless};
use super::qualify::qualify;
use super::schema;
use super::statements::{Statements, TABLE_TIMEOUT, Verb};
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::net;
use crate::storage::net::clock::ServerClock;
use crate::storage::net::pulse::Pulse;
use crate::storage::net::server::Connect;

/// One server: whichever of the URL's is the primary.
pub(super) type Server = net::server::Server<Door>;

/// Knows where the primary may be, and what it must be like.
#[derive(Clone)]
pub(super) struct Door {
    connector: Connector,
    config: Arc<Config>,
    statements: Arc<Statements>,
    clock: Clock,
    /// Whether anybody waited or observed when that was last asked, on whichever connection.
    crowded: Arc<AtomicBool>,
    /// How long it may take until a connection stands.
    limit: Duration,
}

/// A connection to a server.
pub(super) struct Link {
    session: Session,
    /// What is notified on it, until somebody listens.
    notices: sync::Mutex<Option<mpsc::UnboundedReceiver<Notification>>>,
    statements: Arc<Statements>,
    prepared: [OnceCell<Statement>; Verb::ALL.len()],
    /// Whether statements are prepared: not where a pooler gives each to another process of the server.
    prepares: AtomicBool,
    pub(super) facts: Facts,
    /// Whether a pooler stands between us and the server.
    pub(super) pooled: bool,
    /// With a pooler, whoever may ask: PgBouncer gives the server's connection away after the first answer, with others
    /// still on their way.
    turn: Mutex<()>,
    crowded: Arc<AtomicBool>,
    pulse: Pulse,
}

/// What is given to a statement.
pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// How often a statement that was rolled back is sent at most.
const TRIES: u32 = 4;
/// How much longer a connection may take that nobody waits for.
const PATIENT: u32 = 5;
/// Far more than a statement takes, or a few of them.
const LONG: Duration = Duration::from_millis(50);

impl Door {
    pub(super) fn new(config: &Arc<Config>) -> Result<Self> {
        Ok(Self {
            connector: Connector::new(Arc::clone(config))?,
            config: Arc::clone(config),
            statements: Arc::new(Statements::new(config)),
            clock: Clock::boot(),
            crowded: Arc::default(),
            limit: config.limit,
        })
    }

    /// The same for a connection that nobody waits for. To give it up while the server is busy with many others would
    /// only make the server do the same again.
    pub(super) fn patient(self) -> Self {
        Self { limit: self.limit.saturating_mul(PATIENT), ..self }
    }

    async fn facts(&self, client: &Client, place: &str) -> Result<Facts> {
        Facts::ask(client, &self.statements, &self.config.space, place).await
    }

    /// Sees to the tables.
    async fn set_up(&self, session: &Session, facts: &mut Facts) -> Result<()> {
        let Session { client, place, .. } = session;
        if !facts.made {
            // Perhaps they were being made while it answered, and one half of the answer knows of them.
            *facts = self.facts(client, place).await?;
        }
        if !facts.made {
            // Nothing is added to what is not ours.
            if facts.there {
                facts.check_tables(&self.statements)?;
            }
            let made = schema::make(client, &self.config, place).await;
            *facts = self.facts(client, place).await?;
            // Whoever came first made them, and only it may have been allowed to.
            if !facts.made {
                made?;
            }
        }
        facts.check_tables(&self.statements)
    }
}

impl Fit for Door {
    type Found = (Facts, Moment, Moment);

    async fn check(&self, session: &Session) -> Result<Self::Found> {
        let place = &session.place;
        let settings = include_str!("settings.sql").replace("{backend}", &session.backend.to_string());
        let settings = qualify(&settings.replace("{lock_timeout}", TABLE_TIMEOUT));
        // Until they hold, a role's `statement_timeout` does.
        let mut tries = 1;
        while let Err(error) = session.client.batch_execute(&settings).await {
            if tries == TRIES || error.code() != Some(&SqlState::QUERY_CANCELED) {
                return Err(explain(&error, place));
            }
            tries += 1;
        }
        let asked = self.clock.now();
        let facts = self.facts(&session.client, place).await?;
        let answered = self.clock.now();
        facts.check(place)?;
        Ok((facts, asked, answered))
    }
}

impl Connect for Door {
    type Link = Link;

    async fn open(&self, time: &ServerClock) -> Result<Link> {
        let (mut session, (mut facts, asked, answered)) = self.connector.open(self, self.limit).await?;
        time.learn(asked, answered, facts.now_us);
        let pooled = facts.is_pooled(session.backend);
        let preparing = self.set_up(&session, &mut facts);
        tokio::time::timeout(self.limit, preparing).await.unwrap_or_else(|_| {
            let text = "the server did not answer in time while its session was set up; retry";
            Err(Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", session.place)))
        })?;
        Ok(Link {
            notices: sync::Mutex::new(session.notices.take()),
            session,
            statements: Arc::clone(&self.statements),
            prepared: Default::default(),
            prepares: AtomicBool::new(self.config.prepared.or(!pooled)),
            facts,
            pooled,
            turn: Mutex::new(()),
            crowded: Arc::clone(&self.crowded),
            pulse: Pulse::new(&self.clock, answered, pooled),
        })
    }

    fn name(&self) -> String {
        self.connector.name()
    }
}

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
    /// What errors call the server.
    pub(super) fn place(&self) -> &str {
        &self.session.place
    }

    /// Whether anybody waited or observed when that was last asked.
    pub(super) fn is_crowded(&self) -> bool {
        self.crowded.load(Ordering::Relaxed)
    }

    pub(super) fn set_crowded(&self, crowded: bool) {
        self.crowded.store(crowded, Ordering::Relaxed);
    }

    /// Whether nothing may be sent behind what is not answered. PgBouncer gives the server's connection away after an
    /// answer; and what a synchronous standby lacks is only known from the answer.
    pub(super) fn waits_for_answers(&self) -> bool {
        self.pooled || self.facts.is_synchronous()
    }

    /// Whether what is asked now would wait behind something that takes long.
    pub(super) fn is_stuck(&self) -> bool {
        self.pulse.is_silent_for(LONG)
    }

    /// What is notified on this connection; once.
    pub(super) fn notices(&self) -> Option<mpsc::UnboundedReceiver<Notification>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner).take()
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

    /// Has the server notify this connection of what is sent to a channel.
    pub(super) async fn listen(&self, channel: &str) -> Result<()> {
        let listen = format!("listen {channel}");
        self.session.client.batch_execute(&listen).await.map_err(|error| explain(&error, self.place()))
    }

    /// Whether the server still notifies this connection: a pooler may have given us another one.
    pub(super) async fn listens(&self, channel: &str) -> bool {
        let text = "select 1 from pg_catalog.pg_listening_channels() as c where c operator(pg_catalog.=) $1";
        let params: [(&(dyn ToSql + Sync), Type); 1] = [(&channel, Type::TEXT)];
        self.session.client.query_typed(text, &params).await.is_ok_and(|rows| !rows.is_empty())
    }

    /// Runs a statement; again if the server says that nothing has happened.
    pub(super) async fn ask(&self, verb: Verb, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        self.ask_and_count(verb, params).await.map(|(rows, _)| rows)
    }

    /// The same, and tells how often it was sent.
    pub(super) async fn ask_and_count(
        &self,
        verb: Verb,
        params: Params<'_>,
    ) -> Result<(Vec<Row>, u32), Failure> {
        let _turn = match self.pooled {
            true => Some(self.turn.lock().await),
            false => None,
        };
        if !self.pulse.is_fit() {
            return Err(self.retired().into());
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let unreplicated = self.session.unreplicated(self.facts.is_synchronous());
            let asking = self.pulse.ask();
            let prepares = self.prepares.load(Ordering::Relaxed);
            let rows = self.send(verb, params, prepares).await;
            asking.answered();
            let error = match rows {
                Ok(_) if self.session.unreplicated(self.facts.is_synchronous()) != unreplicated => {
                    return Err(self.unreplicated().into());
                }
                Ok(rows) => return Ok((rows, tries)),
                Err(error) => error,
            };
            match remedy(&error) {
                Remedy::Again if tries < TRIES => {}
                // Each statement that was sent so, also if another one has found out first.
                Remedy::Unprepared if prepares => self.prepares.store(false, Ordering::Relaxed),
                Remedy::Reconnect => {
                    self.pulse.give_up();
                    return Err(Failure::new(&error, self.place()));
                }
                _ => return Err(Failure::new(&error, self.place())),
            }
        }
    }

    /// Runs a statement whose outcome is of no interest. Where it can be, it is only sent: it is behind all that was asked
    /// before, and its answer is not waited for.
    pub(super) async fn send_off(&self, verb: Verb, params: Params<'_>) {
        if self.pooled || self.prepare(verb).await.is_err() {
            let _ = self.ask(verb, params).await;
        } else {
            let prepares = self.prepares.load(Ordering::Relaxed);
            let _ = poll_immediate(pin!(self.send(verb, params, prepares))).await;
        }
    }

    /// Has a statement prepared, so that the next [`Link::ask`] sends it at once.
    pub(super) async fn prepare(&self, verb: Verb) -> Result<(), Failure> {
        match self.statement(verb, self.prepares.load(Ordering::Relaxed)).await {
            Ok(_) => Ok(()),
            Err(error) if remedy(&error) == Remedy::Unprepared => {
                self.prepares.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => Err(Failure::new(&error, self.place())),
        }
    }

    async fn send(&self, verb: Verb, params: Params<'_>, prepares: bool) -> Result<Vec<Row>, PgError> {
        match self.statement(verb, prepares).await? {
            Some(statement) => self.session.client.query(statement, params).await,
            None => {
                let params: Vec<_> =
                    params.iter().zip(verb.types()).map(|(param, of)| (*param, of.clone())).collect();
                self.session.client.query_typed(self.statements.text(verb), &params).await
            }
        }
    }

    async fn statement(&self, verb: Verb, prepares: bool) -> Result<Option<&Statement>, PgError> {
        if !prepares {
            return Ok(None);
        }
        let preparing = || self.session.client.prepare_typed(self.statements.text(verb), verb.types());
        self.prepared[verb.number()].get_or_try_init(preparing).await.map(Some)
    }

    /// The server warned: the statement is committed, and no standby may have it.
    fn unreplicated(&self) -> Error {
        let text = "the server did not wait for its standby; retry";
        Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", self.place()))
    }

    fn retired(&self) -> Error {
        let text = "the connection was given up; retry";
        Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", self.place()))
    }

    pub(super) fn senseless(&self) -> Error {
        senseless(self.place())
    }
}
