//! Opens connections: to a server, or to whoever the Sentinels call the primary.

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

use super::answers::{explain, explain_greeting};
use super::config::{Access, Config, Login, Place};
use super::facts::Facts;
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};
use crate::storage::net::dial;

/// How to reach one server, again and again.
#[derive(Clone)]
pub(in crate::storage) struct Connector {
    config: Arc<Config>,
    tls: Option<TlsConnector>,
    route: Route,
    clock: Clock,
    /// Whether leases were promised to survive a failover: then no server is good enough that cannot keep that.
    promised: Arc<AtomicBool>,
}

#[derive(Clone)]
enum Route {
    Place(Place),
    Sentinels { sentinels: Vec<Place>, primary: String, login: Login },
}

/// A connection, and what was learnt when it was opened.
pub(in crate::storage) struct Opened {
    pub(in crate::storage) connection: MultiplexedConnection,
    pub(in crate::storage) driver: Driver,
    pub(in crate::storage) facts: Facts,
    pub(in crate::storage) place: Place,
    pub(in crate::storage) asked: Moment,
    pub(in crate::storage) answered: Moment,
    /// What the server says without being asked.
    pub(in crate::storage) pushed: mpsc::UnboundedReceiver<PushInfo>,
}

/// A connection that is let in.
struct Greeted {
    connection: MultiplexedConnection,
    _driver: Driver,
    pushed: mpsc::UnboundedReceiver<PushInfo>,
}

/// One address of a place; a name for TLS with it.
enum Target {
    Tcp(String, SocketAddr),
    Unix(PathBuf),
}

/// What a Sentinel says of the primary.
struct Seen {
    /// The epoch of its configuration: it grows with each failover.
    epoch: u64,
    place: Place,
    /// How many replicas could take its place; those that are away count.
    replicas: u64,
}

/// Moves a connection's bytes until it is dropped.
pub(in crate::storage) struct Driver(JoinHandle<()>);

/// How long opening a connection may take, with all that belongs to it.
pub(in crate::storage) const LIMIT: Duration = Duration::from_secs(3);
/// How long one Sentinel may take.
const SENTINEL_LIMIT: Duration = Duration::from_millis(800);

impl Connector {
    pub(in crate::storage) fn to(place: Place, config: &Arc<Config>, tls: Option<TlsConnector>) -> Self {
        Self {
            config: Arc::clone(config),
            tls,
            route: Route::Place(place),
            clock: Clock::boot(),
            promised: Arc::default(),
        }
    }

    pub(in crate::storage) fn by_sentinels(
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

    /// What errors call it.
    pub(in crate::storage) fn shown(&self) -> String {
        match &self.route {
            Route::Place(place) => place.to_string(),
            Route::Sentinels { primary, .. } => format!("the primary `{primary}`"),
        }
    }

    /// Opens a connection and asks the server what it is.
    pub(in crate::storage) async fn open(&self) -> Result<Opened> {
        match tokio::time::timeout(LIMIT, self.open_now()).await {
            Ok(opened) => opened,
            Err(_) => Err(self.silent()),
        }
    }

    /// Asks a server something on a connection for that alone, whatever the server is.
    pub(in crate::storage) async fn ask(
        &self,
        place: &Place,
        questions: &Pipeline,
    ) -> Result<RedisResult<Vec<Value>>> {
        let asking = async {
            let Greeted { mut connection, _driver, .. } = self.connect(place, &self.config.access).await?;
            Ok(connection.send_packed_commands(questions, 0, questions.len()).await)
        };
        tokio::time::timeout(LIMIT, asking).await.unwrap_or_else(|_| Err(self.silent()))
    }

    async fn open_now(&self) -> Result<Opened> {
        let (place, known_replicas) = match &self.route {
            Route::Place(place) => (place.clone(), None),
            Route::Sentinels { sentinels, primary, login } => {
                let seen = self.primary(sentinels, primary, login).await?;
                (seen.place, Some(seen.replicas))
            }
        };
        let targets = targets(&place).await?;
        // A name may lead to a primary and to its replica: only what fits ends the search.
        dial::first_of(targets, |target| self.open_at(&place, target, known_replicas)).await
    }

    async fn open_at(&self, place: &Place, target: Target, known_replicas: Option<u64>) -> Result<Opened> {
        let Greeted { mut connection, _driver: driver, pushed } =
            self.greet(place, &target, &self.config.access).await?;
        let questions = Facts::questions(&self.config);
        let asked = self.clock.now();
        let answers = connection.send_packed_commands(&questions, 0, questions.len()).await;
        let answered = self.clock.now();
        let shown = place.to_string();
        let answers = answers.map_err(|e| explain_greeting(&e, &shown))?;
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
            None => "the server did not answer in time while it was connected to; retry",
            // So does one that does not speak TLS, and waits for more.
            Some(_) => {
                "the server did not answer in time while it was connected to; check that it speaks TLS at this port, \
                 and retry"
            }
        };
        Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", self.shown()))
    }

