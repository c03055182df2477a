//! The commands that are sent by the driver's client, and its options.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mongodb::Database;
use mongodb::bson::{Bson, Document, Timestamp, doc};
use mongodb::error::Error as DriverError;
use mongodb::event::EventHandler;
use mongodb::options::{
    AuthMechanism, ClientOptions, Credential, ReadPreference, SelectionCriteria, ServerMonitoringMode,
};

use super::config::Config;
use super::driver::Driver;
use super::errors::{
    NOT_PRIMARY, NOT_PRIMARY_OR_SECONDARY, TIME_OVER, UNCONFIRMED, WRITE_CONFLICT, code, error_of,
    error_of_code, error_of_options, unexpected_reply,
};
use super::pipelines::{COMMAND_MAX, millis};
use super::primary::Primary;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::net::hints::Hinter;

/// The connections to the servers, which the driver opens and closes.
pub(super) struct Link {
    pub(super) driver: Driver,
    database: String,
    pub(super) collection: String,
    /// The servers, as errors name them.
    pub(super) place: String,
    /// Whether the URL has a login.
    pub(super) logs_in: bool,
    /// The user of a login by certificate, if the URL names one.
    subject: Option<String>,
    pub(super) primary: Arc<Primary>,
    /// The time of the latest write that a majority has confirmed to this client.
    confirmed: Mutex<Option<Timestamp>>,
}

/// How long the driver looks for a primary, unless the URL says.
const SELECTION: Duration = Duration::from_secs(3);
const CONNECT: Duration = Duration::from_secs(3);
/// How often the driver checks each member, unless the URL says.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// The fewest connections that the URL can allow.
const POOL_MIN: u32 = 2;
/// The shortest time that the server has for a command.
const COMMAND_MIN: Duration = Duration::from_millis(5);
/// How long the driver keeps an idle connection, unless the URL says.
const IDLE: Duration = Duration::from_secs(10);

impl Link {
    /// Makes the driver's client. It connects when the first command is sent.
    pub(super) async fn open(config: &Config, hinter: Arc<Hinter>) -> Result<Self> {
        let place = config.to_string();
        let parsed = ClientOptions::parse(config.driver_url()).await;
        let mut options = parsed.map_err(|e| error_of(&e, &place))?;
        let primary = Arc::new(Primary::new(hinter));
        let seen = Arc::clone(&primary);
        options.sdam_event_handler = Some(EventHandler::callback(move |event| seen.on_event(&event)));
        let logs_in = options.credential.is_some();
        let subject = options.credential.as_mut().and_then(take_subject);
        // Whatever the URL says: each command has its own concerns, and goes to the primary.
        (options.read_concern, options.write_concern) = (None, None);
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        options.app_name = options.app_name.or_else(|| Some("leasehold".to_owned()));
        options.server_selection_timeout = options.server_selection_timeout.or(Some(SELECTION));
        options.connect_timeout = options.connect_timeout.or(Some(CONNECT));
        options.heartbeat_freq = options.heartbeat_freq.or(Some(HEARTBEAT));
        options.max_idle_time = options.max_idle_time.or(Some(IDLE));
        // One connection to each member. The default opens two.
        options.server_monitoring_mode = options.server_monitoring_mode.or(Some(ServerMonitoringMode::Poll));
        // The change stream has one of them most of the time.
        options.max_pool_size = options.max_pool_size.map(|most| std::cmp::max(most, POOL_MIN));
        Ok(Self {
            driver: Driver::new(options).map_err(|e| error_of_options(&e, &place))?,
            database: config.database.clone(),
            collection: config.collection.clone(),
            place,
            logs_in,
            subject,
            primary,
            confirmed: Mutex::default(),
        })
    }

    /// Returns the database of the locks.
    pub(super) fn database(&self) -> Result<Database, DriverError> {
        self.driver.client().map(|client| client.database(&self.database))
    }

    /// Fails if the URL names another user than the one to whom the certificate belongs.
    pub(super) async fn check_subject(&self) -> Result<()> {
        let Some(subject) = &self.subject else { return Ok(()) };
        let status = self.admin(doc! { "connectionStatus": 1 }).await?;
        let users = status.get_document("authInfo").and_then(|info| info.get_array("authenticatedUsers"));
        let is_subject =
            |user: &Bson| user.as_document().and_then(|user| user.get_str("user").ok()) == Some(subject);
        if users.is_ok_and(|users| users.iter().any(is_subject)) {
            return Ok(());
        }
        let text = "the certificate is not that of the user in the URL; write its subject as the server does, or no user";
        Err(Error::new(ErrorKind::Invalid, format!("{text} server=`{}`", self.place)))
    }

    /// Sends a write to the primary. Returns its reply once a majority has the write in its journal, or when the server has
    /// spent `limit` on it.
    pub(super) async fn write(&self, mut command: Document, limit: Duration) -> Result<Written, Failure> {
        command.insert("writeConcern", doc! { "w": "majority", "j": true, "wtimeout": millis(COMMAND_MAX) });
        command.insert("maxTimeMS", time_limit(limit));
        let reply = match self.send(command.clone()).await {
            // The server has not executed it. The driver finds the next primary first.
            Err(Failure { code: Some(NOT_PRIMARY | NOT_PRIMARY_OR_SECONDARY), .. }) => {
                self.send(command).await?
            }
            reply => reply?,
        };
        let time = reply.get_timestamp("operationTime").ok();
        let unconfirmed = reply.get_document("writeConcernError").ok();
        let unconfirmed = unconfirmed.map(|error| error.get_i32("code").unwrap_or(UNCONFIRMED));
        if let (Some(time), None) = (time, unconfirmed) {
            self.note_confirmed(time);
        }
        Ok(Written { reply, time, unconfirmed })
    }

