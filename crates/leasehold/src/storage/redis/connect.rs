//! Opens connections: to a server, or to the primary that Sentinels report.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Pipeline, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisResult, Value, cmd,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

use super::config::{Access, Config, Login, Place};
use super::errors::{explain, explain_handshake};
use super::facts::Facts;
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::net::dial;

/// A way to connect to one server, as often as needed.
#[derive(Clone)]
pub(super) struct Connector {
    config: Arc<Config>,
    tls: Option<TlsConnector>,
    route: Route,
    clock: Clock,
    /// Whether leases were promised to survive a failover. Then a server that cannot keep the promise is refused.
    promised: Arc<AtomicBool>,
}

#[derive(Clone)]
enum Route {
    Place(Place),
    Sentinels { sentinels: Vec<Place>, primary: String, login: Login },
}

/// A connection, and what the server reported when it was opened.
pub(super) struct Opened {
    pub(super) connection: MultiplexedConnection,
    pub(super) driver: Driver,
    pub(super) facts: Facts,
    pub(super) place: Place,
    pub(super) asked: Moment,
    pub(super) answered: Moment,
    /// Messages that the server sends without a request.
    pub(super) pushed: mpsc::UnboundedReceiver<PushInfo>,
}

/// An authenticated connection.
struct Session {
    connection: MultiplexedConnection,
    _driver: Driver,
    pushed: mpsc::UnboundedReceiver<PushInfo>,
}

/// One address of a place; for TCP with the host, which TLS verifies.
enum Target {
    Tcp(String, SocketAddr),
    Unix(PathBuf),
}

/// The primary, as a Sentinel reports it.
struct Reported {
    /// The epoch of its configuration, which grows with each failover.
    epoch: u64,
    place: Place,
    /// How many replicas could be promoted, including those that are down.
    replicas: u64,
}

/// The task that reads and writes a connection. Dropping it ends the task.
pub(super) struct Driver(JoinHandle<()>);

/// How long opening a connection may take, including every query that belongs to it.
pub(super) const LIMIT: Duration = Duration::from_secs(3);
/// How long one Sentinel may take.
const SENTINEL_LIMIT: Duration = Duration::from_millis(800);

impl Connector {
    pub(super) fn to(place: Place, config: &Arc<Config>, tls: Option<TlsConnector>) -> Self {
        Self {
            config: Arc::clone(config),
            tls,
            route: Route::Place(place),
            clock: Clock::boot(),
            promised: Arc::default(),
        }
    }

    pub(super) fn by_sentinels(
        sentinels: &[Place],
        primary: &str,
        login: &Login,
        config: &Arc<Config>,
        tls: Option<TlsConnector>,
    ) -> Self {
        let (sentinels, primary, login) = (sentinels.to_vec(), primary.to_owned(), login.clone());
        Self {
            route: Route::Sentinels { sentinels, primary, login },
            ..Self::to(Place::Tcp(String::new(), 0), config, tls)
        }
    }

    /// Holds every later connection to the promise that leases survive a failover.
    pub(super) fn promise_failovers(&self) {
        self.promised.store(true, Ordering::Relaxed);
    }