    /// Opens a connection to whatever is at a place, by any of its addresses.
    async fn connect(&self, place: &Place, access: &Access) -> Result<Greeted> {
        let targets = targets(place).await?;
        dial::first_of(targets, async |target| self.greet(place, &target, access).await).await
    }

    async fn greet(&self, place: &Place, target: &Target, access: &Access) -> Result<Greeted> {
        let shown = place.to_string();
        let opened = match target {
            Target::Tcp(host, address) => {
                let stream = TcpStream::connect(address).await.map_err(|e| unreachable(&shown, &e))?;
                stream.set_nodelay(true).map_err(|e| unreachable(&shown, &e))?;
                match &self.tls {
                    None => greet(stream, access).await,
                    Some(tls) => {
                        let name = ServerName::try_from(host.clone()).map_err(|_| {
                            Error::invalid(format!("not the name of a host for TLS server=`{shown}`"))
                        })?;
                        let stream = tls.connect(name, stream).await.map_err(|e| untrusted(&shown, &e))?;
                        greet(stream, access).await
                    }
                }
            }
            #[cfg(unix)]
            Target::Unix(path) => {
                let stream =
                    tokio::net::UnixStream::connect(path).await.map_err(|e| unreachable(&shown, &e))?;
                greet(stream, access).await
            }
            #[cfg(not(unix))]
            Target::Unix(_) => {
                return Err(Error::new(ErrorKind::Unsupported, "this platform has no Unix sockets"));
            }
        };
        opened.map_err(|e| explain_greeting(&e, &shown))
    }

    /// Asks all Sentinels at once, and believes the newest of what a majority of them says.
    async fn primary(&self, sentinels: &[Place], primary: &str, login: &Login) -> Result<Seen> {
        let access = Access { login: login.clone(), tls: self.config.access.tls.clone(), database: 0 };
        let mut asked: FuturesUnordered<_> =
            sentinels.iter().map(|sentinel| self.ask_sentinel(sentinel, primary, &access)).collect();
        let (mut best, mut told, mut last) = (None::<Seen>, 0, None);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(seen) => {
                    told += 1;
                    let replicas =
                        std::cmp::max(seen.replicas, best.as_ref().map_or(0, |best| best.replicas));
                    let newest = match best {
                        Some(best) if best.epoch >= seen.epoch => best,
                        _ => seen,
                    };
                    best = Some(Seen { replicas, ..newest });
                }
                Err(error) => last = Some(error),
            }
            // Any of them may know a replica that the others do not, and have it promoted.
            if told * 2 > sentinels.len() && self.config.failover_grace.is_none() {
                break;
            }
        }
        match best {
            Some(seen) => Ok(seen),
            None => Err(last.unwrap_or_else(|| Error::invalid("the URL names no Sentinel"))),
        }
    }

    async fn ask_sentinel(&self, sentinel: &Place, primary: &str, access: &Access) -> Result<Seen> {
        let unanswered = || {
            let text = "no Sentinel answers; check that they run, and retry";
            Error::new(ErrorKind::Unavailable, format!("{text} server=`{sentinel}`"))
        };
        let asking = async {
            let Greeted { mut connection, _driver, .. } = self.connect(sentinel, access).await?;
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
                (Some(host), Some(port)) => Ok(Seen {
                    epoch: number("config-epoch").unwrap_or(0),
                    place: Place::Tcp(host.clone(), port),
                    replicas: number("num-slaves").unwrap_or(u64::MAX),
                }),
                _ => Err(unanswered()),
            }
        };
        tokio::time::timeout(SENTINEL_LIMIT, asking).await.unwrap_or_else(|_| Err(unanswered()))
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

async fn greet(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    access: &Access,
) -> RedisResult<Greeted> {
    // The database is chosen when it is known what the server is.
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
    // Whoever asks limits its own time.
    let config = AsyncConnectionConfig::new().set_response_timeout(None).set_push_sender(pushes);
    let (connection, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
    Ok(Greeted { connection, _driver: Driver(tokio::spawn(driver)), pushed })
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

/// TLS that failed: what the server is, or whom to trust, is said in the URL, and asking again does not change that.
fn untrusted(place: &str, e: &std::io::Error) -> Error {
    let text = match e.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            "the server does not speak TLS at this port; write `redis` for `rediss`, or name another port"
        }
        Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented) => {
            "the server's certificate is not to be trusted; check the host and the options `ca` and `insecure`"
        }
        _ => return unreachable(place, e),
    };
    Error::invalid(format!("{text} server=`{place}` error=`{e}`"))
}