    /// Notes that a majority has everything up to this time.
    pub(super) fn note_confirmed(&self, time: Timestamp) {
        let mut confirmed = self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        *confirmed = std::cmp::max(*confirmed, Some(time));
    }

    /// Reads documents as a majority has them. They are not older than `after`, and have what was confirmed to this client: a
    /// server that has just become the primary does not know yet how much a majority has.
    pub(super) async fn read(
        &self,
        query: Document,
        after: Option<Timestamp>,
        limit: Duration,
    ) -> Result<Vec<Document>> {
        let mut concern = doc! { "level": "majority" };
        let confirmed = *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(time) = std::cmp::max(after, confirmed) {
            concern.insert("afterClusterTime", time);
        }
        self.read_with(query, concern, limit).await
    }

    /// Reads documents as they are now. A primary that was deposed does not know that, and cannot answer.
    pub(super) async fn read_latest(&self, query: Document, limit: Duration) -> Result<Vec<Document>> {
        // Nothing can depose a standalone server.
        let level = if self.primary.is_standalone() { "majority" } else { "linearizable" };
        self.read_with(query, doc! { "level": level }, limit).await
    }

    async fn read_with(
        &self,
        mut query: Document,
        concern: Document,
        limit: Duration,
    ) -> Result<Vec<Document>> {
        query.insert("singleBatch", true);
        query.insert("readConcern", concern);
        query.insert("maxTimeMS", time_limit(limit));
        let mut reply = self.send(query).await.map_err(|failure| failure.error)?;
        let Some(Bson::Document(cursor)) = reply.get_mut("cursor") else {
            return Err(self.unexpected_reply());
        };
        let Some(Bson::Array(batch)) = cursor.remove("firstBatch") else {
            return Err(self.unexpected_reply());
        };
        let document = |found| match found {
            Bson::Document(document) => Ok(document),
            _ => Err(self.unexpected_reply()),
        };
        batch.into_iter().map(document).collect()
    }

    /// Asks the primary which one it is, and learns its clock.
    pub(super) async fn hello(&self) -> Result<Document> {
        let sent = self.primary.now();
        let hello = self.admin(doc! { "hello": 1 }).await?;
        self.primary.on_hello(&hello, sent);
        Ok(hello)
    }

    /// Sends a command to the primary, of the database `admin`.
    pub(super) async fn admin(&self, command: Document) -> Result<Document> {
        let reply = async { self.driver.client()?.database("admin").run_command(command).await };
        reply.await.map_err(|e| error_of(&e, &self.place))
    }

    pub(super) async fn send(&self, command: Document) -> Result<Document, Failure> {
        let reply = async { self.database()?.run_command(command).await };
        reply.await.map_err(|e| {
            self.driver.on_error(&e);
            Failure { code: code(&e), error: self.error_of(&e) }
        })
    }

    /// Returns the error for the caller. A password that the server has accepted before may be accepted again, for example
    /// while it is changed on every member; so its refusal is `Unavailable`.
    pub(super) fn error_of(&self, error: &DriverError) -> Error {
        let error = error_of(error, &self.place);
        match error.kind() {
            ErrorKind::Invalid if self.primary.is_known() => {
                Error::new(ErrorKind::Unavailable, error.to_string())
            }
            _ => error,
        }
    }

    pub(super) fn unexpected_reply(&self) -> Error {
        unexpected_reply(&self.place)
    }
}

/// Returns the `maxTimeMS` of a command. 0 would mean that there is no limit.
fn time_limit(limit: Duration) -> i64 {
    millis(limit.clamp(COMMAND_MIN, COMMAND_MAX))
}

/// Takes the user out of a login by certificate. The driver sends it in a field that no server knows, `username` for `user`, and
/// the server then refuses the login. [`Link::check_subject`] compares it instead.
fn take_subject(credential: &mut Credential) -> Option<String> {
    let is_by_certificate = credential.mechanism == Some(AuthMechanism::MongoDbX509);
    credential.username.take_if(|_| is_by_certificate)
}

/// The reply to a write.
pub(super) struct Written {
    pub(super) reply: Document,
    /// The time of the write. `None` if the server is standalone.
    pub(super) time: Option<Timestamp>,
    /// The server's code, if no majority has confirmed the write in time. A failover may undo it.
    pub(super) unconfirmed: Option<i32>,
}

impl Written {
    /// Returns `true` if a majority may still confirm the write.
    pub(super) fn may_be_confirmed(&self) -> bool {
        matches!(self.unconfirmed, None | Some(TIME_OVER | UNCONFIRMED))
    }

    /// Returns the documents or statements that the server has refused, by their indexes.
    pub(super) fn refused(&self, place: &str) -> Result<Vec<(usize, Failure)>> {
        let errors = self.reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default();
        let refused = errors.iter().map(|error| {
            let error = error.as_document()?;
            let index = usize::try_from(error.get_i32("index").ok()?).ok()?;
            let code = error.get_i32("code").ok()?;
            Some((index, Failure::of_code(code, place)))
        });
        refused.collect::<Option<_>>().ok_or_else(|| unexpected_reply(place))
    }
}

/// Why a command failed.
pub(super) struct Failure {
    /// The server's code, if it is the server that refuses.
    pub(super) code: Option<i32>,
    pub(super) error: Error,
}

impl Failure {
    pub(super) fn of_code(code: i32, place: &str) -> Self {
        Self { code: Some(code), error: error_of_code(code, place) }
    }

    /// Returns `true` if the server was held up, for example by a transaction that has changed the document.
    pub(super) fn is_delay(&self) -> bool {
        matches!(self.code, Some(TIME_OVER | WRITE_CONFLICT))
    }
}
