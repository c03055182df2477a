//! A connected socket, TCP or Unix, and the address of a server.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::net::{RecvFlags, Shutdown};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// The address of a server: `host:port`, or `unix:/path/of/the.sock`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Upstream {
    /// A host and a port, resolved for each connection.
    Tcp(String),
    /// A Unix socket.
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Upstream {
    pub(crate) async fn connect(&self) -> io::Result<Wire> {
        match self {
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                Ok(Wire::tcp(stream))
            }
            #[cfg(unix)]
            Self::Unix(path) => Ok(Wire::Unix(UnixStream::connect(path).await?)),
        }
    }
}

impl From<&str> for Upstream {
    fn from(text: &str) -> Self {
        match text.strip_prefix("unix:") {
            #[cfg(unix)]
            Some(path) => Self::Unix(PathBuf::from(path)),
            _ => Self::Tcp(text.to_owned()),
        }
    }
}

impl From<String> for Upstream {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<SocketAddr> for Upstream {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address.to_string())
    }
}

#[cfg(unix)]
impl From<PathBuf> for Upstream {
    fn from(path: PathBuf) -> Self {
        Self::Unix(path)
    }
}

#[derive(Debug)]
pub(crate) enum Wire {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Wire {
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        // Nagle's algorithm would delay the proxy's writes. A dead socket reports its error at the first
        // read.
        let _ = stream.set_nodelay(true);
        Self::Tcp(stream)
    }

    pub(crate) async fn readable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.readable().await,
            #[cfg(unix)]
            Self::Unix(stream) => stream.readable().await,
        }
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.writable().await,
            #[cfg(unix)]
            Self::Unix(stream) => stream.writable().await,
        }
    }

    pub(crate) fn try_read(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_read(bytes),
            #[cfg(unix)]
            Self::Unix(stream) => stream.try_read(bytes),
        }
    }

    pub(crate) fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            #[cfg(unix)]
            Self::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// Closes the sending side. If the peer is gone, that is no error.
    pub(crate) fn finish(&self) {
        let _ = match self {
            Self::Tcp(stream) => rustix::net::shutdown(stream, Shutdown::Write),
            #[cfg(unix)]
            Self::Unix(stream) => rustix::net::shutdown(stream, Shutdown::Write),
        };
    }

    /// Makes the later close a reset. A Unix socket has no reset and is closed.
    pub(crate) fn will_reset(&self) {
        match self {
            Self::Tcp(stream) => {
                let _ = stream.set_zero_linger();
            }
            #[cfg(unix)]
            Self::Unix(_) => {}
        }
    }

    /// Makes the later close orderly: closing a socket with unread bytes would reset its peer.
    pub(crate) fn will_close(&self) {
        self.finish();
        let mut unread = [0; crate::direction::READ];
        // This drains more than a socket buffer holds. A peer that never stops sending is reset in the end,
        // as by any server.
        for _ in 0..1024 {
            // Reads directly, because the runtime may not know yet that there are bytes.
            let read = match self {
                Self::Tcp(stream) => rustix::net::recv(stream, &mut unread, RecvFlags::DONTWAIT),
                #[cfg(unix)]
                Self::Unix(stream) => rustix::net::recv(stream, &mut unread, RecvFlags::DONTWAIT),
            };
            if !read.is_ok_and(|(_, n)| n > 0) {
                break;
            }
        }
    }
}
