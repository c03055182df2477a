//! Opens connections: to the first host that answers, accepts the login, and passes a check.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::config::{SslMode, SslNegotiation};
use tokio_postgres::error::SqlState;
use tokio_rustls::TlsConnector;

use super::config::{Config, Sockets};
use super::connection_limit::ConnectionLimit;
use super::errors;
use super::hosts::{DIRECTORIES, Host, Place};
use super::passfile::{self, Wanted};
use super::session::Session;
use super::ssl::Mode;
use super::transport::{TlsDone, Transport};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Owner;
use crate::storage::net::dial;

/// The hosts of a URL, and everything that is needed to log in there.
#[derive(Clone)]
pub(super) struct Connector {
    config: Arc<Config>,
    /// `None` if no connection can use TLS.
    tls: Option<TlsConnector>,
    user: String,
    connection_limit: Arc<ConnectionLimit>,
    clock: Clock,
    /// Whether the log has a warning that a connection is not encrypted.
    has_warned: Arc<AtomicBool>,
}

/// Checks whether a server can be used.
pub(super) trait SessionCheck: Sync {
    /// What the check finds out.
    type Found: Send;

    fn check(&self, session: &Session) -> impl Future<Output = Result<Self::Found>> + Send;
}

/// Why a login failed, and whether it may succeed with TLS, or without it.
struct LoginError {
    error: Error,
    /// Whether the server has refused the login.
    is_refusal: bool,
    /// Whether its rules (`pg_hba.conf`) refuse it, and not the user or the password.
    is_rule: bool,
}

