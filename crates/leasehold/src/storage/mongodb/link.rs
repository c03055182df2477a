//! The driver's client, and what is asked over it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mongodb::bson::{Bson, Document, doc};
use mongodb::event::EventHandler;
use mongodb::event::sdam::SdamEvent;
use mongodb::options::{ClientOptions, ReadPreference, SelectionCriteria, ServerMonitoringMode};
use mongodb::{Client, Database};

use super::config::Config;
use super::explain::{code, explain, explain_code, senseless};
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Hint;
use crate::storage::net::clock::ServerClock;
use crate::storage::net::hints::Hinter;

/// The connections to the servers, which the driver opens and closes.
pub(super) struct Link {
    client: Client,
    pub(super) database: Database,
    pub(super) collection: String,
    /// What errors call the servers.
    pub(super) place: String,
    pub(super) primary: Arc<Primary>,
}

/// How long the server may take for a write, until a majority has confirmed it.
const WRITE_DEADLINE: i64 = 4_000;
/// How long to look for a primary, unless the URL says.
const SELECTION: Duration = Duration::from_secs(3);
const CONNECT: Duration = Duration::from_secs(3);
/// How often each member is asked how it is, unless the URL says.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// After how long a connection that nothing needs is closed, unless the URL says.
const IDLE: Duration = Duration::from_secs(10);

impl Link {
    /// Makes the driver's client. It connects when it is first asked for something.
    pub(super) async fn open(config: &Config, hinter: Arc<Hinter>) -> Result<Self> {
        let place = config.to_string();
        let parsed = ClientOptions::parse(config.driver_url()).await;
        let mut options = parsed.map_err(|e| explain(&e, &place))?;
        let primary = Arc::new(Primary::new(hinter));
        let seen = Arc::clone(&primary);
        options.sdam_event_handler = Some(EventHandler::callback(move |event| seen.hears(&event)));
        // Whatever the URL says: each command brings its own, and goes to the primary.
        (options.read_concern, options.write_concern) = (None, None);
        options.selection_criteria = Some(SelectionCriteria::ReadPreference(ReadPreference::Primary));
        options.app_name = options.app_name.or_else(|| Some("leasehold".to_owned()));
        options.server_selection_timeout = options.server_selection_timeout.or(Some(SELECTION));
        options.connect_timeout = options.connect_timeout.or(Some(CONNECT));
        options.heartbeat_freq = options.heartbeat_freq.or(Some(HEARTBEAT));
        options.max_idle_time = options.max_idle_time.or(Some(IDLE));
        // One connection to each member, where the default takes two.
        options.server_monitoring_mode = options.server_monitoring_mode.or(Some(ServerMonitoringMode::Poll));
        let client = Client::with_options(options).map_err(|e| explain(&e, &place))?;
        let database = client.database(&config.database);
        Ok(Self { client, database, collection: config.collection.clone(), place, primary })
    }

    /// Sends a write to the primary, and returns what it answers when a majority has it in its journal.
    pub(super) async fn write(&self, mut command: Document) -> Result<Document, Failure> {
        command.insert("writeConcern", doc! { "w": "majority", "j": true, "wtimeout": WRITE_DEADLINE });
        command.insert("maxTimeMS", WRITE_DEADLINE);
        let reply = self.send(command).await?;
        if let Ok(error) = reply.get_document("writeConcernError") {
            // It is done, and may be undone.
            let code = error.get_i32("code").unwrap_or(64);
            return Err(Failure { code: Some(code), error: explain_code(code, &self.place) });
        }
        Ok(reply)
    }

    /// Reads documents of which a majority has what is read, not older than the write that `reply` answers.
    pub(super) async fn read(&self, mut query: Document, reply: Option<&Document>) -> Result<Vec<Document>> {
        let mut concern = doc! { "level": "majority" };
        if let Some(Bson::Timestamp(time)) = reply.and_then(|reply| reply.get("operationTime")) {
            concern.insert("afterClusterTime", *time);
        }
        query.insert("singleBatch", true);
        query.insert("readConcern", concern);
        query.insert("maxTimeMS", WRITE_DEADLINE);
        let mut reply = self.send(query).await.map_err(|failure| failure.error)?;
        let Some(Bson::Document(cursor)) = reply.get_mut("cursor") else { return Err(self.senseless()) };
        let Some(Bson::Array(batch)) = cursor.remove("firstBatch") else { return Err(self.senseless()) };
        let document = |found| match found {
            Bson::Document(document) => Ok(document),
            _ => Err(self.senseless()),
        };
        batch.into_iter().map(document).collect()
    }

