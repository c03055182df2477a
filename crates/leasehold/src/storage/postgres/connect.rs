//! Opens connections: to the first host that answers, lets us in, and fits.

use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_postgres::{AsyncMessage, Client, Connection, Notification};
use tokio_rustls::TlsConnector;

use super::answers::is_unreplicated;
use super::config::{Config, Sockets};
use super::explain;
use super::hosts::{DIRECTORIES, Host, Place};
use super::line::Line;
use super::passfile::{self, Wanted};
use super::ssl::Mode;
use super::wire::{Done, Wire};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Owner;
use crate::storage::net::dial;

/// How to reach the servers, again and again.
#[derive(Clone)]
pub(super) struct Connector {
    config: Arc<Config>,
    /// Unless it is never used.
    tls: Option<TlsConnector>,
    user: String,
    line: Arc<Line>,
    clock: Clock,
    /// Whether the log has been told that a connection is not encrypted.
    told: Arc<AtomicBool>,
}

/// Says whether a server is the one that is looked for.
pub(super) trait Fit: Sync {
    /// What was learnt of it.
    type Found: Send;

    fn check(&self, session: &Session) -> impl Future<Output = Result<Self::Found>> + Send;
}

/// A connection that is logged in.
pub(super) struct Session {
    pub(super) client: Client,
    /// What was notified on it, in order. Ends with the connection.
    pub(super) notices: Option<mpsc::UnboundedReceiver<Notification>>,
    /// Which server it is, for errors.
    pub(super) place: String,
    /// The process id that was handed out at login. If it is not that of the process that answers, there is a pooler
    /// between us and the server.
    pub(super) backend: i32,
    pub(super) encrypted: bool,
    /// How often the server has warned that a commit did not wait for its standby.
    warnings: Arc<Warnings>,
    driver: Driver,
}

/// Counts what a server warns of.
#[derive(Default)]
struct Warnings {
    unreplicated: AtomicU64,
    /// Those of which is not known who says it.
    nameless: AtomicU64,
}

/// Moves a connection's bytes until it is dropped.
struct Driver(JoinHandle<()>);

/// Why an attempt failed, and whether the same with TLS, or without it, may do better.
struct Failure {
    error: Error,
    /// The server says so, and lets nobody in.
    said: bool,
    /// It lets nobody in like that: by its rules, and not for what it was told.
    refused: bool,
}

