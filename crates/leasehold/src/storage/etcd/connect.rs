//! Opens connections: to the first member that can reach a majority.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::config::{Config, shown};
use super::errors::Fault;
use super::grpc::Channel;
use super::link::{AUTHENTICATE, Identity, Link, RANGE, STATUS};
use super::proto::{
    AuthenticateRequest, AuthenticateResponse, RangeRequest, RangeResponse, ResponseHeader, StatusRequest,
    StatusResponse,
};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::Owner;
use crate::storage::net::clock::ServerClock;
use crate::storage::net::dial;
use crate::storage::net::pulse::Pulse;
use crate::storage::net::server::Connect;

/// A way to connect to the members, as often as needed.
pub(super) struct Connector {
    config: Arc<Config>,
    tls: Option<TlsConnector>,
    clock: Clock,
    /// The largest revision that a member has shown.
    revision: AtomicI64,
    /// How many entries the log of the cluster had when a connection was opened last.
    log: AtomicU64,
    restores: AtomicU32,
}

/// What a member has shown when it was connected.
struct Seen {
    header: ResponseHeader,
    /// How many entries the log has.
    log: u64,
}

/// How long opening a connection may take, including every request that belongs to it.
const LIMIT: Duration = Duration::from_secs(3);

impl Connector {
    pub(super) fn new(config: &Arc<Config>) -> Result<Self> {
        let tls = config.tls.as_ref().map(crate::storage::net::tls::Tls::connector).transpose()?;
        let (revision, log, restores) = (AtomicI64::new(0), AtomicU64::new(0), AtomicU32::new(0));
        Ok(Self { config: Arc::clone(config), tls, clock: Clock::boot(), revision, log, restores })
    }

    /// Records a revision that a member has shown.
    pub(super) fn saw(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::Relaxed);
    }

    async fn open_any(&self) -> Result<Link> {
        // Clients spread over the members. A member that is silent costs a moment, and no more.
        let hosts = &self.config.hosts;
        let first = Owner::random().spread(0, u64::try_from(hosts.len()).unwrap_or(1));
        let order = hosts.iter().cycle().skip(usize::try_from(first).unwrap_or(0)).take(hosts.len());
        dial::first_of(order, |place| self.open_host(place)).await
    }

    async fn open_host(&self, place: &(String, u16)) -> Result<Link> {
        let unreachable = |e: std::io::Error| {
            let text = "the server cannot be reached; check it, and retry";
            Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", shown(place))).with_source(e)
        };
        let addresses = dial::addresses(&place.0, place.1).await.map_err(unreachable)?;
        dial::first_of(addresses, |address| self.open_at(place, address)).await
    }

    async fn open_at(&self, place: &(String, u16), address: SocketAddr) -> Result<Link> {
        let unreachable = |e: std::io::Error| {
            let text = match self.tls {
                None => "the server cannot be reached; check it, and retry",
                Some(_) => {
                    "the server cannot be reached, or its certificate is not trusted; check both, and retry"
                }
            };
            Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", shown(place))).with_source(e)
        };
        let stream = TcpStream::connect(address).await.map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?;
        let Some(tls) = &self.tls else { return self.open_on(place, "http", stream).await };
        let name = self.config.server_name.as_ref().unwrap_or(&place.0);
        let name = ServerName::try_from(name.clone())
            .map_err(|_| Error::invalid("the URL names a host that no certificate can name"))?;
        let stream = tls.with_alpn(vec![b"h2".to_vec()]).connect(name, stream).await.map_err(unreachable)?;
        self.open_on(place, "https", stream).await
    }

    async fn open_on<S>(&self, place: &(String, u16), scheme: &str, io: S) -> Result<Link>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let place = shown(place);
        let explain = |fault: Fault| fault.explain(&place);
        let (channel, connection) =
            Channel::open(io, format!("{scheme}://{place}")).await.map_err(explain)?;
        let driver = async move {
            let _broken = connection.await;
        };
        let mut driver = Box::pin(driver);
        // Another connection may show something later before this one is open.
        let known = (self.revision.load(Ordering::Relaxed), self.log.load(Ordering::Relaxed));
        let (channel, seen) = tokio::select! {
            opened = self.greet(channel) => opened.map_err(explain)?,
            () = &mut driver => return Err(explain(Fault::Broken)),
        };
        let pulse = Pulse::new(&self.clock, self.clock.now(), false);
        Ok(Link::new(channel, self.identify(&seen, known), pulse, self.config.keys.probe(), driver))
    }

    /// Logs in, and reads what only a majority can answer: the cluster, and its revision.
    async fn greet(&self, mut channel: Channel) -> Result<(Channel, Seen), Fault> {
        if let Some((user, password)) = &self.config.login {
            let request = AuthenticateRequest { name: user.clone(), password: password.clone() };
            match channel.call::<AuthenticateResponse>(AUTHENTICATE, &request).await {
                Ok(answer) => channel.set_token(&answer.token),
                Err(fault) if fault.is_without_users() => {}
                Err(fault) => return Err(fault),
            }
        }
        let request =
            RangeRequest { key: self.config.keys.probe(), count_only: true, ..RangeRequest::default() };
        let answer: RangeResponse = channel.call(RANGE, &request).await?;
        let header = answer.header.ok_or(Fault::NotGrpc)?;
        // After the read, the member has all that a majority has confirmed.
        let status: StatusResponse = channel.call(STATUS, &StatusRequest {}).await?;
        Ok((channel, Seen { header, log: status.raft_index }))
    }

    /// Returns the identity of the cluster. It changes when the revision or the log has gone back: then a backup was restored,
    /// which does not have the latest leases. The revision alone does not show it if others have written since then, and the
    /// log of a restored cluster begins anew. `known` is what was known of both before that was asked.
    fn identify(&self, seen: &Seen, known: (i64, u64)) -> Identity {
        let Seen { header, log } = seen;
        if header.revision < known.0 || *log < known.1 {
            self.revision.store(header.revision, Ordering::Relaxed);
            self.log.store(*log, Ordering::Relaxed);
            self.restores.fetch_add(1, Ordering::Relaxed);
        }
        self.saw(header.revision);
        self.log.fetch_max(*log, Ordering::Relaxed);
        Identity { cluster: header.cluster_id, restores: self.restores.load(Ordering::Relaxed) }
    }
}

impl Connect for Connector {
    type Link = Link;

    async fn open(&self, _: &ServerClock) -> Result<Link> {
        match tokio::time::timeout(LIMIT, self.open_any()).await {
            Ok(opened) => opened,
            Err(_) => {
                let text = "no server answered in time that can reach a majority; check the servers, the URL and its TLS, and \
                            retry";
                Err(Error::new(ErrorKind::Unavailable, format!("{text} server=`{}`", self.name())))
            }
        }
    }

    fn name(&self) -> String {
        self.config.to_string()
    }
}
