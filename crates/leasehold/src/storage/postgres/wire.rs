//! The bytes of a connection, with TLS or without.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::client;

use super::certificate::end_point;

/// An opened connection. If it has TLS, that is done: the driver believes that it has it always.
pub(super) struct Wire {
    stream: Pin<Box<dyn Stream>>,
    /// What ties a login to the TLS below it.
    end_point: Option<Vec<u8>>,
    pub(super) encrypted: bool,
    /// The first bytes that came, until they are enough to tell who answers.
    head: Vec<u8>,
}

/// A type and a length, with which every message begins.
const HEAD: usize = 5;
/// As long as the first answer can be: an error. libpq has the same bound.
const FIRST: u32 = 30_000;

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Stream for T {}

/// Tells the driver that TLS is done.
pub(super) struct Done;

impl Wire {
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

    /// Whether it may be a PostgreSQL. The driver believes any length, and makes room for it: of something else, the
    /// first letters can be two gigabytes.
    fn meet(&mut self, bytes: &[u8]) -> io::Result<()> {
        let missing = HEAD - self.head.len();
        self.head.extend(bytes.iter().take(missing));
        let [kind, length @ ..] = self.head.as_slice() else { return Ok(()) };
        let long = length.try_into().is_ok_and(|length| u32::from_be_bytes(length) > FIRST);
        if !matches!(kind, b'R' | b'E' | b'v' | b'N') || long {
            return Err(io::Error::other("something answers there that is no PostgreSQL"));
        }
        Ok(())
    }
}

impl TlsConnect<Wire> for Done {
    type Stream = Wire;
    type Error = Infallible;
    type Future = Ready<Result<Wire, Infallible>>;

    fn connect(self, wire: Wire) -> Self::Future {
        ready(Ok(wire))
    }
}

impl TlsStream for Wire {
    fn channel_binding(&self) -> ChannelBinding {
        self.end_point.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = self.stream.as_mut().poll_read(cx, buf);
        if self.head.len() < HEAD {
            self.meet(&buf.filled()[before..])?;
        }
        read
    }
}

impl AsyncWrite for Wire {
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