/// Where one attempt goes.
enum Target<'a> {
    Tcp { name: &'a str, address: SocketAddr },
    Unix(&'a Path, u16),
}

impl Connector {
    /// Reads the certificates.
    pub(super) fn new(config: Arc<Config>) -> Result<Self> {
        let tcp = config.hosts.iter().any(|host| matches!(host.place, Place::Tcp { .. }));
        let tls = (tcp && config.ssl.mode() > Mode::Disable).then(|| config.ssl.connector()).transpose()?;
        let user = match &config.login.user {
            Some(user) => user.clone(),
            None => whoami::username().map_err(|_| {
                Error::invalid("the system does not say who runs this; name a user in the URL")
            })?,
        };
        let line = Line::of(&name(&config));
        Ok(Self { config, tls, user, line, clock: Clock::boot(), told: Arc::default() })
    }

    /// What errors call it.
    pub(super) fn name(&self) -> String {
        name(&self.config)
    }

    /// Opens a connection to the first host that `fit` accepts, in their order or, if so configured, in any. None of
    /// them can use up the time of those that follow.
    ///
    /// # Errors
    ///
    /// The most telling of all hosts, `Invalid` only if each says so: of another one, that may pass.
    pub(super) async fn open<F: Fit>(&self, fit: &F, limit: Duration) -> Result<(Session, F::Found)> {
        let _turn = self.line.turn(self.config.limit).await;
        let deadline = self.clock.now().after(limit);
        let mut hosts: Vec<_> = self.config.hosts.iter().collect();
        if self.config.shuffle {
            shuffle(&mut hosts);
        }
        let left = || deadline.since(self.clock.now());
        let opened = dial::first_of(hosts, async |host| self.open_host(host, left(), fit).await).await?;
        self.line.opened();
        Ok(opened)
    }

    /// Tries each address of a host.
    async fn open_host<F: Fit>(&self, host: &Host, limit: Duration, fit: &F) -> Result<(Session, F::Found)> {
        let targets = match &host.place {
            Place::Tcp { name, address } => {
                let addresses = match address {
                    Some(address) => Ok(Ok(vec![*address])),
                    None => tokio::time::timeout(limit, resolve(name, host.port)).await,
                };
                let addresses = addresses.map_err(|_| silent(host))?;
                let addresses = addresses.map_err(|e| explain::unreachable(&e, &host.to_string()))?;
                let target = |ip| Target::Tcp { name, address: SocketAddr::new(ip, host.port) };
                addresses.into_iter().map(target).collect()
            }
            Place::Unix(directory) => vec![Target::Unix(directory, host.port)],
            Place::Default => {
                let there = |directory: &&str| socket(Path::new(directory), host.port).exists();
                let directory = DIRECTORIES.iter().copied().find(there).unwrap_or(DIRECTORIES[0]);
                vec![Target::Unix(Path::new(directory), host.port)]
            }
        };
        let opening = dial::first_of(&targets, async |target| {
            let session = self.log_in(host, target).await?;
            let found = fit.check(&session).await?;
            Ok((session, found))
        });
        tokio::time::timeout(limit, opening).await.unwrap_or_else(|_| Err(silent(host)))
    }

    /// As much TLS as `sslmode` wants. Plain only where libpq, too, would make do with it, and never because TLS was
    /// begun and went wrong.
    async fn log_in(&self, host: &Host, target: &Target<'_>) -> Result<Session> {
        let place = host.to_string();
        let login = async |wire: Wire| self.authenticate(wire, host, &place).await;
        let mode = match (target, &self.tls) {
            (Target::Tcp { .. }, Some(tls)) => Some((self.config.ssl.mode(), tls)),
            _ => None,
        };
        let session = match mode {
            None | Some((Mode::Disable, _)) => login(self.dial(target, &place).await?).await,
            // More TLS is never wrong.
            Some((Mode::Allow, tls)) => match login(self.dial(target, &place).await?).await {
                Err(failure) if failure.said => match self.encrypt(tls, target, &place).await {
                    Ok(Some(wire)) => login(wire).await,
                    _ => Err(failure),
                },
                other => other,
            },
            Some((Mode::Prefer, tls)) => match self.encrypt(tls, target, &place).await? {
                Some(wire) => match login(wire).await {
                    Err(failure) if failure.refused => {
                        login(self.dial(target, &place).await?).await.map_err(|_| failure)
                    }
                    other => other,
                },
                None => login(self.dial(target, &place).await?).await,
            },
            Some((Mode::Require | Mode::VerifyCa | Mode::VerifyFull, tls)) => {
                match self.encrypt(tls, target, &place).await? {
                    Some(wire) => login(wire).await,
                    None => {
                        let text =
                            "the server has no TLS, which the URL's `sslmode` asks for; switch it on there";
                        return Err(Error::new(ErrorKind::Unavailable, format!("{text} server=`{place}`")));
                    }
                }
            }
        };
        let session = session.map_err(|failure| failure.error)?;
        self.tell(&session, target);
        Ok(session)
    }

    /// Says once in the log that others can listen.
    fn tell(&self, session: &Session, target: &Target<'_>) {
        let remote = matches!(target, Target::Tcp { address, .. } if !address.ip().is_loopback());
        let accepted = self.config.ssl.mode() == Mode::Disable;
        if remote && !accepted && !session.encrypted && !self.told.swap(true, Ordering::Relaxed) {
            let server = &session.place;
            tracing::warn!(target: "leasehold", %server, "not encrypted; set `sslmode` to verify-full, or to disable");
        }
    }

    /// Opens a connection without TLS.
    async fn dial(&self, target: &Target<'_>, place: &str) -> Result<Wire> {
        match target {
            Target::Tcp { address, .. } => Ok(Wire::plain(self.tcp(*address, place).await?)),
            #[cfg(unix)]
            Target::Unix(directory, port) => {
                let stream = tokio::net::UnixStream::connect(socket(directory, *port)).await;
                Ok(Wire::plain(stream.map_err(|e| explain::unreachable(&e, place))?))
            }
            #[cfg(not(unix))]
            Target::Unix(..) => Err(Error::new(ErrorKind::Unsupported, "this platform has no Unix sockets")),
        }
    }

    /// Opens a connection with TLS, or none if the server says that it has none.
    async fn encrypt(&self, tls: &TlsConnector, target: &Target<'_>, place: &str) -> Result<Option<Wire>> {
        let Target::Tcp { name, address } = target else { return Ok(None) };
        let named = ServerName::try_from((*name).to_owned())
            .map_err(|_| Error::invalid(format!("not the name of a host for TLS server=`{place}`")))?;
        let mut stream = self.tcp(*address, place).await?;
        let direct = self.config.ssl.direct;
        if !direct && !asks_for_tls(&mut stream, place).await? {
            return Ok(None);
        }
        let stream = tls.connect(named, stream).await.map_err(|e| explain::untrusted(&e, place))?;
        // Who does not know that it is asked as a PostgreSQL may be something else, led to by somebody else.
        if direct && stream.get_ref().1.alpn_protocol() != Some(b"postgresql") {
            let e = io::Error::other(
                "the server does not say that it is a PostgreSQL; leave `sslnegotiation` away",
            );
            return Err(explain::untrusted(&e, place));
        }
        Ok(Some(Wire::encrypted(stream)))
    }

    async fn tcp(&self, address: SocketAddr, place: &str) -> Result<TcpStream> {
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            self.config.sockets.apply(&stream)?;
            Ok::<_, io::Error>(stream)
        };
        connecting.await.map_err(|e| explain::unreachable(&e, place))
    }

    async fn authenticate(&self, wire: Wire, host: &Host, place: &str) -> Result<Session, Failure> {
        let login = &self.config.login;
        let database = login.database.as_ref().unwrap_or(&self.user);
        let password = match &login.password {
            Some(password) => Some(password.clone()),
            None => {
                let wanted = Wanted { host, database, user: &self.user };
                passfile::find(login.passfile.as_deref(), &wanted).map_err(Failure::from)?
            }
        };
        let mut config = tokio_postgres::Config::new();
        // TLS is done, or not to be had; see `Wire`.
        config.ssl_mode(SslMode::Require).ssl_negotiation(SslNegotiation::Direct);
        config.channel_binding(login.channel_binding).user(&self.user).dbname(database);
        let application = login.application.as_deref().or(login.fallback_application.as_deref());
        config.application_name(application.unwrap_or("leasehold"));
        if let Some(options) = &login.options {
            config.options(options);
        }
        if let Some(password) = &password {
            config.password(password);
        }
        let encrypted = wire.encrypted;
        let (client, connection) = config.connect_raw(wire, Done).await.map_err(|e| Failure {
            said: e.code().is_some(),
            refused: e.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION),
            error: explain::login(&e, place, &[password.as_deref().unwrap_or_default()]),
        })?;
        let backend = backend(&client).await.map_err(|e| explain::unreachable(&e, place))?;
        let (notify, notices) = mpsc::unbounded_channel();
        let warnings = Arc::<Warnings>::default();
        let driver = Driver(tokio::spawn(drive(connection, notify, Arc::clone(&warnings))));
        Ok(Session {
            client,
            notices: Some(notices),
            place: place.to_owned(),
            backend,
            encrypted,
            warnings,
            driver,
        })
    }
}

