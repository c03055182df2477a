//! The proxy: its thread, its port, and its shutdown.

use std::future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::runtime;
use tokio::sync::oneshot;
use tokio::time;

use crate::faults::Faults;
use crate::link;
use crate::port::Port;
use crate::state::{Common, Shared, State};
use crate::url;
use crate::wire::Upstream;

/// A proxy between clients and a server that applies the rules of a test to their connections.
///
/// It runs in a thread of its own, so it keeps working while the test's runtime is paused or blocked.
/// Dropping it closes its port and every connection before `drop` returns.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    faults: Faults,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Starts a proxy on a free port of 127.0.0.1. The server need not run yet.
    ///
    /// # Errors
    ///
    /// If there is no free port, or no thread can be started.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future stops the proxy.
    pub async fn start(upstream: impl Into<Upstream>) -> io::Result<Self> {
        let (started, start) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let upstream = upstream.into();
        let body = move || run(upstream, started, stopped);
        let thread = std::thread::Builder::new().name("faultproxy".to_owned()).spawn(body)?;
        let (address, common) = start.await.unwrap_or_else(|_| Err(io::Error::other("the thread ended")))?;
        Ok(Self { address, faults: Faults::new(common), stop: Some(stop), thread: Some(thread) })
    }

    /// Returns the address that clients connect to.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns a URL with its host and port replaced by those of the proxy; user, password, path and
    /// options stay. A list of hosts becomes the one proxy. A text without `//` is taken for `host:port`.
    #[must_use]
    pub fn url_for(&self, url: &str) -> String {
        url::through(self.address, url)
    }

    /// Returns the handle that changes the rules.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Dropping the sender is the signal.
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // The thread panics only because of a bug, and the panic has been printed.
            let _ = thread.join();
        }
    }
}

type Started = io::Result<(SocketAddr, Common)>;

/// Runs the thread of a proxy.
fn run(upstream: Upstream, started: oneshot::Sender<Started>, stopped: oneshot::Receiver<()>) {
    let runtime = match runtime::Builder::new_current_thread().enable_io().enable_time().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = started.send(Err(error));
            return;
        }
    };
    runtime.block_on(async {
        let common = match open(upstream) {
            Ok((address, common)) => {
                let _ = started.send(Ok((address, Arc::clone(&common))));
                common
            }
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        tokio::select! {
            _ = stopped => {}
            () = accept(&common) => {}
        }
        common.lock().stop();
    });
    // The tasks of the connections end here and close their sockets. A lookup that hangs is not awaited.
    runtime.shutdown_background();
}

fn open(upstream: Upstream) -> Started {
    let (port, listener) = Port::reserve()?;
    let address = port.address();
    Ok((address, Arc::new(Shared::new(State::new(port, listener, upstream)))))
}

async fn accept(common: &Common) {
    loop {
        match future::poll_fn(|cx| common.lock().poll_accept(cx)).await {
            Ok((id, client)) => drop(tokio::spawn(link::run(Arc::clone(common), id, client))),
            // Either no descriptor is left or the client is gone already; the next accept may succeed.
            Err(_) => time::sleep(Duration::from_millis(10)).await,
        }
    }
}