    /// Sends a command to the primary, of the database `admin`.
    pub(super) async fn admin(&self, command: Document) -> Result<Document> {
        self.client.database("admin").run_command(command).await.map_err(|e| explain(&e, &self.place))
    }

    pub(super) async fn send(&self, command: Document) -> Result<Document, Failure> {
        let reply = self.database.run_command(command).await;
        reply.map_err(|e| Failure { code: code(&e), error: self.explain(&e) })
    }

    /// Says what an error means. A password that was right once may be so again, as while it is changed everywhere.
    pub(super) fn explain(&self, error: &mongodb::error::Error) -> Error {
        let error = explain(error, &self.place);
        match error.kind() {
            ErrorKind::Invalid if self.primary.is_known() => {
                Error::new(ErrorKind::Unavailable, error.to_string())
            }
            _ => error,
        }
    }

    pub(super) fn senseless(&self) -> Error {
        senseless(&self.place)
    }
}

/// Why a command failed.
pub(super) struct Failure {
    /// The server's code, if it is the server that refuses.
    pub(super) code: Option<i32>,
    pub(super) error: Error,
}

/// What is known of the server that writes: which one it is, and what its clock shows.
pub(super) struct Primary {
    hinter: Arc<Hinter>,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The election that made it the primary; of a standalone server, the process.
    election: Option<Bson>,
    time: Arc<ServerClock>,
}

impl Primary {
    fn new(hinter: Arc<Hinter>) -> Self {
        Self { hinter, clock: Clock::boot(), state: Mutex::default() }
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    /// Takes in the server's clock from an answer to what was sent then.
    pub(super) fn learn(&self, sent: Moment, server_ms: i64) {
        let time = Arc::clone(&self.state().time);
        time.learn(sent, self.now(), u64::try_from(server_ms).unwrap_or(0).saturating_mul(1000));
    }

    /// The last moment of the server's clock at which a claim that was sent then may be executed, in milliseconds.
    pub(super) fn not_after(&self, sent: Moment, patience: Duration) -> i64 {
        let time = Arc::clone(&self.state().time);
        let limit = time.not_after(sent, patience).unwrap_or(0) / 1000;
        i64::try_from(limit).unwrap_or(i64::MAX)
    }

    fn is_known(&self) -> bool {
        self.state().election.is_some()
    }

    fn hears(&self, event: &SdamEvent) {
        if let SdamEvent::ServerHeartbeatSucceeded(event) = event
            && event.reply.get_bool("isWritablePrimary").unwrap_or(false)
        {
            let now = self.now().as_nanos();
            let took = u64::try_from(event.duration.as_nanos()).unwrap_or(u64::MAX);
            self.greeted(&event.reply, Moment::from_nanos(now.saturating_sub(took)));
        }
    }

    /// Takes in the answer of a primary to `hello`. A server that was elected since has all that was confirmed; but its
    /// clock is another one, and holders look whether they still hold.
    pub(super) fn greeted(&self, hello: &Document, sent: Moment) {
        let process = || hello.get_document("topologyVersion").ok()?.get("processId");
        // Routers come and go, and are no primaries.
        let is_router = hello.get_str("msg").is_ok_and(|text| text == "isdbgrid");
        let election = if is_router { Some(&Bson::Null) } else { hello.get("electionId").or_else(process) };
        let Some(election) = election.cloned() else { return };
        let is_another = {
            let mut state = self.state();
            // One that does not know yet that another was elected.
            if let (Some(Bson::ObjectId(before)), Bson::ObjectId(now)) = (&state.election, &election)
                && hello.contains_key("electionId")
                && now.bytes() < before.bytes()
            {
                return;
            }
            let before = state.election.replace(election.clone());
            let is_another = before.is_some_and(|before| before != election);
            if is_another {
                state.time = Arc::default();
            }
            is_another
        };
        if let Ok(time) = hello.get_datetime("localTime") {
            self.learn(sent, time.timestamp_millis());
        }
        if is_another {
            self.hinter.send(Hint::Restarted);
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
