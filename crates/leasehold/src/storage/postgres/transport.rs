//! The transport of a connection, with TLS or without.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::client;

use super::certificate::end_point;

/// An open connection below the PostgreSQL protocol. If it uses TLS, the handshake is over. The driver takes every
/// transport for one with TLS (see [`TlsDone`]).
pub(super) struct Transport {
    stream: Pin<Box<dyn Stream>>,
    /// The hash of the server's certificate to which a login by SCRAM is bound.
    end_point: Option<Vec<u8>>,
    pub(super) encrypted: bool,
    /// The first bytes that were received, at most [`HEADER`].
    head: Vec<u8>,
}

/// The length of a message's header: its type and its length.
const HEADER: usize = 5;
/// The longest first message, which may be an error. libpq has the same limit.
const FIRST_MESSAGE_MAX: u32 = 30_000;

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// Passes a transport to the driver as one whose TLS handshake is over.
pub(super) struct TlsDone;

impl Transport {
    pub(super) fn plain(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        Self { stream: Box::pin(stream), end_point: None, encrypted: false, head: Vec::new() }
    }

    pub(super) fn encrypted<S>(stream: client::TlsStream<S>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let certificates = stream.get_ref().1.peer_certificates();
        let end_point = certificates.and_then(<[_]>::first).and_then(|cert| end_point(cert));
        Self { stream: Box::pin(stream), end_point, encrypted: true, head: Vec::new() }
    }

    /// Refuses what does not begin as a PostgreSQL does. The driver would allocate whatever length it reads, and the first
    /// letters of another protocol may mean two gigabytes.
    fn check_header(&mut self, bytes: &[u8]) -> io::Result<()> {
        let missing = HEADER - self.head.len();
        self.head.extend(bytes.iter().take(missing));
        let [kind, length @ ..] = self.head.as_slice() else { return Ok(()) };
        let long = length.try_into().is_ok_and(|length| u32::from_be_bytes(length) > FIRST_MESSAGE_MAX);
        if !matches!(kind, b'R' | b'E' | b'v' | b'N') || long {
            return Err(io::Error::other("the server that answers there is no PostgreSQL"));
        }
        Ok(())
    }
}

impl TlsConnect<Transport> for TlsDone {
    type Stream = Transport;
    type Error = Infallible;
    type Future = Ready<Result<Transport, Infallible>>;

    fn connect(self, transport: Transport) -> Self::Future {
        ready(Ok(transport))
    }
}

impl TlsStream for Transport {
    fn channel_binding(&self) -> ChannelBinding {
        self.end_point.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = self.stream.as_mut().poll_read(cx, buf);
        if self.head.len() < HEADER {
            self.check_header(&buf.filled()[before..])?;
        }
        read
    }
}

impl AsyncWrite for Transport {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}