    /// Returns `true` if leases were promised to survive a failover.
    pub(super) fn promises_failovers(&self) -> bool {
        self.promised.load(Ordering::Relaxed)
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Returns the server, as errors name it.
    pub(super) fn shown(&self) -> String {
        match &self.route {
            Route::Place(place) => place.to_string(),
            Route::Sentinels { primary, .. } => format!("the primary `{primary}`"),
        }
    }

    /// Opens a connection, and queries the server for its facts.
    pub(super) async fn open(&self) -> Result<Opened> {
        match tokio::time::timeout(LIMIT, self.open_now()).await {
            Ok(opened) => opened,
            Err(_) => Err(self.silent()),
        }
    }

    /// Sends commands to any server, on a connection that is closed afterward.
    pub(super) async fn query(&self, place: &Place, commands: &Pipeline) -> Result<RedisResult<Vec<Value>>> {
        let query = async {
            let Session { mut connection, _driver, .. } = self.connect(place, &self.config.access).await?;
            Ok(connection.send_packed_commands(commands, 0, commands.len()).await)
        };
        tokio::time::timeout(LIMIT, query).await.unwrap_or_else(|_| Err(self.silent()))
    }

    async fn open_now(&self) -> Result<Opened> {
        let (place, known_replicas) = match &self.route {
            Route::Place(place) => (place.clone(), None),
            Route::Sentinels { sentinels, primary, login } => {
                let reported = self.primary(sentinels, primary, login).await?;
                (reported.place, Some(reported.replicas))
            }
        };
        let targets = targets(&place).await?;
        // A host may have the addresses of a primary and of its replica. Only a fit server ends the search.
        dial::first_of(targets, |target| self.open_at(&place, target, known_replicas)).await
    }

    async fn open_at(&self, place: &Place, target: Target, known_replicas: Option<u64>) -> Result<Opened> {
        let Session { mut connection, _driver: driver, pushed } =
            self.open_session(place, &target, &self.config.access).await?;
        let queries = Facts::queries(&self.config);
        let asked = self.clock.now();
        let answers = connection.send_packed_commands(&queries, 0, queries.len()).await;
        let answered = self.clock.now();
        let shown = place.to_string();
        let answers = answers.map_err(|e| explain_handshake(&e, &shown))?;
        let mut facts = Facts::read(answers, &self.config, &shown)?;
        facts.known_replicas = known_replicas;
        facts.check(&self.config, &shown)?;
        if self.promises_failovers() {
            facts.check_failover(&self.config, &shown)?;
        }
        Ok(Opened { connection, driver, facts, place: place.clone(), asked, answered, pushed })
    }

    fn silent(&self) -> Error {
        let text = match self.tls {
            None => "the server did not answer in time while the connection was opened; retry",
            // A server that does not speak TLS waits for more bytes, and does not answer either.
            Some(_) => {
                "the server did not answer in time while the connection was opened; check that it speaks TLS at this port, \
                 and retry"
            }
        };
        Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", self.shown()))
    }

    /// Opens a connection to a place, by the first of its addresses that answers.
    async fn connect(&self, place: &Place, access: &Access) -> Result<Session> {
        let targets = targets(place).await?;
        dial::first_of(targets, async |target| self.open_session(place, &target, access).await).await
    }

    async fn open_session(&self, place: &Place, target: &Target, access: &Access) -> Result<Session> {
        let shown = place.to_string();
        let opened = match target {
            Target::Tcp(host, address) => {
                let stream = TcpStream::connect(address).await.map_err(|e| unreachable(&shown, &e))?;
                stream.set_nodelay(true).map_err(|e| unreachable(&shown, &e))?;
                match &self.tls {
                    None => handshake(stream, access).await,
                    Some(tls) => {
                        let name = ServerName::try_from(host.clone()).map_err(|_| {
                            Error::invalid(format!("not the name of a host for TLS server=`{shown}`"))
                        })?;
                        let stream = tls.connect(name, stream).await.map_err(|e| untrusted(&shown, &e))?;
                        handshake(stream, access).await
                    }
                }
            }
            #[cfg(unix)]
            Target::Unix(path) => {
                let stream =
                    tokio::net::UnixStream::connect(path).await.map_err(|e| unreachable(&shown, &e))?;
                handshake(stream, access).await
            }
            #[cfg(not(unix))]
            Target::Unix(_) => {
                return Err(Error::new(ErrorKind::Unsupported, "this platform has no Unix sockets"));
            }
        };
        opened.map_err(|e| explain_handshake(&e, &shown))
    }

    /// Queries all Sentinels at once. Returns the newest report, once a majority has answered.
    async fn primary(&self, sentinels: &[Place], primary: &str, login: &Login) -> Result<Reported> {
        let access = Access { login: login.clone(), tls: self.config.access.tls.clone(), database: 0 };
        let mut reports: FuturesUnordered<_> =
            sentinels.iter().map(|sentinel| self.query_sentinel(sentinel, primary, &access)).collect();
        let (mut newest, mut answered, mut last) = (None::<Reported>, 0, None);
        while let Some(report) = reports.next().await {
            match report {
                Ok(report) => {
                    answered += 1;
                    let replicas =
                        std::cmp::max(report.replicas, newest.as_ref().map_or(0, |newest| newest.replicas));
                    let newer = match newest {
                        Some(newest) if newest.epoch >= report.epoch => newest,
                        _ => report,
                    };
                    newest = Some(Reported { replicas, ..newer });
                }
                Err(error) => last = Some(error),
            }
            // With a grace all reports are needed: any Sentinel may know a replica that the others do not, and promote it.
            if answered * 2 > sentinels.len() && self.config.failover_grace.is_none() {
                break;
            }
        }
        match newest {
            Some(newest) => Ok(newest),
            None => Err(last.unwrap_or_else(|| Error::invalid("the URL names no Sentinel"))),
        }
    }

    async fn query_sentinel(&self, sentinel: &Place, primary: &str, access: &Access) -> Result<Reported> {
        let unanswered = || {
            let text = "no Sentinel answers; check that they run, and retry";
            Error::new(ErrorKind::Unavailable, format!("{text} server=`{sentinel}`"))
        };
        let query = async {
            let Session { mut connection, _driver, .. } = self.connect(sentinel, access).await?;
            let mut command = cmd("SENTINEL");
            let answer: RedisResult<std::collections::HashMap<String, String>> =
                command.arg("MASTER").arg(primary).query_async(&mut connection).await;
            let fields = answer.map_err(|e| match e.code() {
                Some("ERR") => {
                    let text =
                        "the Sentinels know no such primary; check the name in the URL after the hosts";
                    Error::new(ErrorKind::Invalid, format!("{text} primary=`{}`", primary.escape_debug()))
                }
                _ => explain(&e, &sentinel.to_string()),
            })?;
            let number = |name: &str| fields.get(name).and_then(|value| value.parse::<u64>().ok());
            let port = number("port").and_then(|port| u16::try_from(port).ok());
            match (fields.get("ip"), port) {
                (Some(host), Some(port)) => Ok(Reported {
                    epoch: number("config-epoch").unwrap_or(0),
                    place: Place::Tcp(host.clone(), port),
                    replicas: number("num-slaves").unwrap_or(u64::MAX),
                }),
                _ => Err(unanswered()),
            }
        };
        tokio::time::timeout(SENTINEL_LIMIT, query).await.unwrap_or_else(|_| Err(unanswered()))
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Returns the addresses of a place.
async fn targets(place: &Place) -> Result<Vec<Target>> {
    match place {
        Place::Tcp(host, port) => {
            let addresses = dial::addresses(host, *port).await;
            let addresses = addresses.map_err(|e| unreachable(&place.to_string(), &e))?;
            Ok(addresses.into_iter().map(|address| Target::Tcp(host.clone(), address)).collect())
        }
        Place::Unix(path) => Ok(vec![Target::Unix(path.clone())]),
    }
}

async fn handshake(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    access: &Access,
) -> RedisResult<Session> {
    // The database is selected once the server's kind is known: a Cluster has only one.
    let mut info = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("leasehold", env!("CARGO_PKG_VERSION"));
    if let Some(user) = &access.login.user {
        info = info.set_username(user);
    }
    if let Some(password) = &access.login.password {
        info = info.set_password(password);
    }
    let (pushes, pushed) = mpsc::unbounded_channel();
    // Each caller limits the time of its calls.
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_push_sender(pushes);
    let (connection, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
    Ok(Session { connection, _driver: Driver(tokio::spawn(driver)), pushed })
}

fn unreachable(place: &str, e: &std::io::Error) -> Error {
    if let Some(why) = crate::system::exhausted(e) {
        return Error::new(
            ErrorKind::Internal,
            format!("no connection to the server; {why} server=`{place}`"),
        );
    }
    let text = "no connection to the server; check the URL and the server, and retry";
    Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}` error=`{e}`"))
}

/// Returns the error for a failed TLS handshake. Most come from the URL, and a retry does not help.
fn untrusted(place: &str, e: &std::io::Error) -> Error {
    let text = match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            "the server does not speak TLS at this port; write `redis` for `rediss`, or name another port"
        }
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            "the server's certificate is not trusted; check the host and the options `ca` and `insecure`"
        }
        _ => return unreachable(place, e),
    };
    Error::invalid(format!("{text} server=`{place}` error=`{e}`"))
}
