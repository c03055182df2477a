//! The port that a proxy listens on.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;

/// Keeps a port reserved, so that it can be closed and opened again under the same number.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    runtime: Handle,
    /// Bound and never listening: nobody else gets the port, and a connection to it is refused.
    #[cfg(unix)]
    _reserved: TcpSocket,
}

impl Port {
    /// Reserves the port; 0 is any that is free. To be called on the runtime that will accept.
    pub(crate) fn reserve(address: SocketAddr) -> io::Result<(Self, TcpListener)> {
        if !address.ip().is_loopback() {
            let why =
                format!("a fault proxy listens on loopback only; use 127.0.0.1 or [::1]: listen=`{address}`");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        // Sockets of one user may share a port, and then share the connections to it.
        if address.port() != 0 && std::net::TcpStream::connect_timeout(&address, ANSWER).is_ok() {
            let why =
                format!("somebody listens there already; use port 0 for a free one: listen=`{address}`");
            return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
        }
        let runtime = Handle::current();
        #[cfg(unix)]
        {
            let reserved = bind(address)?;
            let port = Self { address: reserved.local_addr()?, runtime, _reserved: reserved };
            let listener = port.listen()?;
            Ok((port, listener))
        }
        #[cfg(not(unix))]
        {
            let listener = bind(address)?.listen(BACKLOG)?;
            Ok((Self { address: listener.local_addr()?, runtime }, listener))
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens the port.
    pub(crate) fn listen(&self) -> io::Result<TcpListener> {
        let _entered = self.runtime.enter();
        bind(self.address)?.listen(BACKLOG)
    }
}

const BACKLOG: u32 = 1024;
/// On loopback a port that is free refuses at once.
const ANSWER: Duration = Duration::from_secs(1);

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Shared among the sockets of this proxy, and not SO_REUSEADDR, by which others could bind a port that is closed.
    #[cfg(unix)]
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}