/// One address of a host.
enum Target<'a> {
    Tcp { name: &'a str, address: SocketAddr },
    Unix(&'a Path, u16),
}

impl Connector {
    /// Reads the certificates of the URL.
    pub(super) fn new(config: Arc<Config>) -> Result<Self> {
        let tcp = config.hosts.iter().any(|host| matches!(host.place, Place::Tcp { .. }));
        let tls = (tcp && config.ssl.mode() > Mode::Disable).then(|| config.ssl.connector()).transpose()?;
        let user = match &config.login.user {
            Some(user) => user.clone(),
            None => whoami::username().map_err(|_| {
                Error::invalid(
                    "the system does not give the name of the current user; name a user in the URL",
                )
            })?,
        };
        let connection_limit = ConnectionLimit::of(&name(&config));
        let (clock, has_warned) = (Clock::boot(), Arc::default());
        Ok(Self { config, tls, user, connection_limit, clock, has_warned })
    }

    /// Returns the hosts, as errors name them.
    pub(super) fn name(&self) -> String {
        name(&self.config)
    }

    /// Opens a connection to the first host that passes the check, in their order or, if so configured, in any. No host
    /// uses up the time of those after it.
    ///
    /// # Errors
    ///
    /// The most telling error of all hosts. `Invalid` only if each host says so; otherwise a retry may reach another one.
    pub(super) async fn open<C: SessionCheck>(
        &self,
        check: &C,
        limit: Duration,
    ) -> Result<(Session, C::Found)> {
        let _permit = self.connection_limit.permit(self.config.limit).await;
        let deadline = self.clock.now().after(limit);
        let mut hosts: Vec<_> = self.config.hosts.iter().collect();
        if self.config.shuffle {
            shuffle(&mut hosts);
        }
        let left = || deadline.since(self.clock.now());
        let opened = dial::first_of(hosts, async |host| self.open_host(host, left(), check).await).await?;
        self.connection_limit.opened();
        Ok(opened)
    }

    /// Tries each address of a host.
    async fn open_host<C: SessionCheck>(
        &self,
        host: &Host,
        limit: Duration,
        check: &C,
    ) -> Result<(Session, C::Found)> {
        let targets = match &host.place {
            Place::Tcp { name, address } => {
                let addresses = match address {
                    Some(address) => Ok(Ok(vec![*address])),
                    None => tokio::time::timeout(limit, resolve(name, host.port)).await,
                };
                let addresses = addresses.map_err(|_| silent(host))?;
                let addresses = addresses.map_err(|e| errors::connection(&e, &host.to_string()))?;
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
            let found = check.check(&session).await?;
            Ok((session, found))
        });
        tokio::time::timeout(limit, opening).await.unwrap_or_else(|_| Err(silent(host)))
    }

    /// Logs in, with as much TLS as `sslmode` asks for. Without TLS only where libpq would accept that, and never because
    /// a TLS handshake failed.
    async fn log_in(&self, host: &Host, target: &Target<'_>) -> Result<Session> {
        let server = host.to_string();
        let login = async |transport: Transport| self.authenticate(transport, host, &server).await;
        let mode = match (target, &self.tls) {
            (Target::Tcp { .. }, Some(tls)) => Some((self.config.ssl.mode(), tls)),
            _ => None,
        };
        let session = match mode {
            None | Some((Mode::Disable, _)) => login(self.dial(target, &server).await?).await,
            Some((Mode::Allow, tls)) => match login(self.dial(target, &server).await?).await {
                Err(failure) if failure.is_refusal => match self.encrypt(tls, target, &server).await {
                    Ok(Some(transport)) => login(transport).await,
                    _ => Err(failure),
                },
                other => other,
            },
            Some((Mode::Prefer, tls)) => match self.encrypt(tls, target, &server).await? {
                Some(transport) => match login(transport).await {
                    Err(failure) if failure.is_rule => {
                        login(self.dial(target, &server).await?).await.map_err(|_| failure)
                    }
                    other => other,
                },
                None => login(self.dial(target, &server).await?).await,
            },
            Some((Mode::Require | Mode::VerifyCa | Mode::VerifyFull, tls)) => {
                match self.encrypt(tls, target, &server).await? {
                    Some(transport) => login(transport).await,
                    None => {
                        let text =
                            "the server has no TLS, which the URL's `sslmode` asks for; turn it on there";
                        return Err(Error::new(ErrorKind::Unavailable, format!("{text} server=`{server}`")));
                    }
                }
            }
        };
        let session = session.map_err(|failure| failure.error)?;
        self.warn_if_plain(&session, target);
        Ok(session)
    }

    /// Warns in the log, once, that a connection over the network is not encrypted.
    fn warn_if_plain(&self, session: &Session, target: &Target<'_>) {
        let remote = matches!(target, Target::Tcp { address, .. } if !address.ip().is_loopback());
        let accepted = self.config.ssl.mode() == Mode::Disable;
        if remote && !accepted && !session.encrypted && !self.has_warned.swap(true, Ordering::Relaxed) {
            let server = &session.server;
            tracing::warn!(target: "leasehold", %server, "not encrypted; set `sslmode` to verify-full, or to disable");
        }
    }

    /// Opens a connection without TLS.
    async fn dial(&self, target: &Target<'_>, server: &str) -> Result<Transport> {
        match target {
            Target::Tcp { address, .. } => Ok(Transport::plain(self.tcp(*address, server).await?)),
            #[cfg(unix)]
            Target::Unix(directory, port) => {
                let stream = tokio::net::UnixStream::connect(socket(directory, *port)).await;
                Ok(Transport::plain(stream.map_err(|e| errors::connection(&e, server))?))
            }
            #[cfg(not(unix))]
            Target::Unix(..) => Err(Error::new(ErrorKind::Unsupported, "this platform has no Unix sockets")),
        }
    }

    /// Opens a connection with TLS, or none if the server says that it has none.
    async fn encrypt(
        &self,
        tls: &TlsConnector,
        target: &Target<'_>,
        server: &str,
    ) -> Result<Option<Transport>> {
        let Target::Tcp { name, address } = target else { return Ok(None) };
        let named = ServerName::try_from((*name).to_owned())
            .map_err(|_| Error::invalid(format!("not the name of a host for TLS server=`{server}`")))?;
        let mut stream = self.tcp(*address, server).await?;
        let direct = self.config.ssl.direct;
        if !direct && !asks_for_tls(&mut stream, server).await? {
            return Ok(None);
        }
        let stream = tls.connect(named, stream).await.map_err(|e| errors::tls(&e, server))?;
        // A server that does not confirm the protocol may be another service, to which an attacker redirects the client.
        if direct && stream.get_ref().1.alpn_protocol() != Some(b"postgresql") {
            let e = io::Error::other(
                "the server does not confirm that it is a PostgreSQL; remove the option `sslnegotiation`",
            );
            return Err(errors::tls(&e, server));
        }
        Ok(Some(Transport::encrypted(stream)))
    }

    async fn tcp(&self, address: SocketAddr, server: &str) -> Result<TcpStream> {
        let connecting = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            self.config.sockets.apply(&stream)?;
            Ok::<_, io::Error>(stream)
        };
        connecting.await.map_err(|e| errors::connection(&e, server))
    }

    async fn authenticate(
        &self,
        transport: Transport,
        host: &Host,
        server: &str,
    ) -> Result<Session, LoginError> {
        let login = &self.config.login;
        let database = login.database.as_ref().unwrap_or(&self.user);
        let password = match &login.password {
            Some(password) => Some(password.clone()),
            None => {
                let wanted = Wanted { host, database, user: &self.user };
                passfile::find(login.passfile.as_deref(), &wanted).map_err(LoginError::from)?
            }
        };
        let mut config = tokio_postgres::Config::new();
        // TLS is established already, or not used; see `Transport`.
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
        let encrypted = transport.encrypted;
        let (client, connection) = config.connect_raw(transport, TlsDone).await.map_err(|e| LoginError {
            is_refusal: e.code().is_some(),
            is_rule: e.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION),
            error: errors::login(&e, server, &[password.as_deref().unwrap_or_default()]),
        })?;
        let session = Session::start(client, connection, server, encrypted).await;
        session.map_err(|e| LoginError::from(errors::connection(&e, server)))
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

impl From<Error> for LoginError {
    fn from(error: Error) -> Self {
        Self { error, is_refusal: false, is_rule: false }
    }
}

/// Asks the server whether TLS may begin. Reads one byte and no more: what follows has to be encrypted.
async fn asks_for_tls(stream: &mut TcpStream, server: &str) -> Result<bool> {
    const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
    let asking = async {
        stream.write_all(&SSL_REQUEST).await?;
        stream.read_u8().await
    };
    match asking.await {
        Ok(b'S') => Ok(true),
        Ok(b'N') => Ok(false),
        // An error in plain text may come from anywhere on the network: not shown.
        Ok(_) => {
            let e = io::Error::other("the server does not answer the request for TLS as PostgreSQL does");
            Err(errors::connection(&e, server))
        }
        Err(e) => Err(errors::connection(&e, server)),
    }
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

/// Puts the items into a random order.
fn shuffle<T>(items: &mut [T]) {
    let random = Owner::random();
    for i in (1..items.len()).rev() {
        let n = u64::try_from(i).expect("BUG: fits") + 1;
        let j = random.spread(u32::try_from(i).unwrap_or(u32::MAX), n);
        items.swap(i, usize::try_from(j).expect("BUG: below a usize"));
    }
}
