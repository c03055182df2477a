//! The port that a proxy listens on.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::Handle;

/// A reserved port, which can be closed and opened again under the same number.
#[derive(Debug)]
pub(crate) struct Port {
    address: SocketAddr,
    runtime: Handle,
    /// A socket that is bound but never listens: it keeps the port from other programs, and connections to
    /// it are refused.
    #[cfg(unix)]
    _reserved: TcpSocket,
}

impl Port {
    /// Reserves the port; 0 means any free one. Must be called on the runtime that will accept.
    pub(crate) fn reserve(address: SocketAddr) -> io::Result<(Self, TcpListener)> {
        if !address.ip().is_loopback() {
            let why =
                format!("a fault proxy listens on loopback only; use 127.0.0.1 or [::1]: listen=`{address}`");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        // Sockets of one user may share a port, and then also its connections, so bind alone would not
        // fail.
        if address.port() != 0 && std::net::TcpStream::connect_timeout(&address, ANSWER).is_ok() {
            let why = format!(
                "another program listens there already; use port 0 for a free one: listen=`{address}`"
            );
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
/// On loopback, a free port refuses at once.
const ANSWER: Duration = Duration::from_secs(1);

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // SO_REUSEPORT lets the sockets of this proxy share the port. With SO_REUSEADDR, other programs could
    // bind it while it is closed.
    #[cfg(unix)]
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}