impl Session {
    /// Returns how often the server has warned until now that a commit did not wait for its standby, which comes before the
    /// end of what it belongs to. `synchronous` if there is a standby to wait for.
    pub(super) fn unreplicated(&self, synchronous: bool) -> u64 {
        let Warnings { unreplicated, nameless } = &*self.warnings;
        unreplicated.load(Ordering::Relaxed) + if synchronous { nameless.load(Ordering::Relaxed) } else { 0 }
    }

    /// Closes it. Whatever is under way fails.
    pub(super) fn close(&self) {
        self.driver.0.abort();
    }
}

impl Sockets {
    fn apply(&self, stream: &TcpStream) -> io::Result<()> {
        let socket = SockRef::from(stream);
        if self.keepalives {
            let keepalive = TcpKeepalive::new().with_time(self.idle).with_interval(self.interval);
            #[cfg(not(windows))]
            let keepalive = keepalive.with_retries(self.count);
            socket.set_tcp_keepalive(&keepalive)?;
        }
        #[cfg(target_os = "linux")]
        if self.user_timeout.is_some() {
            socket.set_tcp_user_timeout(self.user_timeout)?;
        }
        Ok(())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, said: false, refused: false }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Passes on what is notified, until the connection ends. Whoever waits for an answer is told by the driver.
async fn drive(
    mut connection: Connection<Wire, Wire>,
    notify: mpsc::UnboundedSender<Notification>,
    warnings: Arc<Warnings>,
) {
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            AsyncMessage::Notification(notification) => {
                // Not every connection is listened to.
                let _unheard = notify.send(notification);
            }
            AsyncMessage::Notice(notice) => {
                let count = match is_unreplicated(&notice) {
                    Some(true) => &warnings.unreplicated,
                    None => &warnings.nameless,
                    Some(false) => continue,
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

/// Asks whether TLS may begin. Reads one byte and no more: what follows has to come under TLS.
async fn asks_for_tls(stream: &mut TcpStream, place: &str) -> Result<bool> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let asking = async {
        stream.write_all(&SSL_REQUEST).await?;
        stream.read_u8().await
    };
    match asking.await {
        Ok(b'S') => Ok(true),
        Ok(b'N') => Ok(false),
        // An error in plain text, which anybody can write: not shown.
        Ok(_) => {
            let e = io::Error::other("the server answers the wish for TLS with something else");
            Err(explain::unreachable(&e, place))
        }
        Err(e) => Err(explain::unreachable(&e, place)),
    }
}

/// The process id that the server handed out for cancelling. The driver keeps it to itself, but writes it into the
/// request to cancel, which goes nowhere here.
async fn backend(client: &Client) -> io::Result<i32> {
    let (theirs, mut ours) = tokio::io::duplex(64);
    client.cancel_token().cancel_query_raw(Wire::plain(theirs), Done).await.map_err(io::Error::other)?;
    let (_length, _code) = (ours.read_i32().await?, ours.read_i32().await?);
    ours.read_i32().await
}

fn name(config: &Config) -> String {
    config.hosts.iter().map(Host::to_string).collect::<Vec<_>>().join(",")
}

async fn resolve(name: &str, port: u16) -> io::Result<Vec<IpAddr>> {
    Ok(dial::addresses(name, port).await?.iter().map(SocketAddr::ip).collect())
}

fn socket(directory: &Path, port: u16) -> std::path::PathBuf {
    directory.join(format!(".s.PGSQL.{port}"))
}

fn silent(host: &Host) -> Error {
    let text = "the server did not answer in time while it was connected to; retry";
    Error::new(ErrorKind::Unavailable, format!("{text} server=`{host}`"))
}

/// Puts them into any order.
fn shuffle<T>(items: &mut [T]) {
    let random = Owner::random();
    for i in (1..items.len()).rev() {
        let n = u64::try_from(i).expect("BUG: fits") + 1;
        let j = random.spread(u32::try_from(i).unwrap_or(u32::MAX), n);
        items.swap(i, usize::try_from(j).expect("BUG: below a usize"));
    }
}
