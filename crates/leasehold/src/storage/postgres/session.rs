//! A connection that is logged in, and the task that moves its bytes.

use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::{AsyncMessage, Client, Connection, Notification};

use super::transport::{TlsDone, Transport};

/// A connection that is logged in.
pub(super) struct Session {
    pub(super) client: Client,
    /// The notifications that arrive on it, in order. Ends with the connection.
    pub(super) notifications: Option<mpsc::UnboundedReceiver<Notification>>,
    /// The server, as errors name it.
    pub(super) server: String,
    /// The process id that the server gave at login. If another process answers, a pooler is between.
    pub(super) backend: i32,
    pub(super) encrypted: bool,
    warnings: Arc<Warnings>,
    driver: Driver,
}

/// How often the server has warned.
#[derive(Default)]
struct Warnings {
    /// That a commit did not wait for its standby.
    unreplicated: AtomicU64,
    /// Of something, without the name of the function that warns.
    unnamed: AtomicU64,
}

/// The task that moves a connection's bytes. Ends when this is dropped.
struct Driver(JoinHandle<()>);

impl Session {
    /// Begins to drive a connection that the driver has logged in.
    pub(super) async fn start(
        client: Client,
        connection: Connection<Transport, Transport>,
        server: &str,
        encrypted: bool,
    ) -> io::Result<Self> {
        let backend = backend(&client).await?;
        let (notify, notifications) = mpsc::unbounded_channel();
        let warnings = Arc::<Warnings>::default();
        let driver = Driver(tokio::spawn(drive(connection, notify, Arc::clone(&warnings))));
        let (notifications, server) = (Some(notifications), server.to_owned());
        Ok(Self { client, notifications, server, backend, encrypted, warnings, driver })
    }

    /// Returns how often the server has warned until now that a commit did not wait for its standby. The warning comes
    /// before the end of the reply that it belongs to. `synchronous` if there is a standby to wait for.
    pub(super) fn unreplicated(&self, synchronous: bool) -> u64 {
        let Warnings { unreplicated, unnamed } = &*self.warnings;
        unreplicated.load(Ordering::Relaxed) + if synchronous { unnamed.load(Ordering::Relaxed) } else { 0 }
    }

    /// Closes the connection. Statements in flight fail.
    pub(super) fn close(&self) {
        self.driver.0.abort();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Passes on notifications and counts warnings, until the connection ends.
async fn drive(
    mut connection: Connection<Transport, Transport>,
    notify: mpsc::UnboundedSender<Notification>,
    warnings: Arc<Warnings>,
) {
    while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
        match message {
            AsyncMessage::Notification(notification) => {
                // The main connection has no receiver.
                let _unheard = notify.send(notification);
            }
            AsyncMessage::Notice(notice) => {
                let count = match is_unreplicated(&notice) {
                    Some(true) => &warnings.unreplicated,
                    None => &warnings.unnamed,
                    Some(false) => continue,
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

/// Returns `true` if a notice says that a commit did not wait for its standby. Only the server's function that warns tells
/// it: the text is translated, and the code is that of every warning. A pooler may have dropped the function (`None`);
/// then any warning may be the one.
fn is_unreplicated(notice: &DbError) -> Option<bool> {
    match notice.routine() {
        Some(routine) => Some(routine == "SyncRepWaitForLSN"),
        None if *notice.code() == SqlState::WARNING => None,
        None => Some(false),
    }
}

/// Returns the process id that the server gave for canceling. The driver does not show it, but writes it into a request
/// to cancel, which is read here and sent nowhere.
async fn backend(client: &Client) -> io::Result<i32> {
    let (theirs, mut ours) = tokio::io::duplex(64);
    let cancel = client.cancel_token();
    cancel.cancel_query_raw(Transport::plain(theirs), TlsDone).await.map_err(io::Error::other)?;
    let (_length, _code) = (ours.read_i32().await?, ours.read_i32().await?);
    ours.read_i32().await
}
