//! Opens connections: to a server, or to whoever the Sentinels call the primary.

use std::sync::Arc;
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

use super::answers::explain;
use super::config::{Access, Config, Login, Place};
use super::facts::Facts;
use crate::clock::{Clock, Moment};
use crate::error::{Error, ErrorKind, Result};

/// How to reach one server, again and again.
#[derive(Clone)]
pub(in crate::storage) struct Connector {
    config: Arc<Config>,
    tls: Option<TlsConnector>,
    route: Route,
    clock: Clock,
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
}

/// Moves a connection's bytes until it is dropped.
pub(in crate::storage) struct Driver(JoinHandle<()>);

/// How long opening a connection may take, with all that belongs to it.
pub(in crate::storage) const LIMIT: Duration = Duration::from_secs(3);
/// How long one Sentinel may take.
const SENTINEL_LIMIT: Duration = Duration::from_millis(800);

impl Connector {
    pub(in crate::storage) fn to(place: Place, config: &Arc<Config>, tls: Option<TlsConnector>) -> Self {
        Self { config: Arc::clone(config), tls, route: Route::Place(place), clock: Clock::boot() }
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

    /// What errors call it.
    pub(in crate::storage) fn shown(&self) -> String {
        match &self.route {
            Route::Place(place) => place.to_string(),
            Route::Sentinels { primary, .. } => format!("the primary `{primary}`"),
        }
    }

    /// Opens a connection and asks the server what it is.
    pub(in crate::storage) async fn open_with(
        &self,
        pushes: Option<mpsc::UnboundedSender<PushInfo>>,
    ) -> Result<Opened> {
        match tokio::time::timeout(LIMIT, self.open_now(pushes)).await {
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
            let (mut connection, _driver) = self.connect(place, &self.config.access, None).await?;
            Ok(connection.send_packed_commands(questions, 0, questions.len()).await)
        };
        tokio::time::timeout(LIMIT, asking).await.unwrap_or_else(|_| Err(self.silent()))
    }

    async fn open_now(&self, pushes: Option<mpsc::UnboundedSender<PushInfo>>) -> Result<Opened> {
        let place = match &self.route {
            Route::Place(place) => place.clone(),
            Route::Sentinels { sentinels, primary, login } => self.primary(sentinels, primary, login).await?,
        };
        let (mut connection, driver) = self.connect(&place, &self.config.access, pushes).await?;
        let questions = Facts::questions();
        let asked = self.clock.now();
        let answers = connection.send_packed_commands(&questions, 0, questions.len()).await;
        let answered = self.clock.now();
        let facts = Facts::read(answers.map_err(|e| explain(&e, &place.to_string()))?, &place.to_string())?;
        facts.check(&self.config, &place.to_string())?;
        Ok(Opened { connection, driver, facts, place, asked, answered })
    }

    fn silent(&self) -> Error {
        let text = "the server did not answer in time while it was connected to; retry";
        Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", self.shown()))
    }

    async fn connect(
        &self,
        place: &Place,
        access: &Access,
        pushes: Option<mpsc::UnboundedSender<PushInfo>>,
    ) -> Result<(MultiplexedConnection, Driver)> {
        let shown = place.to_string();
        let opened = match place {
            Place::Tcp(host, port) => {
                let stream =
                    TcpStream::connect((host.as_str(), *port)).await.map_err(|e| unreachable(&shown, &e))?;
                stream.set_nodelay(true).map_err(|e| unreachable(&shown, &e))?;
                match &self.tls {
                    None => greet(stream, access, pushes).await,
                    Some(tls) => {
                        let name = ServerName::try_from(host.clone()).map_err(|_| {
                            Error::invalid(format!("not the name of a host for TLS server=`{shown}`"))
                        })?;
                        let stream = tls.connect(name, stream).await.map_err(|e| unreachable(&shown, &e))?;
                        greet(stream, access, pushes).await
                    }
                }
            }
            #[cfg(unix)]
            Place::Unix(path) => {
                let stream =
                    tokio::net::UnixStream::connect(path).await.map_err(|e| unreachable(&shown, &e))?;
                greet(stream, access, pushes).await
            }
            #[cfg(not(unix))]
            Place::Unix(_) => {
                return Err(Error::new(ErrorKind::Unsupported, "this platform has no Unix sockets"));
            }
        };
        opened.map_err(|e| explain(&e, &shown))
    }

    /// Asks all Sentinels at once, and believes the newest of what a majority of them says.
    async fn primary(&self, sentinels: &[Place], primary: &str, login: &Login) -> Result<Place> {
        let access = Access { login: login.clone(), tls: self.config.access.tls.clone(), database: 0 };
        let mut asked: FuturesUnordered<_> =
            sentinels.iter().map(|sentinel| self.ask_sentinel(sentinel, primary, &access)).collect();
        let (mut best, mut told, mut last) = (None, 0, None);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok((epoch, place)) => {
                    told += 1;
                    if best.as_ref().is_none_or(|(known, _)| epoch > *known) {
                        best = Some((epoch, place));
                    }
                }
                Err(error) => last = Some(error),
            }
            if told * 2 > sentinels.len() {
                break;
            }
        }
        match best {
            Some((_, place)) => Ok(place),
            None => Err(last.unwrap_or_else(|| Error::invalid("the URL names no Sentinel"))),
        }
    }

    /// The epoch of the primary's configuration, and where it is.
    async fn ask_sentinel(&self, sentinel: &Place, primary: &str, access: &Access) -> Result<(u64, Place)> {
        let unanswered = || {
            let text = "no Sentinel answers; check that they run, and retry";
            Error::new(ErrorKind::Unavailable, format!("{text} server=`{sentinel}`"))
        };
        let asking = async {
            let (mut connection, _driver) = self.connect(sentinel, access, None).await?;
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
                (Some(host), Some(port)) => {
                    Ok((number("config-epoch").unwrap_or(0), Place::Tcp(host.clone(), port)))
                }
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

async fn greet(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    access: &Access,
    pushes: Option<mpsc::UnboundedSender<PushInfo>>,
) -> RedisResult<(MultiplexedConnection, Driver)> {
    let mut info = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name("leasehold", env!("CARGO_PKG_VERSION"))
        .set_db(i64::from(access.database));
    if let Some(user) = &access.login.user {
        info = info.set_username(user);
    }
    if let Some(password) = &access.login.password {
        info = info.set_password(password);
    }
    // Whoever asks limits its own time.
    let mut config = AsyncConnectionConfig::new().set_response_timeout(None);
    if let Some(pushes) = pushes {
        config = config.set_push_sender(pushes);
    }
    let (connection, driver) = MultiplexedConnection::new_with_config(&info, stream, config).await?;
    Ok((connection, Driver(tokio::spawn(driver))))
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
