//! The port that a proxy listens on.

use std::io;
use std::net::SocketAddr;

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
    /// Reserves a free port. Must be called on the runtime that will accept.
    pub(crate) fn reserve() -> io::Result<(Self, TcpListener)> {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
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

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    // SO_REUSEPORT lets the sockets of this proxy share the port. With SO_REUSEADDR, other programs could
    // bind it while it is closed.
    #[cfg(unix)]
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    Ok(socket)
}
